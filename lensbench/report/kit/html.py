"""The interactive page: one HTML file with everything in it, so it opens offline, years later."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

import jinja2
import pandas as pd
import plotly.offline
from markupsafe import Markup

from lensbench.escape import printable, visible
from lensbench.report.kit.tables import Table
from lensbench.report.lens.groups import base_prompts
from lensbench.report.lens.heatmaps import heat_map_cells
from lensbench.report.load import Record

TOP_K = 5
MOST_PROMPTS = 300  # base prompts in the picker: about 2 KB each and model
MEASURES = {
    "entropy_bits": "entropy (bits)",
    "kl_bits": "KL(model ‖ lens) (bits)",
    "answer_prob": "probability of the answer",
}


def interactive_page(records: Sequence[Record], tables: dict[str, dict[str, Table]]) -> str:
    """`report.html`: a prompt picker, heat maps of all models side by side, and curves."""
    chosen = _picker(records)
    ids = [prompt["id"] for prompt in chosen]
    data = {
        "prompts": chosen,
        "measures": MEASURES,
        "models": [_model(record, tables[record.model], ids) for record in records],
    }
    return rendered(
        "report.html.j2",
        data,
        models=[printable(record.model) for record in records],
        n_prompts=len(ids),
        n_all=len({prompt_id for record in records for prompt_id in base_prompts(record).index}),
    )


def rendered(template: str, data: object, **values: object) -> str:
    """A page of this package's template, with plotly and `data` in it; `values` are escaped."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("lensbench.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(
        plotly=Markup(plotly.offline.get_plotlyjs()), data=Markup(embedded_json(data)), **values
    )


def embedded_json(data: object) -> str:
    """JSON that can stand inside a script element: nothing in it can close the element."""
    text = json.dumps(data, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _picker(records: Sequence[Record]) -> list[dict[str, Any]]:
    """The prompts to choose from: those recorded at all positions first, then by relation."""
    found: dict[str, dict[str, Any]] = {}
    for record in records:
        full = set(record.lens.loc[~record.lens["is_last"], "prompt_id"])
        for prompt_id, prompt in base_prompts(record).iterrows():
            answer = prompt["answer"] if isinstance(prompt["answer"], str) else "no answer"
            entry = found.setdefault(
                str(prompt_id),
                {
                    "id": prompt_id,
                    "label": f"{printable(prompt['prompt'])} → {printable(answer)}",
                    "relation": printable(prompt["relation"]),
                    "full": False,
                },
            )
            entry["full"] |= prompt_id in full
    ordered = sorted(found.values(), key=lambda p: (not p["full"], p["relation"] * (not p["full"])))
    return ordered[:MOST_PROMPTS]


def _model(record: Record, tables: dict[str, Table], ids: Sequence[str]) -> dict[str, Any]:
    """One model's part: its vocabulary of shown tokens, its prompts and its mean curves."""
    words: dict[str, int] = {}
    known = base_prompts(record).index
    by_prompt = dict(list(record.lens.groupby("prompt_id")))
    prompts = {
        prompt_id: _prompt(heat_map_cells(record, by_prompt[prompt_id]), words)
        for prompt_id in ids
        if prompt_id in known and prompt_id in by_prompt
    }
    curves = tables["depth_curves"].frame
    return {
        "name": printable(record.model),
        "n_layers": record.n_layers,
        "prompts": prompts,
        "words": list(words),
        "depth": [_short(depth) for depth in curves["depth"]],
        "curves": {
            name: [[_short(e.value), _short(e.low), _short(e.high)] for e in curves[name]]
            for name in MEASURES
        },
    }


def _prompt(cells: pd.DataFrame, words: dict[str, int]) -> dict[str, Any]:
    """One prompt's cells, layer by layer and position by position; tokens as numbers of words."""
    layers = [group for _, group in cells.groupby("layer", sort=True)]

    def number(token: str) -> int:
        return words.setdefault(visible(token), len(words))

    return {
        "positions": layers[-1]["position"].tolist(),
        "tokens": [number(token) for token in layers[-1]["token"]],
        "layers": [int(group["layer"].iloc[0]) for group in layers],
        "rank": [[_short(rank) for rank in group["answer_rank"]] for group in layers],
        **{name: [[_short(v) for v in group[name]] for group in layers] for name in MEASURES},
        "top": [[[number(t) for t in ts[:TOP_K]] for ts in g["top_tokens"]] for g in layers],
        "probs": [[[_short(p) for p in ps[:TOP_K]] for ps in g["top_probs"]] for g in layers],
    }


def _short(value: Any) -> float | int | None:
    """A number with at most 4 decimals, whole ones as int, missing ones as null."""
    if value is None or not math.isfinite(value):
        return None
    rounded = round(float(value), 4)
    return int(rounded) if rounded.is_integer() else rounded
