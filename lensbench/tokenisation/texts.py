"""Texts to tokenise: a user's own, the shipped examples, and one text in many languages."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources

from lensbench.errors import InputProblems
from lensbench.prompts.rows import text_problems

REFERENCE = "en"  # the language that others are compared with
_DATA = resources.files("lensbench").joinpath("tokenisation", "data")


@dataclass(frozen=True)
class Text:
    """A text by its id; of a parallel text also its language, script and article."""

    id: str
    text: str
    language: str | None = None  # BCP 47
    name: str | None = None  # of the language
    script: str | None = None
    article: int | None = None


def given_texts(texts: Sequence[str]) -> list[Text]:
    """A user's own texts, t1, t2 and so on.

    Raises InputProblems with all texts that are empty, too long, or hold what is no character.
    """
    problems = [
        problem
        for number, text in enumerate(texts, start=1)
        for problem in text_problems(text, f"text {number}")
    ]
    if problems:
        raise InputProblems(problems)
    return [Text(f"t{number}", text) for number, text in enumerate(texts, start=1)]


def example_texts() -> list[Text]:
    """The shipped examples: spelling, two scripts, code, numbers, emoji, accents."""
    return [Text(row["id"], row["text"]) for row in _rows("examples.csv")]


def parallel_texts() -> list[Text]:
    """The articles of the Universal Declaration of Human Rights in 45 languages, English first.

    data/README.md says where they are from.
    """
    return [
        Text(
            f"{row['language']}-{row['article']}",
            row["text"],
            row["language"],
            row["name"],
            row["script"],
            int(row["article"]),
        )
        for row in _rows("udhr.csv")
    ]


def _rows(name: str) -> list[dict[str, str]]:
    text = _DATA.joinpath(name).read_text(encoding="utf-8")
    return list(csv.DictReader(io.StringIO(text, newline="")))
