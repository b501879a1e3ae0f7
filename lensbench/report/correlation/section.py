"""The report of a correlation study: which layers changed, against what, and what survives."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import pandas as pd

from lensbench.records.record import Record
from lensbench.records.schema.correlation import SIMILARITY_MEASURES, VARIANTS
from lensbench.report import manifest
from lensbench.report.correlation import findings as found
from lensbench.report.correlation import views
from lensbench.report.correlation.tables import (
    MAIN,
    estimates,
    main_rows,
    n_prompts,
    ranking_measure,
    tables,
)
from lensbench.report.kit.figures import panels, to_svg
from lensbench.report.kit.markdown import rendered
from lensbench.report.kit.page import Chart, Page, Picker, chart
from lensbench.report.kit.table import Table
from lensbench.report.section import Section


def correlation(record: Record, name: str) -> Section:
    """One study's report."""
    made = tables(record)
    drawn = figures(made)
    text = rendered(
        "correlation/report.md.j2",
        tables=made,
        figures=list(drawn),
        findings=found.findings(record, made),
        spans=found.compared_spans(made),
        against=main_rows(made["against"].frame),
        ranked_by=found.ranked_by(made),
        top_layers=found.top_layers(made),
        chosen=found.chosen(made),
        gate=manifest.gate(record.manifest),
    )
    every = estimates(record.table("layer_ranking"), "change", n_prompts(record))
    compared = len(made["similarity"].frame) > 0
    return Section(
        title=f"Which layers changed: {name}",
        tables=made,
        text=text,
        headline=found.headline(record, made),
        limitations=found.limitations(record, made),
        figures=drawn,
        page=partial(correlation_page, name, made, every) if compared else None,
    )


def figures(made: Mapping[str, Table]) -> dict[str, Callable[[], bytes]]:
    """Every figure, for each span of tokens."""
    drawn: dict[str, Callable[[], bytes]] = {}
    for span in found.compared_spans(made):
        own = {
            name: table.frame[table.frame["span"] == span]
            for name, table in made.items()
            if "span" in table.frame
        }
        ranking = views.ranking_panels(own["ranking"], own["choice"])
        if ranking:
            drawn[f"ranking_{span}"] = partial(to_svg, panels, ranking, 1)
        drawn[f"measures_{span}"] = partial(to_svg, panels, views.measure_panels(own["similarity"]))
        drawn[f"variants_{span}"] = partial(
            to_svg, panels, *views.variant_panels(own["similarity"])
        )
        if len(own["maps"]):
            drawn[f"maps_{span}"] = partial(to_svg, panels, *views.map_panels(own["maps"]))
    return drawn


def correlation_page(model: str, made: Mapping[str, Table], ranking: pd.DataFrame) -> Page:
    """Every measure, variant and condition; `ranking`: the changes by every measure."""
    similarity, choice = made["similarity"].frame, made["choice"].frame
    pickers = _pickers(similarity, made["maps"].frame)
    span, measure, variant, condition, mapped = pickers
    charts = [
        chart(
            "Similarity to the reference",
            "Every condition by layer; controls are dotted; ribbons are 95 % intervals.",
            (span, measure, variant),
            lambda s, m, v: views.similarity(
                views.rows_of(similarity, span=s, measure=m, variant=v), m
            ),
        ),
        chart(
            "Change above each control",
            "1 - similarity (or the distance) to the reference, less the control's. Large dots: an "
            "adjusted p below 0.05; shaded: what the chosen blocks put out.",
            (span, measure, variant, condition),
            lambda s, m, v, c: views.change(
                views.rows_of(ranking, span=s, measure=m, variant=v, condition=c),
                views.rows_of(choice, span=s, measure=m, variant=v, condition=c),
            ),
        ),
        *_map_charts(made["maps"].frame, (span, condition, mapped)),
    ]
    sentence = (
        "Layer 0 is the embedding, layer i what leaves the i-th block. Pick what to see; click a "
        "name in a legend to hide its curve."
    )
    return Page(f"Which layers changed: {model}", sentence, pickers, charts)


def _pickers(
    similarity: pd.DataFrame, maps: pd.DataFrame
) -> tuple[Picker, Picker, Picker, Picker, Picker]:
    """Token span, measure, variant, condition, and which map."""

    def there(names: Mapping[str, str], column: str) -> dict[str, str]:
        return {k: text for k, text in names.items() if (similarity[column] == k).any()}

    spans = {name: f"{name} tokens" for name in dict.fromkeys(similarity["span"])}
    measures, variants = there(SIMILARITY_MEASURES, "measure"), there(VARIANTS, "variant")
    mapped = {
        f"{m} {v}": f"{m}, {VARIANTS[v]}"
        for m, v in dict.fromkeys(zip(maps["measure"], maps["variant"], strict=True))
    }
    return (
        Picker("Token span", spans),
        Picker("Measure", measures, ranking_measure(similarity)),
        Picker("Variant", variants, MAIN if MAIN in variants else None),
        Picker("Condition", _conditions(similarity, maps)),
        Picker("Map", mapped or {"": "none"}),
    )


def _conditions(similarity: pd.DataFrame, maps: pd.DataFrame) -> dict[str, str]:
    """Conditions first, then controls, then the reference, which has a map only."""
    roles = dict(zip(similarity["condition"], similarity["role"], strict=True))
    ordered = sorted(roles, key=lambda name: roles[name] == "control")
    rest = [name for name in dict.fromkeys(maps["condition"]) if name not in roles]
    return {name: f"{name} ({roles.get(name, 'reference')})" for name in (*ordered, *rest)}


def _map_charts(maps: pd.DataFrame, pickers: tuple[Picker, Picker, Picker]) -> list[Chart]:
    """The map of a condition, and the difference to the reference's."""
    grids = views.grids(maps)
    reference = next(iter(maps["condition"]), "")
    return [
        chart(
            "Layer by layer",
            "Similarity of two layers within the picked condition.",
            pickers,
            lambda s, c, m: views.layer_map(grids.get((s, m), {}), c),
        ),
        chart(
            "Layer by layer, less the reference",
            f"The picked condition's map minus the map of {reference}.",
            pickers,
            lambda s, c, m: views.difference(grids.get((s, m), {}), c, reference),
        ),
    ]
