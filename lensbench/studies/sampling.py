"""A study of sampling: a record of each model."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from lensbench.checkpoints.ref import ModelRef, readable_refs
from lensbench.costs.cost import Cost
from lensbench.costs.outlined import Outlined, plainly_outlined
from lensbench.costs.planned import Jobs, Planned, plan_record, unreadable
from lensbench.errors import GateError, InputProblems, Problem
from lensbench.lens.gate import Identity, worst
from lensbench.models.adapted import facts_of, require_loadable, with_bits
from lensbench.progress import Notify, Progress, Watch, ignore
from lensbench.prompts.encode import EncodedPrompt, encode_all
from lensbench.prompts.prompt import choose
from lensbench.prompts.sets import PromptSet, load_prompts
from lensbench.quantized.loading.load import AdaptedModel
from lensbench.quantized.loading.reread import BOUND_BITS
from lensbench.records.engine import Outcome, Work, make
from lensbench.records.parts import Parts
from lensbench.records.recording import Finished, Recording, Request, Standing
from lensbench.records.schema.text.sampling import SAMPLED, SETTINGS
from lensbench.records.store import RecordStore, folder_name
from lensbench.sampling.cost import job_cost
from lensbench.sampling.diversity import bleu
from lensbench.sampling.measured import ERROR, Drawing, Item, measure, settings_table
from lensbench.sampling.model import encoder_of, load_sampled, no_room, too_large
from lensbench.sampling.settings import settings_of
from lensbench.sampling.shots.tasks import conditions, shipped_tasks
from lensbench.studies.lens import prompt_settings
from lensbench.studies.specs.sampling import SamplingSpec
from lensbench.studies.stages.turns import Turns, in_turn


def run(
    spec: SamplingSpec, out: Path | str, progress: Watch = ignore, notify: Notify = ignore
) -> Outcome:
    """Measure each model into `out/<model>/`; again to go on after an interruption.

    A model that cannot be measured is in the outcome, and the others go on.

    Raises InputProblems for prompts that cannot be used, models that are unknown and more shots
    than there are examples, and MissingExtraError without sacrebleu where texts are written, before
    anything is loaded.
    """
    prompt_set = load_prompts(spec.prompts, spec.relations)
    outcome = Outcome()
    refs = in_turn(spec.models, outcome, notify)
    if spec.tasks:
        _require_examples(spec.shots)
    if spec.continued and spec.written:
        bleu()
    turns = Turns(refs, outcome, notify=notify)
    for ref in turns:
        store = RecordStore(Path(out) / folder_name(str(ref)), str(ref), "sampling")
        with turns.attempt(store):
            outcome.problems += _measure(spec, ref, prompt_set, store, progress)
    return outcome


def _require_examples(shots: int) -> None:
    most = min(len(task.items) for task in shipped_tasks()) - 1
    if shots > most:
        what, remedy = f"a task has {most} items besides the one that is asked", "Give as many."
        raise InputProblems([Problem("shots", f"it is {shots}, and {what}", remedy)])


def plan(spec: SamplingSpec, out: Path | str) -> Iterator[Planned]:
    """What `run` would make into `out`. Raises InputProblems as it does."""
    prompt_set = load_prompts(spec.prompts, spec.relations)
    if spec.tasks:
        _require_examples(spec.shots)
    refs, unknown = readable_refs(spec.models)
    yield from unreadable(unknown, out)
    for ref in refs:
        store = RecordStore(Path(out) / folder_name(str(ref)), str(ref), "sampling")
        request = Request(store, _settings(spec, prompt_set), {})
        jobs = partial(_jobs, spec, prompt_set, str(ref))
        yield plan_record(
            str(ref), ref, request, jobs, None, spec.device, "infer", plainly_outlined
        )


def _jobs(
    spec: SamplingSpec, prompt_set: PromptSet, name: str, known: Outlined[AdaptedModel], _: Standing
) -> Jobs[Item]:
    """What is drawn of one model, of its outline alone."""
    context, problems = drawing(spec, name, known.model, prompt_set)
    cost = partial(job_cost, context, known.shape)
    every = [*prompt_set.problems, *problems]
    rows = {SAMPLED.name: len(context.prompts), SETTINGS.name: len(context.settings)}
    n = len(context.prompts)
    return Jobs([context.items], cost, Cost(rows=rows), n, every, partial(cost, ends=True))


def _settings(spec: SamplingSpec, prompt_set: PromptSet) -> dict[str, Any]:
    return {**spec.settings(), **prompt_settings(prompt_set, spec.limit), "seed": spec.seed}


def _measure(
    spec: SamplingSpec, ref: ModelRef, prompt_set: PromptSet, store: RecordStore, watch: Watch
) -> list[Problem]:
    """One model's record, from where it stopped. Returns what was skipped."""
    watch(Progress(f"hashing the weights of {store.model}"))
    if store.manifest() is None:  # as it will be loaded: on the second path
        require_loadable(with_bits(ref, None, spec.device), device=spec.device)
    facts = facts_of(ref, None, spec.device)
    settings = _settings(spec, prompt_set)

    def prepare(record: Recording) -> Work[Drawing, Item]:
        watch(Progress(f"loading {store.model}"))
        model = load_sampled(ref, spec.device)
        context, problems = drawing(spec, store.model, model, prompt_set)
        own = {"name": store.model, "chat_template": chat_template(model)}
        record.begin({**model.facts(), **facts, **own})

        def finish(parts: Parts) -> Finished:
            gate = [] if not context.continued else [_identity(context, parts)]
            found = [*prompt_set.problems, *problems, *parts.problems]
            tables = {"sampling_settings": settings_table(context), SAMPLED.name: _prompts(context)}
            return Finished(found, tables, [one.as_dict() for one in gate])

        return Work(context, measure, [context.items], finish, unit="prompts and tasks")

    return make(Request(store, settings, facts, again=ref.facts), prepare, watch)


def chat_template(model: AdaptedModel) -> bool:
    """Whether the tokenizer has a chat template, as models that follow instructions have."""
    return bool(model.tokenizer.chat_template)


def drawing(
    spec: SamplingSpec, name: str, model: AdaptedModel, prompt_set: PromptSet
) -> tuple[Drawing, list[Problem]]:
    """What is drawn from a model, and the prompts that are left out.

    Raises InputProblems where a setting keeps more tokens than there are, or no prompt is left.
    """
    shown, written = (settings_of(names) for names in (spec.compared, spec.written))
    every = {setting.name: setting for setting in [*shown, *written]}
    if large := too_large(model, list(every.values())):
        raise InputProblems(large)
    chosen = choose(prompt_set.prompts, spec.limit)
    base = [prompt for prompt in chosen if prompt.is_base]
    encoded, problems = encode_all(encoder_of(model, prompt_set.name), base)
    first = {one.id for one in choose(base, spec.continued)} if spec.continued else set()
    continued = [one for one in encoded if one.prompt.id in first] if written else []
    short = [problem for one in continued for problem in _no_room(spec, model, prompt_set, one)]
    left = {problem.prompt_id for problem in short}
    if not encoded:
        raise InputProblems(problems)
    context = Drawing(
        name,
        model,
        {one.prompt.id: one for one in encoded},
        list(every.values()),
        written,
        frozenset(one.prompt.id for one in continued) - {str(item) for item in left},
        spec.texts,
        spec.max_new_tokens,
        shipped_tasks() if spec.tasks else (),
        conditions(chat_template(model)),
        spec.shots,
        spec.seed,
    )
    return context, [*problems, *short]


def _no_room(
    spec: SamplingSpec, model: AdaptedModel, prompt_set: PromptSet, one: EncodedPrompt
) -> list[Problem]:
    where = f"{prompt_set.name}, id {one.prompt.id}"
    return no_room(model, one.token_ids, spec.max_new_tokens, where, one.prompt.id)


def _identity(context: Drawing, parts: Parts) -> Identity:
    """What was written is what the model says of it, one text of each prompt. Raises GateError."""
    error = worst(note[ERROR] for note in parts.notes if ERROR in note)
    bound = BOUND_BITS[context.model.bits]
    name = "bits of written tokens = those of one plain pass over prompt and text"
    reason = "other shapes sum in another order, in 16 bits coarsely"
    found = Identity.held(name, error, bound, "bits", reason)
    if not found.passed:
        raise GateError(
            f"{context.name}: {name}: the error is {error:.3g} bits (bound {bound:g}). Its "
            "class keeps something else than it was given; take another model."
        )
    return found


def _prompts(context: Drawing) -> pa.Table:
    rows: list[dict[str, Any]] = [
        {
            "prompt_id": name,
            "relation": one.prompt.relation,
            "prompt": one.text,
            "n_tokens": len(one.token_ids),
            "is_continued": name in context.continued,
        }
        for name, one in context.prompts.items()
    ]
    return SAMPLED.of_rows(rows)
