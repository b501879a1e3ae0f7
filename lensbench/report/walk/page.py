"""The page of one text: one HTML file with every number in it, so it opens offline, years later."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from lensbench.escape import printable, visible
from lensbench.report.kit.markdown import gate_row
from lensbench.report.kit.page import beside, deflated, embedded_json, filled
from lensbench.report.walk.numbers import Rotation, Walk, Writes
from lensbench.report.walk.steps import steps

_SCRIPTS = ("sampling.js", "drawing.js", "model.js", "output.js", "page.js")
_LEVEL = 6  # of the packing: more takes long and saves little


def walk_page(walk: Walk) -> bytes:
    """The page. The same numbers give the same bytes."""
    here = Path(__file__).parent
    script = beside("inflated.js") + "".join(_text(here / name) for name in _SCRIPTS)
    return filled(
        _text(here / "page.html.j2"),
        style=Markup(_text(here / "page.css")),
        script=Markup(script),
        data=Markup(embedded_json(_data(walk))),
        model=printable(walk.model),
        text=printable(walk.text),
        tokens=[visible(token.text) for token in walk.tokens],
        n_layers=walk.architecture.n_layers,
        n_heads=walk.architecture.n_heads,
        steps=list(steps(walk)),
        facts=[(name, printable(value)) for name, value in walk.facts],
        gate=list(map(gate_row, walk.gate)),
    )


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def _data(walk: Walk) -> dict[str, Any]:
    """What the script knows: facts as they are, tables of numbers packed."""
    own = walk.architecture
    return {
        "model": printable(walk.model),
        "text": printable(walk.text),
        "tokens": [
            asdict(token) | {"text": visible(token.text), "spelled": visible(token.spelled)}
            for token in walk.tokens
        ],
        "architecture": {name: value for name, value in asdict(own).items() if name != "tokenizer"},
        "vocabulary": deflated(
            json.dumps([visible(word) for word in walk.vocabulary]).encode(), _LEVEL
        ),
        "scale": walk.embedding.scale,
        "rotations": [_rotation(one) for one in walk.positions.rotations],
        "rotation_of": list(walk.positions.of_block),
        "windows": list(walk.attention.windows),
        "mean_constant": walk.path.mean_constant,
        "tables": {name: _packed(table) for name, table in _tables(walk).items()},
    }


def _tables(walk: Walk) -> Mapping[str, np.ndarray | None]:
    embedding, lens, path = walk.embedding, walk.lens, walk.path
    return {
        "embedding": embedding.vectors,
        "row_norms": embedding.row_norms,
        "position_norms": embedding.position_norms,
        "neighbour_ids": embedding.neighbour_ids,
        "neighbour_cosines": embedding.neighbour_cosines,
        "scores": walk.attention.scores,
        "sums": walk.attention.sums,
        "query_lengths": walk.attention.query_lengths,
        "key_lengths": walk.attention.key_lengths,
        "state_norms": walk.state_norms,
        "sum_errors": walk.sum_errors,
        **_writes("attention", walk.attention_writes),
        **_writes("mlp", walk.mlp_writes),
        "lens_ids": lens.top_ids,
        "lens_probs": lens.top_probs,
        "lens_entropy": lens.entropy_bits,
        "lens_kl": lens.kl_bits,
        "logits": walk.logits,
        "path_ids": path.ids,
        "path_effects": path.effects,
        "path_constants": path.constants,
        "path_means": path.mean_effects,
    }


def _writes(name: str, writes: Writes) -> dict[str, np.ndarray]:
    return {
        f"{name}_norms": writes.norms,
        f"{name}_top_ids": writes.top_ids,
        f"{name}_top_effects": writes.top_effects,
    }


def _rotation(one: Rotation) -> dict[str, Any]:
    return {
        "angles": _packed(one.angles),
        "per_token": _packed(one.per_token),
        "adjacent": one.adjacent,
        "length": one.length,
    }


def _packed(table: np.ndarray | None) -> dict[str, Any] | None:
    """A table as the script unpacks it: float32, or int32 of ids, little-endian."""
    if table is None:
        return None
    kind = "<i4" if np.issubdtype(table.dtype, np.integer) else "<f4"
    raw = np.ascontiguousarray(table, dtype=kind).tobytes()
    return {"shape": list(table.shape), "kind": kind[1], "packed": deflated(raw, _LEVEL)}
