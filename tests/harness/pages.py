"""Pages of records: made without the figures, which take seconds, and read as a browser would."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pandas as pd

from lensbench.compare.correlation.record import correlate
from lensbench.compare.correlation.spec import CorrelationSpec
from lensbench.files import write_bytes
from lensbench.records.record import Record
from lensbench.report.build import record_files
from lensbench.report.section import Reported
from tests.harness.reports import record_in, section_of

MARKUP = "</script><script>document.body.remove()</script><b>&amp;"


class Page(HTMLParser):
    """What a browser would make of the page: its elements, its options, its embedded data."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.texts: dict[str, list[str]] = {}
        self.feed(text)
        self.close()
        (self.embedded,) = [text for text in self.texts["script"] if text.startswith("{")]
        self.data: dict[str, Any] = json.loads(self.embedded)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.texts.setdefault(tag, []).append("")

    def handle_data(self, data: str) -> None:
        if self.tags:
            self.texts[self.tags[-1]][-1] += data

    def view(self, chart: int, *place: int) -> dict[str, Any]:
        """A chart's view with its frame."""
        view = self.data["charts"][chart]["views"][",".join(map(str, place))]
        return {**view, "frame": self.data["frames"][view["frame"]]}

    @property
    def options(self) -> list[str]:
        return [text.strip() for text in self.texts["option"]]


def page_in(folder: Path) -> Page:
    return Page((folder / "report.html").read_text(encoding="utf-8"))


def study(folder: Path, **spec: Any) -> Record:
    correlate(CorrelationSpec(out=folder / "out", resamples=200, **spec))
    return with_page(folder / "out")


def with_page(folder: Path) -> Record:
    """The record in a folder, with its report as far as the page: figures take seconds."""
    record = record_in(folder)
    for name, data in record_files(Reported(record, "m", "", section_of(record))):
        write_bytes(folder / name, data)
        if name == "report.html":
            break
    return record


def rows(record: Record, table: str, **labels: str) -> pd.DataFrame:
    frame = record.table(table)
    for column, label in labels.items():
        frame = frame[frame[column] == label]
    return frame
