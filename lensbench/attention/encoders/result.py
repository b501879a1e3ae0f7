"""The heads of a text encoder as one call."""

from __future__ import annotations

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
from lensbench.attention.record import not_kept
from lensbench.attention.result import AttentionResult, Told, asked, together
from lensbench.attention.settings import EncoderSettings
from lensbench.errors import InputProblems
from lensbench.lens.gate import require
from lensbench.models.text_encoder import TextEncoder
from lensbench.prompts.encode import NOTHING, Template
from lensbench.prompts.prompt import Prompts, as_prompts
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
    source, given = EncoderSource(encoder), bare(as_prompts(texts))
    encoded, problems = asked(encoder.encoder(template), given, settings, ENCODER_READ)
    encoded, unread = readable(source, encoded)
    problems += [*unread, *not_kept(settings, encoded)]
    if not encoded:
        raise InputProblems(problems or [NOTHING])
    identities = check_encoder(source, gate_texts(source, encoded))
    require(identities)
    reader = EncoderReader(source, settings)
    (readings,) = plan_texts(settings, encoded, [[item.prompt for item in encoded]])
    parts = [read_texts(reader, one) for one in readings]
    told = Told(ENCODER_HEADS, rows_identity, identities, ENCODER_SCORES, both_ways=True)
    return together(encoder, encoded, texts_of(settings, encoded), parts, problems, told)
