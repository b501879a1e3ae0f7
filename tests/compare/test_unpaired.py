"""Conditions of different prompts: their mean vectors, and labels dealt out again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from lensbench.compare.correlation.record import correlate
from lensbench.compare.correlation.spec import CorrelationSpec
from lensbench.compare.correlation.suggest import suggested
from lensbench.compare.permutation import adjusted_p_values, label_null
from lensbench.compare.similarity import MEASURES
from lensbench.errors import InputProblems
from lensbench.records.open import open_record
from lensbench.records.read import read_table
from lensbench.records.schema import KINDS
from lensbench.report.build import build_report
from lensbench.report.correlation.findings import findings, limitations
from lensbench.report.correlation.tables import tables
from lensbench.stats.resampling import codes_of
from lensbench.stats.significance import p_values
from tests.harness.correlation_records import PLANTED, WIDTH, base, planted, write_trace
from tests.harness.program import Program
from tests.harness.similarity import similarity

Floats = NDArray[np.float64]
ALPHA, DRAWS = 0.05, 200
# With a true rate of 5 %, more false findings than this in 200 draws come once in a thousand times.
MOST_FALSE = int(stats.binom.ppf(0.999, DRAWS, ALPHA))
N_A, N_B = 18, 14


def two_sides(seed: int, size: float = 0.0) -> tuple[Floats, Floats]:
    """Prompts of one population dealt to two sides; at `PLANTED` the second moves by `size`."""
    values = base(seed, n_prompts=N_A + N_B)
    a, b = values[:, :N_A], values[:, N_A:].copy()
    shift = np.random.default_rng(seed + 500).normal(size=WIDTH)
    for layer in PLANTED:
        b[layer] += size * shift
    return a, b


def null_of(a: Floats, b: Floats, draws: int = 999, seed: int | tuple[int, ...] = 0) -> Floats:
    return label_null(a, b, (codes_of(None, N_A), codes_of(None, N_B)), draws, seed)


def correlated(a: Floats, b: Floats) -> float:
    return float(np.corrcoef(a.mean(0), b.mean(0))[0, 1])


# --- the test


def test_p_is_that_of_scipys_permutation_test() -> None:
    a, b = two_sides(3, 0.4)
    ours = p_values(null_of(a, b, draws=20_000))
    for layer in (1, PLANTED[0]):
        theirs = stats.permutation_test(
            (np.arange(N_A), np.arange(N_A, N_A + N_B)),
            lambda x, y, layer=layer: 1 - correlated(*(_rows(a, b, layer, i) for i in (x, y))),
            permutation_type="independent",
            alternative="greater",
            vectorized=False,
            n_resamples=4000,
            rng=np.random.default_rng(1),
        )
        assert ours[layer] == pytest.approx(theirs.pvalue, abs=0.03)


def _rows(a: Floats, b: Floats, layer: int, which: Floats) -> Floats:
    return np.concatenate([a[layer], b[layer]])[np.asarray(which, dtype=int)]


def test_exactly_the_planted_layers_differ() -> None:
    adjusted = adjusted_p_values(null_of(*two_sides(0, 2.0)))
    assert np.flatnonzero(adjusted < ALPHA).tolist() == list(PLANTED)


def test_nothing_is_found_more_often_than_stated() -> None:
    found = [
        (adjusted_p_values(null_of(*two_sides(seed), draws=199, seed=seed)) < ALPHA).any()
        for seed in range(DRAWS)
    ]
    assert sum(found) <= MOST_FALSE


def test_linked_prompts_keep_their_side() -> None:
    """Two groups a side: 4 units can be dealt in 6 ways, so p is at least 1/6."""
    a, b = two_sides(0, 5.0)
    codes = np.arange(N_A) % 2, np.arange(N_B) % 2
    null = label_null(a, b, codes, 400, 0)
    assert len(np.unique(null[:, 1].round(9))) <= 6
    assert (p_values(null) > 1 / 6 - 0.06).all()


def test_a_layer_without_any_difference_is_not_tested() -> None:
    a, b = two_sides(0)
    a[2], b[2] = a[2, :1], a[2, :1]
    assert np.isnan(null_of(a, b)[:, 2]).all()


# --- the record


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """general, python with other prompts (layers 5-7 differ), and the latter with a context."""
    folder = tmp_path_factory.mktemp("runs")
    a, b = two_sides(0, 2.0)
    write_trace(folder / "general", a, [f"g{i}" for i in range(N_A)])
    for name, values in (("python", b), ("rag", planted(b, 1))):
        write_trace(folder / name, values, [f"p{i}" for i in range(N_B)])
    return folder


def spec(runs: Path, out: Path, **how: Any) -> CorrelationSpec:
    names = tuple(str(runs / name) for name in ("general", "python", "rag"))
    return CorrelationSpec(names, out, **({"unpaired": True, "resamples": 300} | how))


def test_the_record_of_different_prompts(runs: Path, tmp_path: Path) -> None:
    outcome = correlate(spec(runs, tmp_path / "out", n_blocks=3))
    names = KINDS["correlation"].names
    tables = {name: read_table(outcome.folder, name).to_pandas() for name in names}
    ranking = tables["layer_ranking"].query("condition == 'python' and variant == 'as_is'")
    assert set(ranking.loc[ranking["p_adjusted"] < ALPHA, "layer"]) == set(PLANTED)
    a, b = (v.astype(np.float32).astype(float) for v in two_sides(0, 2.0))
    null = null_of(a, b, draws=300, seed=(0, 1))
    tested = ranking.query("span == 'prompt'")["p"]
    np.testing.assert_allclose(tested, p_values(null)[1:])  # one-sided: no less than no distance
    similar = tables["similarity"].query("condition == 'python' and variant == 'as_is'")
    own = similar.query("span == 'prompt'")
    expected = [correlated(x, y) for x, y in zip(a, b, strict=True)]
    np.testing.assert_allclose(own["value"], expected, atol=1e-9)
    assert set(tables["similarity"]["measure"]) == {"pearson"}
    assert set(own["n_prompts"]) == {N_B}
    assert (own["low"] < own["high"]).all()
    assert set(tables["layer_map"]["measure"]) == {"pearson", "cosine", "cka"}
    assert set(suggested(outcome.folder)) == {
        (p, c) for p in ("prompt", "generated") for c in ("python", "rag")
    }
    assert "1 - Pearson" in suggested(outcome.folder)["prompt", "python"].read_text(
        encoding="utf-8"
    )


def test_the_sides_are_drawn_apart(runs: Path, tmp_path: Path) -> None:
    """A run against itself as if its prompts were others: drawn together, nothing would vary."""
    both = (f"a={runs / 'general'}", f"b={runs / 'general'}")
    how: dict[str, Any] = {"spans": ("prompt",), "resamples": 200}
    widths = []
    for unpaired in (True, False):
        out = tmp_path / str(unpaired)
        made = correlate(
            CorrelationSpec(both, out, unpaired=unpaired, measures=("pearson",), **how)
        )
        frame = read_table(made.folder, "similarity").to_pandas().query("variant == 'as_is'")
        widths.append((frame["high"] - frame["low"]).to_numpy())
    assert (widths[0] > 1e-3).all()
    assert (widths[1] < 1e-9).all()


@pytest.mark.slow
def test_the_report_says_that_the_prompts_differ(runs: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    correlate(spec(runs, out))
    build_report([out])
    record = open_record(out)
    made = tables(record)
    line = findings(record, made)[0]
    assert "by pearson" in line
    assert "dealt out at random" in line
    assert "layers 5-7 of 12" in line
    compared = made["compared"].frame.set_index("condition")
    assert compared["n_prompts_prompt"].to_dict() == {"general": N_A, "python": N_B, "rag": N_B}
    assert any("different prompts" in text for text in limitations(record, made))


def test_one_prompt_on_a_side_has_neither_interval_nor_test(runs: Path, tmp_path: Path) -> None:
    write_trace(tmp_path / "one", base(1, n_prompts=1), ["x"])
    both = (str(runs / "general"), str(tmp_path / "one"))
    made = correlate(CorrelationSpec(both, tmp_path / "out", unpaired=True))
    own = read_table(made.folder, "similarity").to_pandas().query("variant == 'as_is'")
    assert own["value"].notna().all()
    assert own["low"].isna().all()
    assert own["reason"].str.contains("1 prompt").all()
    ranking = read_table(made.folder, "layer_ranking").to_pandas().query("variant == 'as_is'")
    assert ranking["p_reason"].str.contains("1 prompt").all()


def test_what_cannot_be_unpaired_is_named_at_once(runs: Path, tmp_path: Path) -> None:
    how: dict[str, Any] = {"measures": ("cka", "cosine"), "n_blocks": 2}
    with pytest.raises(InputProblems) as caught:
        spec(runs, tmp_path / "out", controls=(str(runs / "rag"),), **how)
    text = str(caught.value)
    for part in ("cka compares", "cosine compares", "a control", "chosen by pearson"):
        assert part in text


def test_runs_that_share_nothing_name_the_way_out(runs: Path, tmp_path: Path) -> None:
    with pytest.raises(InputProblems, match="--unpaired"):
        correlate(spec(runs, tmp_path / "out", unpaired=False))


def test_the_command(lensbench: Program, runs: Path, tmp_path: Path) -> None:
    how = ["--unpaired", "--span", "prompt", "-o", tmp_path / "out"]
    done = lensbench("correlate", runs / "general", runs / "python", *how)
    assert done.status == 0
    assert "python, prompt tokens" in done.out
    assert (tmp_path / "out" / "report.md").exists()


def test_only_pearson_takes_different_prompts() -> None:
    x, y = base(0, n_prompts=6)[1], base(0, n_prompts=9)[1]
    unequal = {name: similarity(measure, x, y) for name, measure in MEASURES.items()}
    assert [name for name, found in unequal.items() if found.value is not None] == ["pearson"]
    assert unequal["pearson"].value == pytest.approx(correlated(x, y))
