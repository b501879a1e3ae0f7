"""What a correlation study found, in sentences that follow from its tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from lensbench.records.record import Record
from lensbench.records.schema.correlation import VARIANTS
from lensbench.report.correlation.tables import (
    MAIN,
    RANKS_BY,
    TOKENS,
    main_rows,
    n_prompts,
    ranking_measure,
)
from lensbench.report.kit.markdown import rendered_lines, rendered_paragraphs
from lensbench.report.kit.table import Table

SHOWN_LAYERS = 10
UNEQUAL = 1.1  # ratio of mean lengths above which conditions differ in length


def findings(record: Record, made: Mapping[str, Table]) -> list[str]:
    """What survives, one Markdown sentence for each span and condition."""
    return rendered_paragraphs(
        "correlation/findings.md.j2",
        every=[
            _finding(made, span, condition)
            for span in compared_spans(made)
            for condition in dict.fromkeys(made["ranking"].frame["condition"])
        ],
        unpaired=record.manifest["settings"].get("unpaired"),
        ranks_by=RANKS_BY,
        variants=VARIANTS,
        main=MAIN,
    )


def _finding(made: Mapping[str, Table], span: str, condition: str) -> dict[str, Any]:
    """What the tables say of one condition: tested and chosen by the measure that ranks."""
    own = {}
    for name in ("survivors", "against", "choice"):
        frame = made[name].frame
        own[name] = frame[(frame["span"] == span) & (frame["condition"] == condition)]
    tested, choice = own["survivors"], own["choice"].dropna(subset=["first_block"])
    chosen = main_rows(choice)
    return {
        "span": span,
        "condition": condition,
        "tested": tested[tested["measure"] == ranking_measure(tested)].to_dict("records"),
        "against": main_rows(own["against"]).to_dict("records"),
        "chosen": chosen.to_dict("records") if len(made["choice"].frame) else None,
        "same": int(choice["first_block"].isin(chosen["first_block"]).sum()),
        "combinations": len(choice),
    }


def compared_spans(made: Mapping[str, Table]) -> list[str]:
    """The spans of tokens that were compared."""
    return list(dict.fromkeys(made["similarity"].frame["span"]))


def chosen(made: Mapping[str, Table]) -> pd.DataFrame:
    """The blocks of the measure and variant that choose, one row a span and condition."""
    return main_rows(made["choice"].frame).drop(columns=["measure", "variant", "n_blocks"])


def ranked_by(made: Mapping[str, Table]) -> str:
    """The change by which layers are ranked, in words."""
    by_means = ranking_measure(made["ranking"].frame) == "pearson"
    return "1 - Pearson of the mean vectors" if by_means else "1 - cosine"


def top_layers(made: Mapping[str, Table]) -> pd.DataFrame:
    """The layers that changed most, by the measure and variant that choose the blocks."""
    own = main_rows(made["ranking"].frame)
    own = own[own["rank"] <= SHOWN_LAYERS].sort_values(
        ["span", "condition", "control", "rank"], kind="stable"
    )
    kept = ["span", "condition", "control", "rank", "layer", "block", "change", "p_adjusted"]
    return own[kept].fillna({"control": "none"})


def headline(record: Record, made: Mapping[str, Table]) -> str:
    """One sentence for an index: the first condition's finding."""
    found = findings(record, made)
    return found[0].rstrip(".") if found else "nothing was compared"


def limitations(record: Record, made: Mapping[str, Table]) -> list[str]:
    """What these numbers cannot show."""
    settings = record.manifest["settings"]
    return rendered_lines(
        "correlation/limitations.md.j2",
        settings=settings,
        roles={facts["role"] for facts in settings.get("inputs", {}).values()},
        n_prompts=n_prompts(record),
        unequal=_unequal(made["compared"].frame),
    )


def _unequal(frame: pd.DataFrame) -> dict[str, dict[str, float]]:
    """Spans in which conditions average over clearly more or fewer tokens: the mean lengths."""
    return {
        column.removeprefix(TOKENS): dict(zip(frame["condition"], frame[column], strict=True))
        for column in map(str, frame)
        if column.startswith(TOKENS) and frame[column].min() * UNEQUAL < frame[column].max()
    }
