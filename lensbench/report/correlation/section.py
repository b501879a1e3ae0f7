"""The report of a correlation study: which layers changed, against what, and what survives."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from typing import Any

import pandas as pd

from lensbench.escape import markdown
from lensbench.records.schema.correlation import VARIANTS
from lensbench.records.schema.generation import MIXED, SPANS
from lensbench.report.correlation.figures import (
    MAIN,
    RANKS_BY,
    correlation_figures,
    main_rows,
    ranking_measure,
)
from lensbench.report.correlation.page import correlation_page
from lensbench.report.kit import numbers
from lensbench.report.kit.numbers import is_missing
from lensbench.report.kit.tables import Table
from lensbench.report.load import SecondRecord
from lensbench.stats.bootstrap import LEVEL, MIN_PROMPTS, Estimate

MAPPED = {"pearson": "without_massive", "cka": "as_is"}  # measure of the maps -> its variant
TESTED = ("pearson", "cosine")  # measures that have p-values
UNEQUAL = 1.1  # ratio of mean lengths above which conditions differ in length
SHOWN_LAYERS = 10

_TOKENS = "mean_tokens_"  # before the span, in a column's name
_ROLES = ("reference", "condition", "control")


def tables(record: SecondRecord) -> dict[str, Table]:
    """Every number of the report."""
    n = _n_prompts(record)
    compared_runs = Table(
        "compared", "Runs", compared(record), "Mean tokens: averaged over by each vector."
    )
    made = [compared_runs, *_ranking_tables(record, n), *_similarity_tables(record, n)]
    return {table.name: table for table in made}


def _ranking_tables(record: SecondRecord, n: dict[str, int]) -> list[Table]:
    """Which layers changed most, against what, and the blocks chosen."""
    every = record.tables
    return [
        Table(
            "survivors",
            "What survives",
            survivors(every["layer_ranking"]),
            "Layers that changed more than under every control (or, without one, at all) with an "
            f"adjusted p below {LEVEL:g}; Westfall-Young over the layers.",
        ),
        Table(
            "against",
            "Against each control",
            against(every["layer_ranking"]),
            "Layers that changed more, and less, than under this one, with an adjusted p below "
            f"{LEVEL:g}.",
        ),
        Table(
            "ranking",
            "Ranked layers",
            estimates(every["layer_ranking"].query("measure in @TESTED"), "change", n),
            "Change: 1 - similarity (or the distance) to the reference, less that of the control. "
            "Block: counted from 0, as training counts. P-values: two-sided against a control, "
            "else one-sided; statistic: "
            "Student's t (cosine with a control), or in standard deviations of its null. Between "
            "different prompts: labels dealt out again.",
        ),
        Table(
            "choice",
            "Chosen blocks",
            every["layer_choice"],
            "The contiguous blocks whose outputs changed most on average, above the strictest "
            "control; blocks are counted from 0. Again: share of bootstrap draws that choose the "
            "same blocks. Apart: the best blocks that share none with the choice.",
        ),
        Table(
            "agreement",
            "Chosen blocks by measure and variant",
            agreement(every["layer_choice"]),
            "The blocks that each measure would choose on each variant.",
        ),
    ]


def _similarity_tables(record: SecondRecord, n: dict[str, int]) -> list[Table]:
    """What the rankings were made of."""
    every = record.tables
    return [
        Table(
            "similarity",
            "Similarity to the reference by layer",
            estimates(every["similarity"], "value", n),
            "Intervals: bootstrap over prompts for pearson (basic) and cosine (percentile); "
            "jackknife for the others, which compare pairs of prompts.",
        ),
        Table(
            "maps",
            "Layer by layer",
            maps(every["layer_map"]),
            "Similarity of two layers within one condition; each pair once.",
        ),
        Table(
            "massive",
            "Massive dimensions",
            every["massive_dimensions"],
            "Dimensions left out of every condition in the variant without massive ones: above "
            "100 times the median magnitude of their vector at some layer (a tenth of the ratio "
            "of Sun et al. 2024, for means over tokens). Layer: where it stands out most.",
        ),
    ]


def compared(record: SecondRecord) -> pd.DataFrame:
    """One row per run: its part, its model, how many prompts and tokens."""
    counted, rows = record.manifest.get("spans", {}), []
    inputs = record.manifest["settings"].get("inputs", {})
    for name, facts in sorted(inputs.items(), key=lambda item: _ROLES.index(item[1]["role"])):
        row = {"condition": name, "role": facts["role"], "model": facts["name"]}
        row |= {"weights": _weights(facts), "adapter": facts["adapter"] or "none"}
        for span in (span for span in (*SPANS, MIXED) if span in counted):
            row[f"prompts_{span}"] = counted[span]["prompts"][name]
            row[f"{_TOKENS}{span}"] = counted[span]["mean_tokens"][name]
        rows.append(row)
    return pd.DataFrame(rows)


def _weights(facts: dict[str, Any]) -> str:
    """How a run's weights were held; a name with @8 alone does not say the threshold."""
    threshold = facts.get("int8_threshold")
    outliers = "" if threshold is None else f", outlier threshold {threshold:g}"
    return "floating point" if facts["bits"] is None else f"{facts['bits']} bits{outliers}"


def estimates(frame: pd.DataFrame, column: str, n: dict[str, int]) -> pd.DataFrame:
    """The rows with `column`, its ends and its reason as one Estimate each."""

    def number(value: object) -> float | None:
        return None if is_missing(value) else float(value)  # type: ignore[arg-type]

    made = [
        Estimate(
            number(row[column]),
            number(row["low"]),
            number(row["high"]),
            n.get(row["span"], 0),
            n.get(row["span"], 0),
            None if is_missing(row["reason"]) else row["reason"],
        )
        for row in frame.to_dict("records")
    ]
    kept = frame.drop(columns=["low", "high", "reason"]).copy()
    kept[column] = pd.Series(made, index=frame.index, dtype=object)
    return kept


def maps(frame: pd.DataFrame) -> pd.DataFrame:
    """The maps that are drawn, each pair of layers once."""
    kept = [
        frame[(frame["measure"] == measure) & (frame["variant"] == variant)]
        for measure, variant in MAPPED.items()
    ]
    return pd.concat(kept, ignore_index=True).round({"value": 4})


def agreement(choice: pd.DataFrame) -> pd.DataFrame:
    """The chosen blocks of each measure, a column for each variant."""
    keys = ["span", "condition", "measure"]
    rows = []
    for labels, own in choice.groupby(keys, sort=False):
        by_variant = {row["variant"]: _span(row) for row in own.to_dict("records")}
        blocks = {variant: by_variant.get(variant, "n/a") for variant in VARIANTS}
        rows.append(dict(zip(keys, labels, strict=True)) | blocks)
    return pd.DataFrame(rows, columns=[*keys, *VARIANTS])


def _span(row: dict[Hashable, Any]) -> str:
    if is_missing(row["first_block"]):
        return f"n/a ({row['reason']})"
    first, last = int(row["first_block"]), int(row["last_block"])
    return str(first) if first == last else f"{first}-{last}"


def survivors(ranking: pd.DataFrame) -> pd.DataFrame:
    """Per span, condition, measure and variant: the layers that stand against every control."""
    tested = ranking[ranking["p_adjusted"].notna()]
    rows = []
    keys = ["span", "condition", "measure", "variant"]
    for labels, own in tested.groupby(keys, sort=False):
        by_layer = own.groupby("layer")
        firm = by_layer["p_adjusted"].max() < LEVEL
        layers = [int(layer) for layer in firm.index[firm & (by_layer["change"].min() > 0)]]
        controls = [name for name in own["control"].unique() if isinstance(name, str)]
        row = dict(zip(keys, labels, strict=True))
        row |= {"controls": ", ".join(controls) or "none", "tested_layers": len(firm)}
        rows.append(row | {"changed_layers": len(layers), "layers": ranges(layers)})
    columns = [*keys, "controls", "tested_layers", "changed_layers", "layers"]
    return pd.DataFrame(rows, columns=columns)


def against(ranking: pd.DataFrame) -> pd.DataFrame:
    """Per span, condition, measure, variant and control: where the condition changed otherwise."""
    tested = ranking[ranking["p_adjusted"].notna() & ranking["control"].notna()]
    keys = ["span", "condition", "measure", "variant", "control"]
    rows = []
    for labels, own in tested.groupby(keys, sort=False):
        firm = own[own["p_adjusted"] < LEVEL].sort_values("layer")
        row: dict[str, object] = dict(zip(keys, labels, strict=True))
        row["more_layers"] = ranges(firm.loc[firm["change"] > 0, "layer"].tolist())
        row["less_layers"] = ranges(firm.loc[firm["change"] < 0, "layer"].tolist())
        rows.append(row)
    return pd.DataFrame(rows, columns=[*keys, "more_layers", "less_layers"])


def ranges(layers: Sequence[int]) -> str:
    """`3, 15-20` for sorted whole numbers; `none` for none."""
    runs: list[list[int]] = []
    for layer in layers:
        if runs and layer == runs[-1][-1] + 1:
            runs[-1].append(layer)
        else:
            runs.append([layer])
    return ", ".join(f"{r[0]}-{r[-1]}" if len(r) > 1 else str(r[0]) for r in runs) or "none"


def findings(record: SecondRecord, made: dict[str, Table]) -> list[str]:
    """What survives, one Markdown sentence for each span and condition."""
    return [
        _finding(record, made, span, condition)
        for span in spans(made)
        for condition in _conditions(made)
    ]


def _finding(record: SecondRecord, made: dict[str, Table], span: str, condition: str) -> str:
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


def _each_control(made: dict[str, Table], span: str, condition: str) -> str:
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


def _agreed(made: dict[str, Table], span: str, condition: str) -> str:
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


def spans(made: dict[str, Table]) -> list[str]:
    """The spans that were compared."""
    return list(dict.fromkeys(made["similarity"].frame["span"]))


def _conditions(made: dict[str, Table]) -> list[str]:
    return list(dict.fromkeys(made["ranking"].frame["condition"]))


def _n_prompts(record: SecondRecord) -> dict[str, int]:
    """Prompts in each span, of the condition with the fewest: the same for all where paired."""
    counted = record.manifest.get("spans", {})
    return {span: min(own["prompts"].values()) for span, own in counted.items()}


def chosen(made: dict[str, Table]) -> pd.DataFrame:
    """The blocks of the measure and variant that choose, one row a span and condition."""
    return main_rows(made["choice"].frame).drop(columns=["measure", "variant", "n_blocks"])


def ranked_by(made: dict[str, Table]) -> str:
    """The change by which layers are ranked, in words."""
    by_means = ranking_measure(made["ranking"].frame) == "pearson"
    return "1 - Pearson of the mean vectors" if by_means else "1 - cosine"


def top_layers(made: dict[str, Table]) -> pd.DataFrame:
    """The layers that changed most, by the measure and variant that choose the blocks."""
    own = main_rows(made["ranking"].frame)
    own = own[own["rank"] <= SHOWN_LAYERS].sort_values(
        ["span", "condition", "control", "rank"], kind="stable"
    )
    kept = ["span", "condition", "control", "rank", "layer", "block", "change", "p_adjusted"]
    return own[kept].fillna({"control": "none"})


def files(record: SecondRecord, made: dict[str, Table]) -> Iterator[tuple[str, bytes]]:
    """The interactive page and the figures of each span."""
    every = estimates(record.tables["layer_ranking"], "change", _n_prompts(record))
    if len(made["similarity"].frame):
        yield "report.html", correlation_page(record.model, made, every)
    yield from correlation_figures(made)


def headline(record: SecondRecord, made: dict[str, Table]) -> str:
    """One sentence for an index: the first condition's finding."""
    found = findings(record, made)
    return found[0].rstrip(".") if found else "nothing was compared"


def limitations(record: SecondRecord, made: dict[str, Table]) -> list[str]:
    """What these numbers cannot show."""
    settings = record.manifest["settings"]
    lines = [
        "A residual stream adds up: a change at one layer is carried into all later ones, so the "
        "layers that differ need not be those that made the difference.",
        "Each vector is a mean over a prompt's tokens: what single tokens do is not seen, and "
        "the first token, which often holds massive activations, weighs less in a longer prompt.",
    ]
    roles = {facts["role"] for facts in settings.get("inputs", {}).values()}
    if settings.get("unpaired"):
        lines.append(
            "The conditions have different prompts, so only their mean vectors were compared: a "
            "layer that differs may do so by topic, wording or length."
        )
    elif "control" not in roles:
        lines.append(
            "No control was given: any added text, and any other rounding, changes a residual "
            "stream; that a layer changed does not say that the content mattered."
        )
    few = {span: n for span, n in _n_prompts(record).items() if n < MIN_PROMPTS}
    lines += [f"Only {n} prompts ({span} tokens)." for span, n in few.items()]
    if settings.get("groups_sha256") is None:
        lines.append("Each prompt counted as independent: no groups of linked prompts were given.")
    if settings.get("relative_depth"):
        lines.append(
            "Layers were compared at the same share of the depth (the nearest layer), which is a "
            "convention: blocks of different models have no correspondence."
        )
    return lines + _lengths(made["compared"].frame)


def _lengths(frame: pd.DataFrame) -> list[str]:
    """Conditions whose vectors average over clearly more or fewer tokens than the others."""
    lines = []
    for column in (name for name in map(str, frame) if name.startswith(_TOKENS)):
        if frame[column].min() * UNEQUAL >= frame[column].max():
            continue
        span = column.removeprefix(_TOKENS)
        each = ", ".join(
            f"{markdown(str(row['condition']))} {numbers.number(row[column])}"
            for row in frame.to_dict("records")
        )
        lines.append(f"Conditions differ in length ({span} tokens, mean: {each}).")
    return lines
