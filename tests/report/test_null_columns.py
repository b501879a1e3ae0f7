"""A column that nobody measured: the report and the page build, and claim nothing of it."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lensbench.lens.milestones import milestones_table
from lensbench.records.lens.record import LensRecord
from lensbench.records.open import open_lens_record
from lensbench.records.schema import TABLES
from lensbench.report.build import record_files
from lensbench.report.kit.page import Facts, page_html
from lensbench.report.lens.section import across_models
from lensbench.report.lens.section import lens as lens_section
from lensbench.report.section import Reported, Section
from lensbench.stats.estimates import Estimate
from tests.harness.lens_records import Settings, write_run

NULLABLE = [
    (table, column.name)
    for table in ("prompts", "lens", "milestones")
    for column in TABLES[table].columns
    if column.null
]
# What a number of a report is made of: column -> table: (rows, columns) that then are not measured.
RESTS_ON = {
    "entropy_bits": {"depth_curves": ["entropy_bits"], "relations": ["last_layer_entropy_bits"]},
    "kl_bits": {
        "depth_curves": ["kl_bits"],
        "milestones.kl_1bit": ["median_depth", "reached_share"],
    },
    "answer_prob": {"depth_curves": ["answer_prob"]},
    "answer_rank": {
        "coverage.base": ["top1_accuracy"],
        "late_binding": ["median_depth"],
        "emergence": ["answer_rank1_share", "rank1_stable_share", "control_rank1_share"],
        "milestones.rank1_first": ["median_depth", "reached_share"],
        "relations": ["top1_accuracy", "rank1_first_depth"],
        "category": ["category_first_share", "null_first_share"],
        "controls": ["control_share", "base_share"],
        "category_curve": ["answer_top10_share"],
    },
    "category_rank": {
        "category": ["category_first_share"],
        "category_curve": ["category_top10_share"],
        "milestones.category_top10": ["median_depth", "reached_share"],
    },
    "null_category_rank": {
        "category": ["null_first_share"],
        "category_curve": ["null_category_top10_share"],
        "milestones.null_category_top10": ["median_depth", "reached_share"],
    },
    "top_ids": {
        "copying": ["copied_share", "chance_share"],
        "milestones.copy_first": ["median_depth", "reached_share"],
    },
    "token_ids": {
        "copying": ["copied_share", "chance_share"],
        "milestones.copy_first": ["median_depth", "reached_share"],
    },
    "tokens": {"anomaly_share": ["observed_share", "chance_share"]},
    "top_tokens": {"anomaly_share": ["observed_share", "chance_share"]},
    **{
        f"{name}_layer": {f"milestones.{name}": ["median_depth"]}
        for name in ("rank1_first", "kl_1bit", "copy_first", "category_top10")
    },
    "top1_correct": {"coverage.base": ["top1_accuracy"], "late_binding": ["median_depth"]},
}  # fmt: skip
FALSE = re.compile(
    r"never within 1 bit|is never at rank 1|is never one of the prompt|\bnan\b|None\b(?!:)"
)


def deep(folder: Path, n_layers: int) -> Path:
    """A record of a deep model with an answer for every prompt, and its milestones."""
    settings = Settings(
        model="deep", n_layers=n_layers, relations=2, per_relation=4, lenses=("final",),
        heatmap_prompts=1, top1_accuracy=0.9,
    )  # fmt: skip
    write_run(folder, settings)
    remade(folder / "deep")
    return folder / "deep"


def remade(folder: Path) -> None:
    """Milestones of what the other tables say, as an import makes them."""
    record = open_lens_record(folder)
    made = milestones_table("deep", record.n_layers, record.arrow("lens"), record.arrow("prompts"))
    pq.write_table(made, folder / "milestones.parquet")


def nulled(folder: Path, table: str, column: str) -> None:
    path = folder / f"{table}.parquet"
    old = pq.read_table(path)
    if column not in old.column_names:  # the record is older than it
        return
    if column == "position":  # then there can be but one
        old = old.filter(old["is_last"])
    at, field = old.schema.get_field_index(column), TABLES[table].schema.field(column)
    pq.write_table(old.set_column(at, field, pa.nulls(len(old), field.type)), path)
    if table != "milestones":
        remade(folder)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return deep(tmp_path_factory.mktemp("whole"), 32)


def estimates(section: Section, place: str, columns: list[str]) -> Iterator[Estimate]:
    name, _, label = place.partition(".")
    frame = section.tables[name].frame
    if label:
        frame = frame[frame["milestone" if name == "milestones" else "prompts"] == label]
    assert len(frame), place
    for column in columns:
        yield from frame[column]


def texts_of(record: LensRecord, section: Section) -> dict[str, str]:
    one = Reported(record, "deep", "deep", section)
    files = dict(record_files(one))
    texts = {path: data.decode() for path, data in files.items() if path.endswith((".md", ".csv"))}
    linked = set(re.findall(r"\]\(((?:figures|tables)/[^)]+)\)", texts["report.md"]))
    assert linked <= set(files), linked - set(files)
    page = across_models([one]).page
    assert page
    html = page_html(page(), Facts()).decode()
    return texts | {"page": html.split("</script>", 1)[1].rsplit("<script>", 1)[0]}


def check(folder: Path, column: str) -> None:
    record = open_lens_record(folder)
    section = lens_section(record, "deep")
    for place, columns in RESTS_ON.get(column, {}).items():
        for number in estimates(section, place, columns):
            assert number.value is None, (column, place)
            assert "not measured" in (number.reason or ""), (column, place, number.reason)
    for path, text in texts_of(record, section).items():
        shown = text.split("## Provenance")[0]
        assert [shown[m.start() - 80 : m.end()] for m in FALSE.finditer(shown)] == [], path


QUICK = {"kl_bits"}


@pytest.mark.parametrize(
    ("table", "column"),
    [
        pytest.param(*pair, id=".".join(pair), marks=[] if pair[1] in QUICK else [pytest.mark.slow])
        for pair in NULLABLE
    ],
)
def test_a_null_column_is_no_statement(
    table: str, column: str, whole: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(whole, tmp_path / "deep")
    nulled(folder, table, column)
    check(folder, column)
