"""Reports as Markdown: templates filled from tables. Data is escaped, numbers have one format."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jinja2
import pandas as pd

from lensbench.escape import markdown, markdown_cell, markdown_token, printable
from lensbench.report.kit import numbers
from lensbench.report.kit.reasons import said_once
from lensbench.report.kit.table import layers_shown
from lensbench.stats.estimates import MIN_PROMPTS, TINY, Estimate

MOST_CHARACTERS = 1500  # of a text of many lines; the rest is cut, and said
# Words of a column's name -> as a reader knows them.
_WORDS = {"top1": "top-1", "top10": "top 10", "rank1": "rank 1", "kl": "KL", "prob": "probability"}


def rendered(template: str, **values: object) -> str:
    """A template of this package, named from `report/`: `lens/report.md.j2`."""
    return _environment().get_template(template).render(**values)


def rendered_lines(template: str, **values: object) -> list[str]:
    """The lines of a template that say something: a Markdown list item each."""
    return [line for line in rendered(template, **values).split("\n") if line.strip()]


def rendered_paragraphs(template: str, **values: object) -> list[str]:
    """The paragraphs of a template, each as one line: how sentences of many parts are written."""
    paragraphs = re.split(r"\n{3,}", rendered(template, **values))
    return [" ".join(filter(None, one.split("\n"))) for one in paragraphs if one.strip()]


def markdown_table(frame: pd.DataFrame) -> str:
    """A DataFrame as a Markdown table; headers are the column names of its CSV.

    A reason that several cells share is said once, under it.
    """
    if frame.empty:
        return "(no rows)"
    frame, notes = said_once(frame)
    right = [_is_numeric(frame[column]) for column in frame]
    lines = [
        f"| {' | '.join(map(header, frame))} |",
        "|" + "|".join("--:" if r else "---" for r in right) + "|",
    ]
    lines += [
        "| " + " | ".join(cell(value, str(c)) for c, value in row.items()) + " |"
        for row in frame.to_dict("records")
    ]
    return "\n".join(lines + (["", " ".join(map(markdown, notes))] if notes else []))


def header(column: object) -> str:
    """A column's name as a heading: `top1_accuracy` -> `top-1 accuracy`."""
    return " ".join(_WORDS.get(word, word) for word in str(column).split("_"))


def cell(value: object, column: str = "") -> str:
    """One value for a Markdown table, in the unit that its column's name says."""
    if isinstance(value, str):
        return markdown_token(value) if column == "token" else markdown_cell(value)
    return _number(value, numbers.unit_of(column), markdown_cell)


def inline(value: object, unit: str = "") -> str:
    """One value inside a sentence."""
    return markdown(value) if isinstance(value, str) else _number(value, unit, markdown)


def _number(value: object, unit: str, escape: Callable[[str], str]) -> str:
    if isinstance(value, Estimate):
        reason = value.reason and escape(value.reason)
        return numbers.estimate(replace(value, reason=reason), unit)
    return "–" if numbers.is_missing(value) else numbers.number(value, unit)


def line_cell(text: str) -> str:
    """A text of many lines as one Markdown table cell; long ones are cut, which is said."""
    cut = len(text) - MOST_CHARACTERS
    kept = text if cut <= 0 else text[:MOST_CHARACTERS]
    shown = "<br>".join(map(_line, kept.split("\n")))
    return shown if cut <= 0 else f"{shown}<br>({cut} more characters)"


def _line(line: str) -> str:
    """One line, its indentation kept."""
    indent = len(line) - len(line.lstrip(" "))
    return "&nbsp;" * indent + markdown_cell(line[indent:])


def _is_numeric(column: pd.Series) -> bool:
    return not any(isinstance(value, str) for value in column)


def gate_row(check: Mapping[str, Any]) -> dict[str, str]:
    """A gate result as text: errors span many orders, so they are written in 2 digits."""
    reason = check.get("reason") or ""
    passed = {True: "yes", False: "no", None: f"n/a ({reason or 'not measured'})"}
    if check.get("state") == "imported":
        passed[None] = "imported: not checked"
    unit = f" {check['unit']}" if check.get("unit") else ""
    return {
        "identity": check["identity"],
        "error": _two_digits(check.get("error"), unit),
        "bound": _two_digits(check.get("bound"), unit),
        "passed": passed[check.get("passed")],
        "reason": "" if check.get("passed") is None and "state" not in check else reason,
    }


def _two_digits(value: float | None, unit: str) -> str:
    return "–" if value is None else f"{value:.2g}{unit}"


def flat(value: object, key: str = "") -> Iterator[tuple[str, str]]:
    """Nested settings as dotted keys; the gate has a table of its own."""
    if isinstance(value, dict):
        for name in value:
            if (key, name) != ("", "gate"):
                yield from flat(value[name], f"{key}.{name}" if key else str(name))
    elif isinstance(value, list):
        yield key, ", ".join(str(item) for item in value) or "none"
    else:
        yield key, "none" if value is None else str(value)


@cache
def _environment() -> jinja2.Environment:
    """Templates of this package. Autoescape is for HTML; here every datum passes a filter."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parents[1]),
        autoescape=False,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.globals.update(MIN_PROMPTS=MIN_PROMPTS, TINY=TINY)
    environment.filters.update(
        md=lambda value: markdown(str(value)),
        text=lambda value: "n/a (none)" if numbers.is_missing(value) else inline(value),
        cell=lambda value: cell(str(value)),
        code=lambda value: f"`{printable(str(value)).replace('`', '´')}`",
        table=markdown_table,
        share=lambda value: inline(value, "share"),
        depth=lambda value: inline(value, "depth"),
        pp=lambda value: inline(value, "pp"),
        bits=lambda value: inline(value, "bits"),
        path=quote,
        lines=line_cell,
        layers_shown=layers_shown,
    )
    return environment
