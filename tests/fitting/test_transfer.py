"""Lenses of one variant of a model, read on the others."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from torch.utils.flop_counter import FlopCounterMode

from lensbench import InputProblems, open_record, plan
from lensbench.corpora.corpus import Document
from lensbench.costs.shape import shape_of
from lensbench.fitting.quality import measure
from lensbench.fitting.spec import FitSpec
from lensbench.fitting.windows import Window
from lensbench.lens.base import Final
from lensbench.lens.fitted.affine import Affine
from lensbench.lens.fitted.artifact import open_fitted
from lensbench.report.build import build_report
from lensbench.report.transfer.section import tables, verdict
from lensbench.stats.estimates import Estimate
from lensbench.studies.analysis import run_analysis
from lensbench.studies.specs.transfer import TransferSpec
from lensbench.studies.stages.fit_arithmetic import FitCost
from tests.harness.files import table_bytes
from tests.harness.program import Program
from tests.harness.tiny import Case

SIZES = {"tokens": 600, "choose_tokens": 100, "test_tokens": 500, "window": 32}


def fits(corpus: Path) -> dict[str, dict[str, Any]]:
    return {"linear": SIZES | {"corpus": str(corpus), "batch_tokens": 128}}


@pytest.fixture(scope="module")
def study(
    tiny_case: Callable[[str], Case], corpus: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Of a tiny model in 32 and in 16 bits."""
    base = tiny_case("llama").folder
    out = tmp_path_factory.mktemp("transfer")
    spec = TransferSpec(models=(str(base), f"{base}@16"), fit=fits(corpus))
    assert run_analysis(spec, out).ok
    return out


def test_a_lens_of_its_own_is_as_good_as_its_own_record_says(study: Path) -> None:
    rows = open_record(study / "transfer").table("transfer")
    for variant, own in rows[rows.reading == "own"].groupby("model"):
        (fit,) = [
            record
            for path in study.glob("lenses/*/linear")
            if (record := open_record(path)).model["name"] == variant
        ]
        told = fit.table("fit_quality").set_index(["reading", "layer"])
        for layer, part in own.groupby("layer"):
            for column in ("kl_bits", "top1_agreement"):
                mean = (part[column] * part.n_tokens).sum() / part.n_tokens.sum()
                assert mean == pytest.approx(told[column]["fitted", layer], rel=1e-4, abs=1e-6)


def test_the_other_variants_lens_is_read_on_the_same_documents(study: Path) -> None:
    rows = open_record(study / "transfer").table("transfer")
    first, second = rows.model.unique()
    assert set(rows[rows.model == first].reading) == {"own", "final"}
    assert set(rows[rows.model == second].reading) == {"own", "first", "final"}
    read = {key: set(part.document) for key, part in rows.groupby(["model", "reading"])}
    assert len({frozenset(documents) for documents in read.values()}) == 1
    pairs = rows[rows.model == second].pivot(
        index=["layer", "document"], columns="reading", values="kl_bits"
    )
    assert (pairs["own"] != pairs["first"]).any()  # another map
    assert (pairs["own"] - pairs["first"]).abs().max() < (pairs["final"] - pairs["own"]).max()


def test_run_again_it_leaves_everything_as_it_is(study: Path, corpus: Path) -> None:
    before = {path: table_bytes(path.parent) for path in study.rglob("manifest.json")}
    base = open_record(study / "transfer").settings["variants"][0]
    assert run_analysis(TransferSpec(models=(base, f"{base}@16"), fit=fits(corpus)), study).ok
    assert {path: table_bytes(path.parent) for path in before} == before


@pytest.mark.slow
def test_some_of_its_lenses_can_be_asked_for(
    lensbench: Program, study: Path, corpus: Path, tmp_path: Path
) -> None:
    """What the study was finished with is left as it is."""
    told = open_record(study / "transfer").settings
    sizes = "\n".join(f"{key} = {value}" for key, value in fits(corpus)["linear"].items())
    (tmp_path / "analysis.toml").write_text(
        f'kind = "transfer"\nmodels = {told["variants"]}\nlenses = ["linear", "tuned"]\n'
        + "[fit.linear]\n"
        + sizes.replace(str(corpus), f'"{corpus}"')
    )
    before = table_bytes(study / "transfer")
    named = ("--lens", "linear", "--dtype", "float32")
    refused = lensbench("run", tmp_path, "--out", study, *named)
    assert "made with other settings" in refused.said
    done = lensbench("run", tmp_path, "--out", study, *named[:2])
    assert done.status == 0, done.err
    assert table_bytes(study / "transfer") == before
    strange = lensbench("run", tmp_path, "--out", study, "--lens", "jacobian")
    assert strange.status != 0 and "the analysis has no lens jacobian" in strange.said


def test_the_report_says_whether_it_may_be_used(study: Path) -> None:
    build_report([study])
    text = (study / "transfer" / "report.md").read_text()
    frame = tables(open_record(study / "transfer").table("transfer"))["variants"].frame
    assert frame.use.notna().sum() == 1
    assert frame.use.dropna().iloc[0] in text


def of(own: float, first: float, final: float, documents: int = 12) -> pd.DataFrame:
    """One layer of documents of different length, each with these figures and a little more."""
    found = []
    for reading, bits in {"own": own, "first": first, "final": final}.items():
        for n in range(documents):
            row = {"model": "b", "lens": "linear", "reading": reading, "layer": 1, "depth": 0.5}
            kl_bits = bits * (1 + 0.001 * (n % 3))
            found.append(row | {"document": f"{n}", "kl_bits": kl_bits, "n_tokens": 10 + n})
    return pd.DataFrame(found)


@pytest.mark.parametrize(
    ("first", "share", "said"),
    [(2.1, 0.0125, "may be used"), (6.0, 0.5, "may not be used"), (2.0, 0.0, "may be used")],
)
def test_the_share_that_is_lost_is_of_the_gain(first: float, share: float, said: str) -> None:
    (row,) = tables(of(2.0, first, 10.0))["variants"].frame.to_dict("records")
    assert row["loss_share"].value == pytest.approx(share, abs=1e-9)
    assert row["loss_bits"].value == pytest.approx(first - 2.0, rel=0.01, abs=1e-9)
    assert row["use"] == said


def test_where_its_own_lens_gains_nothing_no_share_is_said() -> None:
    (row,) = tables(of(10.0, 10.1, 10.0))["variants"].frame.to_dict("records")
    assert row["loss_share"].value is None
    assert (row["loss_share"].reason, row["use"]) == (
        "its own lens is not seen to gain anything",
        "cannot be told",
    )


def test_of_too_few_documents_the_share_has_no_interval_and_the_gain_is_not_denied() -> None:
    (row,) = tables(of(2.0, 2.1, 10.0, documents=2))["variants"].frame.to_dict("records")
    assert row["loss_share"].value == pytest.approx(0.0125, abs=1e-9)
    assert (row["loss_share"].low, row["use"]) == (None, "cannot be told")
    assert "no interval" in row["loss_share"].reason


def test_an_interval_around_the_bound_tells_nothing() -> None:
    assert verdict(Estimate(0.1, 0.05, 0.2, 9, 9)) == "cannot be told"
    assert verdict(Estimate(0.01, None, None, 2, 2, "few")) == "cannot be told"


def test_variants_are_of_one_model(tiny_case: Callable[[str], Case], tmp_path: Path) -> None:
    models = tuple(str(tiny_case(name).folder) for name in ("llama", "gpt2"))
    with pytest.raises(InputProblems, match="are different models"):
        run_analysis(TransferSpec(models=models), tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_plan_has_a_job_and_rows_of_every_variant(
    study: Path, corpus: Path, tmp_path: Path
) -> None:
    """Planned of windows that are full; of the last one of a document less is read."""
    base = open_record(study / "transfer").settings["variants"][0]
    spec = TransferSpec(models=(base, f"{base}@16"), fit=fits(corpus))
    *_, planned = plan(spec, tmp_path).records
    assert planned.whole is not None and planned.left is not None
    made = open_record(study / "transfer").table("transfer")
    variants = made.groupby("model").reading.nunique()
    assert planned.n_jobs == len(variants)
    assert planned.whole.rows["transfer"] == pytest.approx(len(made), rel=0.25)
    assert variants.to_list() == [2, 3]
    assert [one.finished for one in plan(spec, study).records] == [True] * 3


def test_the_operations_of_reading_are_those_that_torch_makes(
    tiny_case: Callable[[str], Case], linear: Callable[[Case], Path]
) -> None:
    case = tiny_case("llama")
    model, n = case.model, 32
    _ = model.shares_prefixes  # found out by passes of its own
    chance = random.Random(0)
    ids = sorted({token for own in case.token_ids for token in own})
    windows = [Window(Document("", "", ""), tuple(chance.choices(ids, k=n))) for _ in range(8)]
    maps = open_fitted(linear(case)).maps
    readings = [Affine(model, maps, name) for name in ("own", "first")] + [Final(model)]
    sites = [site for site in model.sites() if site.layer < model.n_layers]
    with FlopCounterMode(display=False) as counter:
        measure(model, readings, sites, windows)
    spec = FitSpec("", batch_tokens=512)
    cost = FitCost(shape_of(model), model.n_layers, spec, {"test": [n] * len(windows)})
    # The mean of the head's rows under the model's output, once for all readings, and rows that
    # are read again in float64.
    assert cost.reading("test", 2).flops == pytest.approx(counter.get_total_flops(), rel=0.06)
