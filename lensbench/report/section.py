"""What a report is made of: a section says what one record, or several of a kind, have to show."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from lensbench.records.record import Record
from lensbench.report.kit.markdown import rendered, rendered_lines
from lensbench.report.kit.page import Page
from lensbench.report.kit.table import Table

MOST_ITEMS_KEPT = 1_000  # rows of a table of items that a page over several records holds


@dataclass(frozen=True)
class Section:
    """Text, tables, figures and a page; every number in the text is a cell of a table."""

    title: str
    tables: Mapping[str, Table]
    text: str  # Markdown
    headline: str = ""  # one sentence for an index, Markdown
    limitations: Sequence[str] = ()  # what the data cannot show, a Markdown line each
    figures: Mapping[str, Callable[[], bytes]] = field(default_factory=dict)  # name -> SVG
    page: Callable[[], Page] | None = None
    files: Mapping[str, str] = field(default_factory=dict)  # further texts beside the report
    digest: str = ""  # Markdown for an index, beyond the headline
    cover: str = ""  # the figure for an index

    def kept(self) -> Section:
        """What others still say of it when it is written: it held the rows of a whole record."""
        tables = {
            name: one.head(MOST_ITEMS_KEPT) if one.of_items else one
            for name, one in self.tables.items()
        }
        return replace(self, tables=tables, text="", figures={}, page=None, files={})


def written(folder: str, **values: object) -> tuple[str, list[str]]:
    """A section's text and its limitations, by the two templates of its folder."""
    limitations = rendered_lines(f"{folder}/limitations.md.j2", **values)
    return rendered(f"{folder}/report.md.j2", **values), limitations


@dataclass(frozen=True, eq=False)
class Reported:
    """A record with its section, under a name and at a place of its own in the report."""

    record: Record
    name: str  # of its model; no other record of the lens has it
    place: str  # folder beneath the report; "" is the report's own
    section: Section

    def kept(self) -> Reported:
        """The same, of which nothing is in memory that is only needed to write it."""
        return replace(self, record=self.record.anew(), section=self.section.kept())


# To report a kind of record: such a function in a folder of its own, with its template, and one
# line in `sections.py`. Over several records: a function of the second kind, and one line there.
Maker = Callable[[Record, str], Section]  # a record and the name of its model
Together = Callable[[Sequence[Reported]], Section | None]  # None: nothing to say over these
