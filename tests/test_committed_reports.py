"""What is committed under reports/ is what the committed records give, and the README quotes it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from lensbench.report.build import build_report

ROOT = Path(__file__).parents[1]
REPORTS = ROOT / "reports"
RUNS = sorted({manifest.parents[1] for manifest in REPORTS.glob("*/*/manifest.json")})


def test_there_are_committed_records() -> None:
    assert RUNS


@pytest.mark.parametrize("run", RUNS, ids=lambda path: path.name)
def test_committed_reports_are_rebuilt_byte_for_byte(run: Path, tmp_path: Path) -> None:
    written = build_report([run], tmp_path)
    assert written
    for path in written:
        committed = run / path.relative_to(tmp_path)
        if path.name != "report.html":  # 5 MB of plotly: made anew, not committed
            assert committed.read_bytes() == path.read_bytes(), committed


def _tables(text: str) -> set[str]:
    return {line for line in text.splitlines() if re.match(r"\| (?!-|model|what)", line)}


def test_every_table_row_of_the_readme_stands_in_a_committed_report() -> None:
    quoted = _tables((ROOT / "README.md").read_text(encoding="utf-8"))
    there = [path.read_text(encoding="utf-8") for path in REPORTS.rglob("*.md")]
    rows = set().union(*map(_tables, there))
    assert len(quoted) >= 8
    assert quoted <= rows, sorted(quoted - rows)


def test_every_file_the_readme_links_to_exists() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    links = re.findall(r"\]\((?!http)([^)#]+)", text)
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []
