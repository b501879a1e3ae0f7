"""Labelled texts: those that ship, files and their mistakes, and how they are parted."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lensbench.classification.examples import (
    PANG_LEE,
    SHIPPED,
    Example,
    given_labelled,
    load_every,
    load_labelled,
)
from lensbench.classification.split import NEAR, parted
from lensbench.corpora.hub import DataSet
from lensbench.errors import InputProblems
from lensbench.files import sha256_of


def write(path: Path, text: str) -> str:
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_the_shipped_sentences_praise_and_blame_each_subject_once() -> None:
    found = load_labelled(SHIPPED)
    assert found.problems == []
    assert Counter(one.label for one in found.examples) == {"negative": 150, "positive": 150}
    groups = Counter((one.group, one.label) for one in found.examples)
    assert set(groups.values()) == {1}
    assert len({one.group for one in found.examples}) == 150


def test_film_sentences_are_read_in_place() -> None:
    pytest.importorskip("gensim")
    found = load_labelled(PANG_LEE)
    assert Counter(one.label for one in found.examples) == {"negative": 100, "positive": 100}
    assert found.examples[0].text == "simplistic , silly and tedious ."


@pytest.mark.parametrize("source", [SHIPPED, PANG_LEE])
def test_no_tested_text_is_nearly_one_that_is_learnt_from(source: str) -> None:
    """By the sets of all five-character pieces, pair by pair."""
    if source == PANG_LEE:
        pytest.importorskip("gensim")
    parts = parted(load_labelled(source).examples, 0.5, 0, source)
    pieces = [[grams(one.text) for one in some] for some in (parts.train, parts.test)]
    closest = max(len(a & b) / len(a | b) for a in pieces[0] for b in pieces[1])
    assert closest < NEAR
    assert len(parts.train) == len(parts.test)
    assert not {one.group for one in parts.train if one.group} & {one.group for one in parts.test}
    assert len(set(Counter(one.label for one in parts.test).values())) == 1


def grams(text: str) -> set[str]:
    plain = " ".join(text.casefold().split()).rstrip(" .?!")
    return {plain[i : i + 5] for i in range(max(len(plain) - 4, 1))}


@given(
    counts=st.lists(st.integers(2, 12), min_size=2, max_size=4),
    share=st.floats(0.05, 0.95),
    seed=st.integers(0, 5),
)
def test_every_label_is_learnt_and_tested_or_named(
    counts: list[int], share: float, seed: int
) -> None:
    examples = [
        Example(f"{label}-{n}", f"{word}{LETTERS[label] * 6}", f"l{label}")
        for label, count in enumerate(counts)
        for n, word in enumerate(WORDS[:count])
    ]
    try:
        parts = parted(examples, share, seed, "x")
    except InputProblems as error:
        assert "to learn from" in str(error)
        return
    assert sorted(map(id, [*parts.train, *parts.test])) == sorted(map(id, examples))
    learnt, asked = (Counter(one.label for one in some) for some in (parts.train, parts.test))
    for label, count in enumerate(counts):
        assert learnt[f"l{label}"] and asked[f"l{label}"]
        assert abs(asked[f"l{label}"] - share * count) <= 0.5
    assert parted(examples, share, seed, "x") == parts


LETTERS = "xyzw"
WORDS = [
    "apple",
    "barrel",
    "candle",
    "dragon",
    "engine",
    "falcon",
    "guitar",
    "hammer",
    "island",
    "jungle",
    "kettle",
    "lantern",
]


def test_groups_and_like_texts_stay_together() -> None:
    examples = [
        Example("a1", "one thing to say here", "x", "g"),
        Example("a2", "quite another matter", "y", "g"),
        Example("b1", "the weather is very fine today", "x"),
        Example("b2", "the weather is very fine today!", "y"),
    ]
    parts = parted(examples, 0.5, 0, "x")
    assert {one.id[0] for one in parts.train} | {one.id[0] for one in parts.test} == {"a", "b"}
    assert len({one.id[0] for one in parts.train}) == len({one.id[0] for one in parts.test}) == 1


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("text,label\nfine,good\nnice,good\n", "every text has the label 'good'"),
        ("text,label\nfine,Good\nbad,good\n", "differ in case or space alone"),
        ("text\nfine\n", "label are missing"),
        ("text,label\n,good\n , \n", "row 2.*the text is empty"),
        ("text,label\n", "not one row can be used"),
        ("text,label\na,b,c\n", "row 2: it has 3 cells, the header 2"),
        ("text;label\na;b\n", "separated by semicolons"),
    ],
)
def test_files_of_which_nothing_can_be_learnt(text: str, told: str, tmp_path: Path) -> None:
    with pytest.raises(InputProblems, match=told):
        load_labelled(write(tmp_path / "mine.csv", text))


def test_a_name_that_is_mistyped_is_told_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(InputProblems, match=r"no such file.* Did you mean reviews\?"):
        load_labelled("revews")
    with pytest.raises(InputProblems, match=r"Choose from: reviews, pang-lee\. Or give a \.csv"):
        load_labelled(str(tmp_path / "mine.csv"))


def test_all_that_is_wrong_with_several_sets_is_said_at_once(tmp_path: Path) -> None:
    one = write(tmp_path / "one.csv", "text,label\nfine,good\nnice,good\n")
    with pytest.raises(InputProblems) as caught:
        load_every(["reviews", "revews", str(one)])
    assert [problem.where for problem in caught.value.problems] == ["revews", "one.csv"]
    assert [one.name for one in load_every(["reviews"])] == ["reviews"]


def test_bad_rows_are_named_and_the_rest_goes_on(tmp_path: Path) -> None:
    long = "x" * 100_001
    rows = [
        {"text": "fine", "label": 1},
        {"text": "bad", "label": 0},
        {"text": "fine", "label": 0},
        {"text": long, "label": 0},
        {"text": "half \ud83d", "label": 1},
        {"text": "", "label": 1},
        {"text": "a list", "label": ["x"]},
    ]
    path = write(tmp_path / "mine.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    found = load_labelled(path)
    assert [(one.id, one.label) for one in found.examples] == [("row1", "1"), ("row2", "0")]
    told = [str(problem) for problem in found.problems]
    assert len(told) == 5
    assert any("row 3, id row3: its text stands in row 1 with the label '1'" in one for one in told)
    assert any("row 4" in one and "100,001 characters" in one for one in told)
    assert all("mine.jsonl, row" in one for one in told)


def test_fewer_examples_than_labels_ask_for() -> None:
    found = given_labelled([("fine", "good"), ("bad", "poor"), ("so so", "fair")])
    with pytest.raises(InputProblems) as caught:
        parted(found.examples, 0.5, 0, "texts")
    assert "3 examples of 3 labels" in str(caught.value)
    assert "label 'fair': 1 example, of which" in str(caught.value)
    with pytest.raises(InputProblems, match="texts: 1 example of 1 label\\."):
        parted(found.examples[:1], 0.5, 0, "texts")


def test_a_limit_takes_all_labels_alike() -> None:
    found = load_labelled(SHIPPED).at_most(21, 0)
    assert sorted(Counter(one.label for one in found.examples).values()) == [10, 11]
    assert found.at_most(None, 0) is found
    assert load_labelled(SHIPPED).at_most(21, 1).examples != found.examples


# --- the hub ------------------------------------------------------------------------------------


def fetched(folder: Path, monkeypatch: pytest.MonkeyPatch, table: pa.Table) -> None:
    """As `lensbench pull hub:a/b` leaves a data set: its file in the hub's cache, and a pin."""
    monkeypatch.setenv("LENSBENCH_CACHE", str(folder / "ours"))
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_, **__: str(path))
    path = folder / "train.parquet"
    pq.write_table(table, path)
    pin = {"file": path.name, "revision": "r", "sha256": sha256_of(path), "data_set": "a/b"}
    DataSet.of("hub:a/b").pin.parent.mkdir(parents=True)
    DataSet.of("hub:a/b").pin.write_text(json.dumps(pin), encoding="utf-8")


def test_a_data_set_of_the_hub_has_its_labels_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As SST-2 is published: `sentence`, numbers of labels, and their names beside the columns."""
    about = {"info": {"features": {"label": {"names": ["negative", "positive"]}}}}
    columns = {"sentence": ["fine", "bad", "unknown"], "label": [1, 0, -1]}
    table = pa.table(columns).replace_schema_metadata({"huggingface": json.dumps(about)})
    fetched(tmp_path, monkeypatch, table)
    found = load_labelled("hub:a/b")
    assert [(one.text, one.label) for one in found.examples] == [
        ("fine", "positive"),
        ("bad", "negative"),
    ]
    assert found.name == "a/b"


def test_a_data_set_without_labels_or_not_fetched_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LENSBENCH_CACHE", str(tmp_path / "none"))
    with pytest.raises(InputProblems, match="Fetch it: lensbench pull hub:a/b"):
        load_labelled("hub:a/b")
    with pytest.raises(InputProblems, match="data: 'hub:a' names no data set"):
        load_labelled("hub:a")
    fetched(tmp_path, monkeypatch, pa.table({"sentence": ["fine"]}))
    with pytest.raises(InputProblems, match=r"train.parquet has sentence\. Give a data set"):
        load_labelled("hub:a/b")
