"""Reading documents: what becomes one, what is reported, and what a file must have."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from lensbench.errors import InputProblems, Problem
from lensbench.quantized.rag.documents import Document, Reading, read_documents


def count(text: str) -> int:
    return len(re.findall(r"\w+|[^\w\s]", text))


READING = Reading(count, limit=20)


def read(path: Path, reading: Reading = READING) -> tuple[list[Document], list[Problem]]:
    problems: list[Problem] = []
    return read_documents([path], reading, problems), problems


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_a_question_and_its_answer_are_one_document(tmp_path: Path) -> None:
    path = write(tmp_path / "faq.csv", "id,question,answer,topic\nq1,Why?,Because.,reasons\n")
    assert read(path) == (
        [Document("q1", "Why?\nBecause.", {"topic": "reasons", "source": "faq.csv"}, "q1")],
        [],
    )


@pytest.mark.parametrize(
    ("row", "text"),
    [
        ({"instruction": "Do", "response": "Done"}, "Do\nDone"),
        ({"instruction": "Do", "output": "Done"}, "Do\nDone"),
        ({"prompt": "Do", "response": "Done"}, "Do\nDone"),
        ({"text": "Words"}, "Words"),
        ({"question": "Q", "answer": "A", "text": "other"}, "Q\nA"),
    ],
)
def test_the_first_known_columns_make_the_text(
    tmp_path: Path, row: dict[str, str], text: str
) -> None:
    ((document,), problems) = read(write(tmp_path / "a.jsonl", json.dumps(row)))
    assert (document.text, document.id, problems) == (text, "a.jsonl#1", [])


def test_columns_can_be_named(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "key,title,body,text\nk,T,B,x\n")
    reading = replace(READING, id_column="key", text_columns=("title", "body"))
    assert read(path, reading)[0] == [Document("k", "T\nB", {"text": "x", "source": "a.csv"}, "k")]


def test_bad_rows_are_named_and_the_rest_goes_on(tmp_path: Path) -> None:
    text = (
        '{"id": "a", "text": "good"}\nnot json\n{"id": "b", "text": " "}\n{"id": "c"}\n'
        '{"id": "a", "text": "again"}\n{"id": "", "text": "x"}\n{"id": "n", "text": "x\\u0000"}\n'
        '{"id": "z", "text": "good too"}\n'
    )
    documents, problems = read(write(tmp_path / "a.jsonl", text))
    assert [document.id for document in documents] == ["a", "z"]
    rows = sorted(problem.where.rpartition(" ")[2] for problem in problems)
    assert rows == ["2", "3", "4", "5", "6", "7"]


def test_a_long_row_is_cut_with_numbered_ids_and_loses_nothing(tmp_path: Path) -> None:
    words = " ".join(f"w{i}" for i in range(50))
    documents, _ = read(write(tmp_path / "a.csv", f'id,text,k\nlong,"{words}",v\nshort,hi,v\n'))
    assert [document.id for document in documents] == ["long#1", "long#2", "long#3", "short"]
    assert " ".join(document.text for document in documents[:3]) == words
    assert {document.parent for document in documents[:3]} == {"long"}
    assert all(document.metadata == {"k": "v", "source": "a.csv"} for document in documents)


def test_a_markdown_file_becomes_passages_with_their_heading(tmp_path: Path) -> None:
    path = write(tmp_path / "m.md", "intro\n\n# One\n\nfirst.\n\nsecond.\n\n# Two\n\nthird\n")
    documents, _ = read(path)
    assert [(d.id, d.text, d.metadata.get("heading")) for d in documents] == [
        ("m.md#1", "intro", None),
        ("m.md#2", "# One\n\nfirst.\n\nsecond.", "One"),
        ("m.md#3", "# Two\n\nthird", "Two"),
    ]


def test_a_text_file_is_cut_at_paragraphs(tmp_path: Path) -> None:
    paragraphs = [" ".join([f"p{i}"] * 12) for i in range(3)]
    documents, _ = read(write(tmp_path / "t.txt", "\n\n".join(paragraphs)))
    assert [document.text for document in documents] == paragraphs


def test_all_unusable_files_are_named_at_once(tmp_path: Path) -> None:
    paths = [
        write(tmp_path / "wrong.csv", "a,b\n1,2\n"),
        write(tmp_path / "rows.csv", "id,text\n"),
        write(tmp_path / "blank.txt", " \n"),
        write(tmp_path / "a.pdf", "x"),
        tmp_path / "missing.txt",
    ]
    with pytest.raises(InputProblems) as caught:
        read_documents(paths, READING, [])
    said = [str(problem) for problem in caught.value.problems]
    assert [("it has a, b" in said[0]), ("no rows" in said[1]), ("empty" in said[2])] == [True] * 3
    assert ".pdf" in said[3]
    assert "no such file" in said[4]


def test_an_id_column_that_is_not_there_is_reported(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "id,text\n1,x\n")
    documents, problems = read(path, replace(READING, id_column="key"))
    assert documents == []
    assert "key" in problems[0].what


def test_hashes_follow_what_they_cover() -> None:
    one = Document("a", "text", {"k": "v"})
    assert one.sha256 != replace(one, metadata={"k": "w"}).sha256
    assert one.embedded_sha256 == replace(one, metadata={"k": "w"}).embedded_sha256
    assert one.embedded_sha256 != replace(one, text="texts").embedded_sha256
