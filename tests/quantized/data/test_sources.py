"""Where pairs come from: shipped sets, files, and data sets with Alpaca's columns."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lensbench.errors import InputProblems, ModelError
from lensbench.quantized.data.pairs import Pair
from lensbench.quantized.data.shipped import general_pairs
from lensbench.quantized.data.sources import pairs_of


def test_the_general_pairs_ship_and_are_whole() -> None:
    pairs = general_pairs()
    assert len(pairs) >= 100
    assert len({pair.id for pair in pairs}) == len({pair.question for pair in pairs}) == len(pairs)
    assert all(pair.response.strip() for pair in pairs)
    assert pairs_of("general") == (pairs, [])


def test_a_file_is_read_and_its_bad_rows_are_named(tmp_path: Path) -> None:
    rows = [{"id": "a", "instruction": "q", "response": "r"}, {"id": "b", "instruction": "q"}]
    path = tmp_path / "data.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows))
    pairs, problems = pairs_of(str(path))
    assert [(pair.id, pair.instruction, pair.response) for pair in pairs] == [("a", "q", "r")]
    assert [problem.prompt_id for problem in problems] == ["b"]


@pytest.fixture
def hub_copy(tmp_path: Path) -> Path:
    """A local folder, which the hub's own loader takes in place of a name."""
    folder = tmp_path / "alpaca"
    folder.mkdir()
    rows = [
        {"instruction": "Say hi.", "input": "", "output": "Hi."},
        {"instruction": "Translate.", "input": "Haus", "output": "house"},
        {"instruction": "Nothing.", "input": "", "output": " "},
    ]
    (folder / "train.json").write_text(json.dumps(rows))
    return folder


def test_a_hub_data_set_gives_pairs_with_input_and_leaves_out_empty_rows(hub_copy: Path) -> None:
    pairs, problems = pairs_of(str(hub_copy))
    assert pairs == [
        Pair(f"{hub_copy}:0", "Say hi.", "Hi."),
        Pair(f"{hub_copy}:1", "Translate.", "house", input="Haus"),
    ]
    assert [str(problem) for problem in problems] == [
        f"{hub_copy}, row 2: instruction or output is empty. It is skipped."
    ]


def test_a_data_set_of_other_columns_is_refused(tmp_path: Path) -> None:
    (tmp_path / "train.json").write_text(json.dumps([{"question": "q", "reply": "r"}]))
    with pytest.raises(InputProblems, match="no column instruction, output"):
        pairs_of(str(tmp_path))


def test_a_hub_that_cannot_be_reached_is_said() -> None:
    with pytest.raises(ModelError, match="no-such/data-set cannot be loaded"):
        pairs_of("no-such/data-set")


def test_an_unknown_source_names_what_there_is() -> None:
    with pytest.raises(InputProblems, match="general, docstrings"):
        pairs_of("generl")
