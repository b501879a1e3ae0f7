"""The report of an encoder's attention record: sinks, neighbours and separators, block by block."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

import pandas as pd

from lensbench.escape import markdown
from lensbench.records.record import Record
from lensbench.records.schema.encoders import ENCODER_READ, ENCODER_SCORES
from lensbench.records.schema.phenomena import CLAIMS, DIRECTIONS
from lensbench.report.attention.encoders.blocks import block_curves, by_block, peaks
from lensbench.report.attention.figures import MOST_TOKENS, kept_maps, pattern_grid
from lensbench.report.attention.head_view import Kept
from lensbench.report.attention.page import heads_page
from lensbench.report.attention.phenomena import found_phenomena, phenomena_tables
from lensbench.report.attention.section import head_maps, kept_patterns, tables
from lensbench.report.kit import numbers
from lensbench.report.kit.figures import panels, to_svg
from lensbench.report.kit.page import Page, chart
from lensbench.report.kit.table import catalogue
from lensbench.report.kit.views import Lines, Map, Nothing, View
from lensbench.report.section import Section, written

Maps = Mapping[tuple[str, str, str], Map]  # by condition, weighting and score
_TOLD = ("cls", "sep", "previous_token", "next_token")  # in the headline


def encoder_attention(record: Record, name: str) -> Section:
    """One encoder's heads."""
    rows, prompts = record.table("encoder_heads"), record.table("prompts")
    relation = prompts.set_index("prompt_id")["relation"]
    blocks, kept = by_block(rows, relation), kept_patterns(record)
    made = tables(rows, prompts, ENCODER_SCORES)
    made |= catalogue(
        {
            "peaks": ("The block that looks there most", peaks(blocks)),
            "blocks": ("Attention by block", blocks),
        }
    )
    made |= (asked := phenomena_tables(record))
    maps = head_maps(made["heads"].frame, ENCODER_SCORES)
    curves = block_curves(blocks, made["heads"].frame, record.n_layers)
    best = made["best"].frame
    figures = _figures(curves, maps) | _patterns(kept, best)
    text, limitations = written(
        "attention/encoders",
        figures=figures,
        most_tokens=MOST_TOKENS,
        tables=made,
        model=record.model,
        n_prompts=rows["prompt_id"].nunique(),
        n_heads=len(rows[["block", "head"]].drop_duplicates()),
        shown_best=best[best["condition"] == "text"].drop(columns="condition"),
        untrained="untrained" in rows["condition"].unique(),
        surely=found_phenomena(asked["phenomena"].frame) if asked else [],
        measures=CLAIMS,
        directions=DIRECTIONS,
    )
    return Section(
        title=f"{name}: attention heads of a text encoder",
        tables=made,
        text=text,
        headline=headline(made["peaks"].frame),
        limitations=limitations,
        figures=figures,
        page=partial(_page, name, kept, maps, curves) if maps else None,
        cover="blocks" if "blocks" in figures else "",
    )


def _page(
    name: str, kept: Kept | None, maps: Maps, curves: Mapping[tuple[str, str], Lines]
) -> Page:
    """Maps of heads, the curves of their blocks, and kept patterns."""
    page = heads_page(name, kept, maps, {}, ENCODER_READ)
    heads, *looks = page.charts
    score, _, weighting = heads.pickers

    def view(score: str, weighting: str) -> View:
        nothing = Nothing("The run was not asked for this weighting.")
        return curves.get((weighting, score), nothing)

    sentence = "Intervals draw texts; dashed: an encoder of the same shape without training."
    own = chart("Over depth", sentence, (score, weighting), view)
    return replace(page, charts=[heads, own, *looks])


def _figures(curves: Mapping[tuple[str, str], Lines], maps: Maps) -> dict[str, Callable[[], bytes]]:
    found: dict[str, Callable[[], bytes]] = {}
    if plain := [view for (weighting, _), view in curves.items() if weighting == "plain"]:
        found["blocks"] = partial(to_svg, panels, plain)
    if drawn := [view for key, view in maps.items() if key[:2] == ("text", "plain")]:
        found["heads"] = partial(to_svg, panels, drawn)
    return found


def _patterns(kept: Kept | None, best: pd.DataFrame) -> dict[str, Callable[[], bytes]]:
    """The first text that was kept: the highest head of each score but the entropy, and all."""
    if kept is None or (item := kept.first) is None:
        return {}
    own = best[(best["condition"] == "text") & (best["weighting"] == "plain")]
    heads = {
        str(row["score"]): (int(row["block"]), int(row["head"]))
        for row in own.to_dict("records")
        if row["score"] != "entropy_share"
    }
    every = [kept.squares(item, block) for block in kept.blocks]
    found: dict[str, Callable[[], bytes]] = {"grid": partial(to_svg, pattern_grid, every, True)}
    return found | ({"patterns": kept_maps(kept, item, heads)} if heads else {})


def headline(highest: pd.DataFrame) -> str:
    """The blocks in which sinks and neighbours get most."""
    told = []
    for row in highest[highest["weighting"] == "plain"].to_dict("records"):
        if row["score"] in _TOLD:
            value = numbers.estimate(row["mean_share"], "share")
            told.append(f"{str(row['score']).replace('_', ' ')} in block {row['block']}: {value}")
    return markdown(f"Most attention, mean of a block's heads: {'; '.join(told)}") if told else ""
