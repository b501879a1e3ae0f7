"""Reports as Markdown: templates filled from tables. Data is escaped, numbers have one format."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import quote

import jinja2
import pandas as pd

from lensbench.escape import markdown, markdown_token, printable
from lensbench.report.kit import numbers
from lensbench.report.kit.tables import Table, layers_shown
from lensbench.report.lens import anomalies
from lensbench.report.lens.limitations import limitations
from lensbench.report.load import Record
from lensbench.stats.bootstrap import Estimate

SHOWN_ANOMALIES = 20
MOST_CHARACTERS = 1500  # of a text of many lines; the rest is cut, and said


def model_report(record: Record, tables: dict[str, Table], heat_maps: Sequence[str]) -> str:
    """`report.md` of one model; `heat_maps`: the prompt ids that have one, in figure order."""
    prompts = record.prompts.set_index("prompt_id")
    return (
        environment()
        .get_template("report.md.j2")
        .render(
            record=record,
            manifest=record.manifest,
            model=record.manifest["model"],
            settings=record.manifest["settings"],
            tables=tables,
            heat_maps=[(prompt_id, prompts.loc[prompt_id].to_dict()) for prompt_id in heat_maps],
            anomalies_shown=tables["anomalies"].frame.head(SHOWN_ANOMALIES),
            anomaly_reading=anomalies.reading(tables["anomaly_share"].frame),
            limitations=limitations(record, tables),
            gate=pd.DataFrame([gate_row(check) for check in record.manifest["gate"]]),
            provenance=pd.DataFrame(flat(record.manifest), columns=["key", "value"]),
        )
    )


def cross_model_report(
    records: Sequence[Record], tables: dict[str, Table], folders: Sequence[str]
) -> str:
    """`cross-model.md` for two models or more; `folders`: where each model's report is."""
    return (
        environment()
        .get_template("cross-model.md.j2")
        .render(reports=list(zip(records, folders, strict=True)), tables=tables)
    )


def markdown_table(frame: pd.DataFrame) -> str:
    """A DataFrame as a Markdown table; headers are the column names of its CSV."""
    if frame.empty:
        return "(no rows)"
    header = " | ".join(str(column).replace("_", " ") for column in frame)
    right = [_is_numeric(frame[column]) for column in frame]
    lines = [f"| {header} |", "|" + "|".join("--:" if r else "---" for r in right) + "|"]
    lines += [
        "| " + " | ".join(cell(value, str(c)) for c, value in row.items()) + " |"
        for row in frame.to_dict("records")
    ]
    return "\n".join(lines)


def cell(value: object, column: str = "") -> str:
    """One value as Markdown, in the unit that its column's name ends with."""
    if isinstance(value, Estimate):
        return numbers.estimate(value, numbers.unit_of(column))
    if isinstance(value, str):
        return markdown_token(value) if column == "token" else markdown(value)
    if numbers.is_missing(value):
        return "–"
    return numbers.number(value, numbers.unit_of(column))


def line_cell(text: str) -> str:
    """A text of many lines as one Markdown table cell; long ones are cut, which is said."""
    cut = len(text) - MOST_CHARACTERS
    kept = text if cut <= 0 else text[:MOST_CHARACTERS]
    shown = "<br>".join(map(_line, kept.split("\n")))
    return shown if cut <= 0 else f"{shown}<br>({cut} more characters)"


def _line(line: str) -> str:
    """One line, its indentation kept."""
    indent = len(line) - len(line.lstrip(" "))
    return "&nbsp;" * indent + markdown(line[indent:])


def _is_numeric(column: pd.Series) -> bool:
    return not any(isinstance(value, str) for value in column)


def gate_row(check: dict[str, Any]) -> dict[str, str]:
    """A gate result as text: errors span many orders, so they are written in 2 digits."""
    reason = check.get("reason") or ""
    passed = {True: "yes", False: "no", None: f"n/a ({reason or 'not measured'})"}
    unit = f" {check['unit']}" if check.get("unit") else ""
    return {
        "identity": check["identity"],
        "error": _two_digits(check.get("error"), unit),
        "bound": _two_digits(check.get("bound"), unit),
        "passed": passed[check.get("passed")],
        "reason": "" if check.get("passed") is None else reason,
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


def environment() -> jinja2.Environment:
    """Templates of this package. Autoescape is for HTML; here every datum passes a filter."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("lensbench.report"),
        autoescape=False,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(
        md=lambda value: cell(str(value)),
        text=lambda value: "n/a (none)" if numbers.is_missing(value) else cell(value),
        code=lambda value: f"`{printable(str(value)).replace('`', '´')}`",
        table=markdown_table,
        share=lambda value: cell(value, "share"),
        depth=lambda value: cell(value, "depth"),
        points=lambda value: cell(value, "points"),
        path=quote,
        lines=line_cell,
        layers_shown=layers_shown,
    )
    return environment
