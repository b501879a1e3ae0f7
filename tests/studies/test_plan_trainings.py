"""What a training is planned to take, held to the operations that torch counts while it learns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lensbench.quantized.adapters.spec import Lora
from lensbench.quantized.loading.load import load_quantized
from lensbench.quantized.training.train import train
from lensbench.records.manifest import as_planned
from lensbench.studies.planning.trainings import plan_training
from tests.harness.files import contents, manifest, table, write_jsonl
from tests.harness.flops import counted
from tests.harness.tiny import Case
from tests.harness.training import ROWS, spec_of


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("data")
    halves = {"pairs": ROWS[:14], "held-out": ROWS[14:]}
    one, other = (write_jsonl(folder / f"{name}.jsonl", rows) for name, rows in halves.items())
    return one, other


@pytest.mark.parametrize(
    ("lora", "more"),
    [
        pytest.param({"blocks": "1-2"}, {}, marks=pytest.mark.slow),
        ({"blocks": "1-2"}, {"cache_prefix": True}),
        pytest.param(
            {"blocks": "all", "targets": "o,gate"},
            {"gradient_accumulation": 2},
            marks=pytest.mark.slow,
        ),
        pytest.param(
            {"blocks": "0", "targets": "down", "rank": 4}, {"max_steps": 5}, marks=pytest.mark.slow
        ),
    ],
    ids=["upper blocks", "prefix kept", "accumulated", "stopped"],
)
def test_the_operations_of_a_training_are_those_that_torch_makes(
    lora: dict[str, Any],
    more: dict[str, Any],
    files: tuple[Path, Path],
    llama: Case,
    tmp_path: Path,
) -> None:
    spec = spec_of(llama, *files, tmp_path / "adapter", lora=Lora(dropout=0.0, **lora), **more)
    planned = plan_training("adapter", spec)
    assert planned.left is not None and planned.disk_bytes is not None
    loading = counted(lambda: load_quantized(spec.ref, device="cpu"))  # it tries the processor
    with as_planned({planned.folder.resolve(): planned.as_dict()}):
        made = counted(lambda: train(spec))
    assert planned.left.flops == made - loading
    assert planned.left.rows["training"] == len(table(spec.out, "training"))
    taken = sum(len(data) for data in contents(spec.out).values())
    assert planned.disk_bytes.low <= taken <= planned.disk_bytes.high
    assert manifest(spec.out)["took"]["n_tokens"] is None  # nobody counts them, and 0 they are not
    assert plan_training("adapter", spec).finished
