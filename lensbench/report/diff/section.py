"""The report of a diff: what changed between two lens records, layer by layer, and the verdict."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from lensbench.records.open import open_record
from lensbench.records.record import Record
from lensbench.report import manifest
from lensbench.report.diff.tables import names, tables
from lensbench.report.diff.verdict import diverged, headline, n_layers, overview
from lensbench.report.diff.views import QUANTITIES, Moves, milestone_shifts, of_prompts
from lensbench.report.kit.figures import panels, to_svg
from lensbench.report.kit.numbers import is_missing
from lensbench.report.kit.page import MOST_ITEMS, Page, Picker, chart, items
from lensbench.report.kit.table import Table
from lensbench.report.lens.headlines import without_trivial
from lensbench.report.lens.page import top1_facet
from lensbench.report.section import Section, written

MOST_NUMBERS = 350_000  # of single prompts: about 2.6 MB
_NUMBERS_A_LAYER = 16  # of a prompt: four readings of either side, eight changes
_DRAWN = ("entropy", "kl", "rank", "prob", "top1", "lens_kl", "relative", "cosine")


def diff(record: Record, name: str) -> Section:
    """One diff's report."""
    made = tables(record)
    a, b = names(record)
    depths = [f"{side}_median_depth" for side in manifest.SIDES]
    milestones, trivial = without_trivial(made["milestones"].frame, *depths)
    text, limitations = written(
        "diff",
        **{key: value for key, value in record.manifest.items() if key != "gate"},
        tables=made,
        names=(a, b),
        overview=overview(record, made),
        diverged=diverged(record, made["changes"].frame),
        accuracy=made["accuracy"].frame.iloc[0],
        milestones=milestones,
        trivial=trivial,
        gate=manifest.gate(record.manifest),
    )
    return Section(
        title=f"{a} against {b}: what moved?",
        tables=made,
        text=text,
        headline=headline(made),
        limitations=limitations,
        figures=figures(record, made),
        page=partial(
            diff_page, (a, b), made, record.table("diff_cells"), record.table("diff_prompts")
        ),
    )


def figures(record: Record, made: Mapping[str, Table]) -> dict[str, Callable[[], bytes]]:
    """Changes, both sides' curves, shifts of milestones."""
    moves = Moves(names(record), made["changes"].frame, made["curves"].frame)
    both = [moves.both(name) for name, quantity in QUANTITIES.items() if quantity.curve]
    shifts = milestone_shifts(made["milestones"].frame, n_layers(record))
    return {
        "changes": partial(to_svg, panels, changes_drawn(moves)),
        "curves": partial(to_svg, panels, both, 2),
        "milestones": partial(to_svg, panels, [shifts]),
    }


def changes_drawn(moves: Moves) -> list[Any]:
    """Every change, and the norms of adapters' updates where there are any."""
    updates = moves.updates()
    return [*map(moves.change, _DRAWN), *([updates] if updates else [])]


def diff_page(
    sides: tuple[str, str], made: Mapping[str, Table], cells: pd.DataFrame, prompts: pd.DataFrame
) -> Page:
    """Both sides' curves and their change; `cells` and `prompts` are the record's own."""
    changes, curves = made["changes"].frame, made["curves"].frame
    most = min(MOST_ITEMS, MOST_NUMBERS // (_NUMBERS_A_LAYER * len(changes) or 1))
    ids = prompts["prompt_id"].head(most)
    moves = Moves(sides, changes, curves, of_prompts(cells, changes["depth"], ids))
    pickers = (
        Picker("Quantity", {name: q.title for name, q in QUANTITIES.items()}),
        _prompt_picker(prompts, most, sides),
    )
    charts = [
        chart("Both by depth", f"a is {sides[0]}, b is {sides[1]}.", pickers, moves.both),
        chart(
            "What changes",
            "b minus a, or the two against each other. Large dots: an adjusted p below 0.05.",
            pickers,
            moves.change,
        ),
    ]
    sentence = (
        "Each layer's residual at a prompt's last position, read through the model's own final "
        "norm and head; layer 0 is the embedding. Means over prompts have ribbons of 95 % "
        "intervals over relations, a single prompt has none."
    )
    return Page(f"{sides[0]} against {sides[1]}: what moved?", sentence, pickers, charts)


def _prompt_picker(prompts: pd.DataFrame, most: int, sides: tuple[str, str]) -> Picker:
    """The mean, then every prompt with its answer; by relation, and by who gets it right."""
    rows = prompts.head(most).set_index("prompt_id")
    answers = ["no answer" if is_missing(answer) else answer for answer in rows["answer"]]
    each = zip(rows.index, rows["prompt"], answers, strict=True)
    options = {str(item): f"{prompt} → {answer}" for item, prompt, answer in each}
    facets = {"relation": {str(k): str(v) for k, v in rows["relation"].items()}}
    for side, name in zip(manifest.SIDES, sides, strict=True):
        facets[f"top-1 of {name}"] = top1_facet(rows[f"top1_correct_{side}"].dropna())
    return items("Prompt", options, facets, f"mean over {len(prompts)} prompts", len(prompts))


def headline_of(folder: Path) -> str:
    """The answer of the diff in a folder as plain text, for a terminal."""
    record = open_record(folder)
    text = overview(record, tables(record)).replace("**", "")
    return re.sub(r"\\([^\w\s])", r"\1", text)
