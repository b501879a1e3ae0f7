"""`lensbench rag` as a user runs it."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path

import pytest

from lensbench.quantized.rag.embedding import Embedder
from tests.harness.program import Program

NUMBERS = itertools.count()
FAQ = (
    "id,question,answer,topic\n"
    "back,Which gold?,Silver by the river.,returns\n"
    'odd,=stone,"\x1b[1m[b]red[/b]\x07",odd\n'
)


@pytest.fixture
def place(database_address: str) -> str:
    """Where an index can be made, with a password that nobody may see."""
    address = database_address.replace("postgres@", "postgres:hidden@")
    return f"{address}#cli_{next(NUMBERS)}"


@pytest.fixture
def built(lensbench: Program, place: str, bert: Embedder) -> str:
    """An index of two questions and answers."""
    Path("faq.csv").write_text(FAQ, encoding="utf-8")
    done = lensbench("rag", "build", "faq.csv", "-o", place, "--model", bert.place)
    assert (done.status, done.out) == (0, "")
    assert done.said.endswith("2 new, 0 changed, 0 unchanged, 0 deleted")
    assert "hidden" not in done.said
    return place


def test_a_query_shows_score_id_and_escaped_text(lensbench: Program, built: str) -> None:
    done = lensbench("rag", "query", built, "red stone", "--top-k", 2)
    assert done.status == 0
    assert re.search(r"^\d\.\d{3}  odd$", done.out, re.MULTILINE)
    assert r"\u001b[1m[b]red[/b]\u0007" in done.out
    assert "\x1b" not in done.out


def test_a_query_as_json_and_with_a_filter(lensbench: Program, built: str) -> None:
    done = lensbench("rag", "query", built, "anything", "--where", "topic=returns", "--json")
    (hit,) = json.loads(done.out)
    assert hit["id"] == "back"
    assert hit["text"] == "Which gold?\nSilver by the river."
    assert hit["metadata"] == {"topic": "returns", "source": "faq.csv"}
    assert -1 <= hit["score"] <= 1
    assert (
        json.loads(lensbench("rag", "query", built, "x", "--where", "topic=no", "--json").out) == []
    )


def test_building_again_brings_the_index_to_the_file(
    lensbench: Program, built: str, bert: Embedder
) -> None:
    changed = FAQ.replace("river", "ocean").replace("odd,", "new,", 1)
    Path("faq.csv").write_text(changed, encoding="utf-8")
    done = lensbench("rag", "build", "faq.csv", "-o", built, "--model", bert.place)
    assert done.said.endswith("1 new, 1 changed, 0 unchanged, 1 deleted")
    Path("other.txt").write_text("silver", encoding="utf-8")
    done = lensbench("rag", "build", "other.txt", "-o", built, "--model", bert.place)
    assert done.status == 2
    assert "also holds faq.csv" in done.said


def test_adding_reports_bad_rows_and_deletes_nothing_then(lensbench: Program, built: str) -> None:
    Path("faq.csv").write_text("id,question,answer\nback,,gone\nmore,Why?,So.\n", encoding="utf-8")
    done = lensbench("rag", "add", built, "faq.csv", "--delete-missing")
    assert done.status == 1
    assert "faq.csv, row 2: question is empty" in done.said
    assert done.said.endswith("1 new, 0 changed, 0 unchanged, 0 deleted")
    Path("faq.csv").write_text("id,question,answer\nmore,Why?,So.\n", encoding="utf-8")
    done = lensbench("rag", "add", built, "faq.csv", "--delete-missing")
    assert (done.status, "2 deleted" in done.said) == (0, True)


def test_an_id_of_another_file_needs_replace(lensbench: Program, built: str) -> None:
    Path("second.csv").write_text("id,text\nback,other words\nfresh,words\n", encoding="utf-8")
    done = lensbench("rag", "add", built, "second.csv")
    assert done.status == 1
    assert "the id 'back' belongs to faq.csv" in done.said
    assert "1 new, 0 changed" in done.said
    done = lensbench("rag", "add", built, "second.csv", "--replace")
    assert (done.status, "0 new, 1 changed, 1 unchanged" in done.said) == (0, True)


def test_info_names_the_model_and_the_sources(
    lensbench: Program, built: str, bert: Embedder
) -> None:
    facts = json.loads(lensbench("rag", "info", built, "--json").out)
    assert facts["embedding_sha256"] == bert.sha256
    assert facts["sources"] == {"faq.csv": 2}
    shown = lensbench("rag", "info", built).out
    assert "faq.csv (2)" in shown
    assert "hidden" not in shown


def test_check_prints_measures_with_intervals(lensbench: Program, built: str) -> None:
    Path("asked.csv").write_text(
        "id,question,document_id\n1,Which gold?,back\n2,=stone,odd\n3,x,nothing\n",
        encoding="utf-8",
    )
    done = lensbench("rag", "check", built, "asked.csv", "--json")
    assert done.status == 1
    assert "the index has no document 'nothing'" in done.said
    measures = {row["measure"]: row for row in json.loads(done.out)}
    assert list(measures) == ["recall@1", "recall@3", "recall@5", "recall@10", "MRR@10"]
    assert measures["recall@3"]["meaning"]["value"] == 1
    assert measures["recall@1"]["words"]["n"] == 2
    table = lensbench("rag", "check", built, "asked.csv")
    assert "by words (tf-idf)" in table.out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("query", "nowhere", "x"), "There is no folder"),
        (("query", "{built}", " "), "QUESTION: the text is empty"),
        (("query", "{built}", "\ud800gold"), "QUESTION: there is half a character"),
        (("query", "{built}", "x", "--where", "topic"), "write NAME=VALUE"),
        (("add", "{built}", "nowhere.csv"), "there is no such file"),
        (("add", "{built}", "faq.csv", "--max-tokens", "31"), "takes at most 30 tokens"),
        (("add", "{built}", "faq.csv", "--text-column", "body"), "no column body"),
        (("query", "{built}", "x", "--model", "all-minilm-l6-v2"), "built with the embedding"),
        (("build", "faq.csv", "-o", "faq.csv"), "faq.csv"),
        (("check", "{built}", "faq.csv"), "document_id"),
    ],
)
def test_bad_input_is_a_message_and_status_2(
    lensbench: Program, built: str, arguments: tuple[str, ...], said: str
) -> None:
    done = lensbench("rag", *(argument.replace("{built}", built) for argument in arguments))
    assert (done.status, done.out) == (2, "")
    assert said in done.said
    assert "Traceback" not in done.said
    assert "hidden" not in done.said
