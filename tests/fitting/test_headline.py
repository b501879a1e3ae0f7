"""Which lens a run's headlines are of: by held-out KL, of lenses that were fitted to this model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lensbench import InputProblems, open_record
from lensbench.lens.registry import claiming
from lensbench.records.lens.kind import HeldOut, headline_lens
from lensbench.records.lens.record import LensRecord
from lensbench.records.validation.tables import Written, broken
from lensbench.studies.lens import run
from lensbench.studies.specs.lens import RunSpec
from tests.harness.facts import facts_rows
from tests.harness.files import tables, write_csv
from tests.harness.reports import section_of
from tests.harness.tiny import Case

Fit = Callable[[Case], Path]
BITS = st.floats(0.1, 30)


@given(st.dictionaries(st.sampled_from(["linear", "tuned", "mine"]), st.tuples(BITS, BITS)))
def test_the_headline_is_of_the_lowest_held_out_kl(told: dict[str, tuple[float, float]]) -> None:
    held_out = {name: HeldOut(own, final, 100, "") for name, (own, final) in told.items()}
    lenses = ["final", "next", "linear", "tuned", "mine"]
    chosen = headline_lens(lenses, held_out)
    nearer = {name: own for name, (own, final) in told.items() if own < final}
    if nearer:
        assert nearer[chosen] == min(nearer.values())
    else:
        assert chosen == "final"


@pytest.mark.parametrize(
    ("asked", "read"),
    [
        (("final", "next", "raw"), ("final",)),
        (("raw", "final", "linear"), ("final", "linear")),
        (("next", "raw"), ("next",)),
    ],
)
def test_what_belongs_to_base_prompts_is_read_by_the_lenses_of_a_headline(
    asked: tuple[str, ...], read: tuple[str, ...]
) -> None:
    assert claiming(asked) == read


def test_a_fitted_lens_is_not_read_over_prompts_without_final(tmp_path: Path) -> None:
    with pytest.raises(InputProblems, match=r"linear without final.*Add --lens final"):
        run(RunSpec(("m",), lenses=("raw", "linear")), tmp_path)


@pytest.fixture(scope="module")
def record(llama: Case, linear: Fit, tmp_path_factory: pytest.TempPathFactory) -> LensRecord:
    """A run with the logit lens and a fitted one."""
    folder = tmp_path_factory.mktemp("headline")
    prompts = write_csv(folder / "small.csv", facts_rows())
    lenses = ("raw", "final", str(linear(llama)))
    spec = RunSpec((str(llama.folder),), prompts=str(prompts), limit=4, lenses=lenses)
    read = open_record(run(spec.changed(heatmap_prompts=2), folder / "run").folder)
    assert isinstance(read, LensRecord)
    return read


def test_a_manifest_says_how_far_each_fitted_lens_is_from_the_model(
    record: LensRecord, llama: Case, linear: Fit
) -> None:
    quality = tables(linear(llama))["fit_quality"]
    told = record.manifest["lenses"]["linear"]["held_out"]
    for key, reading in {"kl_bits": "fitted", "final_kl_bits": "final"}.items():
        rows = quality[(quality.reading == reading) & (quality.layer < llama.model.n_layers)]
        assert told[key] == pytest.approx(sum(rows.kl_bits) / llama.model.n_layers)
    assert told["n_tokens"] == quality.n_tokens.iloc[0]
    wanted = "linear" if told["kl_bits"] < told["final_kl_bits"] else "final"
    assert record.main_lens == wanted
    assert set(record.headline_lenses) == {"final", "linear"}


def test_every_lens_of_a_headline_reads_what_belongs_to_base_prompts(record: LensRecord) -> None:
    rows = record.table("lens")
    there = {name: set(own["prompt_id"]) for name, own in rows[rows["is_last"]].groupby("lens")}
    assert there["final"] == there["linear"] == set(record.prompts.index)
    assert there["raw"] == set(record.base_prompts.index)
    earlier = rows[~rows["is_last"]].groupby("lens")["prompt_id"].nunique()
    assert earlier.to_dict() == {"final": 2, "linear": 2}
    assert broken(Written.by(record)) == []


def test_a_figure_at_another_precision_chooses_no_lens(record: LensRecord) -> None:
    class Halved(LensRecord):
        @property
        def model(self) -> dict[str, object]:
            return super().model | {"bits": 16}

    other = Halved(record.folder, record.manifest)
    assert other.held_out == {}
    assert other.main_lens == "final"


def test_its_report_names_the_lens_and_sets_both_side_by_side(record: LensRecord) -> None:
    section = section_of(record)
    assert f"by the lens {record.main_lens}" in section.headline
    assert "## Lenses side by side" in section.text
    told = section.tables["lens_verdicts"].row(lens="linear", emergence="first at rank 1")
    assert told["held_out_kl_bits"] == record.held_out["linear"].kl_bits
    assert section.tables["controls"].row(answer="at rank 1 in the output")["control_share"].n
