"""Evaluation: the same examples put to base, adapter, retrieval and both, into one record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lensbench.checkpoints.open import open_tokenizer, quiet
from lensbench.checkpoints.ref import ModelRef
from lensbench.errors import InputProblems, Problem
from lensbench.progress import Progress, Watch, ignore
from lensbench.prompts.encode import NO_ROW, without_row
from lensbench.quantized.adapters.adapter import read_config
from lensbench.quantized.adapters.prompt_format import PromptFormat, prompt_format
from lensbench.quantized.data.pairs import Pair, PairSet, pair_tokens, read_pairs
from lensbench.quantized.evaluation.measure import Batch, Evaluating, Example, measure
from lensbench.quantized.evaluation.spec import EvalSpec
from lensbench.quantized.generation.batching import plan
from lensbench.quantized.generation.questions import Asked, Retrieved, prepare, retrieve
from lensbench.quantized.generation.tables import in_order
from lensbench.quantized.loading.load import AdaptedModel, load_quantized, require_loadable
from lensbench.quantized.peaks import Batch as PassBatch
from lensbench.quantized.peaks import Use
from lensbench.quantized.training.examples import end_tokens
from lensbench.records.engine import Work, make
from lensbench.records.parts import Parts
from lensbench.records.recording import Finished, Recording, Request
from lensbench.records.store import RecordStore

Examples = dict[str, list[Example]]  # by condition, the same ones in each


def evaluate(
    model: str | Path | ModelRef | AdaptedModel,
    spec: EvalSpec,
    out: Path,
    progress: Watch = ignore,
) -> list[Problem]:
    """Generate, score and measure every example in every condition into the record `out`.

    The conditions are the base, with an adapter also that, and with retrieval both again. Greedy
    decoding; every condition sees the same examples in the same batches. After any interruption
    the same call goes on where it stopped; with a larger limit it widens the record. Returns the
    examples that were skipped.

    Raises:
        InputProblems: no usable example, no such condition.
        ModelError: no such model, an adapter of another base, NaN.
        RecordsError: `out` holds another evaluation, or somebody is writing it.
    """
    ref = ModelRef.of(model, use="generation")
    asked = asked_of(spec)
    retrieved = None
    if spec.rag is not None:
        progress(Progress(f"searching {spec.rag}"))
        retrieved = retrieve(spec.rag, asked.questions, spec.n_documents)
    store = RecordStore(out, ref.name, "evaluation")
    if store.manifest() is None and not isinstance(model, AdaptedModel):
        require_loadable(ref, spec.device, use=Use("infer", PassBatch(1)))
    progress(Progress(f"hashing the weights of {ref.name}"))
    put, facts = _format(ref, spec), ref.facts()
    conditions = conditions_of(spec, ref.adapter is not None)
    request = request_of(spec, ref, out, put, asked, conditions, facts, retrieved)
    run = _Run(model, spec, put, asked, retrieved, progress)
    return make(replace(request, again=ref.facts), run.prepare, progress)


@dataclass(frozen=True)
class AskedPairs:
    """The pairs of an evaluation, and what is put to the model of each; what is wrong with some."""

    data: PairSet
    pairs: Sequence[Pair]
    questions: Sequence[Asked]
    problems: Sequence[Problem]


def asked_of(spec: EvalSpec) -> AskedPairs:
    """As they are read. Raises InputProblems where there is none to use."""
    data = read_pairs(spec.data)
    pairs, unaskable = _without_system(data)
    pairs = pairs[: spec.limit]
    questions = [Asked(pair.id, pair.question, f"{data.name}, row {pair.row}") for pair in pairs]
    return AskedPairs(data, pairs, questions, [*data.problems, *unaskable])


def request_of(
    spec: EvalSpec,
    ref: ModelRef,
    out: Path,
    put: PromptFormat,
    asked: AskedPairs,
    conditions: Sequence[str],
    facts: Mapping[str, Any],
    retrieved: Retrieved | None,
) -> Request:
    """The record that is wanted. What is not known of model or index is left open.

    `facts` are of model and adapter, `retrieved` of the index; both are found before a run, not for
    a plan.
    """
    unknown = ["rag"] if spec.rag is not None and retrieved is None else []
    unknown += [] if facts else ["adapter_sha256"]
    settings = {
        "conditions": list(conditions),
        "data": asked.data.name,
        "data_sha256": asked.data.sha256,
        "n_examples": len(asked.pairs),
        "style": put.style,
        "max_new_tokens": spec.max_new_tokens,
        "temperature": 0.0,
        "batch_size": spec.batch_size,
        "bits": ref.bits,
        "int8_threshold": ref.int8_threshold,
        "adapter_sha256": facts.get("adapter_sha256"),
        "top_k": spec.n_documents if spec.rag is not None else None,
        "rag": retrieved.facts if retrieved is not None else None,
    }
    store = RecordStore(out, ref.name, "evaluation")
    return Request(store, settings, facts, grows=("n_examples",)).leaving_open(unknown)


@dataclass(frozen=True)
class _Run:
    """One evaluation: its model, and the pairs that it is put to."""

    model: str | Path | ModelRef | AdaptedModel
    spec: EvalSpec
    put: PromptFormat
    asked: AskedPairs
    retrieved: Retrieved | None
    watch: Watch

    def prepare(self, record: Recording) -> Work[Evaluating, Batch]:
        """Load the model and put the pairs to it in each condition."""
        spec, settings = self.spec, record.request.settings
        self.watch(Progress(f"loading {record.request.store.model}"))
        model = load_quantized(self.model, device=spec.device)
        record.begin(model.facts())
        stages, unfit = stages_of(model, settings, self.asked, self.retrieved, record.widths)
        conditions = settings["conditions"]

        def finish(parts: Parts) -> Finished:
            table = in_order(parts.table("evaluation"), "condition", conditions)
            facts = {"context_cut": _context_cut(stages), **self.put.facts()}
            problems = [*self.asked.problems, *unfit, *parts.problems]
            return Finished(problems, {"evaluation": table}, facts=facts)

        return Work(
            Evaluating(model, spec.max_new_tokens, spec.batch_size),
            measure,
            [batches_of(examples, spec.batch_size) for examples in stages],
            finish,
        )


def stages_of(
    model: AdaptedModel,
    settings: Mapping[str, Any],
    asked: AskedPairs,
    retrieved: Retrieved | None,
    widths: Sequence[Mapping[str, Any]],
) -> tuple[list[Examples], list[Problem]]:
    """For each width of the record the examples that it adds; those that do not fit."""
    stages, unfit, seen = list[Examples](), list[Problem](), set[str]()
    for n in [width["n_examples"] for width in widths]:
        found = None if retrieved is None else replace(retrieved, hits=retrieved.hits[:n])
        pairs = asked.pairs[:n]
        examples, problems = _examples(model, settings, pairs, asked.questions[:n], found)
        stages.append(
            {
                condition: [one for one in own if one.pair.id not in seen]
                for condition, own in examples.items()
            }
        )
        unfit += [problem for problem in problems if problem.prompt_id not in seen]
        seen |= {pair.id for pair in pairs}
    return stages, unfit


def batches_of(examples: Examples, batch_size: int) -> list[Batch]:
    """The same batches in each condition."""
    first = next(iter(examples.values()))
    batches = plan([len(example.ready.fitted.token_ids) for example in first], batch_size)
    return [
        Batch(condition, [own[i] for i in batch])
        for condition, own in examples.items()
        for batch in batches
    ]


def _context_cut(stages: Sequence[Examples]) -> dict[str, int]:
    """How many examples' retrieved context was cut to fit, and by how much in all."""
    asked = [example for examples in stages for example in examples.get("rag", ())]
    cut = [example.ready.fitted.context_tokens_cut for example in asked]
    return {"examples": sum(n > 0 for n in cut), "tokens": sum(cut)}


def _without_system(data: PairSet) -> tuple[list[Pair], list[Problem]]:
    """The pairs without a system message, for which a question with context has no place."""
    remedy = "Put it into the instruction."
    problems = [
        Problem(f"{data.name}, row {pair.row}", "it has a system message", remedy, pair.id)
        for pair in data.pairs
        if pair.system
    ]
    pairs = [pair for pair in data.pairs if not pair.system]
    if not pairs:
        raise InputProblems([*data.problems, *problems])
    return pairs, problems


def conditions_of(spec: EvalSpec, adapter: bool) -> list[str]:
    """What the examples are put to, in order; `adapter`: there is one. Raises InputProblems."""
    rag = spec.rag is not None
    every = ["base"] + ["adapter"] * adapter + ["rag"] * rag + ["adapter+rag"] * (adapter and rag)
    if spec.only is None:
        return every
    if spec.only not in every:
        what, remedy = f"there is no condition {spec.only!r}", f"There are {', '.join(every)}."
        raise InputProblems([Problem("only", what, remedy)])
    return [spec.only]


def _format(ref: ModelRef, spec: EvalSpec) -> PromptFormat:
    """The style that every condition is asked in."""
    if ref.adapter is not None:
        read_config(ref.adapter)  # there is an adapter at all
    with quiet():
        tokenizer = open_tokenizer(ref.folder)
    return prompt_format(ref, tokenizer, spec.style)


def _examples(
    model: AdaptedModel,
    settings: Mapping[str, Any],
    pairs: Sequence[Pair],
    questions: Sequence[Asked],
    retrieved: Retrieved | None,
) -> tuple[Examples, list[Problem]]:
    """Every condition's examples, the same in each; what does not fit the window is a problem."""
    style, ends = settings["style"], end_tokens(model.tokenizer, model.folder)
    references = {p.id: pair_tokens(model.tokenizer, style, p, ends)[1] for p in pairs}
    room = max(settings["max_new_tokens"], *map(len, references.values()))  # for either
    put, problems = {}, _unsayable(model, questions, references)
    contexts = {"base": None} if retrieved is None else {"base": None, "rag": retrieved}
    for name, found in contexts.items():  # context is cut until a question fits
        put[name], unfit = prepare(model, style, questions, found, room)
        problems += unfit
    problems = list(dict.fromkeys(problems))
    left_out = {problem.prompt_id for problem in problems}
    put = {
        name: [ready for ready in own if ready.asked.id not in left_out]
        for name, own in put.items()
    }
    if not put["base"]:
        raise InputProblems(problems)
    by_id = {pair.id: pair for pair in pairs}
    examples = {
        condition: [
            Example(ready, by_id[ready.asked.id], references[ready.asked.id])
            for ready in put["rag" if condition.endswith("rag") else "base"]
        ]
        for condition in settings["conditions"]
    }
    same = [ready.asked.id for ready in put["base"]]
    assert all([example.pair.id for example in own] == same for own in examples.values())
    return examples, problems


def _unsayable(
    model: AdaptedModel, questions: Sequence[Asked], references: Mapping[str, Sequence[int]]
) -> list[Problem]:
    """References with a token that the model was never given."""
    found = [(asked, without_row(references[asked.id], model.d_vocab)) for asked in questions]
    return [Problem(asked.where, what, NO_ROW, asked.id) for asked, what in found if what]
