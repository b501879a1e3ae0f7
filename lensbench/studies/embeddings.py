"""A study of embeddings: a record of each sentence encoder, and of each contextual model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from lensbench.checkpoints.ref import ModelRef, readable_refs
from lensbench.checkpoints.stored.heap import release
from lensbench.costs.encoders import encoder_outlined
from lensbench.costs.outlined import Outlined, outlined
from lensbench.costs.planned import Jobs, Planned, plan_record, uncounted, unreadable
from lensbench.embeddings.encoder import load_sentence_encoder
from lensbench.embeddings.measured import Measuring, measure, readable
from lensbench.embeddings.pairs import PairSet, load_pairs
from lensbench.embeddings.rated import RatedSet, load_rated
from lensbench.embeddings.senses.cost import senses as reading_jobs
from lensbench.embeddings.senses.measured import Reading, read_senses
from lensbench.embeddings.senses.sentences import SenseSet, load_senses
from lensbench.embeddings.senses.states import placed
from lensbench.errors import InputProblems, Problem
from lensbench.models.adapted import facts_of
from lensbench.models.readable import load_readable, reads_both_ways, require_plain
from lensbench.models.text_encoder import require_encoder_loadable
from lensbench.progress import Notify, Progress, Watch, ignore
from lensbench.quantized.peaks import Use
from lensbench.records.engine import Outcome, Work, make
from lensbench.records.parts import Parts
from lensbench.records.recording import Finished, Recording, Request, Standing
from lensbench.records.schema.text.embeddings import READ
from lensbench.records.store import RecordStore, folder_name
from lensbench.studies.specs.embeddings import EmbeddingsSpec
from lensbench.studies.stages.sized import sized, tokens_of
from lensbench.studies.stages.turns import Turns, in_turn


def run(
    spec: EmbeddingsSpec, out: Path | str, progress: Watch = ignore, notify: Notify = ignore
) -> Outcome:
    """Measure each encoder into `out/<encoder>/`, each contextual model into `out/<model>-senses/`.

    Again to go on after an interruption. A model that cannot be measured is in the outcome, and the
    others go on.

    Raises InputProblems and MissingExtraError for files that cannot be used, before anything is
    loaded.
    """
    pairs, rated = load_pairs(spec.pairs), {one: load_rated(one) for one in spec.rated}
    senses, outcome = load_senses(spec.senses), Outcome()
    refs = in_turn(spec.contextual, outcome, notify)
    outcome.problems += pairs.problems + (senses.problems if refs else [])
    turns = Turns(refs, outcome, notify=notify)
    for name in spec.encoders:  # small, and found by their own library: none is read ahead
        store = RecordStore(Path(out) / folder_name(name), name, "embeddings")
        with turns.attempt(store):
            _note(outcome, _encoder(spec, pairs, rated, progress, store))
        release()
    for ref in turns:
        store = RecordStore(Path(out) / f"{folder_name(str(ref))}-senses", str(ref), "senses")
        with turns.attempt(store):
            _note(outcome, _contextual(sized(spec), ref, senses, progress, store))
    return outcome


def plan(spec: EmbeddingsSpec, out: Path | str) -> Iterator[Planned]:
    """What `run` would make into `out`. Raises as it does."""
    load_pairs(spec.pairs)
    for one in spec.rated:
        load_rated(one)
    senses, own = load_senses(spec.senses), sized(spec)
    refs, unknown = readable_refs(spec.contextual)
    yield from unreadable(unknown, out)
    for name in spec.encoders:
        why = "a sentence encoder's passes are few; its maps and intervals take the time"
        yield uncounted(name, Path(out) / folder_name(name), why)
    for ref in refs:
        store = RecordStore(Path(out) / f"{folder_name(str(ref))}-senses", str(ref), "senses")
        request = Request(store, _senses_settings(own, senses))

        def jobs(known: Outlined[Any], _: Standing) -> Jobs[str]:
            items, problems = placed(known.model, senses.sentences, senses.name)
            reading = Reading(known.model, senses.sentences, items, tokens_of(own), spec.seed)
            return replace(reading_jobs(reading, known.shape), problems=problems)

        how: Any = encoder_outlined if reads_both_ways(ref) else outlined
        yield plan_record(f"{ref}, senses", ref, request, jobs, None, spec.device, "lens", how)


def _note(outcome: Outcome, problems: list[Problem]) -> None:
    """What was skipped in one record, if another one has not said it."""
    outcome.problems += [problem for problem in problems if problem not in outcome.problems]


def _encoder(
    spec: EmbeddingsSpec,
    pairs: PairSet,
    rated: dict[str, RatedSet],
    watch: Watch,
    store: RecordStore,
) -> list[Problem]:
    """One sentence encoder's record, from where it stopped. Returns what was skipped."""
    watch(Progress(f"loading {store.model}"))
    encoder = load_sentence_encoder(store.model, spec.device)
    facts = {
        "name": encoder.name,
        "source": encoder.place,
        "weights_sha256": encoder.sha256,
        "modules_sha256": encoder.modules_sha256,
        "dimension": encoder.dimension,
        "longest_tokens": encoder.limit,
    }
    settings = {
        "pairs": pairs.name,
        "pairs_sha256": pairs.sha256,
        "rated": {name: one.sha256 for name, one in rated.items()},
        "umap": spec.umap,
        "seed": spec.seed,
    }

    def prepare(record: Recording) -> Work[Measuring, str]:
        own, problems = readable(encoder, pairs.pairs)
        if not own:
            raise InputProblems(problems)
        record.begin(facts)
        context = Measuring(encoder, own, rated, spec.umap, spec.seed)

        def finish(parts: Parts) -> Finished:
            return Finished([*pairs.problems, *problems, *parts.problems])

        return Work(context, measure, [context.items], finish, unit="measurements")

    return make(Request(store, settings, facts), prepare, watch)


def _senses_settings(spec: EmbeddingsSpec, senses: SenseSet) -> dict[str, Any]:
    return {
        "senses": senses.name,
        "senses_sha256": senses.sha256,
        "seed": spec.seed,
        "batch_tokens": tokens_of(spec),
        "device": spec.device,
    }


def _contextual(
    spec: EmbeddingsSpec, ref: ModelRef, senses: SenseSet, watch: Watch, store: RecordStore
) -> list[Problem]:
    """One contextual model's record, from where it stopped. Returns what was skipped."""
    watch(Progress(f"hashing the weights of {store.model}"))
    settings = _senses_settings(spec, senses)
    new = store.manifest() is None
    if both_ways := reads_both_ways(ref):
        require_plain(ref)
        if new:
            require_encoder_loadable(ref.folder, spec.device)
    facts = ref.facts() if both_ways else facts_of(ref, None, spec.device, Use() if new else None)

    def prepare(record: Recording) -> Work[Reading, str]:
        watch(Progress(f"loading {store.model}"))
        model = load_readable(ref, device=spec.device)
        items, problems = placed(model, senses.sentences, senses.name)
        if not items:
            raise InputProblems(problems)
        record.begin({**model.facts(), **facts})
        context = Reading(model, senses.sentences, items, tokens_of(spec), spec.seed)
        words = {senses.sentences[item.number].word for item in items}

        def finish(parts: Parts) -> Finished:
            found = [*senses.problems, *problems, *parts.problems]
            read = {"sentences": len(items), "words": len(words), "both_ways": both_ways}
            return Finished(found, facts={"read": read})

        return Work(context, read_senses, [list(READ)], finish, unit="conditions")

    return make(Request(store, settings, facts), prepare, watch)
