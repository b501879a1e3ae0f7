"""The report of an attention record: which heads score highest, and where they stand."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial

import numpy as np
import pandas as pd

from lensbench.escape import markdown
from lensbench.records.record import Record
from lensbench.records.schema.attention import READ, SCORES
from lensbench.records.schema.phenomena import CLAIMS, PREDICTED
from lensbench.report.attention.figures import figures as own_figures
from lensbench.report.attention.flow import MOST_TOKENS, flow_of, flow_table
from lensbench.report.attention.further import further
from lensbench.report.attention.head_view import Kept
from lensbench.report.attention.page import heads_page
from lensbench.report.attention.phenomena import found_phenomena, needed, phenomena_tables
from lensbench.report.attention.views import score_curves
from lensbench.report.kit import numbers
from lensbench.report.kit.figures import panels, to_svg
from lensbench.report.kit.table import Table, catalogue
from lensbench.report.kit.views import Axis, Map
from lensbench.report.section import Section, written
from lensbench.stats.estimates import clustered_estimate, within

DRAWN = {  # scores in the report's figure, and the condition that shows each
    "current_token": "text",
    "previous_token": "text",
    "first_token": "text",
    "duplicate_token": "text",
    "induction": "repeated",
    "entropy_share": "text",
}
_KEYS = ["condition", "weighting"]
_HEAD = ["block", "head"]


def attention(record: Record, name: str) -> Section:
    """One model's heads."""
    every, prompts = record.table("heads"), record.table("prompts")
    rows = every[every["condition"].isin(READ)]
    made = tables(rows, prompts)
    more = further(record, every, prompts)
    made |= more.tables
    made |= (asked := phenomena_tables(record))
    kept = kept_patterns(record)
    if kept is not None and (item := kept.first) is not None:
        flow = flow_table(*flow_of(kept, item))
        made |= catalogue({"flow": ("What may have reached the last token", flow)})
    maps = head_maps(made["heads"].frame)
    drawn = [maps[key] for key in _drawn(maps)]
    figures: dict[str, Callable[[], bytes]] = {}
    if drawn:
        figures["heads"] = partial(to_svg, panels, drawn)
    figures |= {key: partial(to_svg, panels, [view]) for key, view in more.views.items()}
    figures |= own_figures(record, kept, _best(made["best"].frame))
    if curves := score_curves(made["heads"].frame, DRAWN, record.n_layers):
        figures["depth"] = partial(to_svg, panels, curves)
    text, limitations = written(
        "attention",
        figures=figures,
        most_tokens=MOST_TOKENS,
        tables=made,
        model=record.model,
        n_prompts=rows.loc[rows["condition"] == "text", "prompt_id"].nunique(),
        n_heads=len(rows[_HEAD].drop_duplicates()),
        **more.values,
        surely=found_phenomena(asked["phenomena"].frame) if asked else [],
        needed={one: needed(asked["without"].frame, one) for one in PREDICTED}
        if "without" in asked
        else {},
        measures=CLAIMS,
        scores=SCORES,
        predicted=PREDICTED,
    )
    return Section(
        title=f"{name}: attention heads",
        tables=made,
        text=text,
        headline=headline(made["best"].frame),
        limitations=limitations,
        figures=figures,
        page=partial(heads_page, name, kept, maps, more.views) if maps else None,
        cover="heads" if drawn else "",
    )


def kept_patterns(record: Record) -> Kept | None:
    """The patterns that were kept; None where none was to be."""
    if "patterns" not in record.tables:
        return None
    return Kept(record.table("patterns"), record.table("prompts"))


def tables(
    rows: pd.DataFrame, prompts: pd.DataFrame, scores: Iterable[str] = SCORES
) -> dict[str, Table]:
    """The best head of each score, and every head's means."""
    relation, names = prompts.set_index("prompt_id")["relation"], list(scores)
    return catalogue(
        {
            "best": ("The head that is highest in each score", best_heads(rows, relation, names)),
            "heads": ("Every head's scores", means(rows, names)),
        }
    )


def means(rows: pd.DataFrame, scores: list[str]) -> pd.DataFrame:
    """One row per condition x weighting x block x head: means over prompts."""
    keys = [*_KEYS, *_HEAD]
    return rows.groupby(keys, sort=False)[scores].mean().reset_index()


def best_heads(rows: pd.DataFrame, relation: pd.Series, scores: list[str]) -> pd.DataFrame:
    """One row per condition x weighting x score: the head whose mean is highest."""
    found = []
    for (condition, weighting), own in _parts(rows):
        every = own.groupby(_HEAD, sort=False)[scores].mean()
        for score in scores:
            if every[score].notna().any():
                block, head = every.index[int(every[score].argmax())]
                values = own[(own["block"] == block) & (own["head"] == head)]
                clusters = None if condition == "repeated" else values["prompt_id"].map(relation)
                mean = within(clustered_estimate(values[score], clusters))
                place = {"condition": condition, "weighting": weighting, "score": score}
                found.append(place | {"block": block, "head": head, "mean_share": mean})
    return pd.DataFrame(found, columns=[*_KEYS, "score", *_HEAD, "mean_share"])


def _parts(rows: pd.DataFrame) -> Iterator[tuple[tuple[str, str], pd.DataFrame]]:
    """The rows of each condition and weighting."""
    for (condition, weighting), own in rows.groupby(_KEYS, sort=False):
        yield (str(condition), str(weighting)), own


def headline(best: pd.DataFrame) -> str:
    """The heads that look back by one token, and that follow a repetition."""
    told = []
    for score, condition in (("previous_token", "text"), ("induction", "repeated")):
        rows = best[(best["score"] == score) & (best["condition"] == condition)]
        for row in rows[rows["weighting"] == "plain"].to_dict("records"):
            value = numbers.estimate(row["mean_share"], "share")
            told.append(f"{score.replace('_', ' ')} {row['block']}.{row['head']} at {value}")
    return markdown(f"Highest heads: {'; '.join(told)}") if told else ""


def head_maps(
    heads: pd.DataFrame, scores: Iterable[str] = SCORES
) -> dict[tuple[str, str, str], Map]:
    """Block x head, by condition, weighting and score; scores that nothing had are left out."""
    found = {}
    names = list(scores)
    for (condition, weighting), own in _parts(heads):
        for score in names:
            grid = own.pivot(index="block", columns="head", values=score).to_numpy(float)
            if not np.isnan(grid).all():
                title = f"{score.replace('_', ' ')} ({condition})"
                found[condition, weighting, score] = Map(
                    Axis("head"), Axis("block"), grid, (0.0, 1.0), title
                )
    return found


def _best(best: pd.DataFrame) -> dict[str, tuple[int, int]]:
    """Of the scores in the figure the head that is highest, plain."""
    plain = best[best["weighting"] == "plain"].to_dict("records")
    by_score = {(row["score"], row["condition"]): (row["block"], row["head"]) for row in plain}
    return {score: by_score[own] for score in DRAWN if (own := (score, DRAWN[score])) in by_score}


def _drawn(maps: Mapping[tuple[str, str, str], Map]) -> list[tuple[str, str, str]]:
    wanted = [(condition, "plain", score) for score, condition in DRAWN.items()]
    return [key for key in wanted if key in maps]
