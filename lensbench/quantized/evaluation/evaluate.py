"""Evaluation: the same examples put to base, adapter, retrieval and both, into one record."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pyarrow as pa

from lensbench.checkpoints.open import open_tokenizer, quiet
from lensbench.checkpoints.ref import ModelRef
from lensbench.errors import InputProblems, Problem
from lensbench.progress import Progress, Watch, ignore
from lensbench.quantized.adapters.adapter import read_config
from lensbench.quantized.data.pairs import Pair, PairSet, read_pairs
from lensbench.quantized.evaluation.scores import scores
from lensbench.quantized.evaluation.spec import EvalSpec
from lensbench.quantized.generation.batching import in_pieces, plan
from lensbench.quantized.generation.generate import generate
from lensbench.quantized.generation.likelihood import response_bits
from lensbench.quantized.generation.questions import Asked, Ready, Retrieved, prepare, retrieve
from lensbench.quantized.generation.spec import Decoding
from lensbench.quantized.loading.load import AdaptedModel, load_quantized
from lensbench.quantized.style import Style, ask, default_style, response_ids
from lensbench.quantized.training.examples import end_tokens
from lensbench.records.manifest import new_manifest, peak_memory_bytes
from lensbench.records.schema.adapters import EVALUATION
from lensbench.records.store import RecordStore


@dataclass(frozen=True)
class Example:
    """One pair as a condition's model gets it, and the reference as tokens, end included."""

    ready: Ready
    pair: Pair
    reference_ids: list[int]


def evaluate(
    model: str | Path | ModelRef | AdaptedModel,
    spec: EvalSpec,
    out: Path,
    progress: Watch = ignore,
) -> list[Problem]:
    """Generate, score and measure every example in every condition into the record `out`.

    The conditions are the base, with an adapter also that, and with retrieval both again. Greedy
    decoding; every condition sees the same examples in the same batches. After any interruption
    the same call goes on where it stopped. Returns the examples that were left out.

    Raises:
        InputProblems: no usable example, no such condition.
        ModelError: no such model, an adapter of another base, NaN.
        RecordsError: `out` holds another evaluation, or somebody is writing it.
    """
    started = time.monotonic()
    ref = model.ref if isinstance(model, AdaptedModel) else ModelRef.of(model, use="generation")
    data = read_pairs(spec.data)
    pairs, unaskable = _without_system(data)
    pairs = pairs[: spec.limit]
    questions = [Asked(pair.id, pair.question, f"{data.name}, row {pair.row}") for pair in pairs]
    retrieved = retrieve(spec.rag, questions, spec.n_documents) if spec.rag is not None else None
    settings = _settings(ref, spec, data, len(pairs), retrieved)
    store = RecordStore(out, ref.name, "evaluation")
    with store.locked():
        if not store.is_complete(settings, ref.facts()):
            loaded = (
                model
                if isinstance(model, AdaptedModel)
                else load_quantized(ref, device=spec.device)
            )
            manifest = new_manifest(loaded.facts(), settings, "evaluation")
            store.start(manifest)
            examples, unfit = _examples(loaded, settings, pairs, questions, retrieved)
            too_big = _measure(loaded, spec, examples, store, progress)
            problems = [*data.problems, *unaskable, *unfit, *too_big]
            store.write_table("problems", store.problems_table(problems))
            store.finish(
                manifest
                | {
                    "problems": len(problems),
                    "context_cut": _context_cut(examples),
                    "wall_s": round(time.monotonic() - started, 1),
                    "peak_memory_bytes": peak_memory_bytes(),
                }
            )
    return store.problems()


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


def _conditions(ref: ModelRef, spec: EvalSpec) -> list[str]:
    """What the examples are put to, in order."""
    adapter, rag = ref.adapter is not None, spec.rag is not None
    every = ["base"] + ["adapter"] * adapter + ["rag"] * rag + ["adapter+rag"] * (adapter and rag)
    if spec.only is None:
        return every
    if spec.only not in every:
        what, remedy = f"there is no condition {spec.only!r}", f"There are {', '.join(every)}."
        raise InputProblems([Problem("only", what, remedy)])
    return [spec.only]


def _settings(
    ref: ModelRef,
    spec: EvalSpec,
    data: PairSet,
    n_examples: int,
    retrieved: Retrieved | None,
) -> dict[str, Any]:
    """What decides the numbers."""
    return {
        "conditions": _conditions(ref, spec),
        "data": data.name,
        "data_sha256": data.sha256,
        "n_examples": n_examples,
        "style": spec.style or _own_style(ref),
        "max_new_tokens": spec.max_new_tokens,
        "temperature": 0.0,
        "batch_size": spec.batch_size,
        "bits": ref.bits,
        "int8_threshold": ref.int8_threshold,
        "adapter_sha256": ref.facts().get("adapter_sha256"),
        "top_k": spec.n_documents if retrieved is not None else None,
        "rag": retrieved.facts if retrieved is not None else None,
    }


def _own_style(ref: ModelRef) -> str:
    """The style that the adapter was trained in; where that is not known, the model's default."""
    if ref.adapter is not None:
        read_config(ref.adapter)  # there is an adapter at all
        trained = RecordStore(ref.adapter, ref.name, "training").manifest()
        if trained is not None and "style" in trained["settings"]:
            return str(trained["settings"]["style"])
    with quiet():
        return default_style(open_tokenizer(ref.folder))


def _examples(
    model: AdaptedModel,
    settings: dict[str, Any],
    pairs: Sequence[Pair],
    questions: Sequence[Asked],
    retrieved: Retrieved | None,
) -> tuple[dict[str, list[Example]], list[Problem]]:
    """Every condition's examples, the same in each; what does not fit the window is a problem."""
    style, ends = settings["style"], end_tokens(model.tokenizer, model.folder)
    references = {pair.id: _reference_ids(model, style, pair, ends) for pair in pairs}
    room = max(settings["max_new_tokens"], *map(len, references.values()))  # for either
    plain, problems = prepare(model, style, questions, None, room)
    fit = {ready.asked.id for ready in plain}
    if not fit:
        raise InputProblems(problems)
    put = {"base": plain}
    if retrieved is not None:  # context is cut until a question fits: the same ones do
        put["rag"], _ = prepare(model, style, questions, retrieved, room)
    by_id = {pair.id: pair for pair in pairs}
    examples = {
        condition: [
            Example(ready, by_id[ready.asked.id], references[ready.asked.id])
            for ready in put["rag" if condition.endswith("rag") else "base"]
        ]
        for condition in settings["conditions"]
    }
    assert all([e.pair.id for e in own] == [r.asked.id for r in plain] for own in examples.values())
    return examples, problems


def _reference_ids(model: AdaptedModel, style: Style, pair: Pair, ends: Sequence[int]) -> list[int]:
    """The reference as training would have it: what follows the question, the end token last."""
    question = ask(model.tokenizer, style, pair.question)
    return response_ids(model.tokenizer, question, pair.response, ends)


def _measure(
    model: AdaptedModel,
    spec: EvalSpec,
    examples: dict[str, list[Example]],
    store: RecordStore,
    progress: Watch,
) -> list[Problem]:
    """Write every batch that is not there yet, then the table. Returns what memory ran out on."""
    first = next(iter(examples.values()))  # the same examples in each condition
    lengths = [len(example.ready.fitted.token_ids) for example in first]
    batches = plan(lengths, spec.batch_size)
    jobs = [(condition, batch) for condition in examples for batch in batches]
    limit = spec.batch_size
    for number, (condition, batch) in enumerate(jobs):
        progress(Progress(model.ref.name, number, len(jobs), "batches"))
        if store.has_part(number):
            continue
        with _adapted(model, "adapter" in condition):
            own = [examples[condition][i] for i in batch]
            pieces = in_pieces(own, limit, _worker(model, spec.max_new_tokens))
        limit = pieces.limit
        table = _table(model.ref.name, condition, [row for _, rows in pieces.done for row in rows])
        too_big = [_too_big(example, condition) for example in pieces.too_big]
        store.write_part(number, {"evaluation": table}, too_big)
    progress(Progress(model.ref.name, len(jobs), len(jobs), "batches"))
    whole, problems, _ = store.parts(len(jobs), "evaluation")
    store.write_table("evaluation", _with_groups(whole, first))
    return problems


def _with_groups(table: pa.Table, examples: Sequence[Example]) -> pa.Table:
    """The batches' rows with the group that the data give each example."""
    groups = {example.pair.id: example.pair.group for example in examples}
    column = pa.array([groups[i] for i in table["prompt_id"].to_pylist()], pa.string())
    return table.append_column("group", column).select(EVALUATION.names)


def _context_cut(examples: dict[str, list[Example]]) -> dict[str, int]:
    """How many examples' retrieved context was cut to fit, and by how much in all."""
    cut = [example.ready.fitted.context_tokens_cut for example in examples.get("rag", ())]
    return {"examples": sum(n > 0 for n in cut), "tokens": sum(cut)}


def _adapted(model: AdaptedModel, adapted: bool) -> AbstractContextManager[Any]:
    """The model with its adapter, or as if it had none."""
    if model.ref.adapter is None or adapted:
        return nullcontext()
    return cast(AbstractContextManager[Any], model.hf.disable_adapter())


def _worker(
    model: AdaptedModel, max_new_tokens: int
) -> Callable[[Sequence[Example]], list[dict[str, Any]]]:
    """What is done with a batch of examples: one row each."""
    decoding = Decoding(max_new_tokens=max_new_tokens)

    def work(examples: Sequence[Example]) -> list[dict[str, Any]]:
        prompts = [example.ready.fitted.token_ids for example in examples]
        said = generate(model, prompts, decoding)
        bits = response_bits(model, prompts, [example.reference_ids for example in examples])
        return [
            {
                "prompt_id": example.pair.id,
                "prompt": example.pair.question,
                "reference": example.pair.response,
                "response": one.text,
                "finish_reason": one.finish_reason,
                "n_generated_tokens": len(one.token_ids),
                "reference_nll_bits": nll,
                "n_reference_tokens": len(example.reference_ids),
                **scores(example.pair.question, example.pair.response, one.text, one.finish_reason),
            }
            for example, one, nll in zip(examples, said, bits, strict=True)
        ]

    return work


def _table(model: str, condition: str, rows: Sequence[dict[str, Any]]) -> pa.Table:
    own = {"model": model, "condition": condition}
    schema = EVALUATION.schema.remove(
        EVALUATION.schema.get_field_index("group")
    )  # the data's, not measured
    return pa.Table.from_pylist([own | row for row in rows], schema=schema)


def _too_big(example: Example, condition: str) -> Problem:
    what = f"memory ran out on it alone (condition {condition})"
    remedy = "Shorten it, lower --max-new-tokens, or free memory."
    return Problem(example.ready.asked.where, what, remedy, example.pair.id)
