"""Texts that a record may leave out are said to be missing: never `nan`, never `None`."""

from __future__ import annotations

import itertools
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lensbench.records.open import open_record
from lensbench.records.schema import KINDS, TABLES
from lensbench.report.build import record_files
from lensbench.report.kit.page import Facts, page_html
from lensbench.report.lens.section import across_models
from lensbench.report.section import Reported
from tests.harness.files import manifest, write_manifest
from tests.harness.reports import section_of

MISSING = re.compile(r"\b(nan|None(?!:)|NaT)\b|<NA>")
SLOW = "correlation"  # takes longest by far
FOLDERS = ("tiny--model-a", "train", "eval", "rag", "trace", "diff", "correlation", "placement")


def _cases() -> list[Any]:
    """Every record as it is, and without the texts that may be missing."""
    return [
        pytest.param(
            name,
            every,
            id=f"{name}-{'texts left out' if every else 'as it is'}",
            marks=[pytest.mark.slow] if name == SLOW else [],
        )
        for name, every in itertools.product(FOLDERS, (False, True))
    ]


def emptied(folder: Path, kind: str) -> int:
    """Leave out, in every other row, each text that the schema lets be missing; how many."""
    count = 0
    for name in KINDS[kind].names:
        path = folder / f"{name}.parquet"
        table = pq.read_table(path)
        for field in TABLES[name].schema:
            if field.nullable and pa.types.is_string(field.type) and len(table):
                own = table.column(field.name).to_pylist()
                kept = [text if i % 2 else None for i, text in enumerate(own)]
                count += kept != own
                at = table.schema.get_field_index(field.name)
                table = table.set_column(at, field, pa.array(kept, field.type))
        pq.write_table(table, path)
    write_manifest(folder, manifest(folder))
    return count


@pytest.mark.parametrize(("name", "every"), _cases())
def test_no_report_calls_a_missing_text_nan(
    name: str, every: bool, run: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(run / name, tmp_path / name)
    kind = open_record(folder).kind
    if every and not emptied(folder, kind):
        pytest.skip("nothing in it may be missing")
    record = open_record(folder)
    section = section_of(record)  # of a record as it is, `built` draws the figures
    one = Reported(record, "m", "", section if every else replace(section, figures={}))
    texts = {
        path: data.decode() for path, data in record_files(one) if path.endswith((".md", ".csv"))
    }
    page = one.section.page or across_models([one]).page if kind == "lens" else one.section.page
    if page:
        html = page_html(page(), Facts()).decode()
        texts["report.html"] = html.split("</script>", 1)[1].split("</body>")[0]
        texts["report.html"] = texts["report.html"].rsplit("<script>", 1)[0]
    for path, text in texts.items():
        assert [text[at.start() - 60 : at.end()] for at in MISSING.finditer(text)] == [], path
