"""What drawing takes, held to the operations that torch counts while it is done."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from torch.utils.flop_counter import FlopCounterMode

import lensbench as lb
from lensbench.checkpoints.ref import ModelRef
from lensbench.costs.outlined import plainly_outlined
from lensbench.prompts.sets import load_prompts
from lensbench.records.engine import Job
from lensbench.sampling.cost import job_cost
from lensbench.sampling.measured import measure
from lensbench.studies.sampling import drawing, run
from lensbench.studies.specs.sampling import SamplingSpec
from tests.harness.ends import loaded
from tests.harness.files import table, write_csv
from tests.harness.tiny import SENTENCES, TINY, Case, save


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = [{"id": f"p{n}", "prompt": text[: 12 + n]} for n, text in enumerate(SENTENCES[:4])]
    return write_csv(tmp_path_factory.mktemp("prompts") / "mine.csv", rows)


def spec_of(folder: Path, prompts: Path) -> SamplingSpec:
    how = {"compared": ("T=1", "top-k=7"), "written": ("greedy", "T=0.5"), "texts": 3}
    few = {"max_new_tokens": 5, "continued": 3, "shots": 2}
    return SamplingSpec(models=(str(folder),), prompts=str(prompts), device="cpu", **how, **few)


@pytest.mark.parametrize("ends", [False, True], ids=["to the limit", "ended at once"])
@pytest.mark.parametrize("name", ["llama", pytest.param("gpt2", marks=pytest.mark.slow)])
def test_the_operations_of_each_job_are_those_that_torch_makes(
    name: str, ends: bool, prompts: Path, tiny_case: Callable[[str], Case], tmp_path: Path
) -> None:
    changes = {"n_positions" if name == "gpt2" else "max_position_embeddings": 1024}
    folder = save(TINY[name], tmp_path / name, changes)
    known, prompt_set = plainly_outlined(ModelRef.of(folder), None, "cpu"), load_prompts(prompts)
    spec, model = spec_of(folder, prompts), loaded(folder, ends)
    planned, _ = drawing(spec, name, known.model, prompt_set)
    real, _ = drawing(spec, name, model, prompt_set)
    assert planned.items == real.items
    first_task = next(item for item in real.items if item[0] != "prompt")
    measure(real, Job(0, first_task))  # what shows once that a model can generate
    for number, item in enumerate([*real.items[:4], first_task]):
        with FlopCounterMode(display=False) as counter:
            part = measure(real, Job(number, item))
        cost = job_cost(planned, known.shape, item, ends)
        # Rotary angles are a product too, of each position with half a head's frequencies.
        assert cost.flops == pytest.approx(counter.get_total_flops(), rel=0.01), item
        assert {key: len(rows) for key, rows in part.tables.items()} == cost.rows


@pytest.mark.slow
def test_a_run_is_between_the_ends_of_its_plan(prompts: Path, tmp_path: Path) -> None:
    folder = save(TINY["llama"], tmp_path / "llama", {"max_position_embeddings": 1024})
    spec = spec_of(folder, prompts)
    (planned,) = lb.plan(spec, tmp_path / "out").records
    assert planned.least is not None and planned.left is not None
    assert planned.least.flops < planned.left.flops
    assert not planned.obstacles
    outcome = run(spec, tmp_path / "out")
    for name, n in planned.left.rows.items():
        assert len(table(outcome.folder, name)) == n, name
    assert lb.plan(spec, tmp_path / "out").records[0].finished
