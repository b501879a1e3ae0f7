"""The report of lens records: one model's, and several models' side by side."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import pandas as pd

from lensbench.errors import InputProblems
from lensbench.records.lens.record import LensRecord
from lensbench.records.record import Record
from lensbench.records.validation.tables import Written, broken
from lensbench.report import manifest
from lensbench.report.kit import numbers
from lensbench.report.kit.figures import panels, to_svg, token_map
from lensbench.report.kit.markdown import rendered
from lensbench.report.kit.table import Table
from lensbench.report.kit.views import Dots, Lines, Tokens, nothing_measured
from lensbench.report.lens import anomalies, caveats, views
from lensbench.report.lens.comparison import labels, largest
from lensbench.report.lens.headlines import without_trivial
from lensbench.report.lens.lenses import verdicts
from lensbench.report.lens.page import records_page
from lensbench.report.lens.shown import SHOWN, cells_of
from lensbench.report.lens.tables import comparison_tables, model_tables
from lensbench.report.section import Reported, Section, written

SHOWN_ANOMALIES = 20
MOST_HEAT_MAPS = 4


def lens(record: Record, name: str) -> Section:
    """One model's report; its page is that of all models together.

    Raises InputProblems for a record with rows missing, twice, or of nothing that there is.
    """
    assert isinstance(record, LensRecord)
    record.require_tables()
    if problems := broken(Written.by(record)):
        raise InputProblems(problems)
    tables = model_tables(record)
    drawn = heat_map_prompts(record)
    main = tables["milestones"].frame
    main = main[main["lens"] == record.main_lens].drop(columns="lens")
    milestones, trivial = without_trivial(main, "median_depth")
    figures = _figures(tables) | {
        f"heat_map_{i:02d}": partial(heat_map, record, p) for i, p in enumerate(drawn, 1)
    }
    without = tables.get("without_answer")
    text, limitations = written(
        "lens",
        name=name,
        record=record,
        tables=tables,
        model=defaultdict(lambda: None, record.manifest["model"]),  # unsaid facts are none
        settings=defaultdict(lambda: None, record.manifest["settings"]),
        gate=manifest.gate(record.manifest),
        gate_said=manifest.gate_said(record.manifest),
        figures=figures,
        without=without.frame.iloc[0].to_dict() if without else None,
        joints=list(caveats.said_of_joints(record)),
        unmeasured=caveats.columns_missing(record),
        layers_missing=caveats.layers_missing(record),
        heat_maps=[(item, record.prompts.loc[item].to_dict()) for item in drawn],
        milestones=milestones,
        trivial=trivial,
        anomalies_shown=tables["anomalies"].frame.head(SHOWN_ANOMALIES),
        anomaly_reading=anomalies.reading(tables["anomaly_share"].frame),
        lenses=verdicts.told(record, tables.get("lens_verdicts")),
    )
    return Section(
        title=f"{name}: when does it know?",
        tables=tables,
        text=text,
        headline=_headline(record, tables),
        limitations=limitations,
        figures=figures,
    )


def _headline(record: LensRecord, tables: Mapping[str, Table]) -> str:
    base = tables["coverage"].row(prompts="base")
    depth = tables["late_binding"].row(emergence="first at rank 1")["median_depth"]
    accuracy = numbers.estimate(base["top1_accuracy"], "accuracy")
    apart = base["n_prompts"] - base["n_with_answer"]
    if not base["n_with_answer"]:
        return f"{base['n_prompts']} prompts, none with an answer"
    more = f" (and {apart} without an answer)" if apart else ""
    n = base["top1_accuracy"].n or base["n_with_answer"]
    return (
        f"Top-1 accuracy {accuracy} over {n} prompts{more}; where right, the answer is "
        f"first at rank 1 at a median depth of {numbers.estimate(depth, 'depth')}"
        f"{verdicts.in_headline(record, tables.get('lens_verdicts'))}"
    )


def _figures(tables: Mapping[str, Table]) -> dict[str, Callable[[], bytes]]:
    """Name -> figure, of those tables that have something to draw."""
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
        "without_answer": ("without_answer_curves", views.depth_curves),
    }
    if "lens_verdicts" in tables:
        makers["depth_curves"] = (
            "lens_depth_curves",
            lambda frame: views.side_by_side(frame, "lens", views.MEASURES),
        )
        makers["emergence"] = (
            "lens_emergence",
            lambda frame: views.side_by_side(frame, "lens", views.EMERGED, claim=True),
        )
    made = {
        name: make(tables[table].frame)
        for name, (table, make) in makers.items()
        if table in tables and len(tables[table].frame)
    }
    return {name: partial(to_svg, panels, drawn) for name, drawn in made.items() if shows(drawn)}


def shows(drawn: Sequence[Lines | Dots]) -> bool:
    """Whether anything in these views was measured."""
    return any(view.lines and not nothing_measured(view.lines) for view in drawn)


def heat_map_prompts(record: LensRecord, most: int = MOST_HEAT_MAPS) -> list[str]:
    """The first prompts that have more than their last position recorded."""
    filters = [("is_last", "=", False), ("lens", "=", record.main_lens)]
    rows = record.arrow("lens", ["prompt_id", "top_tokens"], filters)
    found = set(rows.filter(rows["top_tokens"].is_valid())["prompt_id"].unique().to_pylist())
    return [item for item in record.prompts.index if item in found][:most]


def heat_map(record: LensRecord, item: str) -> bytes:
    """One prompt's top tokens by the main lens, as SVG."""
    filters = [("prompt_id", "=", item), ("lens", "=", record.main_lens)]
    cells = cells_of(record.table("lens", list(SHOWN), filters))
    return to_svg(token_map, Tokens(cells, views.MEASURES))


def across_models(reports: Sequence[Reported]) -> Section:
    """The page over all models and, of two or more, what differs between them."""
    every = {one.name: one.record for one in reports if isinstance(one.record, LensRecord)}
    own = {one.name: one.section.tables for one in reports}
    page = partial(records_page, every, own)
    if len(every) < 2:
        return Section("", {}, "", page=page)
    tables = comparison_tables(every, own)
    named = list(labels(every).values())
    drawn: dict[str, Sequence[Lines | Dots]] = {
        "models": [views.medians(tables["models"].frame, named, "median depth")],
        "curves": views.side_by_side(tables["curves"].frame, "model", views.COMPARED),
    }
    figures = {
        name: partial(to_svg, panels, made, 2) for name, made in drawn.items() if shows(made)
    }
    kinds: dict[str, list[str]] = {}
    templates: dict[str, list[str]] = {}
    for name, record in every.items():
        kinds.setdefault(record.lens_kind().words, []).append(name)
        template = str(record.settings.get("template") or "not said")
        templates.setdefault(template, []).append(name)
    return Section(
        title="Across models: when do they know?",
        tables=tables,
        text=rendered(
            "lens/across_models.md.j2",
            tables=tables,
            figures=figures,
            kinds=kinds,
            templates=templates,
            pairs=largest(tables["pairs"].frame),
            notes=[f"{view.title}: {view.note}" for view in drawn["curves"] if view.note],
        ),
        figures=figures,
        page=page,
    )
