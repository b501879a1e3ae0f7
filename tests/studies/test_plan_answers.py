"""What answering is planned to take, held to the operations that torch counts and to the record."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from torch.utils.flop_counter import FlopCounterMode

from lensbench.checkpoints.ref import ModelRef
from lensbench.costs.outlined import plainly_outlined
from lensbench.quantized.generation.answer import Answering, answer
from lensbench.quantized.generation.infer import run_inference
from lensbench.quantized.generation.questions import prepare, read_questions
from lensbench.quantized.generation.spec import Decoding, InferenceSpec
from lensbench.records.engine import Job
from lensbench.records.manifest import as_planned
from lensbench.studies.planning.answers import answer_cost, plan_answers
from lensbench.studies.planning.ends import contexts
from tests.harness.ends import loaded
from tests.harness.files import contents, manifest, write_jsonl
from tests.harness.tiny import SENTENCES, Case

N_NEW = 5


@pytest.fixture
def spec(tmp_path: Path) -> InferenceSpec:
    rows = [{"id": f"p{n}", "prompt": text[: 12 + 3 * n]} for n, text in enumerate(SENTENCES[:4])]
    file = write_jsonl(tmp_path / "asked.jsonl", rows)
    return InferenceSpec(
        prompts=file,
        out=tmp_path / "trace.csv",
        trace=tmp_path / "trace",
        decoding=Decoding(max_new_tokens=N_NEW),
        style="none",
        batch_size=3,
        device="cpu",
    )


@pytest.mark.parametrize("traced", [True, False], ids=["traced", "answers alone"])
@pytest.mark.parametrize("ends", [False, True], ids=["to the limit", "ended at once"])
def test_the_operations_of_a_batch_are_those_that_torch_makes(
    ends: bool, traced: bool, spec: InferenceSpec, llama: Case
) -> None:
    own = spec if traced else spec.changed(trace=None)
    model, shape = loaded(llama.folder, ends), _shape(llama)
    questions, _ = read_questions(spec.file)
    ready, _ = prepare(model, "none", questions, None, N_NEW)
    at = Answering(model, own, 3)
    answer(at, Job(0, ready[:3]))  # what shows once that a model can generate
    with FlopCounterMode(display=False) as counter:
        part = answer(at, Job(0, ready[:3]))
    lengths = tuple(len(one.fitted.token_ids) for one in ready[:3])
    cost = answer_cost(shape, own, model.n_layers, lengths, ends)
    # Rotary angles are a product too, of each position with half a head's frequencies.
    assert cost.flops == pytest.approx(counter.get_total_flops(), rel=0.01)
    assert cost.n_tokens == part.notes["n_tokens"]
    made = {name: len(rows) for name, rows in part.tables.items() if len(rows)}
    assert {name: n for name, n in cost.rows.items() if "." not in name} == made
    if traced:
        means = part.tables["activations"]["mean"].combine_chunks()
        n_numbers = len(means.flatten())  # of responses of one token there is nothing generated
        assert n_numbers <= cost.rows["activations.mean"]


def _shape(case: Case) -> Any:
    return plainly_outlined(ModelRef.of(case.folder, use="generation"), None, "cpu").shape


def test_a_run_is_between_the_ends_of_its_plan(spec: InferenceSpec, llama: Case) -> None:
    ref = ModelRef.of(llama.folder, bits=32, use="generation")
    planned = plan_answers("trace", ref, spec)
    assert planned.left is not None and planned.least is not None and planned.disk_bytes
    with as_planned({planned.folder.resolve(): planned.as_dict()}):
        (folder,) = run_inference(ref, spec).folders
    took = manifest(folder)["took"]
    assert planned.least.n_tokens <= took["n_tokens"] <= planned.left.n_tokens
    taken = sum(len(data) for data in contents(folder).values())
    assert planned.disk_bytes.low <= taken <= planned.disk_bytes.high
    assert plan_answers("trace", ref, spec).finished


def test_a_context_that_nobody_has_searched_is_between_the_shortest_and_the_longest(
    llama: Case,
) -> None:
    documents = ["of some words more than that", "short", "a little longer"]
    shortest, longest = contexts(llama.model.tokenizer, documents, 2, 2)
    assert [[hit.text for hit in own] for own in shortest.hits] == [
        ["short", "a little longer"]
    ] * 2
    assert [hit.text for hit in longest.hits[0]] == ["a little longer", documents[0]]
