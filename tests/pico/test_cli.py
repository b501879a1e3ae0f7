"""`lensbench pico` as a user calls it: it asks at a terminal, and says what to do without one."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import pytest

from lensbench.corpora.corpus import SHIPPED
from lensbench.pico.spec import PRESETS
from tests.harness.program import Program


class Typed(io.StringIO):
    """Answers that come from a terminal."""

    def isatty(self) -> bool:
        return True


def test_without_a_terminal_it_says_what_to_do(lensbench: Program) -> None:
    done = lensbench("pico")
    assert (done.status, done.out) == (2, "")
    assert "there is no terminal to ask at" in done.said
    assert "lensbench pico train -o DIR" in done.said


@pytest.mark.parametrize(
    ("arguments", "meant"),
    [(("trian",), "train"), (("analyze", "runs"), "analyse"), (("analyze", "-o", "x"), "analyse")],
)
def test_a_verb_that_is_not_there_is_named_with_the_nearest(
    lensbench: Program, arguments: tuple[str, ...], meant: str
) -> None:
    done = lensbench("pico", *arguments)
    assert (done.status, done.out) == (2, "")
    assert f"there is no verb '{arguments[0]}'. Did you mean {meant}?" in done.said


def test_an_option_of_the_verb_alone_is_no_verb(lensbench: Program) -> None:
    done = lensbench("pico", "--foo")
    assert (done.status, done.out) == (2, "")
    assert "Unknown option" in done.said
    assert "no verb" not in done.said


def test_a_folder_of_another_output_is_refused_before_the_corpus_is_read(
    lensbench: Program, tmp_path: Path
) -> None:
    heads = tmp_path / "heads"
    (heads / "tiny").mkdir(parents=True)
    (heads / "report.md").write_text("kept")
    done = lensbench("pico", "train", "--corpus", str(tmp_path / "nowhere"), "-o", str(heads))
    assert (done.status, done.out) == (2, "")
    assert "heads holds report.md, tiny and no pretraining record" in done.said
    assert sorted(path.name for path in heads.iterdir()) == ["report.md", "tiny"]


@pytest.mark.slow
def test_at_a_terminal_it_asks_and_does_both(
    lensbench: Program, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    tiny = replace(PRESETS["tiny"], steps=30, width=16, context=64, vocabulary=400)
    monkeypatch.setitem(PRESETS, "tiny", tiny)
    texts = [(f"text {n}", f"Number {n} of the list flows to the city. " * 8) for n in range(2000)]
    monkeypatch.setitem(SHIPPED, "python-docs", lambda: texts)
    monkeypatch.setattr("sys.stdin", Typed("neither\nboth\nmine\nhuge\ntiny\n2\n"))
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    done = lensbench("pico")
    assert done.status == 0, done.err
    assert (tmp_path / "mine/seed-1/step-000030/model.safetensors").exists()
    text = (tmp_path / "mine-analysis/report.md").read_text(encoding="utf-8")
    assert "models of 2 training runs" in text


@pytest.mark.parametrize(
    ("answers", "done"),
    [
        ("train\nmine\ntiny\n2\n", ["train"]),
        ("analyse\nmine\n", ["analyse"]),
        ("both\nmine\ntiny\n1\n", ["train", "analyse"]),
    ],
    ids=["train", "analyse", "both"],
)
def test_nothing_is_done_but_what_was_answered(
    answers: str, done: list[str], lensbench: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    called = []
    for name in ("train", "analyse"):
        verb = f"lensbench.cli.models.pico.{name}.{name}"
        monkeypatch.setattr(verb, lambda _, name=name: called.append(name) or 0)
    monkeypatch.setattr("sys.stdin", Typed(answers))
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    asked = lensbench("pico")
    assert (asked.status, called) == (0, done), asked.err
