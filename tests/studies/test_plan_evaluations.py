"""What an evaluation is planned to take, held to the operations that torch counts."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.torch import load_file
from torch.utils.flop_counter import FlopCounterMode

import lensbench as lb
from lensbench.checkpoints.ref import ADAPTER_WEIGHTS, ModelRef
from lensbench.costs.outlined import plainly_outlined
from lensbench.quantized.evaluation.evaluate import asked_of, batches_of, evaluate, stages_of
from lensbench.quantized.evaluation.measure import Evaluating, measure
from lensbench.quantized.evaluation.spec import EvalSpec
from lensbench.records.engine import Job
from lensbench.records.manifest import as_planned
from lensbench.studies.planning.evaluations import evaluation_cost, plan_evaluation
from tests.harness.adapters import make_adapter
from tests.harness.files import contents, manifest, write_jsonl
from tests.harness.tiny import Case
from tests.harness.training import ROWS


@pytest.fixture
def spec(tmp_path: Path) -> EvalSpec:
    file = write_jsonl(tmp_path / "pairs.jsonl", ROWS[:5])
    return EvalSpec(data=file, style="alpaca", max_new_tokens=4, batch_size=3, device="cpu")


@pytest.mark.slow
@pytest.mark.parametrize("ends", [False, True], ids=["to the limit", "ended at once"])
def test_the_operations_of_a_batch_are_those_that_torch_makes(
    ends: bool, spec: EvalSpec, llama: Case, tmp_path: Path
) -> None:
    adapter = make_adapter(llama, tmp_path / "adapter")
    n_adapter = sum(own.numel() for own in load_file(adapter / ADAPTER_WEIGHTS).values())
    model = lb.load_quantized(str(llama.folder), bits=32, adapter=adapter, device="cpu")
    model.base.set_attn_implementation("eager")  # a CPU's fused attention is not counted by torch
    settings = {"style": "alpaca", "max_new_tokens": 4, "conditions": ["base", "adapter"]}
    stages, _ = stages_of(model, settings, asked_of(spec), None, [{"n_examples": 5}])
    model.tokenizer.eos_token = None
    model.base.generation_config.eos_token_id = [*range(model.d_vocab)] if ends else None
    at = Evaluating(model, spec.max_new_tokens, spec.batch_size)
    batches = batches_of(stages[0], spec.batch_size)
    measure(at, Job(0, batches[0]))  # what shows once that a model can generate
    shape = plainly_outlined(ModelRef.of(llama.folder, use="generation"), None, "cpu").shape
    for number, batch in enumerate(batches):
        with FlopCounterMode(display=False) as counter:
            part = measure(at, Job(number, batch))
        cost = evaluation_cost(shape, batch, n_adapter, spec.max_new_tokens, ends)
        # Rotary angles are a product too, of each position with half a head's frequencies.
        assert cost.flops == pytest.approx(counter.get_total_flops(), rel=0.01), batch.condition
        assert cost.n_tokens == part.notes["n_tokens"]
        assert cost.rows["evaluation"] == len(part.tables["evaluation"])


def test_a_run_is_between_the_ends_of_its_plan(spec: EvalSpec, llama: Case, tmp_path: Path) -> None:
    ref, out = ModelRef.of(llama.folder, bits=32, use="generation"), tmp_path / "evaluation"
    planned = plan_evaluation("evaluation", ref, spec, out)
    assert planned.left is not None and planned.least is not None and planned.disk_bytes
    with as_planned({planned.folder.resolve(): planned.as_dict()}):
        evaluate(ref, spec, out)
    took = manifest(out)["took"]
    assert planned.least.n_tokens <= took["n_tokens"] <= planned.left.n_tokens
    taken = sum(len(data) for data in contents(out).values())
    assert planned.disk_bytes.low <= taken <= planned.disk_bytes.high
    assert plan_evaluation("evaluation", ref, spec, out).finished
