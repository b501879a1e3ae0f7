"""Reports of every kind of record: whole, linked, escaped, and the same bytes everywhere."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pyarrow.parquet as pq
import pytest

from lensbench.errors import RecordsError
from lensbench.records.open import find_records
from lensbench.report.build import build_report
from lensbench.report.sections import SECTIONS
from tests.harness import second_records as fixture
from tests.harness.files import write_manifest
from tests.harness.lens_records import Settings
from tests.harness.lens_records import write_run as write_lens_run
from tests.harness.program import Program
from tests.harness.reports import lens_records_in

LENS = Settings(model="m", n_layers=4, relations=1, per_relation=2)
FIGURES = {
    "": {"models", "curves"},
    "tiny-b": {"depth_curves", "emergence", "relations", "category", "copying", "heat_map_01"},
    "train": {"loss_curve", "lora_flow"},
    "eval": {"differences"},
    "base": {"along"},
    "trace": {"along", "norms"},
    "diff": {"changes", "curves", "milestones"},
    "placement": {"differences"},
    "correlation": {
        f"{name}_{span}"
        for name in ("ranking", "measures", "variants", "maps")
        for span in ("prompt", "generated")
    },
}


def contents(folder: Path) -> dict[str, bytes]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.mark.slow
def test_the_same_records_give_the_same_bytes_elsewhere_and_without_torch(
    run: Path, built: Path, tmp_path: Path
) -> None:
    code = (
        "import sys; from pathlib import Path; from lensbench.report.build import build_report;"
        "build_report([Path(sys.argv[1])], Path(sys.argv[2]));"
        "heavy = {'torch', 'transformers', 'transformer_lens', 'sacrebleu', 'rouge_score'};"
        "found = heavy & set(sys.modules);"
        "sys.exit(f'imported: {found}' if found else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(run), str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        env={"PYTHONHASHSEED": "7", "SOURCE_DATE_EPOCH": "1", "HOME": str(tmp_path.parent)},
    )
    assert done.returncode == 0, done.stderr
    first, second = contents(built), contents(tmp_path)
    assert list(first) == list(second)
    assert [name for name in first if first[name] != second[name]] == []


def test_every_link_leads_somewhere(built: Path) -> None:
    reports = list(built.rglob("*.md"))
    assert len(reports) == 14  # twelve records, the index, the examples
    for report in reports:
        links = re.findall(r"(?<!\\)\]\(([^)]+)\)", report.read_text(encoding="utf-8"))
        assert links
        assert [link for link in links if not (report.parent / link).is_file()] == []


def test_the_index_names_every_record(run: Path, built: Path) -> None:
    text = (built / "report.md").read_text(encoding="utf-8")
    records = [path.parent.name.replace("--", "-") for path in run.glob("*/manifest.json")]
    assert len(records) == 12
    for name in records:
        assert f"[{name}]({name}/report.md): " in text
    for part in ("adapter+rag", "## Across models", "## Diffs side by side"):
        assert part in text


@pytest.mark.parametrize("place", FIGURES)
def test_figures_are_svg_with_text_that_stays_text(place: str, built: Path) -> None:
    figures = list((built / place / "figures").iterdir())
    assert {figure.stem for figure in figures} == FIGURES[place]
    for figure in figures:
        ElementTree.fromstring(figure.read_bytes())
        text = figure.read_text(encoding="utf-8")
        assert "<text" in text
        for part in ("<script", "\u202e", "<dc:date>", "mathdefault"):
            assert part not in text


def test_names_and_texts_cannot_break_out(built: Path) -> None:
    for report in built.rglob("*.md"):
        text = report.read_text(encoding="utf-8")
        assert "<script" not in text.replace("\\<", "")
        assert "\u202e" not in text
        assert "\n# no heading" not in text
        columns = 0
        for line in text.split("\n"):  # every row of a table has the cells of its first one
            cells = len(re.findall(r"(?<!\\)\|", line)) if line.startswith("|") else 0
            assert cells in (0, columns or cells), line
            columns = cells


def test_every_report_names_its_page(built: Path) -> None:
    for report in built.glob("*/report.md"):
        own = (report.parent / "report.html").is_file()
        link = "report.html" if own else "../report.html"
        assert f"[Interactive page]({link})" in report.read_text(encoding="utf-8")


def test_the_command_lists_what_a_reader_opens(lensbench: Program, tmp_path: Path) -> None:
    run = write_lens_run(tmp_path / "run", LENS)
    done = lensbench("report", run, "-o", tmp_path / "out")
    printed = [Path(name).relative_to(tmp_path / "out") for name in done.out.split()]
    assert sorted(map(str, printed)) == ["m/report.md", "report.html", "report.md"]
    others = len(contents(tmp_path / "out")) - len(printed)
    assert f"and {others} tables, figures and further pages" in done.said


@pytest.mark.parametrize("name", ["train", "eval", "rag", "trace", "diff", "placement"])
def test_a_record_alone_is_reported_in_its_own_folder(name: str, run: Path, tmp_path: Path) -> None:
    for path in (run / name).iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    written = build_report([tmp_path])
    assert tmp_path / "report.md" in written
    assert all(path.is_relative_to(tmp_path) for path in written)


# With nothing to read these are refused; a small model is kept at step 0 already.
NEVER_EMPTY = {
    *("lens", "lens_fit", "diff", "placement", "pretraining", "lineage", "sampling"),
    *("tokens", "embeddings", "senses"),  # of shipped texts where none is given
    "classification",  # of two labels, each with an example to test
}


@pytest.mark.parametrize("kind", sorted({*SECTIONS} - NEVER_EMPTY))
def test_a_record_without_rows_has_a_report(kind: Any, tmp_path: Path) -> None:
    if kind == "training":
        fixture.write_training(tmp_path, [])
    else:
        fixture.write(tmp_path, kind, {})
    written = build_report([tmp_path])
    assert tmp_path / "report.md" in written
    if kind == "correlation":
        text = (tmp_path / "report.md").read_text(encoding="utf-8")
        assert "nothing was compared" in text
        assert "report.html" not in text
        assert tmp_path / "report.html" not in written


def test_lens_records_and_others_share_a_folder(tmp_path: Path) -> None:
    alone = write_lens_run(tmp_path / "alone", LENS)
    mixed = write_lens_run(tmp_path / "mixed", LENS)
    fixture.write_training(mixed / "train")
    build_report([alone])
    build_report([mixed])
    before, after = contents(alone), contents(mixed)
    own = before.pop("report.md").decode()
    assert "(m/report.md): lens" in own
    assert "Across models" not in own  # of one there is nothing to compare
    assert {name: after[name] for name in before} == before
    index = after["report.md"].decode()
    assert "(m/report.md): lens" in index
    assert "(train/report.md)" in index


def test_two_reports_for_one_place_are_refused(tmp_path: Path) -> None:
    write_lens_run(tmp_path / "run" / "inner", LENS)
    fixture.write_training(tmp_path / "run" / "m")
    with pytest.raises(RecordsError, match="both go to m/"):
        build_report([tmp_path / "run"])


def test_runs_together_keep_their_names_apart(tmp_path: Path) -> None:
    folders = [fixture.write_training(tmp_path / name / "train") for name in ("a", "b")]
    build_report([folder.parent for folder in folders], tmp_path / "out")
    assert (tmp_path / "out" / "a" / "train" / "report.md").is_file()
    assert (tmp_path / "out" / "b" / "train" / "report.md").is_file()


def test_equal_model_names_are_told_apart_by_their_run(tmp_path: Path) -> None:
    runs = [write_lens_run(tmp_path / name, LENS) for name in "ab"]
    assert list(lens_records_in(runs)) == ["m (a)", "m (b)"]
    assert len(lens_records_in([runs[0], runs[0] / "m"])) == 1


def test_an_index_for_retrieval_is_no_record(tmp_path: Path) -> None:
    fixture.write_training(tmp_path / "train")
    (tmp_path / "index").mkdir()
    text = json.dumps({"format": "lensbench index", "schema_version": 1})
    (tmp_path / "index" / "manifest.json").write_text(text)
    assert [found.name for found in find_records([tmp_path])] == ["train"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "dream"}, "'dream' are not known"),
        ({"status": "running"}, "not complete"),
        ({"schema_version": 99}, "Upgrade lensbench"),
        ({"schema_version": None}, "no schema_version"),
        ({"gate": ...}, "no gate"),
        ({"adapter": ...}, "no adapter"),
    ],
)
def test_unusable_manifests_name_the_file_and_the_remedy(
    change: dict[str, object], message: str, tmp_path: Path
) -> None:
    path = fixture.write_training(tmp_path) / "manifest.json"
    manifest = json.loads(path.read_text(encoding="utf-8")) | change
    write_manifest(path.parent, {k: v for k, v in manifest.items() if v is not ...})
    with pytest.raises(RecordsError, match=message) as error:
        build_report([tmp_path])
    assert str(path) in str(error.value)


def test_unusable_folders_and_tables_name_the_file_and_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(RecordsError, match="no such folder"):
        build_report([tmp_path / "nowhere"])
    with pytest.raises(RecordsError, match="no records here"):
        build_report([tmp_path])
    run = write_lens_run(tmp_path / "run", LENS)
    lens = run / "m" / "lens.parquet"
    whole = pq.read_table(lens)
    pq.write_table(whole.drop_columns(["kl_bits", "depth"]), lens)
    with pytest.raises(RecordsError, match=r"lens\.parquet: no column depth, kl_bits"):
        build_report([run])
    lens.write_bytes(b"PAR1 but not really")
    with pytest.raises(RecordsError, match=r"lens\.parquet: cannot be read"):
        build_report([run])
    lens.unlink()
    with pytest.raises(RecordsError, match=r"lens\.parquet: this table is missing"):
        build_report([run])
