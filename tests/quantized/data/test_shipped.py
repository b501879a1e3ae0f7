"""The data sets of lensbench's own: docstring pairs, general pairs, labelled questions."""

from __future__ import annotations

import ast
import csv
import functools
import importlib
import inspect
import json
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from lensbench.files import sha256_of
from lensbench.quantized.data.check import matches
from lensbench.quantized.data.docstrings import KINDS, describe, docstring_pairs, provenance
from lensbench.quantized.data.pairs import Pair, PairSet, read_pairs, write_jsonl
from lensbench.quantized.data.shipped import dataset, general_pairs
from lensbench.quantized.data.split import split
from lensbench.quantized.data.stdlib import prose

ROOT = Path(inspect.getfile(importlib.import_module("lensbench"))).parents[1]
LITTLE = """
    a about after all am an and are as at be been but by can could did do does doing for from get go
    had has have her his how i if in into is it its keep like make many me my no not of off on one
    or our out say should so some than that the their them then there these they thing this to up
    was we were what when where which who whose why will with would you your
"""


def labelled() -> list[dict[str, str]]:
    """Questions in a user's own words, each with the id of the pair that answers it."""
    return list(csv.DictReader(dataset("retrieval").open(encoding="utf-8")))


@functools.cache
def docstring_set() -> list[Pair]:
    return docstring_pairs()


def as_set(name: str, pairs: list[Pair]) -> PairSet:
    return PairSet(name, "", pairs, [])


def content_words(text: str) -> set[str]:
    return {word.rstrip("s") for word in re.findall("[a-z]+", text.lower())} - set(LITTLE.split())


# --- docstrings ---------------------------------------------------------------------------------


@pytest.mark.slow
def test_there_are_more_than_a_thousand_of_every_kind_and_many_wordings() -> None:
    pairs = docstring_set()
    assert len(pairs) > 2000
    assert {pair.id.split(":")[2].partition("-")[0] for pair in pairs} == set(KINDS)
    openings = Counter(" ".join(pair.instruction.split()[:3]) for pair in pairs)
    assert len(openings) >= 15
    assert max(openings.values()) < len(pairs) / 5


OTHER_PROCESS = """
import sys
from pathlib import Path
from lensbench.quantized.data.docstrings import docstring_pairs
from lensbench.quantized.data.pairs import write_jsonl
write_jsonl(Path(sys.argv[1]), docstring_pairs())
assert not {"imaplib", "wsgiref.util", "xmlrpc.server"} & set(sys.modules), "imported, not read"
"""


def test_another_process_writes_the_same_bytes_and_imports_nothing(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "here", docstring_set())
    environment = {**os.environ, "PYTHONHASHSEED": "12345"}  # sets come in another order there
    command = [sys.executable, "-c", OTHER_PROCESS, str(tmp_path / "there")]
    subprocess.run(command, env=environment, check=True)
    assert (tmp_path / "here").read_bytes() == (tmp_path / "there").read_bytes()


def test_nothing_is_there_twice_or_malformed(tmp_path: Path) -> None:
    pairs = docstring_set()
    assert matches(as_set("docstrings", pairs)) == []
    write_jsonl(tmp_path / "pairs.jsonl", pairs)
    assert read_pairs(tmp_path / "pairs.jsonl").problems == []
    assert all(" >>> " not in pair.response and "\n" not in pair.response for pair in pairs)
    assert max(len(pair.response) for pair in pairs) < 2000


def test_no_module_is_in_two_splits() -> None:
    parts = split(docstring_set(), {"train": 0.8, "eval": 0.1, "test": 0.1})
    groups = [{pair.group for pair in part} for part in parts.values()]
    assert all(groups)
    assert sum(map(len, groups)) == len(set.union(*groups))


IMPORTED = ["bisect", "glob", "textwrap", "shutil", "statistics", "fnmatch", "json", "difflib"]


@pytest.mark.parametrize("module", IMPORTED)
def test_what_is_said_is_what_python_itself_says(module: str) -> None:
    """Names, docstrings and signatures of the imported module, through `inspect`."""
    imported = importlib.import_module(module)
    pairs = {pair.id: pair for pair in docstring_set() if pair.group == module}
    whats = [item for item in pairs if item.endswith(":what") and item.count(".") == 1]
    assert whats
    for item in whats:
        name = item.split(":")[1].partition(".")[2]
        value = getattr(imported, name)
        said = re.sub(r"\W", "", pairs[item].response)
        assert re.sub(r"\W", "", inspect.getdoc(value) or "").startswith(said) or "`" in said
        arguments = pairs.get(f"py:{module}.{name}:arguments")  # none where they are nearly alike
        if inspect.isfunction(value) and arguments is not None:
            call = arguments.response.partition("`: ")[0]
            assert parameters(call) == list(inspect.signature(value).parameters)


def parameters(call: str) -> list[str]:
    """The names in "`module.function(a, *b, c=1)", in order."""
    (function,) = ast.parse(f"def f({call.partition('(')[2]}: pass").body
    assert isinstance(function, ast.FunctionDef)
    found = [node for node in ast.walk(function.args) if isinstance(node, ast.arg)]
    return [node.arg for node in sorted(found, key=lambda node: node.col_offset)]


def test_the_answer_to_which_is_not_in_the_question() -> None:
    for pair in docstring_set():
        if pair.id.endswith(":which"):
            name = pair.id.split(":")[1].rpartition(".")[2]
            description = pair.instruction.partition('"')[2]
            assert not re.search(rf"(?<![A-Za-z]){name}(?![A-Za-z])", description)


@pytest.mark.parametrize(
    ("docstring", "text"),
    [
        (None, ""),
        ("Return x.", ""),  # too short to teach anything
        ("Return the sum\n    of both values.", "Return the sum of both values."),
        ("add(a, b) -> number\n\nReturn the sum of both.", "Return the sum of both."),
        ("Return the sum of both\n\n>>> add(1, 2)\n3", "Return the sum of both."),
        ("Return the sum of both.\n\n- fast\n- exact", "Return the sum of both."),
        ("Return one of these values:\n\nx", ""),
        ("Return the :class:`~a.Sum` of ``x``.", "Return the `a.Sum` of `x`."),
        ("Return the sum of both.\n\nIt is exact.", "Return the sum of both. It is exact."),
        ("Returns the sum.\n\n" + "Long. " * 100, ""),
    ],
)
def test_only_running_text_is_taken(docstring: str | None, text: str) -> None:
    assert prose(docstring) == text


@pytest.mark.parametrize(
    ("signature", "words"),
    [
        ("", "it takes no arguments."),
        ("a", "`a` must be given."),
        ("a, b, c", "`a`, `b` and `c` must be given."),
        ("a, b=1", "`a` must be given; `b` (default `1`) may be left out."),
        ("a, /, b=1", "`a` must be given; `b` (default `1`) may be left out."),
        ("*, k", "`k` must be given; `k` can be given by name only."),
        (
            "*args, k=(1, 2), **kw",
            "`k` (default `(1, 2)`) may be left out; `k` can be given by name only; further "
            "positional arguments are taken as `*args`; further named arguments are taken as "
            "`**kw`.",
        ),
    ],
)
def test_a_signature_in_words(signature: str, words: str) -> None:
    (function,) = ast.parse(f"def f({signature}): pass").body
    assert isinstance(function, ast.FunctionDef)
    assert describe(function.args) == words


def test_provenance_names_licence_and_version() -> None:
    facts = provenance("abc", docstring_set())
    assert facts["licence"] == "PSF-2.0"
    assert facts["python_version"] == ".".join(map(str, sys.version_info[:3]))
    assert sum(facts["kinds"].values()) == facts["pairs"] == len(docstring_set())
    json.dumps(facts)


# --- general pairs and labelled questions -------------------------------------------------------


def test_the_general_pairs_are_many_and_varied() -> None:
    pairs = general_pairs()
    assert len(pairs) >= 100
    assert matches(as_set("general", pairs)) == []
    assert len({pair.response for pair in pairs}) == len(pairs)
    openings = Counter(" ".join(pair.instruction.split()[:2]) for pair in pairs)
    assert max(openings.values()) <= len(pairs) / 4
    assert all(20 <= len(pair.response) <= 400 or pair.response[-1] == "." for pair in pairs)
    sentences = [len(re.findall(r"[.!?](?=\s[A-Z]|$)", pair.response)) for pair in pairs]
    assert set(sentences) <= {1, 2, 3}


def test_a_labelled_question_asks_in_other_words() -> None:
    documents = {pair.id: pair for pair in (*general_pairs(), *docstring_set())}
    for row in labelled():
        own = documents[row["document_id"]].instruction
        if row["document_id"].startswith("general:"):
            shared = content_words(row["question"]) & content_words(own)
            assert len(shared) <= len(content_words(own)) / 3, (row["id"], shared)
        else:
            name = row["document_id"].split(":")[1]
            assert name.rpartition(".")[2].lower() not in row["question"].lower().split(), row["id"]


def test_every_general_pair_and_many_of_python_are_asked_for() -> None:
    rows = labelled()
    asked = [row["document_id"] for row in rows]
    assert len(set(asked)) == len(asked) == len({row["id"] for row in rows})
    assert {item for item in asked if item.startswith("general:")} == {
        pair.id for pair in general_pairs()
    }
    assert sum(item.startswith("py:") for item in asked) >= 60


@pytest.mark.parametrize("name", ["general", "retrieval"])
def test_the_files_are_described_with_their_licence(name: str) -> None:
    readme = dataset(name).with_name("README.md").read_text(encoding="utf-8")
    n_rows = len(general_pairs() if name == "general" else labelled())
    assert re.search(rf"`{name}.csv` \| {n_rows} .*CC0-1.0", readme)


def test_a_wheel_would_hold_the_data_sets() -> None:
    for name in ("general", "retrieval"):
        assert dataset(name).is_relative_to(ROOT / "lensbench")
        assert len(sha256_of(dataset(name))) == 64
