"""Records of three kinds with their pages, made once."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from lensbench.records.record import Record
from tests.harness import second_records as second_fixture
from tests.harness.correlation_records import base, noisy, planted, write_trace
from tests.harness.diff_records import cells_of, make, prompt
from tests.harness.lens_records import NASTY
from tests.harness.pages import MARKUP, study, with_page


@pytest.fixture(scope="package")
def correlation(tmp_path_factory: pytest.TempPathFactory) -> Record:
    """Layers 5-7 change under one condition; its name is markup."""
    folder, values = tmp_path_factory.mktemp("correlation"), base()
    write_trace(folder / "plain", values)
    write_trace(folder / "rag", planted(values, 1), generated=noisy(values, 3))
    write_trace(folder / "far", noisy(values, 4, 1.0))
    write_trace(folder / "other", noisy(values, 2), generated=noisy(values, 5))
    return study(
        folder,
        runs=(str(folder / "plain"), f"{MARKUP}={folder / 'rag'}", str(folder / "far")),
        controls=(str(folder / "other"),),
        measures=("pearson", "cosine", "cka"),
        n_blocks=3,
    )


@pytest.fixture(scope="package")
def moved(tmp_path_factory: pytest.TempPathFactory) -> Record:
    """A diff of eight prompts over five depths, every number another; one has no answer."""
    rng, folder = np.random.default_rng(0), tmp_path_factory.mktemp("diff") / "record"
    prompts = [
        prompt(f"p{i}", f"r{i % 4}", 0.5, 0.75, prompt=text)
        for i, text in enumerate([*NASTY[:7], MARKUP])
    ]
    prompts[2]["answer"] = None
    cells = [varied(item, rng) for item in cells_of(prompts, 4)]
    make(folder, cells, prompts, 4)
    return with_page(folder)


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


@pytest.fixture(scope="package")
def placements(tmp_path_factory: pytest.TempPathFactory) -> Record:
    """Three placements, two repetitions, and the base; the suggested block is a little better."""
    rng, folder = np.random.default_rng(0), tmp_path_factory.mktemp("placement") / "record"
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
    second_fixture.write(folder, "placement", {"placement": made}, settings=settings)
    return with_page(folder)
