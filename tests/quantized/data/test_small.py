"""A dozen rows, and Alpaca's own files: in and out of every verb for data."""

from __future__ import annotations

import csv
import io
import json
import logging
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lensbench.errors import InputProblems
from lensbench.quantized.data.merge import merge
from lensbench.quantized.data.pairs import Pair, read_pairs, style_of
from lensbench.quantized.data.split import split
from tests.harness.program import Program
from tests.harness.tiny import Case

SHARES = {"train": 0.8, "eval": 0.1, "test": 0.1}
# The form of the Stanford Alpaca data: no ids, an input that is often empty.
ALPACA = [
    {"instruction": f"Name river {i * 7919}.", "input": "In Europe\u2028." if i % 3 else "",
     "output": f"The one that is called {i * 104729}.\nIt is long."}
    for i in range(12)
]  # fmt: skip


def as_array(path: Path, indent: int | None = 4) -> Path:
    path.write_text(json.dumps(ALPACA, indent=indent, ensure_ascii=False))
    return path


def as_lines(path: Path) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in ALPACA))
    return path


FORMS: dict[str, Callable[[Path], Path]] = {
    "alpaca.json": as_array,
    "compact.json": lambda path: as_array(path, None),
    "lines.json": as_lines,  # many a .json holds lines
    "alpaca.jsonl": as_lines,
}
each_form = pytest.mark.parametrize("name", FORMS)


# --- reading ------------------------------------------------------------------------------------


@each_form
def test_alpacas_own_files_are_read(name: str, tmp_path: Path) -> None:
    path = FORMS[name](tmp_path / name)
    found = read_pairs(path)
    assert found.problems == []
    assert [(p.instruction, p.input, p.response) for p in found.pairs] == [
        tuple(row.values()) for row in ALPACA
    ]
    assert [pair.id for pair in found.pairs] == [f"p{i}" for i in range(1, 13)]
    assert [pair.row for pair in found.pairs] == list(range(1, 13))
    assert style_of(path) == "alpaca"


def test_ids_are_made_only_where_no_row_has_one(tmp_path: Path) -> None:
    path = tmp_path / "some.jsonl"
    rows = [{"id": "a", **ALPACA[0]}, ALPACA[1]]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = read_pairs(path)
    assert [pair.id for pair in found.pairs] == ["a"]
    assert "the id is empty" in found.problems[0].what
    (tmp_path / "bare.csv").write_text("prompt,response\nWhich?,This.\nAnd?,That.\n")
    assert [pair.id for pair in read_pairs(tmp_path / "bare.csv").pairs] == ["p1", "p2"]


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ("[", "it is no JSON array"),
        ('[{"instruction": "a", "output": "b"}', "it is no JSON array"),
        ('[{"instruction": "a", "output": "b"} {}]', "Expecting ',' delimiter"),
        ("null", "it is no JSON array"),
        ("[" * 100_000, "it is no JSON array"),
        ("[]", "it has no usable row"),
        ("[1, 2]", "it is no JSON object"),
        ("", "it has no usable row"),
    ],
)
def test_what_is_no_array_of_objects_is_refused(content: str, what: str, tmp_path: Path) -> None:
    (tmp_path / "data.json").write_text(content)
    with pytest.raises(InputProblems, match=what):
        read_pairs(tmp_path / "data.json")


def test_a_bad_element_of_an_array_is_named_by_its_number(tmp_path: Path) -> None:
    rows: list[Any] = [*ALPACA[:2], ALPACA[2] | {"output": ""}, 7, ALPACA[3] | {"input": [1]}]
    (tmp_path / "data.json").write_text(json.dumps(rows, indent=1))
    found = read_pairs(tmp_path / "data.json")
    assert len(found.pairs) == 2
    assert [problem.where for problem in found.problems] == [
        "data.json, row 3, id p3",
        "data.json, row 4",
        "data.json, row 5, id p4",
    ]


# --- splitting ----------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [3, 5, 12, 20, 30])
def test_so_few_rows_that_a_part_is_empty_by_chance_are_split_all_the_same(
    n: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Every part has a row, and where one had none by its hash it is said."""
    rows = [Pair(f"p{i}", f"Question {i * 7919}?", f"{i * 104729}", row=i) for i in range(n)]
    said = 0
    for seed in range(40):
        caplog.clear()
        with caplog.at_level(logging.WARNING, "lensbench"):
            parts = split(rows, SHARES, seed)
        assert all(parts.values())
        assert sorted(p.id for part in parts.values() for p in part) == sorted(p.id for p in rows)
        assert parts == split(rows, SHARES, seed)
        said += "none fell into" in caplog.text
    assert said > 0 if n < 30 else said < 40


def test_a_part_is_filled_from_a_part_that_can_spare_it() -> None:
    for seed in range(50):
        rows = [Pair(f"p{i}", f"Question {i * 7919}?", f"{i * 104729}", row=i) for i in range(3)]
        assert sorted(len(part) for part in split(rows, SHARES, seed).values()) == [1, 1, 1]


def test_of_few_groups_a_part_of_a_small_share_is_filled_with_the_smallest(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Where all three groups fall into train, it keeps the one that is more than half of all."""
    sizes = {"small": 12, "middle": 15, "large": 33}
    rows = [
        Pair(f"{group}{i}", f"What is {i * 7919} to {group}?", f"{i * 104729}", group=group)
        for group, size in sizes.items()
        for i in range(size)
    ]
    seen = 0
    for seed in range(20):
        caplog.clear()
        with caplog.at_level(logging.WARNING, "lensbench"):
            parts = split(rows, SHARES, seed)
        assert sorted(map(len, parts.values())) == [12, 15, 33]
        if caplog.text.count("none fell into") == 2:
            seen += 1
            assert {pair.group for pair in parts["train"]} == {"large"}
    assert seen > 5


def test_many_rows_that_leave_a_part_empty_are_no_chance() -> None:
    """A part of an earlier split with the same seed has no rows for another part."""
    rows = [Pair(f"p{i}", f"Question {i * 7919}?", f"{i * 104729}", row=i) for i in range(500)]
    train = split(rows, SHARES)["train"]
    with pytest.raises(InputProblems, match="bunches of rows that stay together falls into it"):
        split(train, {"train": 0.9, "eval": 0.1})


@each_form
def test_split_gives_the_objects_back_as_they_are(
    lensbench: Program, name: str, tmp_path: Path
) -> None:
    FORMS[name](tmp_path / name)
    done = lensbench("data", "split", name, "-o", "parts")
    assert done.status == 0
    back = []
    for part in ("train", "eval", "test"):
        lines = (tmp_path / "parts" / f"{part}.jsonl").read_text().split("\n")[:-1]
        assert lines
        back += [json.loads(line) for line in lines]
    key = lambda row: row["instruction"]  # noqa: E731
    assert sorted(back, key=key) == sorted(ALPACA, key=key)
    assert (
        lensbench("data", "check", "parts/train.jsonl", "--against", "parts/eval.jsonl").status == 0
    )


# --- merging ------------------------------------------------------------------------------------


def table(*rows: tuple[str, ...]) -> str:
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue()


def test_merge_keeps_columns_and_adds_none(lensbench: Program, tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text(table(("id", "prompt", "topic"), ("a", "Ask", "=rivers")))
    (tmp_path / "r.csv").write_text(
        table(("id", "prompt", "response", "score"), ("a", "Ask", "A", "1"))
    )
    assert lensbench("data", "merge", "p.csv", "r.csv", "-o", "m.csv").status == 0
    rows = list(csv.reader(io.StringIO((tmp_path / "m.csv").read_text())))
    assert rows == [
        ["id", "prompt", "topic", "response", "score"],
        ["a", "Ask", "'=rivers", "A", "1"],
    ]
    assert read_pairs(tmp_path / "m.csv").pairs == [Pair("a", "Ask", "A", row=2)]


def test_an_alpaca_file_can_be_answered_again(tmp_path: Path) -> None:
    """Its own outputs give way; the question stays instruction and input."""
    rows = [{"id": f"a{i}", **row} for i, row in enumerate(ALPACA)]
    (tmp_path / "alpaca.json").write_text(json.dumps(rows))
    answers = [("id", "prompt", "response"), *((f"a{i}", "x", f"new {i}") for i in range(12))]
    (tmp_path / "r.csv").write_text(table(*answers))
    made = merge(tmp_path / "alpaca.json", tmp_path / "r.csv")
    assert made.problems == []
    assert made.columns == ["id", "instruction", "input", "output"]
    assert made.rows == [row | {"output": f"new {i}"} for i, row in enumerate(rows)]


def test_files_without_ids_are_joined_row_by_row_and_that_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    as_array(tmp_path / "alpaca.json")
    lines = "".join(json.dumps({"response": f"new {i}"}) + "\n" for i in range(12))
    (tmp_path / "r.jsonl").write_text(lines)
    with caplog.at_level(logging.WARNING, "lensbench"):
        made = merge(tmp_path / "alpaca.json", tmp_path / "r.jsonl")
    assert "joined row by row" in caplog.text
    assert made.rows == [row | {"output": f"new {i}"} for i, row in enumerate(ALPACA)]
    (tmp_path / "r.jsonl").write_text(lines + json.dumps({"response": "more"}))
    with pytest.raises(InputProblems, match="neither file has ids, and they have 12 and 13 rows"):
        merge(tmp_path / "alpaca.json", tmp_path / "r.jsonl")
    (tmp_path / "r.jsonl").write_text(json.dumps({"id": "p2", "response": "new"}))
    made = merge(tmp_path / "alpaca.json", tmp_path / "r.jsonl")
    assert made.rows == [ALPACA[1] | {"output": "new"}]
    (tmp_path / "r.jsonl").write_text(json.dumps({"id": "q1", "response": "new"}))
    with pytest.raises(InputProblems, match="no row of it has an id, and the other file's have"):
        merge(tmp_path / "alpaca.json", tmp_path / "r.jsonl")


@pytest.mark.parametrize(
    ("prompts", "responses", "what"),
    [
        (
            "id,question,prompt\na,b,c\n",
            "id,response\na,b\n",
            "it needs one column called instruction",
        ),
        ("id,prompt\na,b\n", "id,text\na,b\n", "it needs one column called response"),
        ("id,prompt\na,b\n", "id,response,answer\na,b,c\n", "it needs one column called response"),
    ],
)
def test_which_column_is_meant_is_never_guessed(
    prompts: str, responses: str, what: str, tmp_path: Path
) -> None:
    (tmp_path / "p.csv").write_text(prompts)
    (tmp_path / "r.csv").write_text(responses)
    with pytest.raises(InputProblems, match=what):
        merge(tmp_path / "p.csv", tmp_path / "r.csv")


# --- training -----------------------------------------------------------------------------------


def test_a_dozen_rows_train_an_adapter(lensbench: Program, gpt2: Case, tmp_path: Path) -> None:
    """Straight from Alpaca's array, with the default share to evaluate on, whatever the seed."""
    as_array(tmp_path / "alpaca.json")
    seed = next(s for s in range(50) if none_falls_into_eval(tmp_path / "alpaca.json", s))
    how = ("--bits", 32, "--max-steps", 1, "--examples", 0, "--max-length", 200, "--blocks", 2)
    done = lensbench("train", gpt2.folder, "alpaca.json", "-o", "a", *how, "--seed", seed)
    assert done.status == 0, done.err
    assert "of 12 bunches of rows none fell into eval" in done.said
    settings = json.loads((tmp_path / "a" / "manifest.json").read_text())["settings"]
    assert (settings["style"], settings["n_train"] + settings["n_eval"]) == ("alpaca", 12)
    assert settings["n_eval"] >= 1
    assert (
        f"{settings['n_train']} pairs to train on, {settings['n_eval']} to evaluate on" in done.said
    )


def none_falls_into_eval(path: Path, seed: int) -> bool:
    import hashlib

    def point(item: str) -> float:
        digest = hashlib.sha256(f"{seed}\nid {item}".encode()).digest()
        return int.from_bytes(digest[:8], "big") / 2**64

    return all(point(pair.id) < 0.9 for pair in read_pairs(path).pairs)


def test_random_arrays_come_back(tmp_path: Path) -> None:
    chance = random.Random(0)
    odd = 'a[]{},:"\\\n\r\t \u2028é😀'
    rows = [
        {
            "instruction": "q" + "".join(chance.choices(odd, k=9)),
            "output": "a" + "".join(chance.choices(odd, k=9)),
        }
        for _ in range(200)
    ]
    for indent in (None, 2):
        (tmp_path / "odd.json").write_text(
            json.dumps(rows, indent=indent, ensure_ascii=False), newline=""
        )
        found = read_pairs(tmp_path / "odd.json").pairs
        assert [{"instruction": p.instruction, "output": p.response} for p in found] == rows
