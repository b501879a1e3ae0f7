"""The report of a run of prompts: how the responses ended, how long and how sure they are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from lensbench.records.record import Record
from lensbench.report.kit import numbers
from lensbench.report.kit.figures import panels, to_svg
from lensbench.report.kit.markdown import rendered, rendered_lines
from lensbench.report.kit.page import Chart, Page, Picker, chart, items
from lensbench.report.kit.table import Table, catalogue
from lensbench.report.kit.views import Axis, Line, Lines, Nothing, Texts, View, of_values
from lensbench.report.section import Section
from lensbench.stats.estimates import clustered_estimate

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
# column of the table "positions" -> its title, and its column in the record
_ALONG = {
    "entropy_bits": ("entropy (bits)", "entropy_bits"),
    "logprob_bits": ("log2 probability of the token (bits)", "token_logprob_bits"),
}
_GENERATED = Axis("generated token")


def inference(record: Record, name: str) -> Section:
    """One run's report."""
    made = tables(record)
    return Section(
        title=f"{name}: responses",
        tables=made,
        text=text_of("inference/report.md.j2", record, made),
        headline=headline(made),
        limitations=rendered_lines(
            "inference/limitations.md.j2",
            tables=made,
            sampled=record.table("responses")["seed"].notna().sum(),
        ),
        figures=figures(made),
        page=partial(responses_page, name, record, made),
    )


def text_of(template: str, record: Record, made: Mapping[str, Table]) -> str:
    """The text of a run of prompts; a traced one has more in its template."""
    return rendered(template, tables=made, model=record.manifest["model"])


def tables(record: Record) -> dict[str, Table]:
    """The tables of one run of prompts, by name, in the order of the report."""
    responses = per_response(record)
    return catalogue(
        {
            "measures": ("Measures per response", measures(responses)),
            "finish": ("How responses ended", finish(responses)),
            "positions": ("Along the response", along(record)),
            "responses": ("Responses", responses.reset_index()),
        }
    )


def per_response(record: Record) -> pd.DataFrame:
    """One row per response, by prompt_id: lengths, mean log-probability and entropy, retrieval."""
    rows = [_response(row) for row in record.table("responses").to_dict("records")]
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
                "n_prompts": len(values),
                "mean": clustered_estimate(values, nothing="no responses"),
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
        share = clustered_estimate(ended, None, "share", "no responses")
        rows.append(
            {"finish_reason": reason, "n_prompts": int(ended.sum()), "responses_share": share}
        )
    return pd.DataFrame(rows)


def along(record: Record) -> pd.DataFrame:
    """Entropy and log-probability by position in the response."""
    responses = record.table("responses")
    columns = {source: column for column, (_, source) in _ALONG.items()}
    longest = sorted(map(len, responses["entropy_bits"]), reverse=True)
    n_positions = min(longest[1], SHOWN_POSITIONS) if len(longest) > 1 else 0
    rows = []
    for position in range(n_positions):
        row: dict[str, object] = {"position": position}
        for column, name in columns.items():
            values = [v[position] for v in responses[column] if len(v) > position]
            row["n_prompts"] = len(values)
            row[name] = clustered_estimate(values)
        rows.append(row)
    return pd.DataFrame(rows, columns=["position", "n_prompts", *columns.values()])


def figures(made: Mapping[str, Table]) -> dict[str, Callable[[], bytes]]:
    """The course of the responses, where there are any to draw."""
    frame = made["positions"].frame
    views = [*(_along(frame, column) for column in _ALONG), _still_there(frame)]
    return {"along": partial(to_svg, panels, views)} if len(frame) else {}


def _places(frame: pd.DataFrame) -> dict[float, str]:
    return {int(k): f"token {k}" for k in frame["position"]}


def _along(frame: pd.DataFrame, column: str) -> Lines:
    """A mean by position in the response."""
    title, _ = _ALONG[column]
    return Lines(_GENERATED, Axis(title), _places(frame), [Line("", list(frame[column]))], title)


def _still_there(frame: pd.DataFrame) -> Lines:
    """How many responses go on that far."""
    title = "responses that go on that far"
    return Lines(
        _GENERATED, Axis(title), _places(frame), [Line("", of_values(frame["n_prompts"]))], title
    )


def responses_page(name: str, record: Record, made: Mapping[str, Table]) -> Page:
    """Every response with its course, over the means."""
    rows = record.table("responses")
    prompt = prompt_picker(rows)
    charts = [_answers(rows, prompt), *(_course(rows, made, prompt, c) for c in _ALONG)]
    sentence = "Entropy and probability of each generated token, at temperature 1."
    return Page(f"{name}: responses", sentence, (prompt,), charts)


def prompt_picker(rows: pd.DataFrame) -> Picker:
    """The mean, then every prompt; by how its response ended."""
    options = dict(zip(rows["prompt_id"], rows["prompt"], strict=True))
    ended = dict(zip(rows["prompt_id"], rows["finish_reason"], strict=True))
    return items("Prompt", options, {"ended by": ended}, f"mean over {len(rows)} responses")


def _answers(rows: pd.DataFrame, prompt: Picker) -> Chart:
    by_id = rows.drop_duplicates("prompt_id").set_index("prompt_id")

    def view(item: str) -> View:
        if not item:
            return Nothing("Pick a prompt to read its response.")
        row = by_id.loc[item]
        found = row["retrieved_ids"]
        retrieved = [] if found is None else [("retrieved", ", ".join(found) or "nothing")]
        told = [("prompt", str(row["prompt"])), *retrieved, ("response", str(row["response"]))]
        return Texts(told)

    return chart("Response", "", (prompt,), view, size="wide")


def _course(rows: pd.DataFrame, made: Mapping[str, Table], prompt: Picker, column: str) -> Chart:
    frame = made["positions"].frame
    title, source = _ALONG[column]
    by_id = rows.drop_duplicates("prompt_id").set_index("prompt_id")[source]

    def view(item: str) -> View:
        if not item:
            return _along(frame, column)
        values = list(by_id.loc[item])[:SHOWN_POSITIONS]
        places = {float(k): f"token {k}" for k in range(len(values))}
        return Lines(_GENERATED, Axis(title), places, [Line("", of_values(values))])

    return chart(title, "Means have 95 % intervals over the prompts.", (prompt,), view)


def headline(made: Mapping[str, Table]) -> str:
    """One sentence for an index."""
    n = len(made["responses"].frame)
    stopped = made["finish"].row(finish_reason="stop")["responses_share"]
    return f"{n} responses, {numbers.estimate(stopped, 'share')} ended by the model"
