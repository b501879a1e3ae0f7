"""The heads of a text encoder as one call."""

from __future__ import annotations

import pyarrow as pa

from lensbench.attention.encoders.gate import check_encoder, gate_texts, rows_identity
from lensbench.attention.encoders.record import (
    EncoderReader,
    bare,
    plan_texts,
    read_texts,
    readable,
    texts_of,
)
from lensbench.attention.encoders.source import EncoderSource
from lensbench.attention.gate import worst_row
from lensbench.attention.record import in_order, not_kept, read_ones
from lensbench.attention.result import AttentionResult, require_known
from lensbench.attention.settings import EncoderSettings
from lensbench.errors import InputProblems
from lensbench.lens.gate import require
from lensbench.lens.table import prompts_table
from lensbench.models.text_encoder import TextEncoder
from lensbench.prompts.encode import NOTHING, Template, TokenText, encode_all
from lensbench.prompts.prompt import Prompts, as_prompts
from lensbench.records.schema.attention import PATTERNS, WEIGHTINGS
from lensbench.records.schema.encoders import ENCODER_HEADS, ENCODER_READ, ENCODER_SCORES


def read_encoder(
    encoder: TextEncoder,
    texts: Prompts,
    settings: EncoderSettings,
    template: Template = "plain",
) -> AttentionResult:
    """Every head of an encoder over texts, gated.

    Raises GateError, ModelError and InputProblems as `lensbench.attention` says.
    """
    known = {"conditions": ENCODER_READ, "weightings": WEIGHTINGS}
    require_known([(k, one, [*v]) for k, v in known.items() for one in getattr(settings, k)])
    given = bare(as_prompts(texts))
    encoded, problems = encode_all(encoder.encoder(template), given)
    require_known([("keep", name, [one.id for one in given]) for name in settings.keep])
    source = EncoderSource(encoder)
    encoded, unread = readable(source, encoded)
    problems += unread
    if not encoded:
        raise InputProblems(problems or [NOTHING])
    problems += not_kept(settings, encoded)
    identities = check_encoder(source, gate_texts(source, encoded))
    require(identities)
    reader = EncoderReader(source, settings)
    (readings,) = plan_texts(settings, encoded, [[item.prompt for item in encoded]])
    parts = [read_texts(reader, one) for one in readings]
    problems += [problem for part in parts for problem in part.problems]
    gate = [rows_identity(worst_row(part.notes for part in parts)), *identities[1:]]
    require(gate)
    tables = [part.tables[ENCODER_HEADS.name] for part in parts]
    heads = in_order(pa.concat_tables(tables), texts_of(settings, encoded))
    kept = [part.tables[PATTERNS.name] for part in parts if PATTERNS.name in part.tables]
    return AttentionResult(
        encoder.name,
        heads,
        prompts_table(encoder, read_ones(heads, encoded), TokenText(encoder.tokenizer)),
        pa.concat_tables([PATTERNS.schema.empty_table(), *kept]),
        gate,
        problems,
        ENCODER_SCORES,
        both_ways=True,
    )
