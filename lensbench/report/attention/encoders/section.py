"""The report of an encoder's attention record: sinks, neighbours and separators, block by block."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pandas as pd

from lensbench.escape import markdown
from lensbench.records.record import Record
from lensbench.records.schema.encoders import ENCODER_READ, ENCODER_SCORES
from lensbench.records.schema.phenomena import CLAIMS, DIRECTIONS
from lensbench.report.attention.encoders.blocks import block_curves, by_block, peaks
from lensbench.report.attention.figures import MOST_TOKENS, kept_maps
from lensbench.report.attention.head_view import Kept
from lensbench.report.attention.page import heads_page
from lensbench.report.attention.phenomena import found_phenomena, phenomena_tables
from lensbench.report.attention.section import head_maps, kept_patterns, tables
from lensbench.report.kit import numbers
from lensbench.report.kit.figures import panels, to_svg
from lensbench.report.kit.table import catalogue
from lensbench.report.kit.views import Map
from lensbench.report.section import Section, written

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
    figures = _figures(record, blocks, made["heads"].frame, maps)
    best = made["best"].frame
    if (pattern := _patterns(kept, best)) is not None:
        figures["patterns"] = pattern
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
        page=partial(heads_page, name, kept, maps, {}, ENCODER_READ) if maps else None,
        cover="blocks" if "blocks" in figures else "",
    )


def _figures(
    record: Record,
    blocks: pd.DataFrame,
    heads: pd.DataFrame,
    maps: dict[tuple[str, str, str], Map],
) -> dict[str, Callable[[], bytes]]:
    found: dict[str, Callable[[], bytes]] = {}
    curves = block_curves(blocks, heads, list(ENCODER_SCORES), record.n_layers)
    if curves:
        found["blocks"] = partial(to_svg, panels, curves)
    drawn = [view for key, view in maps.items() if key[:2] == ("text", "plain")]
    if drawn:
        found["heads"] = partial(to_svg, panels, drawn)
    return found


def _patterns(kept: Kept | None, best: pd.DataFrame) -> Callable[[], bytes] | None:
    """The highest head of each score but the entropy, on the first text that was kept."""
    if kept is None or kept.first is None:
        return None
    own = best[(best["condition"] == "text") & (best["weighting"] == "plain")]
    heads = {
        str(row["score"]): (int(row["block"]), int(row["head"]))
        for row in own.to_dict("records")
        if row["score"] != "entropy_share"
    }
    return kept_maps(kept, kept.first, heads) if heads else None


def headline(highest: pd.DataFrame) -> str:
    """The blocks in which sinks and neighbours get most."""
    told = []
    for row in highest[highest["weighting"] == "plain"].to_dict("records"):
        if row["score"] in _TOLD:
            value = numbers.estimate(row["mean_share"], "share")
            told.append(f"{str(row['score']).replace('_', ' ')} in block {row['block']}: {value}")
    return markdown(f"Most attention, mean of a block's heads: {'; '.join(told)}") if told else ""
