"""The report of a sentence encoder: its cosines, beside what was said and what people say."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pandas as pd

from lensbench.escape import markdown
from lensbench.records.record import Record
from lensbench.records.schema.text.embeddings import CORRECTIONS, NEAR
from lensbench.report.embeddings.figures import heat_map, planes
from lensbench.report.embeddings.views import cosine_map, rating_dots
from lensbench.report.kit import numbers
from lensbench.report.kit.figures import panels, to_svg
from lensbench.report.kit.page import Page, chart
from lensbench.report.kit.table import Table, catalogue
from lensbench.report.kit.views import Dots
from lensbench.report.section import Section, written
from lensbench.stats.estimates import cells_of, of_record


def embeddings(record: Record, name: str) -> Section:
    """One encoder's record."""
    made = tables(record)
    ratings = rating_dots(made["rated"].frame)
    figures = _figures(record, ratings)
    judged = made["pairs"].frame.dropna(subset=["published"])
    text, limitations = written(
        "embeddings",
        tables=made,
        figures=figures,
        model=record.model,
        settings=record.settings,
        judged=len(judged),
        holds=int((judged["verdict"] == "holds").sum()),
        shown_pairs=made["pairs"].frame.drop(columns=["pair_id", "n_tokens_a", "n_tokens_b"]),
        near=NEAR,
        umap=record.settings["umap"],
        corrections=CORRECTIONS,
    )
    return Section(
        title=f"{name}: embeddings",
        tables=made,
        text=text,
        headline=headline(made["pairs"].frame, made["rated"].frame),
        limitations=limitations,
        figures=figures,
        page=partial(page, name, record.table("embedding_grid"), ratings),
        cover="pairs",
    )


def tables(record: Record) -> dict[str, Table]:
    """Every number of the report, by name."""
    anisotropy, rated = record.table("anisotropy"), record.table("rated")
    cones = anisotropy[["texts", "correction"]].copy()
    cones["mean_cosine"] = estimates(anisotropy, "mean_cosine", "n_texts")
    cones["n_texts"] = anisotropy["n_texts"]
    ratings = rated[["rated_set", "correction"]].copy()
    for column in ("spearman", "gain"):
        ratings[column] = estimates(rated, column, "n_pairs")
    counts = ["n_pairs", "n_same", "n_repeated"]
    ratings[counts] = rated[counts]
    return catalogue(
        {
            "pairs": ("Pairs of texts", judged_pairs(record.table("embedding_pairs"))),
            "anisotropy": ("Mean cosine of two different texts", cones),
            "rated": ("Cosines beside what people said", ratings),
            "grid": ("Every text with every other", record.table("embedding_grid")),
            "map": ("Texts in the plane", record.table("embedding_map")),
        }
    )


def judged_pairs(frame: pd.DataFrame) -> pd.DataFrame:
    """The pairs, and how far what was published is from what is."""
    found = frame.drop(columns="model")
    off = found["published"] - found["cosine"]
    verdict = off.map(
        lambda one: (
            None
            if pd.isna(one)
            else "holds"
            if abs(one) <= NEAR
            else ("too high" if one > 0 else "too low")
        )
    )
    found.insert(5, "published_less_cosine", off)
    found.insert(6, "verdict", verdict.astype(object).where(verdict.notna(), "nothing published"))
    return found


def estimates(frame: pd.DataFrame, column: str, count: str) -> pd.Series:
    """A number and its two ends as one cell each."""
    cells = zip(*cells_of(frame, column), frame[count], strict=True)
    made = [
        of_record(ends, n, "all values are equal", "too few for an interval") for *ends, n in cells
    ]
    return pd.Series(made, frame.index, dtype=object)


def _figures(record: Record, ratings: Dots | None) -> dict[str, Callable[[], bytes]]:
    found: dict[str, Callable[[], bytes]] = {
        "pairs": partial(to_svg, heat_map, record.table("embedding_grid")),
        "map": partial(to_svg, planes, record.table("embedding_map"), record.settings["umap"]),
    }
    if ratings is not None:
        found["rated"] = partial(to_svg, panels, [ratings])
    return found


def page(name: str, grid: pd.DataFrame, ratings: Dots | None) -> Page:
    """Cosines of the texts as a map, and beside what people said where they were asked."""
    said = "Every text of the pairs with every other; 1: the same direction, 0: a right angle."
    charts = [chart("Cosines of the texts", said, (), lambda: cosine_map(grid))]
    if ratings is not None:
        said = "Bars: 95 % intervals over pairs."
        charts.append(chart("Cosines beside what people said", said, (), lambda: ratings))
    return Page(f"{name}: embeddings", "What a sentence encoder's cosines say.", (), charts)


def headline(pairs: pd.DataFrame, rated: pd.DataFrame) -> str:
    """How many published cosines hold, and the correlations with ratings as the vectors are."""
    said = pairs.dropna(subset=["published"])
    told = []
    if len(said):
        holds = int((said["verdict"] == "holds").sum())
        told.append(f"{holds} of {len(said)} published cosines hold within {NEAR}")
    told += [
        f"Spearman on the {row['n_pairs']} pairs of {row['rated_set']} "
        f"{numbers.estimate(row['spearman'])}"
        for row in rated[rated["correction"] == "none"].to_dict("records")
    ]
    return markdown("; ".join(told))
