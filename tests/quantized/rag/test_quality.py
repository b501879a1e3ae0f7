"""Measuring retrieval: places counted by hand, and meaning beside words."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path

import pytest

import lensbench
from lensbench.errors import Problem
from lensbench.quantized.rag.documents import Document, Reading, read_documents
from lensbench.quantized.rag.embedding import load_embedder
from lensbench.quantized.rag.index import Index, create_index
from lensbench.quantized.rag.quality import (
    Labelled,
    Placed,
    by_meaning,
    by_words,
    read_labelled,
)

# What is asked shares no content word with what answers it, but for the last one.
ASKED = {
    "puppy": ("The young dog sleeps in its basket.", "Where does the puppy take a nap?"),
    "car": ("An automobile needs petrol or a battery.", "What powers my vehicle?"),
    "rain": ("Take an umbrella when clouds are dark.", "How do I stay dry in wet weather?"),
    "doctor": ("A physician treats the ill in a hospital.", "Who helps sick people?"),
    "ocean": ("The sea is salty and deep.", "Why can one not drink from the sea?"),
}


@pytest.fixture(scope="module")
def index(database_address: str) -> Iterator[Index]:
    """The texts above under the real model; one of them cut in two."""
    with create_index(f"{database_address}#quality", load_embedder(device="cpu")) as index:
        texts = [(name, text) for name, (text, _) in ASKED.items() if name != "car"]
        documents = [Document(name, text, {"source": "t"}, name) for name, text in texts]
        parts = ASKED["car"][0].split(" or ")
        documents += [Document(f"car#{i}", part, {}, "car") for i, part in enumerate(parts, 1)]
        index.add(documents)
        yield index


LABELLED = [Labelled(f"ask-{name}", question, name) for name, (_, question) in ASKED.items()]


def test_a_rank_gives_recall_and_its_reciprocal() -> None:
    assert [Placed("a", rank).reciprocal_rank for rank in (1, 4, None)] == [1, 0.25, 0]
    assert [Placed("a", 3).within(depth) for depth in (1, 3, 10)] == [False, True, True]
    assert not Placed("a", None).within(10)


def test_meaning_finds_what_words_cannot(index: Index) -> None:
    meaning = {placed.id: placed.rank for placed in by_meaning(index, LABELLED)}
    assert meaning == dict.fromkeys((row.id for row in LABELLED), 1)
    words = {placed.id: placed.rank for placed in by_words(index, LABELLED)}
    assert words["ask-ocean"] == 1
    assert words["ask-doctor"] != 1


def test_the_place_is_that_of_the_first_piece(index: Index) -> None:
    (hits,) = index.search(["What powers my vehicle?"], 10)
    first = next(i for i, hit in enumerate(hits, 1) if hit.id in ("car#1", "car#2"))
    assert by_meaning(index, LABELLED)[1].rank == first


def test_words_weigh_as_tf_idf_does_by_hand(database_address: str) -> None:
    texts = {"a": "red red apple", "b": "red", "c": "green pear"}
    texts |= {f"x{i:02d}": "something else" for i in range(30)}
    with create_index(f"{database_address}#words", load_embedder(device="cpu")) as index:
        index.add([Document(name, text, {}, name) for name, text in texts.items()])
        asked = [Labelled(f"{i}", q, "a") for i, q in enumerate(["red", "an apple", "pear"])]
        # "red" is all of b and a part of a; "pear" leaves a and b alike, so the id decides.
        asked.append(Labelled("3", "pear", "x05"))
        assert [placed.rank for placed in by_words(index, asked)] == [2, 1, 2, 9]


def test_a_search_by_words_knows_the_words_of_any_script(database_address: str) -> None:
    """`re` has no marks in \\w: there a vowel sign ends its word, and these two are one letter."""
    texts = {
        "a-ka": "राम का घर",
        "b-ki": "सीता की किताब",
        "c": "北京是中国的首都。",
        "d": "东京是日本的城市。",
    }
    with create_index(f"{database_address}#scripts", load_embedder(device="cpu")) as index:
        index.add([Document(name, text, {}, name) for name, text in texts.items()])
        asked = [("की", "b-ki"), ("का", "a-ka"), ("城市", "d"), ("首都", "c")]
        rows = [Labelled(question, question, answer) for question, answer in asked]
        assert [placed.rank for placed in by_words(index, rows)] == [1, 1, 1, 1]


def test_the_shipped_questions_are_answered_by_meaning(database_address: str) -> None:
    shipped = Path(lensbench.__file__).parent / "quantized" / "data" / "datasets"
    minilm = load_embedder(device="cpu")
    with create_index(f"{database_address}#shipped", minilm) as index:
        reading = Reading(minilm.count, minilm.limit)
        index.add(read_documents([shipped / "general.csv"], reading, []))
        rows = read_labelled(shipped / "retrieval.csv", index, [])
        assert len(rows) >= 100
        meaning = [placed.within(3) for placed in by_meaning(index, rows)]
        words = [placed.within(3) for placed in by_words(index, rows)]
    assert sum(meaning) / len(rows) > 0.9
    assert sum(meaning) > sum(words)


def test_rows_that_cannot_be_used_are_named(index: Index, tmp_path: Path) -> None:
    rows = [("1", "Who?", "puppy"), ("2", "", "puppy"), ("1", "What?", "car"), ("3", "x", "cat")]
    written = io.StringIO()
    csv.writer(written).writerows([("id", "question", "document_id"), *rows])
    path = tmp_path / "asked.csv"
    path.write_text(written.getvalue(), encoding="utf-8")
    problems: list[Problem] = []
    assert read_labelled(path, index, problems) == [Labelled("1", "Who?", "puppy")]
    assert [problem.where for problem in problems] == [
        f"asked.csv, row {row}" for row in ("3, id 2", "4, id 1", "5, id 3")
    ]
