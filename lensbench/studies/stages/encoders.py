"""Attention of a text encoder as a record, from where it stopped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from lensbench.attention.encoders.cost import encoder_cost
from lensbench.attention.encoders.gate import check_encoder, gate_texts, rows_identity
from lensbench.attention.encoders.record import (
    EncoderReader,
    bare_set,
    encoder_job,
    plan_texts,
    readable,
    texts_of,
)
from lensbench.attention.encoders.source import EncoderSource
from lensbench.attention.gate import gate_of_all
from lensbench.attention.phenomena.asking import Asking
from lensbench.attention.phenomena.questions import BOTH_WAYS
from lensbench.attention.phenomena.stage import Phenomena
from lensbench.attention.record import Reading, in_order, not_kept, read_ones
from lensbench.attention.settings import EncoderSettings
from lensbench.checkpoints.config.encoders import ENCODERS
from lensbench.checkpoints.ref import ModelRef
from lensbench.costs.encoders import encoder_outlined
from lensbench.costs.outlined import Outlined
from lensbench.costs.planned import Jobs, Planned, plan_record
from lensbench.errors import InputProblems, Problem
from lensbench.lens.gate import require
from lensbench.lens.record import encode_prompts
from lensbench.lens.table import prompts_table
from lensbench.models.readable import require_plain
from lensbench.models.text_encoder import TextEncoder, load_encoder, require_encoder_loadable
from lensbench.progress import Progress, Watch
from lensbench.prompts.encode import EncodedPrompt, TokenText
from lensbench.prompts.prompt import added
from lensbench.prompts.sets import PromptSet
from lensbench.records.engine import Work, make
from lensbench.records.parts import Parts
from lensbench.records.recording import Finished, Recording, Request, Standing
from lensbench.records.schema.attention import PATTERNS
from lensbench.records.schema.encoders import ENCODER_HEADS, ENCODER_READ
from lensbench.records.schema.phenomena import ANSWERS, DEPTHS, PHENOMENA
from lensbench.records.store import RecordStore
from lensbench.studies.lens import GROWS, prompt_settings
from lensbench.studies.specs.attention import AttentionSpec
from lensbench.studies.stages.sized import tokens_of

Item = Reading | Asking
Sets = tuple[PromptSet, PromptSet | None]  # texts, and sentences whose words are asked about

KIND = "encoder_attention"
# Settings of an attention run that an encoder has no use for, and why.
_CAUSAL = {
    "conditions": "random tokens that repeat themselves are for models that read one way",
    "ablate": "an encoder says no next token, so that it has no loss to measure",
    "n_repeated": "an encoder reads no repeated tokens",
    "repeat_tokens": "an encoder reads no repeated tokens",
    "template": "an encoder has no chat template",
    "dtype": "an encoder is read in float32",
    "allow_fields": "an encoder's config is checked by its class",
    "trust_remote_code": "no code of an encoder's folder is run",
}


def without_effect(spec: AttentionSpec) -> list[Problem]:
    """What is asked for that would have no effect on an encoder."""
    fields = type(spec).model_fields
    asked = {
        name: name in fields and getattr(spec, name) != fields[name].default for name in _CAUSAL
    }
    asked["conditions"] = "text" not in spec.conditions
    asked["dtype"] = spec.dtype not in (None, "float32")
    remedy = f"Leave it out for text encoders ({', '.join(ENCODERS)})."
    return [Problem(name, _CAUSAL[name], remedy) for name in _CAUSAL if asked[name]]


def settings_of(spec: AttentionSpec) -> EncoderSettings:
    """How an encoder is read."""
    conditions = tuple(ENCODER_READ) if spec.nulls else ("text",)
    return EncoderSettings(conditions, spec.weightings, spec.keep, tokens_of(spec), spec.seed)


def measure(
    spec: AttentionSpec,
    ref: ModelRef,
    sets: Sets,
    store: RecordStore,
    watch: Watch,
) -> list[Problem]:
    """One encoder's record, from where it stopped. Returns what was skipped.

    Raises ModelError for an encoder with
    bits or an adapter, and what loading, gate and store raise.
    """
    watch(Progress(f"hashing the weights of {store.model}"))
    require_plain(ref)
    if store.manifest() is None:
        require_encoder_loadable(ref.folder, spec.device)
    request = replace(_request(spec, sets, store), model=ref.facts())

    def prepare(record: Recording) -> Work[EncoderReader, Item]:
        watch(Progress(f"loading {store.model}"))
        source = EncoderSource(load_encoder(ref.name, spec.device))
        model, settings = source.model, settings_of(spec)
        own = _read(spec, source, sets, record.widths)
        encoded, words = own.encoded, own.words
        record.begin({**model.facts(), **request.model})
        watch(Progress(f"testing the gate of {store.model}"))
        identities = check_encoder(source, gate_texts(source, encoded))
        require(identities)

        def finish(parts: Parts) -> Finished:
            gates = (narrower["gate"] for narrower in record.widened)
            gate = gate_of_all(rows_identity, identities, parts.notes, gates)
            heads = in_order(parts.table(ENCODER_HEADS.name), texts_of(settings, encoded))
            read = read_ones(heads, encoded)
            tables: dict[str, pa.Table] = {
                "prompts": prompts_table(model, read, TokenText(model.tokenizer)),
                ENCODER_HEADS.name: heads,
                PHENOMENA.name: PHENOMENA.schema.empty_table(),
            } | words.tables(parts, heads, model.name)
            found = [*own.problems, *words.problems, *parts.problems]
            return Finished(found, tables, [identity.as_dict() for identity in gate])

        return Work(EncoderReader(source, settings), encoder_job, own.items, finish)

    return make(request, prepare, watch)


def plan(spec: AttentionSpec, ref: ModelRef, sets: Sets, folder: Path) -> Planned:
    """What `measure` would make."""
    request = _request(spec, sets, RecordStore(folder, str(ref), KIND))

    def jobs(known: Outlined[TextEncoder], how_far: Standing) -> Jobs[Item]:
        reader = EncoderReader(EncoderSource(known.model), settings_of(spec))
        own = _read(spec, reader.source, sets, how_far.widths)
        n, problems = len(own.encoded), [*own.problems, *own.words.problems]
        cost = partial(encoder_cost, reader, known.shape, control=spec.reads_untrained)
        return Jobs(own.items, cost, n_prompts=n, problems=problems)

    named, device = str(ref), spec.device  # read by transformers alone, as `infer` does
    return plan_record(named, ref, request, jobs, None, device, "infer", encoder_outlined)


@dataclass(frozen=True)
class _Read:
    """What is read of one encoder, planned of it or of its outline."""

    encoded: list[EncodedPrompt]
    words: Phenomena
    items: list[list[Item]]
    problems: list[Problem]


def _read(
    spec: AttentionSpec, source: EncoderSource, sets: Sets, widths: Sequence[Mapping[str, Any]]
) -> _Read:
    """The jobs of a record, by its widths. Raises InputProblems where there is nothing to read."""
    settings, (texts, sentences) = settings_of(spec), _bare(sets)
    encoded, problems = encode_prompts(source.model, texts, spec.limit, "plain")
    encoded, unread = readable(source, encoded)
    if not encoded:
        raise InputProblems([*problems, *unread])
    unread += not_kept(settings, encoded)
    words = Phenomena.of(source, sentences, settings.batch_tokens, spec.seed, BOTH_WAYS)
    stages = added(texts.prompts, [width["limit"] for width in widths])
    items: list[list[Item]] = [[*own] for own in plan_texts(settings, encoded, stages)]
    items[0] += words.asking
    return _Read(encoded, words, items, [*problems, *unread])


def _request(spec: AttentionSpec, sets: Sets, store: RecordStore) -> Request:
    """The record that is wanted, but for what is known of the model."""
    texts, sentences = _bare(sets)
    own = {key: value for key, value in spec.settings().items() if key not in _CAUSAL}
    settings = own | prompt_settings(texts, spec.limit) | further(spec, sentences)
    return Request(store, settings, tables=optional(spec), grows=GROWS)


def _bare(sets: Sets) -> Sets:
    return bare_set(sets[0]), None if sets[1] is None else bare_set(sets[1])


def further(spec: AttentionSpec, sentences: PromptSet | None) -> dict[str, Any]:
    """Settings that follow from what was read."""
    sha256 = None if sentences is None else sentences.identity
    return {"seed": spec.seed, "sentences_sha256": sha256}


def optional(spec: AttentionSpec) -> tuple[str, ...]:
    """Tables that there are if they were asked for."""
    kept = (PATTERNS.name,) if spec.keep else ()
    return (*kept, ANSWERS.name, DEPTHS.name) if spec.phenomena else kept
