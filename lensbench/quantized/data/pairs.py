"""Instruction pairs: what is asked and what should be answered, read from CSV, JSONL or JSON.

A JSON row is either {"instruction", "input"?, "response" or "output"} or {"messages": [...]}, both
with an optional "id" and "group": rows of one group are never parted between training and test.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from lensbench.errors import InputProblems, Problem
from lensbench.escape import csv_of, csv_text
from lensbench.files import sha256_of, write_text
from lensbench.prompts.rows import (
    cell_problems,
    id_problems,
    json_lines,
    json_objects,
    place,
    read_rows,
)
from lensbench.quantized.style import Style, ask, prompt_ids, response_ids

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_log = logging.getLogger(__name__)

Form = Literal["alpaca", "messages"]

# A column goes by any one of these names.
INSTRUCTION = ("instruction", "prompt", "question")
RESPONSE = ("response", "output", "answer")
_OPTIONAL = ("input", "system", "group")
_ROLES = (["user", "assistant"], ["system", "user", "assistant"])
_KINDS = {bool: "true or false", int: "a number", float: "a number", list: "a list", dict: "a dict"}


Row = tuple[int, dict[str, Any]]  # the line it starts on (of a .json array its number)


@dataclass(frozen=True)
class Pair:
    """One instruction and the response wanted. `input` is what the instruction is about."""

    id: str
    instruction: str
    response: str
    input: str = ""
    system: str = ""  # a system message; only a chat template has a place for it
    group: str | None = None
    row: int | None = None  # line of the file it came from

    @property
    def question(self) -> str:
        """Instruction and input as one text."""
        return f"{self.instruction}\n\n{self.input}" if self.input else self.instruction


@dataclass(frozen=True)
class PairSet:
    """The good rows of a file, and what is wrong with the others."""

    name: str
    sha256: str
    pairs: list[Pair]
    problems: list[Problem]


def read_pairs(path: Path) -> PairSet:
    """Read a .jsonl, a .json array (either form) or a .csv of pairs; bad rows become problems.

    A CSV's cells are read as `escape.csv_cell` writes them: a quote before = + - @ is taken off.
    Where no row has an id they are called p1, p2, ... in their order.

    Raises:
        InputProblems: not .csv, .json or .jsonl, not UTF-8, a missing column, or not one usable
            row.
        OSError: no such file.
    """
    problems: list[Problem] = []
    named = any(row.get("id") not in (None, "") for _, row in _objects(path, []))
    rows = _objects(path, problems)
    if not named:
        _log.info("no row of %s has an id: they are called p1, p2, ... in their order", path.name)
        rows = ((line, row | {"id": f"p{n}"}) for n, (line, row) in enumerate(rows, start=1))
    pairs = list(_pairs(rows, path.name, problems))
    if not pairs:
        what = "it has no usable row"
        raise InputProblems([*problems, Problem(path.name, what, "Add rows, or mend them.")])
    return PairSet(path.name, sha256_of(path), pairs, problems)


def is_json(path: Path) -> bool:
    """Whether a file of pairs holds JSON, by its name."""
    return path.suffix.lower() in (".json", ".jsonl")


def pair_tokens(
    tokenizer: PreTrainedTokenizerBase, style: Style, pair: Pair, ends: Sequence[int]
) -> tuple[list[int], list[int]]:
    """The tokens of the question as it is put, and those of the response, end token last.

    Raises ModelError for style "chat" with a tokenizer that has no chat template, InputProblems
    naming the pair that the template refuses.
    """
    from jinja2 import TemplateError

    try:
        question = ask(tokenizer, style, pair.question, system=pair.system)
        response = response_ids(tokenizer, question, pair.response, ends)
    except TemplateError as error:
        what = f"the model's chat template refuses it ({error})"
        where = f"row {pair.row}, id {pair.id}"
        raise InputProblems([Problem(where, what, "Use --style alpaca.")]) from error
    return prompt_ids(tokenizer, question), response


def style_of(path: Path) -> Style:
    """The style that a file's form asks for: chat for rows of messages, else alpaca."""
    if not is_json(path):
        return "alpaca"
    _, first = next(json_objects(json_lines(path), path.name, []), (0, {}))
    return "chat" if "messages" in first else "alpaca"


def write_jsonl(path: Path, pairs: Iterable[Pair], form: Form = "alpaca") -> None:
    """Write pairs as JSON Lines; empty optional keys are left out."""
    make = _alpaca if form == "alpaca" else _messages
    lines = (json.dumps(make(pair), ensure_ascii=False) + "\n" for pair in pairs)
    write_text(path, "".join(lines))


def write_csv(path: Path, pairs: Iterable[Pair]) -> None:
    """Write pairs as a CSV that no spreadsheet takes for formulas and `read_pairs` reads back."""
    rows = [(p.id, p.instruction, p.response, p.input, p.system, p.group or "") for p in pairs]
    write_text(path, csv_of([("id", "prompt", "response", *_OPTIONAL), *rows]))


def _alpaca(pair: Pair) -> dict[str, Any]:
    cells = {key: getattr(pair, key) for key in ("instruction", "input", "response", *_OPTIONAL)}
    return {"id": pair.id} | {key: text for key, text in cells.items() if text}


def _messages(pair: Pair) -> dict[str, Any]:
    turns = (("system", pair.system), ("user", pair.question), ("assistant", pair.response))
    messages = [{"role": role, "content": content} for role, content in turns if content]
    group = {"group": pair.group} if pair.group else {}
    return {"id": pair.id, "messages": messages, **group}


def _objects(path: Path, problems: list[Problem]) -> Iterator[Row]:
    """The rows of a file, whatever its kind."""
    if is_json(path):
        return json_objects(json_lines(path), path.name, problems)
    return _csv_objects(path, problems)


def _csv_objects(path: Path, problems: list[Problem]) -> Iterator[Row]:
    for number, (line, cells) in enumerate(read_rows(path, path.name, problems, (), ("id",))):
        if number == 0:
            _require_columns(list(cells), path.name)
        yield line, {column: csv_text(cell) for column, cell in cells.items()}


def _require_columns(header: list[str], name: str) -> None:
    wanted = {"instruction": INSTRUCTION, "response": RESPONSE}
    problems = [
        Problem(
            name,
            f"it needs one column for the {what}; it has {', '.join(header)}",
            f"Call it {' or '.join(names)}.",
        )
        for what, names in wanted.items()
        if len(set(names) & set(header)) != 1
    ]
    if problems:
        raise InputProblems(problems)


def _pairs(rows: Iterable[Row], name: str, problems: list[Problem]) -> Iterator[Pair]:
    """Rows as Pairs; rows that cannot be used become problems."""
    seen: dict[str, int] = {}
    for line, row in rows:
        item = row.get("id")
        item = str(item) if isinstance(item, str | int) else ""
        found = list(_row_problems(row, seen))
        if found:
            where = place(name, line, item)
            problems += [Problem(where, what, remedy, item or None) for what, remedy in found]
            continue
        seen[item] = line
        cells = _cells(row)
        yield Pair(
            id=item,
            instruction=cells[_key(cells, INSTRUCTION)[0]],
            response=cells[_key(cells, RESPONSE)[0]],
            input=cells.get("input") or "",
            system=cells.get("system") or "",
            group=cells.get("group") or None,
            row=line,
        )


def _key(row: dict[str, Any], names: tuple[str, ...]) -> list[str]:
    return [name for name in names if name in row]


def _row_problems(row: dict[str, Any], seen: dict[str, int]) -> Iterator[tuple[str, str]]:
    """What is wrong with one row, and what to do."""
    item = row.get("id")
    if isinstance(item, bool) or not isinstance(item, str | int | None):
        yield f"the id is {_kind(item)}", "Give a text or a whole number."
    else:
        yield from id_problems("" if item is None else str(item), seen)
    wrong = list(_message_problems(row)) if "messages" in row else []
    yield from wrong
    if wrong:
        return
    cells = _cells(row)
    for what, names in (("instruction", INSTRUCTION), ("response", RESPONSE)):
        yield from _text_problems(cells, what, names)
    for key in _OPTIONAL:
        if not isinstance(cells.get(key), str | None):
            yield f"'{key}' is {_kind(cells[key])}, not text", "Put it in quotes."
    yield from cell_problems({key: cell for key, cell in cells.items() if isinstance(cell, str)})


def _text_problems(
    row: dict[str, Any], what: str, names: tuple[str, ...]
) -> Iterator[tuple[str, str]]:
    """A text that every row needs exactly once, under one of its names."""
    keys = _key(row, names)
    if len(keys) != 1:
        has = " and ".join(map(repr, keys)) if keys else "none"
        yield f"it needs one {what}, and has {has}", f"Use one of {', '.join(names)}."
        return
    text = row[keys[0]]
    if isinstance(text, str | None):
        if not (text or "").strip():
            yield f"the {keys[0]} is empty", "Write one or delete the row."
    else:
        yield f"the {keys[0]} is {_kind(text)}, not text", "Put it in quotes."


def _message_problems(row: dict[str, Any]) -> Iterator[tuple[str, str]]:
    messages = row["messages"]
    both = [key for key in (*INSTRUCTION, *RESPONSE, "input", "system") if key in row]
    if both:
        yield f"it has 'messages' and also {', '.join(map(repr, both))}", "Keep one of the two."
    remedy = 'Write [{"role": "user", "content": ...}, {"role": "assistant", "content": ...}].'
    if not isinstance(messages, list):
        yield f"'messages' is {_kind(messages)}, not a list", remedy
        return
    for number, message in enumerate(messages, start=1):
        content = message.get("content") if isinstance(message, dict) else None
        if not isinstance(content, str):
            yield f"message {number} has no text under 'content'", remedy
    roles = [message.get("role") for message in messages if isinstance(message, dict)]
    if roles not in _ROLES:
        yield (
            f"the roles are {', '.join(map(str, roles)) or 'none'}",
            "One user and one assistant message are taken, with a system message before or not.",
        )


def _cells(row: dict[str, Any]) -> dict[str, Any]:
    """The row, its checked messages under the names that the other form has."""
    names = {"system": "system", "user": "instruction", "assistant": "response"}
    return row | {names[turn["role"]]: turn["content"] for turn in row.get("messages", [])}


def _kind(value: object) -> str:
    return _KINDS.get(type(value), "a text" if isinstance(value, str) else "null")
