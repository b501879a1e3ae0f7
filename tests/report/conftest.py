"""A run with a record of every kind, its report, and a browser to open it in: made once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lensbench.compare.correlation.record import correlate
from lensbench.compare.correlation.spec import CorrelationSpec
from lensbench.records.open import open_record
from lensbench.records.record import Record
from lensbench.report.build import build_report
from tests.harness import lens_records, second_records
from tests.harness.browser import chromium
from tests.harness.correlation_records import base, noisy, planted, write_trace
from tests.harness.diff_records import cells_of, make, prompt
from tests.harness.lens_records import NASTY, Settings
from tests.harness.once import once
from tests.harness.pages import MARKUP


@pytest.fixture(scope="package")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two lens records, an adapter study, a diff, a correlation and a placement study."""
    return once(tmp_path_factory, "runs", write_run) / "study"


@pytest.fixture(scope="package")
def built(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return once(tmp_path_factory, "report", lambda out: build_report([run], out))


@pytest.fixture(scope="package")
def correlation(run: Path) -> Record:
    return open_record(run / "correlation")


@pytest.fixture(scope="package")
def moved(run: Path) -> Record:
    return open_record(run / "diff")


@pytest.fixture(scope="package")
def placements(run: Path) -> Record:
    return open_record(run / "placement")


@pytest.fixture(scope="package")
def chrome(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with chromium(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


def write_run(place: Path) -> None:
    """Into a folder `study`; the correlation is of traces beside it."""
    folder = place / "study"
    other = Settings(model="tiny-b", n_layers=6, late=0.6, seed=3, heatmap_prompts=1)
    lens_records.write_run(folder, Settings(n_layers=8), other)
    second_records.write_run(folder)
    write_diff(folder / "diff")
    write_placements(folder / "placement")
    compare(place / "traces", folder / "correlation")


def compare(traces: Path, out: Path) -> None:
    """Layers 5-7 change under one condition, in its prompt only; its name is markup."""
    values = base()
    write_trace(traces / "plain", values)
    write_trace(traces / "rag", planted(values, 1), generated=noisy(values, 3))
    write_trace(traces / "far", noisy(values, 4, 1.0))
    write_trace(traces / "other", noisy(values, 2), generated=noisy(values, 4))
    spec = CorrelationSpec(
        runs=(str(traces / "plain"), f"{MARKUP}={traces / 'rag'}", str(traces / "far")),
        controls=(str(traces / "other"),),
        out=out,
        measures=("pearson", "cosine", "cka"),
        n_blocks=3,
        resamples=200,
    )
    correlate(spec)


def write_diff(folder: Path) -> None:
    """A diff of eight prompts over five depths, every number another; one has no answer."""
    rng = np.random.default_rng(0)
    prompts = [
        prompt(f"p{i}", f"r{i % 4}", 0.5, 0.75, prompt=text)
        for i, text in enumerate([*NASTY[:7], MARKUP])
    ]
    prompts[2]["answer"] = None
    make(folder, [varied(item, rng) for item in cells_of(prompts, 4)], prompts, 4)


def varied(item: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    """The cell with numbers of its own; p2 has no answer, p3 misses one reading."""
    ranks = rng.integers(1, 5000, 2)
    item |= {f"{name}_{s}": rng.random() for name in ("entropy_bits", "kl_bits") for s in "ab"}
    item |= {f"answer_prob_{s}": rng.random() for s in "ab"}
    item |= {f"answer_rank_{s}": float(rank) for s, rank in zip("ab", ranks, strict=True)}
    item |= {"answer_rank_log2_change": float(np.log2(ranks[1] / ranks[0]))}
    item |= {name: rng.random() for name in ("resid_cosine", "resid_change", "lens_kl_bits")}
    if item["prompt_id"] == "p2":
        item |= {f"answer_{name}_{s}": None for name in ("rank", "prob") for s in "ab"}
        item |= {"answer_rank_log2_change": None}
    if (item["prompt_id"], item["layer"]) == ("p3", 2):
        item |= {"kl_bits_a": None}
    return item


def write_placements(folder: Path) -> None:
    """Three placements, two repetitions, and the base; the suggested block is a little better."""
    rng = np.random.default_rng(0)
    made = [
        {
            "model": "m", "placement": name, "blocks": [1, 2], "rank": 4, "prompt_id": f"p{i}",
            "repetition": repetition, "group": None, "n_reference_tokens": 10 + i,
            "reference_nll_bits": 20 + rng.random() - (name == "suggested"),
        }
        for name in ("base", "suggested", MARKUP, "all blocks")
        for repetition in ((None,) if name == "base" else (0, 1))
        for i in range(30)
    ]  # fmt: skip
    settings = {"n_trainable": 1000, "repetitions": 2, "n_test": 30}
    second_records.write(folder, "placement", {"placement": made}, settings=settings)
