"""What a correlation study found, in sentences that follow from its tables."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from lensbench.escape import markdown
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
from lensbench.report.kit import numbers
from lensbench.report.kit.markdown import rendered_lines
from lensbench.report.kit.numbers import is_missing
from lensbench.report.kit.table import Table

SHOWN_LAYERS = 10
UNEQUAL = 1.1  # ratio of mean lengths above which conditions differ in length


def findings(record: Record, made: Mapping[str, Table]) -> list[str]:
    """What survives, one Markdown sentence for each span and condition."""
    return [
        _finding(record, made, span, condition)
        for span in compared_spans(made)
        for condition in _conditions(made)
    ]


def _finding(record: Record, made: Mapping[str, Table], span: str, condition: str) -> str:
    frame = made["survivors"].frame
    own = frame[(frame["span"] == span) & (frame["condition"] == condition)]
    measure = ranking_measure(own)
    start = f"**{markdown(condition)}, {span} tokens.**"
    if measure is None:
        return f"{start} No layer could be tested by {' or '.join(RANKS_BY)}."
    tested = own[own["measure"] == measure].set_index("variant")
    each = "; ".join(
        f"{VARIANTS[str(variant)]} {_layers(row['layers'])} of {row['tested_layers']}"
        for variant, row in tested.iterrows()
    )
    controls = tested["controls"].iloc[0]
    what = "Changed, with no control to compare with"
    if controls != "none":
        what = f"Changed more than under {markdown(controls)}"
    elif record.manifest["settings"].get("unpaired"):
        what = "Differs by more than the same prompts dealt out at random"
    blocks = f" {_agreed(made, span, condition)}" if len(made["choice"].frame) else ""
    return f"{start} {what}, by {measure}: {each}.{_each_control(made, span, condition)}{blocks}"


def _each_control(made: Mapping[str, Table], span: str, condition: str) -> str:
    """More and less than under each control, in the variant that ranks."""
    frame = made["against"].frame
    own = frame[(frame["span"] == span) & (frame["condition"] == condition)]
    parts = [
        f"{markdown(row['control'])}: more at {_layers(row['more_layers'])}, "
        f"less at {_layers(row['less_layers'])}"
        for row in main_rows(own).to_dict("records")
    ]
    return f" Against each ({VARIANTS[MAIN]}): {'; '.join(parts)}." if parts else ""


def _layers(text: str) -> str:
    return "no layer" if text == "none" else f"layers {text}"


def _agreed(made: Mapping[str, Table], span: str, condition: str) -> str:
    """On how many measures and variants the chosen blocks are the same."""
    frame = made["choice"].frame
    own = frame[(frame["span"] == span) & (frame["condition"] == condition)]
    own = own[own["first_block"].notna()]
    main = main_rows(own)
    if main.empty:
        return "No blocks were chosen."
    chosen = main.iloc[0]
    first, last = int(chosen["first_block"]), int(chosen["last_block"])
    same = int((own["first_block"] == first).sum())
    again = (
        ""
        if is_missing(chosen["again_share"])
        else (f", as in {numbers.number(chosen['again_share'], 'share')} of the bootstrap draws")
    )
    start = f"The blocks that changed most are {first}-{last}"
    if float(chosen["change"]) <= 0:
        start = f"No such blocks changed more than under every control; nearest are {first}-{last}"
    return f"{start}{again}; {same} of {len(own)} combinations of measure and variant choose them."


def compared_spans(made: Mapping[str, Table]) -> list[str]:
    """The spans of tokens that were compared."""
    return list(dict.fromkeys(made["similarity"].frame["span"]))


def _conditions(made: Mapping[str, Table]) -> list[str]:
    return list(dict.fromkeys(made["ranking"].frame["condition"]))


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
