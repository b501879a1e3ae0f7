"""`lensbench data` as a user runs it."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import pytest

from lensbench.cli.program import FOLDERS
from lensbench.files import sha256_of
from lensbench.quantized.data import stdlib
from lensbench.quantized.data.shipped import NAMES, dataset
from tests.harness.program import Program
from tests.harness.small_world import MODULES
from tests.harness.tiny import Case

VERBS = ["merge", "to-jsonl", "check", "split", "docstrings", "shipped"]


def jsonl(name: str, *rows: dict[str, object]) -> Path:
    path = Path(name)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def row(number: int, **keys: object) -> dict[str, object]:
    plain = {"instruction": f"Question {number * 7919}?", "response": f"{number * 104729}"}
    return {"id": f"r{number}", **plain, **keys}


def test_every_verb_is_tested_here() -> None:
    assert [verb.replace("_", "-") for verb in FOLDERS["data"]] == VERBS


def test_from_responses_to_splits(lensbench: Program) -> None:
    prompts = [("id", "prompt"), *((f"q{i}", f"Question {i * 7919}?") for i in range(60))]
    said = [("id", "response"), *((f"q{i}", f"'={i * 104729}") for i in range(60))]
    for name, rows in (("p.csv", prompts), ("r.csv", said)):
        with Path(name).open("w", newline="") as handle:
            csv.writer(handle).writerows(rows)
    assert lensbench("data", "merge", "p.csv", "r.csv", "-o", "m.csv").status == 0
    assert not Path("m.problems.csv").exists()
    assert lensbench("data", "to-jsonl", "m.csv", "-o", "d.jsonl").status == 0
    assert lensbench("data", "check", "d.jsonl").status == 0
    done = lensbench("data", "split", "d.jsonl", "-o", "parts", "--seed", 3)
    assert done.status == 0
    lines = [Path(f"parts/{name}.jsonl").read_text() for name in ("train", "eval", "test")]
    assert sorted("".join(lines).splitlines()) == sorted(Path("d.jsonl").read_text().splitlines())
    first = json.loads(Path("d.jsonl").read_text().splitlines()[1])
    assert first == {"id": "q1", "instruction": "Question 7919?", "response": "=104729"}
    assert len(re.findall(r"\d+ pairs \([\d.]+%\)", done.out)) == 3


def test_what_is_left_out_is_listed_in_a_file_and_forgotten_when_mended(lensbench: Program) -> None:
    Path("p.csv").write_text("id,prompt\na,x\nb,[bold]y\n\x1b[31m,z\n")
    Path("r.csv").write_text("id,response\na,x\n")
    done = lensbench("data", "merge", "p.csv", "r.csv", "-o", "m.csv")
    assert done.status == 1
    assert "skipped: p.csv, row 3, id b: no response has this id in r.csv" in done.said
    assert "\x1b[31m" not in done.said
    with Path("m.problems.csv").open(newline="") as handle:
        assert [problem["id"] for problem in csv.DictReader(handle)] == ["b", "\x1b[31m"]
    Path("p.csv").write_text("id,prompt\na,x\n")
    assert lensbench("data", "merge", "p.csv", "r.csv", "-o", "m.csv").status == 0
    assert not Path("m.problems.csv").exists()


def test_nothing_to_merge_is_refused(lensbench: Program) -> None:
    Path("p.csv").write_text("id,prompt\na,x\n")
    Path("r.csv").write_text("id,response\nb,x\n")
    done = lensbench("data", "merge", "p.csv", "r.csv", "-o", "m.csv")
    assert done.status == 2
    assert "no prompt has a response" in done.said
    assert not Path("m.csv").exists()


def test_messages_with_a_system_message(lensbench: Program) -> None:
    jsonl("d.jsonl", row(1, group="g", input="Here."))
    done = lensbench(
        "data", "to-jsonl", "d.jsonl", "-o", "c.jsonl", "--format", "messages", "--system", "S"
    )
    assert done.status == 0
    assert json.loads(Path("c.jsonl").read_text()) == {
        "id": "r1",
        "messages": [
            {"role": "system", "content": "S"},
            {"role": "user", "content": "Question 7919?\n\nHere."},
            {"role": "assistant", "content": "104729"},
        ],
        "group": "g",
    }


def test_check_finds_leaks_and_says_where(lensbench: Program) -> None:
    jsonl("train.jsonl", row(1), row(2), row(2, id="again"))
    jsonl("test.jsonl", row(1, id="t", response="Other."))
    done = lensbench("data", "check", "train.jsonl", "--against", "test.jsonl")
    assert done.status == 1
    assert "leak (1.00): train.jsonl, row 1, id r1 / test.jsonl, row 1, id t" in done.out
    assert "duplicate (1.00): train.jsonl, row 2, id r2 / train.jsonl, row 3" in done.out
    facts = json.loads(
        lensbench("data", "check", "train.jsonl", "--against", "test.jsonl", "--json").out
    )
    assert facts["counts"]["leak"] == facts["counts"]["duplicate"] == 1
    assert facts["sha256"] == sha256_of(Path("train.jsonl"))


def test_another_response_is_shown_and_is_no_fault(lensbench: Program) -> None:
    jsonl("d.jsonl", row(1), row(1, id="b", response="Something else."))
    done = lensbench("data", "check", "d.jsonl")
    assert done.status == 0
    assert "other response (1.00)" in done.out


def test_an_empty_row_is_a_fault(lensbench: Program) -> None:
    jsonl("d.jsonl", row(1), row(2, response=""))
    done = lensbench("data", "check", "d.jsonl")
    assert done.status == 1
    assert "d.jsonl, row 2, id r2: the response is empty" in done.said


def test_check_measures_in_the_tokens_of_a_model(lensbench: Program, gpt2: Case) -> None:
    jsonl("d.jsonl", row(1), row(2, response="Word " * 200))
    arguments = ("check", "d.jsonl", "--model", gpt2.folder, "--max-length", 100)
    done = lensbench("data", *arguments)
    assert done.status == 0  # long, but no fault
    assert "longer than 100 tokens: 1" in done.out
    assert "row 2, id r2: " in done.out
    lengths = json.loads(lensbench("data", *arguments, "--json").out)["lengths"]
    assert (lengths["unit"], lengths["style"]) == ("tokens", "alpaca")
    assert [pair["id"] for pair in lengths["too_long"]] == ["r2"]


REFUSED = [
    (("to-jsonl", "d.jsonl", "-o", "c.jsonl", "--system", "S"), "no effect with --format alpaca"),
    (("to-jsonl", "d.jsonl", "-o", "d.jsonl"), "is one of the inputs"),
    (("to-jsonl", "d.jsonl", "-o", "c.csv"), "must end in .jsonl"),
    (("merge", "no.csv", "no.csv", "-o", "m.csv"), "no.csv: No such file"),
    (("check", "d.jsonl", "--max-length", 5), "no effect without --model"),
    (("check", "d.jsonl", "--style", "alpaca"), "no effect without --model"),
    (("check", "no.jsonl"), "no.jsonl: No such file"),
    (("check", "d.jsonl", "--model", "nothing-of-the-kind"), "No model is called"),
    (("check", "d.jsonl", "--near", 0.1), "it is 0.1. Give at least 0.5"),
    (("split", "d.csv", "-o", "s"), "lensbench data to-jsonl d.csv -o d.jsonl"),
    (("split", "d.jsonl", "-o", "s", "--train", 0.9), "the shares sum to 1.1"),
    (("split", "d.jsonl", "-o", "s"), "none of the 1 bunches"),
    (("split", "train.jsonl", "-o", "."), "is one of the inputs"),
    (("docstrings", "-o", "p.json"), "must end in .jsonl"),
]


@pytest.mark.parametrize(("arguments", "what"), REFUSED, ids=[what for _, what in REFUSED])
def test_bad_use_is_refused_and_writes_nothing(
    lensbench: Program, arguments: tuple[object, ...], what: str
) -> None:
    jsonl("d.jsonl", row(1))
    jsonl("train.jsonl", row(1))
    before = {path: path.read_bytes() for path in Path().iterdir()}
    done = lensbench("data", *arguments)
    assert done.status == 2
    assert what in done.said
    assert {path: path.read_bytes() for path in Path().iterdir()} == before


def test_docstrings_come_with_their_provenance(
    lensbench: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stdlib, "MODULES", MODULES)
    done = lensbench("data", "docstrings", "--kind", "what", "--kind", "which", "-o", "p.jsonl")
    assert done.status == 0
    facts = json.loads(Path("p.about.json").read_text())
    assert facts["sha256"] == sha256_of(Path("p.jsonl"))
    assert facts["sha256"] in done.out
    assert set(facts["kinds"]) == {"what", "which"}
    assert facts["pairs"] == len(Path("p.jsonl").read_text().splitlines())


@pytest.mark.parametrize("name", NAMES)
def test_a_shipped_set_is_copied(lensbench: Program, name: str) -> None:
    assert lensbench("data", "shipped", name, "-o", "copy.csv").status == 0
    assert Path("copy.csv").read_bytes() == dataset(name).read_bytes()
