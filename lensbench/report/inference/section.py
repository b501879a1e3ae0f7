"""The report of a run of prompts: how the responses ended, how long and how sure they are."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from lensbench.report.kit import numbers
from lensbench.report.kit.figures import COLOURS, WIDTH, ribbon, to_svg
from lensbench.report.kit.tables import Table
from lensbench.report.load import SecondRecord
from lensbench.stats.bootstrap import Estimate, clustered_bootstrap

FEW = 30  # responses
MANY_CUT = 0.1  # share of responses that reached the token limit
SHOWN_POSITIONS = 256  # generated tokens in the figure

# column of `per_response` -> what it is
MEASURES = {
    "prompt_tokens": "prompt tokens",
    "generated_tokens": "generated tokens (the end token counts)",
    "logprob_bits": "log2 probability per generated token (bits)",
    "entropy_bits": "entropy per generated token (bits)",
    "retrieval_score": "score of the best retrieved text (cosine similarity)",
    "context_tokens_cut": "tokens cut off the retrieved context",
}


def tables(record: SecondRecord) -> dict[str, Table]:
    """The tables of one run of prompts, by name, in the order of the report."""
    responses = per_response(record)
    made = [
        Table(
            "measures",
            "Measures per response",
            measures(responses),
            "Over responses, each prompt for itself. Probabilities and entropies are the model's "
            "own, at temperature 1, averaged over a response's tokens first.",
        ),
        Table(
            "finish",
            "How responses ended",
            finish(responses),
            "stop: the model ended it; length: it was cut at the token limit.",
        ),
        Table(
            "positions",
            "Along the response",
            along(record),
            "Means over the responses that go on that far, at least two.",
        ),
        Table("responses", "Responses", responses.reset_index(), "One row per response."),
    ]
    return {table.name: table for table in made}


def per_response(record: SecondRecord) -> pd.DataFrame:
    """One row per response, by prompt_id: lengths, mean log-probability and entropy, retrieval."""
    rows = [_response(row) for row in record.tables["responses"].to_dict("records")]
    columns = ["prompt_id", "finish_reason", *MEASURES, "retrieved"]
    return pd.DataFrame(rows, columns=columns).set_index("prompt_id")


def _response(row: dict[Any, Any]) -> dict[str, object]:
    found = row["retrieved_ids"]
    scores = row["retrieved_scores"]
    return {
        "prompt_id": row["prompt_id"],
        "finish_reason": row["finish_reason"],
        "prompt_tokens": row["n_prompt_tokens"],
        "generated_tokens": row["n_generated_tokens"],
        "logprob_bits": _mean(row["token_logprob_bits"]),
        "entropy_bits": _mean(row["entropy_bits"]),
        "retrieval_score": float(scores[0]) if scores is not None and len(scores) else np.nan,
        "context_tokens_cut": np.nan if found is None else row["context_tokens_cut"],
        "retrieved": None if found is None else ", ".join(found),
    }


def _mean(values: Any) -> float:
    """The mean over a response's tokens; NaN where it has none."""
    return float(np.mean(values)) if values is not None and len(values) else np.nan


def measures(responses: pd.DataFrame) -> pd.DataFrame:
    """Every measure over all responses: its mean with an interval, and its spread."""
    rows = []
    for column, name in MEASURES.items():
        values = responses[column].astype(float).dropna()
        if values.empty and column in ("retrieval_score", "context_tokens_cut"):
            continue  # nothing was retrieved
        rows.append(
            {
                "measure": name,
                "count": len(values),
                "mean": clustered_bootstrap(values, nothing="no responses"),
                "least": values.min(),
                "median": values.median(),
                "most": values.max(),
            }
        )
    return pd.DataFrame(rows)


def finish(responses: pd.DataFrame) -> pd.DataFrame:
    """How many responses ended by themselves, and how many at the limit."""
    rows = []
    for reason in ("stop", "length"):
        ended = (responses["finish_reason"] == reason).astype(float)
        share = clustered_bootstrap(ended, nothing="no responses")
        rows.append({"finish_reason": reason, "count": int(ended.sum()), "responses_share": share})
    return pd.DataFrame(rows)


def along(record: SecondRecord) -> pd.DataFrame:
    """Entropy and log-probability by position in the response."""
    responses = record.tables["responses"]
    columns = {"entropy_bits": "entropy_bits", "token_logprob_bits": "logprob_bits"}
    longest = sorted(map(len, responses["entropy_bits"]), reverse=True)
    n_positions = min(longest[1], SHOWN_POSITIONS) if len(longest) > 1 else 0
    rows = []
    for position in range(n_positions):
        row: dict[str, object] = {"position": position}
        for column, name in columns.items():
            values = [v[position] for v in responses[column] if len(v) > position]
            row["count"] = len(values)
            row[name] = clustered_bootstrap(values)
        rows.append(row)
    return pd.DataFrame(rows, columns=["position", "count", *columns.values()])


def files(record: SecondRecord, made: dict[str, Table]) -> Iterator[tuple[str, bytes]]:
    """The figure, where there are responses to draw."""
    if len(made["positions"].frame):
        yield "figures/along.svg", to_svg(along_figure, made["positions"].frame)


def along_figure(frame: pd.DataFrame) -> Figure:
    """Entropy and log-probability by position, with ribbons; below them, how many go on."""
    figure = Figure(figsize=(WIDTH, 3.3), layout="constrained")
    panels = {
        "entropy_bits": "entropy (bits)",
        "logprob_bits": "log2 probability of the token (bits)",
    }
    *curves, last = figure.subplots(1, 3)
    for i, (axis, (column, title)) in enumerate(zip(curves, panels.items(), strict=True)):
        ribbon(axis, frame["position"], frame[column], COLOURS[i])
        axis.set_title(title)
    last.step(frame["position"], frame["count"], where="mid", color=COLOURS[2])
    last.set_ylim(bottom=0)
    last.set_title("responses that go on that far")
    for axis in (*curves, last):
        axis.set_xlabel("generated token")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.grid(True)
    return figure


def headline(record: SecondRecord, made: dict[str, Table]) -> str:
    """One sentence for an index."""
    n = len(made["responses"].frame)
    stopped = made["finish"].row(finish_reason="stop")["responses_share"]
    return f"{n} responses, {numbers.estimate(stopped, 'share')} ended by the model"


def limitations(record: SecondRecord, made: dict[str, Table]) -> list[str]:
    """What these responses cannot show, from their own numbers."""
    lines = []
    n = len(made["responses"].frame)
    if n < FEW:
        lines.append(f"Few responses: {n} (table How responses ended).")
    cut: Estimate = made["finish"].row(finish_reason="length")["responses_share"]
    if cut.value is not None and cut.value > MANY_CUT:
        lines.append(
            f"{numbers.estimate(cut, 'share')} of the responses were cut at the token limit "
            "(table How responses ended): their lengths are lower bounds."
        )
    trimmed = int((made["responses"].frame["context_tokens_cut"] > 0).sum())
    if trimmed:
        lines.append(
            f"Retrieved context was cut to fit in {trimmed} of {n} prompts (table Responses)."
        )
    sampled = record.tables["responses"]["seed"].notna().sum()
    if sampled:
        lines.append(f"Sampled, once per prompt: {sampled} responses; other seeds give others.")
    return lines
