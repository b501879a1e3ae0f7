"""Attention runs: every model's heads over the prompts, each model into a record of its own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from lensbench.attention.causal.tables import Ablator, Asked
from lensbench.attention.circuits.table import circuits_table
from lensbench.attention.compared.names import names_table
from lensbench.attention.compared.similarity import head_similarity, similarity_table, some
from lensbench.attention.conditions import Text
from lensbench.attention.cost import job_cost, means_cost
from lensbench.attention.gate import check_heads, gate_of_all, rows_identity
from lensbench.attention.patterns import Source
from lensbench.attention.phenomena.stage import Phenomena
from lensbench.attention.record import (
    Item,
    Reader,
    condition_texts,
    in_order,
    long_enough,
    not_kept,
    one_job,
    plan_readings,
    read_ones,
)
from lensbench.attention.settings import AttentionSettings
from lensbench.checkpoints.ref import ModelRef, readable_refs
from lensbench.costs.outlined import Outlined
from lensbench.costs.planned import Jobs, Planned, plan_record, unreadable
from lensbench.errors import InputProblems, Problem
from lensbench.lens.gate import require
from lensbench.lens.record import encode_prompts, gate_prompts
from lensbench.lens.table import prompts_table
from lensbench.models.adapted import facts_of, require_loadable_with_control
from lensbench.models.load import load_model
from lensbench.models.model import LensModel
from lensbench.models.readable import reads_both_ways
from lensbench.progress import Notify, Progress, Watch, ignore
from lensbench.prompts.encode import EncodedPrompt, TokenText
from lensbench.prompts.prompt import added, choose
from lensbench.prompts.sets import PromptSet, load_prompts
from lensbench.quantized.peaks import Batch, Use
from lensbench.records.engine import Outcome, Work, make
from lensbench.records.parts import Parts
from lensbench.records.recording import Finished, Recording, Request, Standing
from lensbench.records.schema import TABLES
from lensbench.records.schema.phenomena import (
    PHENOMENON_ABLATION,
    WORD_LOSSES,
)
from lensbench.records.store import RecordStore, folder_name
from lensbench.spec import nearest
from lensbench.studies.lens import GROWS, prompt_settings
from lensbench.studies.specs.attention import AttentionSpec
from lensbench.studies.stages import encoders
from lensbench.studies.stages.sized import sized, tokens_of
from lensbench.studies.stages.turns import Turns, in_turn


def run(
    spec: AttentionSpec, out: Path | str, progress: Watch = ignore, notify: Notify = ignore
) -> Outcome:
    """Measure every model of `spec` into `out/<model>/`; run again to go on after an interruption.

    With a larger limit a record is widened, but not one with ablations: what replaces a head is its
    mean over the record's prompts. A model that cannot be measured is recorded in the outcome and
    the others go on.

    A text encoder is read both ways, into a record of a kind of its own.

    Raises:
        InputProblems: unknown models, prompt sets, relation or prompts to keep, and what would have
            no effect on text encoders where there are no other models, before anything is loaded.
    """
    prompt_set = load_prompts(spec.prompts, spec.relations)
    _require_known(spec.keep, prompt_set)
    sentences = load_prompts(spec.sentences) if spec.phenomena else None
    outcome = Outcome(problems=list(prompt_set.problems))
    refs = in_turn(spec.models, outcome, notify)
    require_effect(spec, refs, notify)
    turns = Turns(refs, outcome, notify=notify)
    for ref in turns:
        kind, measure = ("attention", _measure)
        if reads_both_ways(ref):
            kind, measure = (encoders.KIND, encoders.measure)
        store = RecordStore(Path(out) / folder_name(str(ref)), str(ref), kind)
        with turns.attempt(store):
            problems = measure(sized(spec), ref, (prompt_set, sentences), store, progress)
            outcome.problems += [p for p in problems if p not in prompt_set.problems]
    return outcome


def plan(spec: AttentionSpec, out: Path | str) -> Iterator[Planned]:
    """What `run` would make into `out`. Raises InputProblems as it does."""
    refs, unknown = readable_refs(spec.models)
    prompt_set = load_prompts(spec.prompts, spec.relations)
    _require_known(spec.keep, prompt_set)
    yield from unreadable(unknown, out)
    sets = prompt_set, load_prompts(spec.sentences) if spec.phenomena else None
    require_effect(spec, refs, ignore)
    for ref in refs:
        folder = Path(out) / folder_name(str(ref))
        if reads_both_ways(ref):
            yield encoders.plan(sized(spec), ref, sets, folder)
            continue
        own = sized(spec)
        request = _request(own, sets, RecordStore(folder, str(ref), "attention"), {})
        jobs = partial(_jobs, own, sets)
        yield plan_record(str(ref), ref, request, jobs, spec.dtype, spec.device, "attention")


def settings_of(spec: AttentionSpec) -> AttentionSettings:
    """How patterns are read and scored."""
    own = {field.name: getattr(spec, field.name) for field in fields(AttentionSettings)}
    return AttentionSettings(**own | {"batch_tokens": tokens_of(spec)})


def require_effect(spec: AttentionSpec, refs: Sequence[ModelRef], notify: Notify) -> None:
    """What has no effect on text encoders: `notify` says it where other models are read too.

    Raises InputProblems where there are no others.
    """
    names = [str(ref) for ref in refs if reads_both_ways(ref)]
    idle = encoders.without_effect(spec) if names else []
    if idle and len(names) == len(refs):
        raise InputProblems(idle)
    for problem in idle:
        notify(f"{', '.join(names)}: {problem.where} has no effect, {problem.what}")


def _require_known(keep: Sequence[str], prompt_set: PromptSet) -> None:
    known = [prompt.id for prompt in prompt_set.prompts]
    missing = [
        Problem("keep", f"there is no prompt {name!r}", nearest(name, known))
        for name in keep
        if name not in known
    ]
    if missing:
        raise InputProblems(missing)


def _measure(
    spec: AttentionSpec,
    ref: ModelRef,
    sets: tuple[PromptSet, PromptSet | None],
    store: RecordStore,
    watch: Watch,
) -> list[Problem]:
    """One model's record, from where it stopped. Returns what was skipped.

    `sets`: prompts, and sentences whose words are asked about.
    """
    watch(Progress(f"hashing the weights of {store.model}"))
    if store.manifest() is None:
        batch = replace(Batch.of_tokens(tokens_of(spec)), control=spec.reads_untrained)
        without = "--no-nulls, and no --phenomena" if spec.phenomena else "--no-nulls"
        use = Use("attention", batch)
        require_loadable_with_control(ref, spec.dtype, spec.device, use, without)
    facts = facts_of(ref, spec.dtype, spec.device)
    request = replace(_request(spec, sets, store, facts), again=ref.facts)

    def prepare(record: Recording) -> Work[Reader, Item]:
        watch(Progress(f"loading {store.model}"))
        model = load_model(ref, dtype=spec.dtype, device=spec.device)
        own = _heads(spec, model, sets, record.widths)
        reader, encoded = own.reader, own.encoded
        watch(Progress(f"testing the gate of {store.model}"))
        token_ids = gate_prompts(model, encoded)
        identities = check_heads(reader.source, token_ids, reader.settings.moved)
        require(identities)
        record.begin({**model.facts(), "n_heads": model.n_heads, **request.model})

        def finish(parts: Parts) -> Finished:
            gates = (narrower["gate"] for narrower in record.widened)
            rows = partial(rows_identity, reader.source)
            gate = gate_of_all(rows, identities, parts.notes, gates)
            found = [*own.problems, *parts.problems]
            tables = _tables(reader, encoded, in_order(parts.table("heads"), own.texts), parts)
            tables |= own.words.tables(parts, tables["heads"], model.name)
            return Finished(found, tables, [identity.as_dict() for identity in gate])

        return Work(reader, one_job, own.items, finish)

    return make(request, prepare, watch)


@dataclass(frozen=True)
class _Heads:
    """What is read of one model, planned of it or of its outline."""

    reader: Reader
    encoded: list[EncodedPrompt]
    texts: dict[str, list[Text]]
    words: Phenomena
    items: list[list[Item]]
    problems: list[Problem]


def _heads(
    spec: AttentionSpec,
    model: LensModel,
    sets: tuple[PromptSet, PromptSet | None],
    widths: Sequence[Mapping[str, Any]],
) -> _Heads:
    """The jobs of a record, by its widths. Raises InputProblems where there is nothing to read."""
    prompt_set, sentences = sets
    encoded, problems = encode_prompts(model, prompt_set, spec.limit, spec.template)
    encoded, short = long_enough(encoded)
    if not encoded:
        raise InputProblems([*problems, *short])
    settings = settings_of(spec)
    short += not_kept(settings, encoded)
    stages = added(prompt_set.prompts, [width.get("limit", spec.limit) for width in widths])
    chosen = {prompt.id for prompt in choose(stages[0], settings.ablate)}
    asked = [Asked.of(one) for one in encoded if one.prompt.id in chosen and one.prompt.is_base]
    ablator = Ablator(model, asked, [item.token_ids for item in encoded], settings.batch_tokens)
    source = Source(model)
    words = Phenomena.of(source, sentences, settings.batch_tokens, spec.seed, ablate=spec.ablate)
    reader = Reader(source, settings, ablator, words.ablator)
    texts, over = condition_texts(reader, encoded)
    found = [*problems, *short, *over]
    if not any(texts.values()):
        raise InputProblems(found)
    items: list[list[Item]] = [[*readings] for readings in plan_readings(reader, texts, stages)]
    items[0] += [*ablator.jobs(), *words.asking, *words.losing]
    return _Heads(reader, encoded, texts, words, items, [*found, *words.problems])


def _request(
    spec: AttentionSpec,
    sets: tuple[PromptSet, PromptSet | None],
    store: RecordStore,
    facts: Mapping[str, Any],
) -> Request:
    """One model's record; `facts` are what is known of it."""
    prompt_set, sentences = sets
    own = prompt_settings(prompt_set, spec.limit) | encoders.further(spec, sentences)
    grows = () if spec.ablate else GROWS
    return Request(store, spec.settings() | own, facts, tables=_optional(spec), grows=grows)


def _jobs(
    spec: AttentionSpec,
    sets: tuple[PromptSet, PromptSet | None],
    known: Outlined[LensModel],
    how_far: Standing,
) -> Jobs[Item]:
    """The jobs of one model, of its outline alone."""
    own = _heads(spec, known.model, sets, how_far.widths)
    cost = partial(job_cost, own.reader, known.shape, control=spec.reads_untrained)
    n = len(own.encoded)
    return Jobs(own.items, cost, means_cost(own.reader, known.shape), n, own.problems)


def _optional(spec: AttentionSpec) -> tuple[str, ...]:
    """Tables that there are if they were asked for."""
    ablated = (WORD_LOSSES.name, PHENOMENON_ABLATION.name)
    return encoders.optional(spec) + (ablated if spec.phenomena and spec.ablate else ())


def _tables(
    reader: Reader, encoded: Sequence[EncodedPrompt], heads: pa.Table, parts: Parts
) -> dict[str, pa.Table]:
    """The tables of an attention record; those that nothing was measured for are empty."""
    model, ablator = reader.model, reader.ablator
    assert ablator is not None
    read = read_ones(heads, encoded)
    prompts = prompts_table(model, read, TokenText(model.tokenizer))
    relation = {row["prompt_id"]: row["relation"] for row in prompts.to_pylist()}
    ablation = parts.table("ablation")
    return {
        "prompts": prompts,
        "heads": heads,
        "names": names_table(model.name, heads.to_pandas(), relation),
        "ablation": ablation,
        "redundancy": ablator.redundancy(ablation),
        "circuits": circuits_table(model) if ablator.has_weights else _empty("circuits"),
        "head_similarity": similarity_table(
            model, head_similarity(model, [read[i].token_ids for i in some(len(read))])
        ),
        "phenomena": _empty("phenomena"),
    }


def _empty(name: str) -> pa.Table:
    return TABLES[name].schema.empty_table()
