"""The CSV of responses: any text goes in and comes out, and no cell is a formula."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lensbench.quantized.generation.questions import Asked
from lensbench.quantized.generation.responses_csv import ResponsesCsv
from lensbench.records.schema.generation import RESPONSES
from tests.harness.inference import rows_of

NASTY = (
    "=1+1",
    "@SUM(A1)",
    "-2",
    "\tx",
    "\rx",
    "\x1b[31mred",
    'a"b',
    "a,b\nc\r\nd",
    "'=x",
    "\u202e",
)


def response_row(item: str, text: str) -> dict[str, Any]:
    counts = {"finish_reason": "stop", "n_prompt_tokens": 1, "n_generated_tokens": 1}
    return {"prompt_id": item, "response": text, **counts}


def check_round_trip(path: Path, texts: Sequence[str]) -> None:
    asked = [Asked(f"{i}{text}", text, "") for i, text in enumerate(texts)]
    rows = [response_row(one.id, one.prompt) for one in asked]
    made = ResponsesCsv(path, asked, retrieval=False)
    made.write(pa.Table.from_pylist(rows[:2], RESPONSES.schema))
    made.append(pa.Table.from_pylist(rows[2:], RESPONSES.schema))
    found = rows_of(path)
    assert [row["response"] for row in found] == list(texts)
    assert [row["prompt"] for row in found] == list(texts)
    assert [row["id"] for row in found] == [one.id for one in asked]
    for row in csv.reader(io.StringIO(path.read_text(), newline="")):
        assert not any(cell.startswith(("=", "+", "-", "@", "\t", "\r")) for cell in row)


def test_formulas_controls_and_line_ends_survive_and_do_no_harm(tmp_path: Path) -> None:
    check_round_trip(tmp_path / "nasty.csv", NASTY)


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))))
def test_any_text_survives_the_csv(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str]
) -> None:
    check_round_trip(tmp_path_factory.mktemp("csv") / "any.csv", texts)
