"""A data set of the hub, from an HTTP hub on this machine: fetched when asked, pinned, read."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lensbench import InputProblems
from lensbench.corpora.hub import DataSet
from tests.harness.hub import SHA, Answers, apart, serving

TEXTS = ["Rivers flow to the sea.", None, "Berlin is in Germany.", "Hills stand still."]


def parquet(**columns: list[Any]) -> bytes:
    data = io.BytesIO()
    pq.write_table(pa.table(columns), data)
    return data.getvalue()


def lines(*rows: dict[str, Any]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n\n" for row in rows).encode()


# As WikiText has its articles: a row is a line, an empty one stands between paragraphs.
ARTICLE = [" = Rivers = \n", "", " A river flows . \n", "", " It ends . \n"]
FILES: dict[str, dict[str, bytes]] = {
    "org/article": {"train.parquet": parquet(text=ARTICLE)},
    "org/many": {"train.parquet": parquet(text=[f"Text {n}." for n in range(20_001)])},
    "org/plain": {
        "README.md": b"not a text of it",
        "data/test-00000-of-00001.parquet": parquet(text=["Of the test."]),
        "data/train-00001-of-00002.parquet": parquet(text=["Of the second file."]),
        "data/train-00000-of-00002.parquet": parquet(label=[1, 2, 3, 4], text=TEXTS),
    },
    "org/two": {"train.jsonl": lines({"question": "Why?", "answer": "Außer Übung.", "n": 1})},
    "org/numbers": {"train.parquet": parquet(n=[1, 2])},
    "org/words": {"words.txt": "Größe.\n\nHills.".encode()},
    "org/latin": {"words.txt": "Größe".encode("latin-1")},
    "org/tested": {"test.jsonl": lines({"text": "x"}), "script.py": b"raise SystemExit"},
    "org/broken": {"train.parquet": b"PAR1 no more"},
}


class Hub(Answers):
    """Answers as the hub does for data sets, one of them gated."""

    def reply(self) -> None:
        if "org/gated" in self.path:
            self.refuse(403, "GatedRepo")
        elif not any(self.give(name, files, "datasets") for name, files in FILES.items()):
            self.refuse(404, "RepoNotFound")


@pytest.fixture(scope="module")
def hub() -> Iterator[str]:
    with serving(Hub) as address:
        yield address


Ask = Callable[..., dict[str, Any]]
_CODE = """
import json, sys
from lensbench import Prompt
from lensbench.corpora.corpus import load_corpus
from lensbench.corpora.hub import pull_data_set
from lensbench.errors import LensbenchError
said, found = [], {}
for step in sys.argv[1:]:
    verb, _, name = step.partition(" ")
    try:
        if verb == "pull":
            pull_data_set(name, said.append)
        else:
            fact = Prompt("de", "x", answer="Berlin", subject="Germany")
            one = load_corpus(name, [fact], whole=verb == "whole")
            found = {"name": one.name, "texts": sorted(d.text for d in one.documents),
                     "n_with_facts": one.n_with_facts, "problems": list(map(str, one.problems)),
                     **one.origin}
    except LensbenchError as error:
        said.append(str(error))
sys.stdout.write(json.dumps({"said": said, **found}))
"""


@pytest.fixture
def ask(hub: str, tmp_path: Path) -> Ask:
    """Steps in a process of their own: the hub's client reads its settings when it is imported."""

    def run(*steps: str, **environment: str) -> dict[str, Any]:
        settings = {"HF_HOME": str(tmp_path / "hf"), "HF_ENDPOINT": hub, "HF_HUB_OFFLINE": "0"}
        settings |= {"LENSBENCH_CACHE": str(tmp_path / "cache")}
        return dict(json.loads(apart(_CODE, *steps, **settings | environment)))

    return run


def test_what_was_fetched_is_read_without_a_network_and_pinned(ask: Ask) -> None:
    before = ask("load hub:org/plain")
    assert "hub:org/plain is not on this machine. Fetch it: lensbench pull hub:org/plain" in str(
        before["said"]
    )
    pulled = ask("pull hub:org/plain")
    assert "data/train-00000-of-00002.parquet" in pulled["said"][0]
    found = ask("load hub:org/plain", HF_HUB_OFFLINE="1", HF_ENDPOINT="http://127.0.0.1:9")
    assert found["texts"] == ["Hills stand still.", "Rivers flow to the sea."]
    assert found["n_with_facts"] == 1
    data = FILES["org/plain"]["data/train-00000-of-00002.parquet"]
    assert found["hub"] == {
        "data_set": "org/plain",
        "revision": SHA,
        "file": "data/train-00000-of-00002.parquet",
        "sha256": hashlib.sha256(data).hexdigest(),
        "column": "text",
        "n_rows": 4,
    }


def test_a_split_and_a_column_are_chosen_by_name(ask: Ask) -> None:
    found = ask(
        "pull hub:org/plain/test",
        "load hub:org/plain/test:text",
        "pull hub:org/plain/dev",
        "load hub:org/plain/test:label",
    )
    assert found["texts"] == ["Of the test."]
    fetched, no_split, no_column = found["said"]
    assert "data/test-00000" in fetched
    assert "org/plain has no file of dev" in no_split and "data/test-00000" in no_split
    assert "no column 'label' of texts" in no_column and "It has: text." in no_column


@pytest.mark.slow
def test_the_whole_of_a_file_is_read_where_it_is_asked_for(ask: Ask) -> None:
    """All rows; and lines of a running text as one text, cut between paragraphs as a file is."""
    article, many = "hub:org/article", "hub:org/many"
    found = ask(f"pull {article}", f"whole {article}")
    assert found["texts"] == [" = Rivers = \n\n A river flows . \n\n It ends . \n"]
    assert len(ask(f"load {article}")["texts"]) == 3
    assert len(ask(f"pull {many}", f"load {many}")["texts"]) == 20_000
    assert len(ask(f"whole {many}")["texts"]) == 20_001


def test_several_columns_of_texts_are_named(ask: Ask) -> None:
    found = ask("pull hub:org/two", "load hub:org/two", "load hub:org/two:answer")
    assert "several columns of texts. It has: question, answer." in found["said"][1]
    assert "hub:org/two:COLUMN" in found["said"][1]
    assert found["texts"] == ["Außer Übung."]


@pytest.mark.slow
def test_files_of_other_kinds(ask: Ask) -> None:
    found = ask("pull hub:org/words", "load hub:org/words")
    assert found["texts"] == ["Größe.\n\nHills."]
    names = ("numbers", "latin", "broken")
    steps = [f"{verb} hub:org/{name}" for name in names for verb in ("pull", "load")]
    told = "\n".join(ask(*steps)["said"])
    assert "org/numbers has no column of texts" in told
    assert "is no UTF-8 text" in told
    assert "train.parquet cannot be read" in told
    assert "org/tested has no file of train" in ask("pull hub:org/tested")["said"][0]


@pytest.mark.slow
def test_gates_names_and_a_hub_out_of_reach(ask: Ask) -> None:
    gated, missing = ask("pull hub:org/gated", "pull hub:org/missing")["said"]
    assert "accept its licence" in gated
    assert "https://huggingface.co/datasets/org/gated" in gated
    assert "There is no data set org/missing on the hub" in missing
    (closed,) = ask("pull hub:org/plain", HF_ENDPOINT="http://127.0.0.1:9")["said"]
    assert "cannot be reached" in closed and "--corpus python-docs" in closed
    (offline,) = ask("pull hub:org/plain", HF_HUB_OFFLINE="1")["said"]
    assert "HF_HUB_OFFLINE is set" in offline


@pytest.mark.slow
def test_a_file_that_was_altered_is_refused(ask: Ask, tmp_path: Path) -> None:
    ask("pull hub:org/words")
    (file,) = (tmp_path / "hf").rglob("snapshots/*/words.txt")
    file.resolve().write_text("Other words.")
    assert "it was altered" in ask("load hub:org/words")["said"][0]


@pytest.mark.parametrize("given", ["hub:", "hub:name", "hub:/name", "hub:a/", "hub:a//b", "x:a/b"])
def test_what_names_no_data_set(given: str) -> None:
    with pytest.raises(InputProblems, match="names no data set"):
        DataSet.of(given)


def test_the_parts_of_a_name() -> None:
    assert DataSet.of("hub:a/b") == DataSet("a/b")
    assert DataSet.of("hub:a/b:c") == DataSet("a/b", (), "c")
    assert DataSet.of("hub:a/b/sub-1/train:c") == DataSet("a/b", ("sub-1", "train"), "c")
