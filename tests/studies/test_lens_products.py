"""A lens study with products of bfloat16 parts: what it says of them, and that it keeps to it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from lensbench.progress import Progress
from lensbench.report.build import build_report
from lensbench.studies.lens import run
from lensbench.studies.specs.lens import RunSpec
from tests.harness.files import manifest, table_bytes, tables


def say(monkeypatch: pytest.MonkeyPatch, ratio: float) -> None:
    """That a measurement finds this."""
    found = "lensbench.lens.vocabulary.products._times_float32"
    monkeypatch.setattr(found, lambda *_: ratio)


@pytest.fixture(scope="module")
def by_parts(spec: Callable[..., RunSpec], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A record of a machine on which parts pay."""
    with pytest.MonkeyPatch.context() as patch:
        say(patch, 0.4)
        (folder,) = run(spec(products="auto"), tmp_path_factory.mktemp("auto")).folders
    return folder


def test_the_manifest_says_what_was_asked_measured_and_done(by_parts: Path, done: Path) -> None:
    said, plain = manifest(by_parts), manifest(done)
    assert said["settings"]["products"] == "auto"
    assert said["model"]["head_product"] == "6 of bfloat16 parts, summed in float32"
    products = said["model"]["products"]
    assert (products["used"], products["times_float32"]) == ("bfloat16", 0.4)
    assert all(0 <= off < 1e-5 for off in products["errors_bits"]["bfloat16"].values())
    assert 0 < said["recomputed"]["share"] < 1
    assert 0 < said["recomputed"]["worst_error_roundings"] < 4
    assert "products" not in plain["settings"] | plain["model"]
    for one, folder in ((said, by_parts), (plain, done)):
        n_rows = len(tables(folder)["lens"])
        assert one["read_again"] == {"n_rows": n_rows, "n_read_again": 0}
    assert plain["model"]["head_product"] == "float32"


def test_the_record_holds_the_same_decisions(by_parts: Path, done: Path) -> None:
    found, wanted = tables(by_parts), tables(done)
    for name in ("answer_rank", "answer_ties", "category_rank", "answer_guess_rank"):
        assert found["lens"][name].equals(wanted["lens"][name])
    assert [*map(list, found["lens"].top_ids)] == [*map(list, wanted["lens"].top_ids)]
    assert found["milestones"].equals(wanted["milestones"])
    for name in ("entropy_bits", "kl_bits"):
        np.testing.assert_allclose(found["lens"][name], wanted["lens"][name], atol=2e-5)


def test_a_run_that_is_gone_on_with_keeps_what_was_decided(
    by_parts: Path, spec: Callable[..., RunSpec], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Although a measurement would say another thing now."""

    def stop(progress: Progress) -> None:
        if progress.done:
            raise KeyboardInterrupt

    say(monkeypatch, 0.4)
    with pytest.raises(KeyboardInterrupt):
        run(spec(products="auto"), tmp_path, stop)
    say(monkeypatch, 2.0)
    (folder,) = run(spec(products="auto"), tmp_path).folders
    assert manifest(folder)["resumed_batches"] > 0
    assert manifest(folder)["model"]["products"]["used"] == "bfloat16"
    assert table_bytes(folder) == table_bytes(by_parts)


def test_other_products_are_other_settings(
    by_parts: Path, spec: Callable[..., RunSpec], tmp_path: Path
) -> None:
    for products in ("float32", "bfloat16"):
        (error,) = run(spec(products=products), by_parts.parent).failed.values()
        assert "settings.products: 'auto' there" in str(error)


def test_where_they_do_not_pay_float32_is_what_it_was(
    done: Path, spec: Callable[..., RunSpec], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    say(monkeypatch, 1.5)
    (folder,) = run(spec(products="auto"), tmp_path).folders
    assert table_bytes(folder) == table_bytes(done)
    said = manifest(folder)
    assert said["model"]["head_product"] == "float32"
    assert said["model"]["products"]["used"] == "float32"
    assert "recomputed" not in said


def test_the_report_says_so(by_parts: Path) -> None:
    text = "".join(path.read_text() for path in build_report([by_parts]) if path.suffix == ".md")
    assert "multiplied in 6 products of bfloat16 parts" in text
