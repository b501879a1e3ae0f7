"""Bad rows, broken models and prompts that overflow: named, and the rest is measured."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from lensbench.errors import InputProblems
from lensbench.studies.lens import run
from lensbench.studies.specs.lens import RunSpec
from tests.harness.facts import facts_rows
from tests.harness.files import manifest, tables, write_csv
from tests.harness.tiny import Case

BAD_ROWS = [
    {"id": "long", "relation": "capital", "prompt": "The capital " * 60, "answer": "Berlin"},
    {"id": "empty", "relation": "capital", "prompt": "", "answer": "Berlin"},
    {"id": "blank", "relation": "capital", "prompt": "The capital of Italy is", "answer": "  "},
    {"id": "spaces", "relation": "capital", "prompt": "The capital of Italy is", "answer": " \t"},
]


def test_bad_rows_are_left_out_and_the_rest_is_there(
    tmp_path: Path, spec: Callable[..., RunSpec], done: Path
) -> None:
    path = write_csv(tmp_path / "bad.csv", BAD_ROWS + facts_rows())
    outcome = run(spec(prompts=str(path)), tmp_path / "out")
    assert not outcome.ok
    assert not outcome.failed
    found = tables(outcome.folders[0])
    left_out = {problem.prompt_id: str(problem) for problem in outcome.problems}
    assert set(left_out) == {row["id"] for row in BAD_ROWS}
    assert "bad.csv, row 2, id long" in left_out["long"]
    assert "context holds 64" in left_out["long"]
    assert "row 3, id empty" in left_out["empty"]
    assert set(found["problems"].prompt_id) == set(left_out)
    measured = set(found["prompts"].prompt_id)
    assert measured == {row["id"] for row in facts_rows()}
    assert manifest(outcome.folders[0])["problems"] == len(left_out)


def test_a_second_run_still_says_what_was_left_out(
    tmp_path: Path, spec: Callable[..., RunSpec]
) -> None:
    path = write_csv(tmp_path / "bad.csv", BAD_ROWS[:2] + facts_rows()[:6])
    first = run(spec(prompts=str(path)), tmp_path / "out")
    second = run(spec(prompts=str(path)), tmp_path / "out")
    assert not second.ok
    assert [str(p) for p in second.problems] == [str(p) for p in first.problems]


def test_a_duplicate_id_does_not_take_the_good_row_with_it(
    tmp_path: Path, spec: Callable[..., RunSpec]
) -> None:
    rows = facts_rows()[:3]
    path = write_csv(tmp_path / "twice.csv", [*rows, rows[0] | {"prompt": "Rome is"}])
    outcome = run(spec(prompts=str(path)), tmp_path / "out")
    assert [problem.prompt_id for problem in outcome.problems] == [rows[0]["id"]]
    found = tables(outcome.folders[0])
    assert found["prompts"].prompt_id.tolist() == [row["id"] for row in rows]
    assert set(found["milestones"].prompt_id) == {row["id"] for row in rows}


@pytest.fixture(scope="module")
def broken_folders(llama: Case, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Models that cannot be measured, each with a word of its message."""
    import torch
    from safetensors.torch import load_file, save_file

    folder = tmp_path_factory.mktemp("broken")
    made = {}
    for name in ("no-tokenizer", "cut-off", "nan"):
        made[name] = folder / name
        shutil.copytree(llama.folder, made[name])
    (made["no-tokenizer"] / "tokenizer.json").unlink()
    weights = made["cut-off"] / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    weights = made["nan"] / "model.safetensors"
    tensors = load_file(weights)
    tensors["model.layers.1.mlp.down_proj.weight"][0, 0] = torch.nan
    save_file(tensors, weights, metadata={"format": "pt"})
    return made


@pytest.mark.parametrize(
    ("broken", "word"),
    [("no-tokenizer", "no tokenizer"), ("cut-off", "is cut off"), ("nan", "NaN or Inf")],
)
def test_a_model_that_fails_does_not_stop_the_next_one(
    broken: str,
    word: str,
    broken_folders: dict[str, Path],
    spec: Callable[..., RunSpec],
    llama: Case,
    tmp_path: Path,
) -> None:
    bad = str(broken_folders[broken])
    outcome = run(spec(models=(bad, str(llama.folder)), limit=1, heatmap_prompts=0), tmp_path)
    assert not outcome.ok
    assert list(outcome.failed) == [bad]
    assert word in str(outcome.failed[bad])
    (folder,) = outcome.folders
    assert manifest(folder)["status"] == "complete"


def test_prompts_that_overflow_are_left_out_and_the_rest_of_their_batch_is_there(
    overflowing: Path, spec: Callable[..., RunSpec], tmp_path: Path
) -> None:
    """The gate's own prompts among them: the shortest and the longest."""
    texts = {"rome": "The city of Rome is", "short": "In Rome", "long": "The city of Rome" * 3}
    row = {"relation": "capital", "answer": "old"}
    broken = [row | {"id": item, "prompt": text} for item, text in texts.items()]
    path = write_csv(tmp_path / "rome.csv", [*broken, *facts_rows()[:6]])
    outcome = run(spec(models=(str(overflowing),), prompts=str(path)), tmp_path / "out")
    assert not outcome.failed
    # Each once, although a heat map reads it again.
    assert sorted(str(problem.prompt_id) for problem in outcome.problems) == sorted(texts)
    assert all("gives NaN or Inf" in problem.what for problem in outcome.problems)
    found = tables(outcome.folders[0])
    measured = {row["id"] for row in facts_rows()[:6]}
    for name in ("prompts", "lens", "milestones"):
        assert set(found[name].prompt_id) == measured
    assert sorted(found["problems"].prompt_id) == sorted(texts)
    gate = manifest(outcome.folders[0])["gate"]
    assert all(one["passed"] for one in gate if one["error"] is not None)
    path = write_csv(tmp_path / "only.csv", broken)
    refused = run(spec(models=(str(overflowing),), prompts=str(path)), tmp_path / "none")
    assert "gives NaN or Inf for every prompt" in str(refused.failed[str(overflowing)])


def test_everything_wrong_with_a_spec_is_said_before_any_work(
    tmp_path: Path, spec: Callable[..., RunSpec]
) -> None:
    with pytest.raises(InputProblems) as caught:
        spec(top_k=0, lenses=("final", "tunnel"))
    message = str(caught.value)
    for part in ("top_k: it is 0", "'tunnel'"):
        assert part in message
    assert len(caught.value.problems) == 2
    with pytest.raises(InputProblems) as caught:
        run(spec(models=("smollm", "/no/such/folder")), tmp_path / "out")
    message = str(caught.value)
    for part in ("smollm2-135m", "/no/such/folder"):
        assert part in message
    assert len(caught.value.problems) == 2
    assert not (tmp_path / "out").exists()
