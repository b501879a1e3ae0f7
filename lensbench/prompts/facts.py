"""The shipped prompt set `facts`: its CSV is built from the hand-checked pairs in `facts.toml`.

`python -m lensbench.prompts.facts` writes `facts.csv` anew; the same source gives the same bytes.
"""

from __future__ import annotations

import csv
import io
import re
import tomllib
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lensbench.files import write_text
from lensbench.prompts.prompt import LINKS
from lensbench.prompts.sets import DATA

COLUMNS = (*("id", "relation", "prompt", "answer", "category", "subject"), *LINKS, "template")

Row = dict[str, str]


@dataclass(frozen=True)
class Reverse:
    """The way back from the answer to the subject, as a relation of its own."""

    name: str
    template: str  # with `{answer}`
    category: str = ""


@dataclass(frozen=True)
class Relation:
    """One relation of `facts.toml`."""

    name: str
    templates: tuple[str, str]  # base and paraphrase, with `{subject}`
    pairs: tuple[tuple[str, str], ...]  # (subject, answer)
    category: str = ""
    reverse: Reverse | None = None


def load_relations() -> list[Relation]:
    """The relations in `facts.toml`, in the order of the file."""
    source = tomllib.loads(DATA.joinpath("facts.toml").read_text("utf-8"))
    return [
        Relation(
            name=entry["name"],
            templates=tuple(entry["templates"]),
            pairs=tuple((subject, answer) for subject, answer in entry["pairs"]),
            category=entry.get("category", ""),
            reverse=Reverse(**entry["reverse"]) if "reverse" in entry else None,
        )
        for entry in source["relation"]
    ]


def build_rows(relations: list[Relation]) -> list[Row]:
    """Every row of the prompt set: each fact's base row, followed by the rows made from it."""
    return [
        row
        for relation in relations
        for index in range(len(relation.pairs))
        for row in _fact_rows(relation, index)
    ]


def to_csv(rows: list[Row]) -> str:
    """`rows` as CSV text with a header and Unix line ends."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def slug(text: str) -> str:
    """`text` in lower-case ASCII letters, digits and hyphens, for an id."""
    ascii_text = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode("ascii")
    words = re.sub(r"[^a-z0-9]+", "-", ascii_text.lower().replace("'", ""))
    return words.strip("-")


def _fact_rows(relation: Relation, index: int) -> Iterator[Row]:
    """The base row of one fact, its paraphrase, its control and its reverse, if it has one."""
    subject, answer = relation.pairs[index]
    other = _control_subject(relation, index)
    base_template, paraphrase_template = relation.templates
    base_id = f"{slug(relation.name)}-{slug(subject)}"
    common = {"relation": relation.name, "answer": answer, "category": relation.category}
    for kind, suffix, template, who, link in (
        ("base", "", base_template, subject, {}),
        ("paraphrase", "-p2", paraphrase_template, subject, {"paraphrase_of": base_id}),
        ("control", "-c", base_template, other, {"control_of": base_id}),
    ):
        own = {"id": base_id + suffix, "prompt": template.format(subject=who), "subject": who}
        yield common | own | link | {"template": kind}
    if relation.reverse:
        yield {
            "id": f"{base_id}-r",
            "relation": relation.reverse.name,
            "prompt": relation.reverse.template.format(answer=answer),
            "answer": subject,
            "category": relation.reverse.category,
            "subject": answer,
            "reverse_of": base_id,
            "template": "reverse",
        }


def _control_subject(relation: Relation, index: int) -> str:
    """The next subject, cyclically, whose answer begins with another letter than this one's.

    An answer is scored on its first token; two answers with different initials never share it,
    whatever the tokenizer. Raises ValueError where no subject qualifies.
    """
    initial = relation.pairs[index][1][0].casefold()
    for subject, answer in relation.pairs[index + 1 :] + relation.pairs[:index]:
        if answer[0].casefold() != initial:
            return subject
    raise ValueError(f"relation {relation.name}: every answer begins with {initial!r}")


def main() -> None:
    """Write `facts.csv` next to `facts.toml`."""
    target = Path(str(DATA.joinpath("facts.csv")))
    write_text(target, to_csv(build_rows(load_relations())))


if __name__ == "__main__":
    main()
