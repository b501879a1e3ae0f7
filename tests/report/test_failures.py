"""A report names the models that its run could not measure, and says nothing where none failed."""

from __future__ import annotations

from pathlib import Path

import pytest

from lensbench.errors import ModelError, RecordsError
from lensbench.records.failures import FAILED, note_failures
from lensbench.report.build import build_report
from tests.harness.files import contents
from tests.harness.lens_records import Settings
from tests.harness.lens_records import write_run as write_lens_run

NASTY = "org/x|<script>alert(1)</script>[z](w)"


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    own = Settings(model="m", n_layers=4, relations=1, per_relation=2)
    return write_lens_run(tmp_path / "run", own)


@pytest.mark.slow
def test_what_failed_is_named_on_both_pages_and_escaped(run_folder: Path, tmp_path: Path) -> None:
    build_report([run_folder], tmp_path / "before")
    note_failures(run_folder, {NASTY: ModelError("it is\n  cut off")})
    build_report([run_folder], tmp_path / "report")
    told = (tmp_path / "report" / "report.md").read_text(encoding="utf-8")
    assert "could not measure" in told
    assert "it is cut off" in told
    page = (tmp_path / "report" / "report.html").read_text(encoding="utf-8")
    assert "not measured: org/x|&lt;script&gt;" in page
    for text in (told, page):
        assert "<script>alert" not in text
    note_failures(run_folder, {})
    assert not (run_folder / FAILED).exists()
    build_report([run_folder], tmp_path / "after")
    assert contents(tmp_path / "after") == contents(tmp_path / "before")


def test_numbers_of_an_earlier_run_are_not_said_to_be_missing(
    run_folder: Path, tmp_path: Path
) -> None:
    """A run that is refused, for its spec was changed, leaves what was measured before it."""
    note_failures(run_folder, {"m": RecordsError("other settings"), "gone": ModelError("no such")})
    build_report([run_folder], tmp_path / "report")
    told = (tmp_path / "report" / "report.md").read_text(encoding="utf-8")
    missing, before = told.split("nothing below is of them:")[1].split("is of an earlier run:")
    assert "- gone: no such" in missing and "- m:" not in missing
    assert "- m: other settings" in before and "- gone:" not in before
    page = (tmp_path / "report" / "report.html").read_text(encoding="utf-8")
    assert "; not measured: gone; of an earlier run than the last: m" in page


def test_a_file_in_a_folders_place_is_not_to_be_deleted(tmp_path: Path) -> None:
    """Such as the CSV of responses, whose record lies beside it."""
    (tmp_path / "responses.csv").write_text("id,response\n")
    with pytest.raises(RecordsError, match="no records here") as caught:
        build_report([tmp_path / "responses.csv"])
    assert "Delete" not in str(caught.value)


def test_a_file_that_no_run_wrote_is_refused(run_folder: Path) -> None:
    for text in ("[]", '{"a": 3}', "{"):
        (run_folder / FAILED).write_text(text)
        with pytest.raises(RecordsError, match=FAILED):
            build_report([run_folder])
