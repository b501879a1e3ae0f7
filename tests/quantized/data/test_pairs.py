"""Pairs from files and back: every bad row is named, every good one survives to the letter."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lensbench.errors import InputProblems, Problem
from lensbench.escape import csv_cell
from lensbench.quantized.data.merge import merge
from lensbench.quantized.data.pairs import Pair, PairSet, read_pairs, write_csv, write_jsonl

GOOD = {"id": "good", "instruction": "Which colour?", "response": "Blue."}
USER = {"role": "user", "content": "Which colour?"}
ASSISTANT = {"role": "assistant", "content": "Blue."}


def saved(folder: Path, content: str | bytes, name: str) -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def jsonl(folder: Path, *rows: object, name: str = "data.jsonl") -> Path:
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    return saved(folder, "\n".join(lines) + "\n", name)


def only_problem(found: PairSet) -> Problem:
    """The one problem of a set whose good row survived."""
    assert [pair.id for pair in found.pairs] == ["good"]
    (problem,) = found.problems
    assert problem.remedy
    return problem


# --- reading ------------------------------------------------------------------------------------


def test_both_forms_give_the_same_pair(tmp_path: Path) -> None:
    (alpaca,) = read_pairs(jsonl(tmp_path, GOOD)).pairs
    (chat,) = read_pairs(jsonl(tmp_path, {"id": "good", "messages": [USER, ASSISTANT]})).pairs
    assert alpaca == chat == Pair("good", "Which colour?", "Blue.", row=1)


@pytest.mark.parametrize(
    ("instruction", "response"),
    [("instruction", "response"), ("instruction", "output"), ("question", "answer")],
)
def test_a_column_goes_by_several_names(tmp_path: Path, instruction: str, response: str) -> None:
    row = {"id": "good", instruction: "Which colour?", response: "Blue."}
    table = f"id,{instruction},{response}\ngood,Which colour?,Blue.\n"
    from_json = read_pairs(jsonl(tmp_path, row)).pairs
    from_csv = read_pairs(saved(tmp_path, table, "data.csv")).pairs
    assert [pair.question for pair in from_json + from_csv] == ["Which colour?"] * 2
    assert [pair.response for pair in from_json + from_csv] == ["Blue."] * 2


def test_optional_keys_are_read(tmp_path: Path) -> None:
    row = GOOD | {"input": "The sky.", "group": "nature", "topic": "ignored", "system": None}
    (pair,) = read_pairs(jsonl(tmp_path, row)).pairs
    assert pair.question == "Which colour?\n\nThe sky."
    assert (pair.group, pair.system) == ("nature", "")


def test_whole_numbers_are_ids(tmp_path: Path) -> None:
    found = read_pairs(jsonl(tmp_path, GOOD | {"id": 7}, GOOD | {"id": "7"}))
    assert [pair.id for pair in found.pairs] == ["7"]
    assert "used in row 1" in found.problems[0].what


def test_a_byte_order_mark_and_windows_line_ends_do_not_matter(tmp_path: Path) -> None:
    lines = f"\ufeff{json.dumps(GOOD)}\r\n\r\n{json.dumps(GOOD | {'id': 'b'})}\r\n"
    assert [p.row for p in read_pairs(saved(tmp_path, lines, "data.jsonl")).pairs] == [1, 3]
    table = "\ufeffid,prompt,response\r\ngood,Which?,Blue.\r\n"
    assert read_pairs(saved(tmp_path, table, "data.csv")).pairs[0].response == "Blue."


BAD = [
    (GOOD | {"id": None}, "the id is empty"),
    ({"instruction": "x", "response": "y"}, "the id is empty"),
    (GOOD | {"id": 1.5}, "the id is a number"),
    (GOOD | {"id": True}, "the id is true or false"),
    (GOOD, "the id was used in row 1 before"),
    (GOOD | {"id": "b", "response": 3}, "the response is a number, not text"),
    (GOOD | {"id": "b", "response": ["x"]}, "the response is a list, not text"),
    (GOOD | {"id": "b", "response": " \n"}, "the response is empty"),
    (GOOD | {"id": "b", "response": None}, "the response is empty"),
    (GOOD | {"id": "b", "instruction": ""}, "the instruction is empty"),
    (GOOD | {"id": "b", "input": 4}, "'input' is a number, not text"),
    (GOOD | {"id": "b", "group": {}}, "'group' is a dict, not text"),
    (GOOD | {"id": "b", "prompt": "x"}, "it needs one instruction, and has"),
    ({"id": "b", "instruction": "x"}, "it needs one response, and has none"),
    (GOOD | {"id": "b", "response": "x" * 200_000}, "'response' has 200,000 characters"),
    (GOOD | {"id": "b", "response": "a\0b"}, "NUL byte in 'response'"),
    (GOOD | {"id": "b", "response": "\ud800"}, "lone surrogate"),
    ({"id": "b", "messages": "hello"}, "'messages' is a text, not a list"),
    ({"id": "b", "messages": 5}, "'messages' is a number, not a list"),
    ({"id": "b", "messages": []}, "the roles are none"),
    ({"id": "b", "messages": [USER]}, "the roles are user"),
    ({"id": "b", "messages": [ASSISTANT, USER]}, "the roles are assistant, user"),
    ({"id": "b", "messages": [USER, ASSISTANT] * 2}, "the roles are user, assistant, user"),
    ({"id": "b", "messages": [USER, ASSISTANT | {"content": ""}]}, "the response is empty"),
    ({"id": "b", "messages": [USER, ASSISTANT, "x"]}, "message 3 has no text"),
    ({"id": "b", "messages": [USER | {"content": [1]}, ASSISTANT]}, "message 1 has no text"),
    ({"id": "b", "messages": [USER, ASSISTANT], "response": "x"}, "'messages' and also 'response'"),
    ({"id": "b", "messages": None}, "'messages' is null, not a list"),
    ("[1, 2]", "it is no JSON object"),
    ('{"id": "b"', "it is not JSON"),
]


@pytest.mark.parametrize(("bad", "what"), BAD, ids=[what for _, what in BAD])
def test_a_bad_row_is_named_and_the_good_one_survives(
    tmp_path: Path, bad: object, what: str
) -> None:
    problem = only_problem(read_pairs(jsonl(tmp_path, GOOD, bad)))
    assert problem.where.startswith("data.jsonl, row 2")
    assert what in problem.what


def test_all_that_is_wrong_with_a_row_is_said_at_once(tmp_path: Path) -> None:
    found = read_pairs(jsonl(tmp_path, GOOD, {"id": "", "instruction": 1, "response": ""}))
    whats = [problem.what for problem in found.problems]
    assert [what.split(" is ")[0] for what in whats] == [
        "the id",
        "the instruction",
        "the response",
    ]


@pytest.mark.parametrize(
    ("content", "name", "what"),
    [
        ("", "data.jsonl", "it has no usable row"),
        ("id,prompt\na,b\n", "data.csv", "one column for the response"),
        ("id,prompt,question,response\na,b,c,d\n", "data.csv", "one column for the instruction"),
        ("id,prompt,response\na,b\n", "data.csv", "it has 2 cells, the header 3"),
        ("x", "data.txt", "no known kind of file"),
        (b"\xff\xfe{\0}\0", "data.jsonl", "UTF-16"),
        (b'{"id": "\xe4"}', "data.jsonl", "line 1 is not UTF-8"),
    ],
)
def test_a_file_without_use_is_refused(
    tmp_path: Path, content: str | bytes, name: str, what: str
) -> None:
    with pytest.raises(InputProblems) as caught:
        read_pairs(saved(tmp_path, content, name))
    assert what in str(caught.value)
    assert name in str(caught.value)


# --- round trips --------------------------------------------------------------------------------

texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1)
texts = (texts | st.from_regex(r"'*[=+\-@\t\r].*", fullmatch=True)).filter(
    lambda text: bool(text.strip()) and "\0" not in text
)
ids = texts.map(str.strip)  # nobody means two rows by "7" and "7 "
pairs = st.builds(Pair, ids, texts, texts, input=st.just("") | texts, group=st.none() | texts)


def without_rows(found: list[Pair]) -> list[Pair]:
    return [Pair(p.id, p.instruction, p.response, p.input, p.system, p.group) for p in found]


@given(st.lists(pairs, min_size=1, unique_by=lambda pair: pair.id))
def test_a_file_gives_back_every_pair(
    tmp_path_factory: pytest.TempPathFactory, made: list[Pair]
) -> None:
    folder = tmp_path_factory.mktemp("pairs")
    write_csv(folder / "data.csv", made)
    write_jsonl(folder / "data.jsonl", made)
    assert without_rows(read_pairs(folder / "data.csv").pairs) == made
    assert without_rows(read_pairs(folder / "data.jsonl").pairs) == made
    write_jsonl(folder / "chat.jsonl", made, "messages")
    chat = read_pairs(folder / "chat.jsonl").pairs
    assert [(p.question, p.response) for p in chat] == [(p.question, p.response) for p in made]


@given(st.lists(st.tuples(ids, texts, texts), min_size=1, unique_by=lambda row: row[0]))
def test_merging_gives_back_what_was_asked_and_what_was_said(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str, str]]
) -> None:
    """The prompts are a user's own file; the responses were written with `csv_cell`."""
    folder = tmp_path_factory.mktemp("merge")
    asked, answered = io.StringIO(), io.StringIO()
    csv.writer(asked).writerows([("id", "prompt"), *(row[:2] for row in rows)])
    csv.writer(answered).writerow(("id", "prompt", "response"))
    csv.writer(answered).writerows(map(csv_cell, row) for row in reversed(rows))
    prompts = saved(folder, asked.getvalue(), "prompts.csv")
    responses = saved(folder, answered.getvalue(), "responses.csv")
    merged = merge(prompts, responses)
    assert merged.problems == []
    assert merged.columns == ["id", "prompt", "response"]
    assert [tuple(row.values()) for row in merged.rows] == rows


# --- merging ------------------------------------------------------------------------------------


def test_what_cannot_be_merged_is_listed_and_the_rest_goes_on(tmp_path: Path) -> None:
    prompts = "id,prompt,group\na,Ask a,g\nb,Ask b,\na,Again,\nc,,\n"
    prompts += "d,Ask d,\n,nobody,\n,,\ne,x\na,Third,\n"
    responses = "id,response,score\nb,B,1\na,A,2\nz,Z,3\nc,C,4\nb,B2,5\nd, ,6\n"
    merged = merge(saved(tmp_path, prompts, "p.csv"), saved(tmp_path, responses, "r.csv"))
    assert merged.rows == [
        {"id": "a", "prompt": "Ask a", "group": "g", "response": "A", "score": "2"},
        {"id": "b", "prompt": "Ask b", "group": "", "response": "B", "score": "1"},
    ]
    assert [(problem.where, problem.what) for problem in merged.problems] == [
        ("p.csv, row 4, id a", "the id was used in row 2 before"),
        ("p.csv, row 5, id c", "the prompt is empty"),
        ("p.csv, row 7", "the id is empty"),
        ("p.csv, row 8", "the id is empty"),
        ("p.csv, row 8", "the prompt is empty"),
        ("p.csv, row 9", "it has 2 cells, the header 3"),
        ("p.csv, row 10, id a", "the id was used in row 2 before"),
        ("r.csv, row 6, id b", "the id was used in row 2 before"),
        ("r.csv, row 7, id d", "the response is empty"),
        ("r.csv, row 4, id z", "no prompt has this id in p.csv"),
    ]


def test_a_prompt_without_a_response_is_listed(tmp_path: Path) -> None:
    prompts = saved(tmp_path, "id,prompt\na,x\nb,y\n", "p.csv")
    merged = merge(prompts, jsonl(tmp_path, {"id": "b", "response": "'=1"}))
    assert [(row["id"], row["response"]) for row in merged.rows] == [("b", "'=1")]  # no escapes
    assert [problem.prompt_id for problem in merged.problems] == ["a"]
    assert "no response has this id in data.jsonl" in merged.problems[0].what


def test_a_row_after_a_cell_with_line_ends_is_numbered_by_its_line(tmp_path: Path) -> None:
    prompts = saved(tmp_path, 'id,prompt\na,"two\nlines"\nb,\n', "p.csv")
    merged = merge(prompts, saved(tmp_path, "id,response\na,x\nb,y\n", "r.csv"))
    assert [problem.where for problem in merged.problems] == ["p.csv, row 4, id b"]
