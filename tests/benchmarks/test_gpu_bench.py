"""The GPU bench, as a toy on the CPU: every row is there, and its numbers are what they claim."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
import torch

from tests.benchmarks import gpu_jobs as jobs
from tests.benchmarks.gpu import bench

SCRIPT = Path(__file__).parents[1] / "gpu" / "run.sh"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("bench")
    bench(device="cpu", small=True, rounds=1, out=out)
    return out


@pytest.mark.slow
def test_every_job_is_timed_and_stands_in_the_table(made: Path) -> None:
    found = json.loads((made / "gpu.json").read_text())
    text = (made / "gpu.md").read_text()
    names = [(row["table"], row["name"]) for row in found["rows"]]
    assert len(set(names)) == len(names) >= 10
    for row in found["rows"]:
        assert len(row["seconds"]) == 1
        assert row["floor_s"] > 0
        assert f"| {row['name']} |" in text
    assert {table for table, _ in names} == {"everywhere", "last"}
    assert found["entropy_off_bits"]["lensbench"]["lensbench"] < 2e-5


def test_parameters_are_those_of_the_model() -> None:
    of = jobs.size(small=True)
    hf = jobs.drawn(of, "cpu")
    blocks = [p.numel() for p in hf.model.layers.parameters() if p.ndim == 2]
    assert of.n_blocks == sum(blocks)
    assert of.n_head == hf.get_output_embeddings().weight.numel()
    again = jobs.drawn(of, "cpu").get_output_embeddings().weight
    assert torch.equal(hf.get_output_embeddings().weight, again)


def test_exact_entropies_are_those_of_a_softmax() -> None:
    states, head = torch.randn(11, 8), torch.randn(8, 50)
    p = torch.distributions.Categorical(logits=states.double() @ head.double())
    found = jobs.exact_entropy_bits(states, lambda x: x, head)
    torch.testing.assert_close(found, p.entropy() / torch.tensor(2.0).double().log())


@pytest.mark.slow
def test_the_script_proves_itself_on_the_cpu(tmp_path: Path) -> None:
    command = [SCRIPT, "--device", "cpu", "--small", "--jobs", "2", "--out", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    made = {path.name for path in tmp_path.iterdir()}
    assert made == {
        "bench.txt",
        "gpu-profile.txt",
        "gpu.json",
        "gpu.md",
        "machine.txt",
        "tests.txt",
        "tests.xml",
    }
