"""Prompt sets: CSV or JSONL files, and those that ship with lensbench.

A bad row is reported with its file, row and remedy, and the rest goes on; a file that cannot be
read at all raises.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from importlib import resources
from pathlib import Path
from typing import Any

from lensbench.errors import InputProblems, Problem
from lensbench.files import sha256_of
from lensbench.prompts.prompt import LINKS, Prompt
from lensbench.prompts.rows import Row, place, read_rows, sound_rows

REQUIRED = ("prompt",)
OPTIONAL = ("id", "relation", "answer", "category", "subject", *LINKS)
DATA = resources.files("lensbench").joinpath("prompts", "data")


@dataclass(frozen=True)
class PromptSet:
    """The good rows of a file, and what is wrong with the others.

    `sha256` is of the file; `read` are the rows that were read of it, where it is one's.
    """

    name: str
    sha256: str
    prompts: list[Prompt]
    problems: list[Problem]
    read: tuple[Prompt, ...] = field(default=(), repr=False)

    @property
    def identity(self) -> str:
        """What tells it from others: of a file's rows the file's hash, else one of the prompts.

        A set that was made or changed in Python is no file, whatever its name and hash say.
        """
        if self.read and (*self.prompts,) == self.read:
            return self.sha256
        rows = [vars(prompt) | {"row": None} for prompt in self.prompts]
        return hashlib.sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest()

    @property
    def relations(self) -> list[str]:
        """Relations in the order of the file."""
        return list(dict.fromkeys(prompt.relation for prompt in self.prompts))

    def only(self, relations: str | Sequence[str]) -> PromptSet:
        """The rows of a relation or of some. Raises InputProblems when one does not exist."""
        relations = [relations] if isinstance(relations, str) else relations
        unknown = sorted(set(relations) - set(self.relations))
        if unknown:
            what = f"there is no relation {', '.join(map(repr, unknown))}"
            remedy = f"It has: {', '.join(self.relations)}."
            raise InputProblems([Problem(self.name, what, remedy)])
        kept = [prompt for prompt in self.prompts if prompt.relation in relations]
        return replace(self, prompts=kept)


def shipped() -> list[str]:
    """Names of the prompt sets that travel with lensbench."""
    names = [entry.name for entry in DATA.iterdir()]
    return sorted(name.removesuffix(".csv") for name in names if name.endswith(".csv"))


def load_prompts(source: str | Path | PromptSet, relations: Sequence[str] = ()) -> PromptSet:
    """Read a prompt set by shipped name or file (.csv, .jsonl); one that is read stays as it is.

    Args:
        relations: only these; all by default.

    Raises:
        InputProblems: no such file, wrong encoding, missing columns, not one usable row, or no such
            relation.
    """
    if isinstance(source, PromptSet):
        return source.only(relations) if relations else source
    path = prompt_file(source)
    whole = _read_file(path, str(source) if str(source) in shipped() else path.name)
    found = whole.only(relations) if relations else whole
    return replace(found, read=(*found.prompts,))


def prompt_file(source: str | Path) -> Path:
    """The file of a prompt set, by shipped name or path. Raises InputProblems: no such file."""
    if str(source) in shipped():
        return Path(str(DATA.joinpath(f"{source}.csv")))
    path = Path(source)
    if not path.is_file():
        what = "there is no such file, nor a shipped prompt set of that name"
        remedy = f"Shipped sets: {', '.join(shipped())}. Or give a .csv, .jsonl or .json file."
        raise InputProblems([Problem(str(source), what, remedy)])
    return path


def _read_file(path: Path, name: str) -> PromptSet:
    problems: list[Problem] = []
    rows = read_rows(path, name, problems, REQUIRED, OPTIONAL)
    prompts = list(_prompts(rows, name, problems))
    prompts = _linked(prompts, name, problems)
    if not prompts:
        problems.append(Problem(name, "it has no usable row", "Add rows, or mend those above."))
        raise InputProblems(problems)
    return PromptSet(name, sha256_of(path), prompts, problems)


def _prompts(rows: Iterator[Row], name: str, problems: list[Problem]) -> Iterator[Prompt]:
    """Rows as Prompts; rows that cannot be used become problems."""
    named = (
        (line, {"id": f"p{number}", "relation": Prompt.relation} | cells)
        for number, (line, cells) in enumerate(rows, start=1)
    )
    for line, cells in sound_rows(named, name, problems, ("prompt", "relation")):
        if damaged := [key for key in ("prompt", "answer") if "\ufffd" in cells.get(key, "")]:
            what = f"a character of the {damaged[0]} is lost (U+FFFD stands for it)"
            remedy = "Save the file as UTF-8 where it was made."
            where = place(name, line, cells["id"])
            problems.append(Problem(where, what, remedy, cells["id"]))
            continue
        known: dict[str, Any] = {key: cells[key] or None for key in OPTIONAL if key in cells}
        known |= {"id": cells["id"], "relation": cells["relation"].strip()}
        known |= {link: known[link].strip() for link in LINKS if known.get(link)}
        extra = {k: v for k, v in cells.items() if k not in (*REQUIRED, *OPTIONAL)}
        yield Prompt(prompt=cells["prompt"], row=line, extra=extra, **known)


def _linked(prompts: list[Prompt], name: str, problems: list[Problem]) -> list[Prompt]:
    """Rows whose links lead to a base row; the others become problems."""
    ids = {prompt.id for prompt in prompts if prompt.is_base}
    kept = []
    for prompt in prompts:
        links = {column: getattr(prompt, column) for column in LINKS}
        broken = [f"{column} = {to}" for column, to in links.items() if to and to not in ids]
        if not broken:
            kept.append(prompt)
            continue
        where = f"{name}, row {prompt.row}, id {prompt.id}"
        what = f"{', '.join(broken)} is not the id of a base row"
        problems.append(Problem(where, what, "Name a row that has no such link itself.", prompt.id))
    return kept
