"""Verbs of a model whose blocks lie on a disk write what they write of one in memory."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pandas as pd
import pytest

from lensbench.progress import Progress, ignore
from lensbench.studies.analysis import KINDS
from tests.harness.forks import Stop
from tests.harness.program import Program
from tests.harness.spread import on_disk
from tests.harness.tiny import Case

VERBS: dict[str, tuple[object, ...]] = {
    "lens": ("--heatmap-prompts", 0),
    "sample": ("--no-tasks", "--continued", 0),
    "attention": ("--no-nulls", "--repeat-tokens", 15, "--ablate", 1),
    "infer": ("--bits", 32, "--max-new-tokens", 4, "--batch-size", 1),
}

WIDENED = {"lens", "infer"}  # of others more prompts are another run, or other ablations


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    """Two of them, with answers."""
    file = tmp_path / "prompts.csv"
    rows = ["id,prompt,answer", "a,The capital of Italy is,Rome", "b,Two and two are,four"]
    file.write_text("\n".join(rows) + "\n")
    return file


@pytest.mark.slow
@pytest.mark.parametrize("verb", VERBS)
def test_tables_are_those_of_the_model_in_memory_and_a_run_goes_on_there(
    llama: Case, tmp_path: Path, prompts: Path, lensbench: Program, verb: str
) -> None:
    offload, other = tmp_path / "offload", tmp_path / "other"
    offload.mkdir()
    other.mkdir()
    spread = on_disk(llama.folder, offload)

    def run(name: str, device: str, *more: object) -> dict[str, pd.DataFrame]:
        out = tmp_path / name
        out.mkdir(exist_ok=True)
        given = [prompts] if verb == "infer" else ["--prompts", prompts]
        given += ["-o", out / "answers.csv" if verb == "infer" else out, "--device", device]
        done = lensbench(verb, llama.folder, *given, *VERBS[verb], *more)
        assert done.status == 0, done.said
        return {path.name: pd.read_parquet(path) for path in sorted(out.rglob("*.parquet"))}

    plain = run("plain", "cpu")
    assert plain
    run("begun", spread, *(("--limit", 1) if verb in WIDENED else ()))
    larger, _, _ = spread.partition("MB")
    for found in (run("spread", spread), run("begun", f"{larger}9MB,disk={other}")):
        assert found.keys() == plain.keys()
        for name, table in found.items():
            pd.testing.assert_frame_equal(table, plain[name], rtol=1e-5, atol=1e-6)


def _stop_after_one(now: Progress) -> None:
    if now.total is not None and now.done == 1 and now.total > 1:
        raise Stop


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sampling", "attention"])
def test_a_run_that_was_interrupted_goes_on_from_another_disk(
    llama: Case, tmp_path: Path, prompts: Path, kind: str
) -> None:
    first, other = tmp_path / "first", tmp_path / "other"
    first.mkdir()
    other.mkdir()
    study: ModuleType = importlib.import_module(f"lensbench.studies.{kind}")
    given: dict[str, Any] = {"models": (str(llama.folder),), "prompts": str(prompts)}
    own = {
        "sampling": {"tasks": False, "continued": 1, "max_new_tokens": 4, "texts": 2},
        "attention": {"nulls": False, "n_repeated": 2, "repeat_tokens": 15, "batch_tokens": 16},
    }

    def run(
        out: str, device: str, watch: Callable[[Progress], None] = ignore
    ) -> dict[str, pd.DataFrame]:
        spec = KINDS[kind](**given, **own[kind], device=device)
        outcome = study.run(spec, tmp_path / out, watch)
        assert not outcome.failed, outcome.failed
        tables = sorted(Path(outcome.folder).glob("*.parquet"))
        return {path.name: pd.read_parquet(path) for path in tables}

    plain = run("plain", "cpu")
    with pytest.raises(Stop):
        run("begun", on_disk(llama.folder, first), _stop_after_one)
    went_on = run("begun", on_disk(llama.folder, other))
    assert went_on.keys() == plain.keys()
    for name, table in went_on.items():
        pd.testing.assert_frame_equal(table, plain[name], rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_a_walk_is_that_of_the_model_in_memory(
    llama: Case, tmp_path: Path, lensbench: Program
) -> None:
    pages = []
    for device in ("cpu", on_disk(llama.folder, tmp_path)):
        page = tmp_path / f"{len(pages)}.html"
        words = ("walk", llama.folder, "The capital of Italy is", "-o", page)
        done = lensbench(*words, "--device", device)
        assert done.status == 0, done.said
        pages.append(page.read_bytes())
    assert pages[0] == pages[1]
