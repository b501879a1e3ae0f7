"""The report of lens records: one model's, and several models' side by side."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import pandas as pd

from lensbench.records.lens_record import LensRecord
from lensbench.records.record import Record
from lensbench.report import manifest
from lensbench.report.kit import numbers
from lensbench.report.kit.figures import panels, to_svg, token_map
from lensbench.report.kit.markdown import rendered
from lensbench.report.kit.table import Table
from lensbench.report.kit.views import Dots, Lines, Tokens
from lensbench.report.lens import anomalies, views
from lensbench.report.lens.headlines import without_trivial
from lensbench.report.lens.page import cells_of, records_page
from lensbench.report.lens.tables import comparison_tables, model_tables
from lensbench.report.section import Reported, Section, written

SHOWN_ANOMALIES = 20
MOST_HEAT_MAPS = 4


def lens(record: Record, name: str) -> Section:
    """One model's report; its page is that of all models together."""
    assert isinstance(record, LensRecord)
    tables = model_tables(record)
    drawn = heat_map_prompts(record)
    main = tables["milestones"].frame
    main = main[main["lens"] == record.main_lens].drop(columns="lens")
    milestones, trivial = without_trivial(main, "median_depth")
    text, limitations = written(
        "lens",
        name=name,
        record=record,
        tables=tables,
        model=record.manifest["model"],
        settings=record.manifest["settings"],
        gate=manifest.gate(record.manifest),
        heat_maps=[(item, record.prompts.loc[item].to_dict()) for item in drawn],
        milestones=milestones,
        trivial=trivial,
        anomalies_shown=tables["anomalies"].frame.head(SHOWN_ANOMALIES),
        anomaly_reading=anomalies.reading(tables["anomaly_share"].frame),
    )
    return Section(
        title=f"{name}: when does it know?",
        tables=tables,
        text=text,
        headline=_headline(tables),
        limitations=limitations,
        figures=_figures(tables)
        | {f"heat_map_{i:02d}": partial(heat_map, record, p) for i, p in enumerate(drawn, 1)},
    )


def _headline(tables: Mapping[str, Table]) -> str:
    base = tables["coverage"].row(prompts="base")
    depth = tables["late_binding"].row(emergence="first at rank 1")["median_depth"]
    accuracy = numbers.estimate(base["top1_accuracy"], "accuracy")
    return (
        f"Top-1 accuracy {accuracy} over {base['n_prompts']} prompts; where right, the answer is "
        f"first at rank 1 at a median depth of {numbers.estimate(depth, 'depth')}"
    )


def _figures(tables: Mapping[str, Table]) -> dict[str, Callable[[], bytes]]:
    """Name -> figure, of those tables that have rows."""
    makers: dict[str, tuple[str, Callable[[pd.DataFrame], Sequence[Lines | Dots]]]] = {
        "depth_curves": ("depth_curves", views.depth_curves),
        "emergence": (
            "emergence",
            lambda frame: [views.shares(frame, views.EMERGED, "share of prompts", claim=True)],
        ),
        "relations": ("relations", lambda frame: [views.relation_medians(frame)]),
        "category": (
            "category_curve",
            lambda frame: [views.shares(frame, views.CATEGORY, "share of prompts, in the top 10")],
        ),
        "copying": (
            "copying",
            lambda frame: [views.shares(frame, views.COPIED, "share of prompts")],
        ),
    }
    return {
        name: partial(to_svg, panels, make(tables[table].frame))
        for name, (table, make) in makers.items()
        if len(tables[table].frame)
    }


def heat_map_prompts(record: LensRecord, most: int = MOST_HEAT_MAPS) -> list[str]:
    """The first prompts that have more than their last position recorded."""
    rows = record.table("lens")
    found = set(rows.loc[~rows["is_last"], "prompt_id"])
    return [item for item in record.prompts.index if item in found][:most]


def heat_map(record: LensRecord, item: str) -> bytes:
    """One prompt's top tokens by the main lens, as SVG."""
    rows = record.table("lens")
    cells = cells_of(rows[(rows["prompt_id"] == item) & (rows["lens"] == record.main_lens)])
    return to_svg(token_map, Tokens(cells, views.MEASURES))


def across_models(reports: Sequence[Reported]) -> Section:
    """The page over all models and, of two or more, what differs between them."""
    every = {one.name: one.record for one in reports if isinstance(one.record, LensRecord)}
    own = {one.name: one.section.tables for one in reports}
    page = partial(records_page, every, own)
    if len(every) < 2:
        return Section("", {}, "", page=page)
    tables = comparison_tables(every, own)
    medians = views.medians(tables["models"].frame, list(every), "median depth")
    return Section(
        title="Across models: when do they know?",
        tables=tables,
        text=rendered("lens/across_models.md.j2", tables=tables),
        figures={
            "models": partial(to_svg, panels, [medians]),
            "curves": partial(to_svg, panels, views.models_by_depth(tables["curves"].frame), 2),
        },
        page=page,
    )
