"""Synthetic records for the tests of the reports, with tokens that are meant to break things."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lensbench.records.lens.kind import KL_DIRECTION, LensKind
from lensbench.records.schema import SCHEMA_VERSION, TABLES
from lensbench.records.schema.lens import MILESTONES
from tests.harness.files import write_manifest

NASTY = [
    "|",
    "<script>alert(1)</script>",
    "$x$",
    "\n\n# no heading",
    "\u202etxt",
    "=1+1",
    "</script><b>",
    "%{x}",
    "`code`",
    "東京",
    " &lt;",
    "\\u0041",
]
FILLER = [f" word{i}" for i in range(40)]


@dataclass
class Settings:
    """What a synthetic record looks like."""

    model: str = "tiny/model|a"
    n_layers: int = 12
    relations: int = 4
    per_relation: int = 8
    lenses: tuple[str, ...] = ("final", "next", "raw")
    heatmap_prompts: int = 2
    late: float = 0.8  # mean depth at which answers emerge
    top1_accuracy: float = 0.7  # share of base prompts with the answer at rank 1
    seed: int = 0
    dtype: str = "float32"
    extra: dict[str, Any] = field(default_factory=dict)


def fitted(
    kl_bits: float, final_kl_bits: float, text: str = "t", **fitted_to: Any
) -> dict[str, Any]:
    """What a manifest says of a fitted lens: its held-out KL, and what it was fitted to."""
    own = asdict(LensKind("final", True, True, KL_DIRECTION, True, "linear lens, fitted on words"))
    held_out = {"kl_bits": kl_bits, "final_kl_bits": final_kl_bits, "n_tokens": 100}
    return own | {
        "held_out": held_out | {"text_sha256": text},
        "fitted_to": {"dtype": "float32"} | fitted_to,
    }


class Vocabulary:
    """Token text <-> id, ids given out in order of first use."""

    def __init__(self) -> None:
        self.ids: dict[str, int] = {}

    def __call__(self, token: str) -> int:
        return self.ids.setdefault(token, len(self.ids) + 3)


def write_run(folder: Path, *settings: Settings) -> Path:
    """A run folder with one record per settings."""
    for one in settings or (Settings(),):
        write_record(folder / one.model.replace("/", "--").replace("|", "-"), one)
    return folder


def edited(run: Path, table: str, edit: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Rewrite one table of the only record in `run` with `edit` applied to each row."""
    path = next(run.rglob(f"{table}.parquet"))
    old = pq.read_table(path)
    rows = [edit(row) for row in old.to_pylist()]
    pq.write_table(pa.Table.from_pylist(rows, old.schema), path)


def write_record(folder: Path, settings: Settings) -> None:
    """One record: manifest and four tables that follow the schema."""
    rng = np.random.default_rng(settings.seed)
    word = Vocabulary()
    prompts = [row for r in range(settings.relations) for row in _relation(r, settings, word)]
    lens: list[dict[str, Any]] = []
    milestones: list[dict[str, Any]] = []
    base_seen = 0
    for prompt in prompts:
        is_base = not (prompt["control_of"] or prompt["paraphrase_of"] or prompt["reverse_of"])
        base_seen += is_base
        path = _path(prompt, settings, rng)
        every = is_base and base_seen <= settings.heatmap_prompts
        for name in settings.lenses:
            mapped = every and name in ("final", "linear")
            rows = _lens_rows(prompt, name, path, settings, rng, word, mapped)
            lens += rows
            milestones.append(_milestones(prompt, name, rows, settings))
    problems = [
        {
            "model": settings.model,
            "prompt_id": "lost",
            "where": "facts.csv row 7",
            "what": "the answer | tokenises to nothing",
            "remedy": "Write an answer.",
        }
    ]
    folder.mkdir(parents=True, exist_ok=True)
    data = {"prompts": prompts, "lens": lens, "milestones": milestones, "problems": problems}
    for name, rows in data.items():
        pq.write_table(pa.Table.from_pylist(rows, TABLES[name].schema), folder / f"{name}.parquet")
    manifest = manifest_of(settings, len(prompts)) | settings.extra
    write_manifest(folder, manifest)


def _relation(r: int, settings: Settings, word: Vocabulary) -> list[dict[str, Any]]:
    """Base prompts of one relation, and for every second one a control, paraphrase and reverse."""
    rows = []
    for i in range(settings.per_relation):
        subject, answer = f"Sub{r}{i}", f"Ans{r}{i}"
        base = f"r{r}-{i:02d}"
        nasty = NASTY[(r * settings.per_relation + i) % len(NASTY)]
        rows.append(
            _prompt(base, r, ["The", f" rel{r}", " of", f" {subject}", nasty], answer, word)
        )
        if i % 2 == 0:
            other = ["The", f" rel{r}", " of", " Nowhere", " is"]
            rows.append(_prompt(f"{base}-c", r, other, answer, word, control_of=base))
            again = [f"{subject}'s", f" rel{r}", " is"]
            rows.append(_prompt(f"{base}-p", r, again, answer, word, paraphrase_of=base))
            back = [f"{answer}", " is", f" rel{r}", " of"]
            rows.append(_prompt(f"{base}-r", r, back, subject, word, reverse_of=base))
    for row in rows:
        row["model"] = settings.model
    return rows


def _prompt(
    prompt_id: str, r: int, tokens: list[str], answer: str, word: Vocabulary, **links: str
) -> dict[str, Any]:
    has_category = r != 1  # one relation goes without a category word
    return {
        "prompt_id": prompt_id,
        "relation": f"relation {r}",
        "prompt": "".join(tokens),
        "text": "".join(tokens),
        "template": "plain",
        "answer": answer,
        "category": f"kind{r}" if has_category else None,
        "subject": f"Sub{prompt_id}",
        "control_of": None,
        "paraphrase_of": None,
        "reverse_of": None,
        "answer_id": word(f" {answer}"),
        "answer_token": f" {answer}",
        "answer_n_tokens": 2 if prompt_id.endswith("3") else 1,
        "answer_shared_with": "Ans99" if prompt_id == "r0-01" else None,
        "category_id": word(f" kind{r}") if has_category else None,
        "null_category": f"kind{r + 1}" if has_category else None,
        "null_category_id": word(f" kind{r + 1}") if has_category else None,
        "token_ids": [word(t) for t in tokens],
        "tokens": tokens,
        "n_tokens": len(tokens),
    } | links


def _path(prompt: dict[str, Any], settings: Settings, rng: np.random.Generator) -> dict[str, Any]:
    """Whether and at which layer this prompt's answer emerges."""
    chance = 0.03 if prompt["control_of"] else settings.top1_accuracy
    layer = rng.normal(settings.late, 0.08) * settings.n_layers
    return {
        "top1_correct": bool(rng.random() < chance),
        "layer": int(np.clip(round(layer), 1, settings.n_layers)),
        "category": bool(prompt["category"] and rng.random() < 0.5),
    }


def _lens_rows(
    prompt: dict[str, Any],
    lens: str,
    path: dict[str, Any],
    settings: Settings,
    rng: np.random.Generator,
    word: Vocabulary,
    every: bool,
) -> list[dict[str, Any]]:
    n = settings.n_layers
    last = prompt["n_tokens"] - 1
    shift = {"final": 0, "next": 0, "raw": 2, "linear": -2}[lens]  # in layers
    rows = []
    for layer in range(n + 1):
        for position in range(0 if every else last, last + 1):
            far = min(max((layer - path["layer"] - shift + 3) / 6, 0), 1)
            late = layer >= min(path["layer"] + shift, n)
            on = path["top1_correct"] and late and position == last
            rank = 1 if on else int(2 + (1 - far) * 400 + rng.integers(40))
            prob = 0.3 + 0.6 * far if on else 0.2 / rank
            filler = [FILLER[k] for k in rng.integers(len(FILLER), size=4)]
            if layer == 0:
                top = [prompt["tokens"][position]]
            elif on:
                top = [prompt["answer_token"]]
            elif rng.random() < 0.25:
                top = [NASTY[rng.integers(len(NASTY))]]
            else:
                top = [FILLER[rng.integers(8)]]
            tokens = list(dict.fromkeys(top + filler))
            probs = np.sort(rng.dirichlet(np.ones(len(tokens))) * (0.3 + 0.6 * far))[::-1]
            category = 5 if path["category"] and 0.5 * n <= layer else int(20 + rng.integers(500))
            rows.append(
                {
                    "model": settings.model,
                    "prompt_id": prompt["prompt_id"],
                    "lens": lens,
                    "site": "embed" if layer == 0 else "resid_post",
                    "layer": layer,
                    "depth": layer / n,
                    "position": position,
                    "is_last": position == last,
                    "token_id": prompt["token_ids"][position],
                    "token": prompt["tokens"][position],
                    "entropy_bits": 10 * (1 - far) + 1.5 + float(rng.random()),
                    "kl_bits": 0.0 if layer == n and lens == "final" else 9 * (1 - far) + 0.5,
                    "js_bits": 1 - far,
                    "next_surprisal_bits": None if position == last else 5.0,
                    "answer_id": prompt["answer_id"],
                    "answer_prob": prob,
                    "answer_rank": rank,
                    "answer_margin_bits": math.log2(prob) + 1,
                    "category_rank": category if prompt["category"] else None,
                    "null_category_rank": int(8 + rng.integers(900))
                    if prompt["category"]
                    else None,
                    "resid_norm": 1.0 + layer,
                    "cos_final": layer / n,
                    "top_ids": [word(t) for t in tokens],
                    "top_probs": probs.tolist(),
                    "top_tokens": tokens,
                }
            )
    return rows


def _milestones(
    prompt: dict[str, Any], lens: str, rows: list[dict[str, Any]], settings: Settings
) -> dict[str, Any]:
    rows = [row for row in rows if row["is_last"]]
    own = set(prompt["token_ids"])
    tests = {
        "rank1_first": lambda row: row["answer_rank"] == 1,
        "top10_first": lambda row: row["answer_rank"] <= 10,
        "kl_1bit": lambda row: row["kl_bits"] <= 1,
        "copy_first": lambda row: row["top_ids"][0] in own,
        "category_over_answer": lambda row: (row["category_rank"] or 10**9) < row["answer_rank"],
        "category_top10": lambda row: (row["category_rank"] or 99) <= 10,
        "null_category_top10": lambda row: (row["null_category_rank"] or 99) <= 10,
    }
    found = {
        name: next((r["layer"] for r in rows if test(r)), None) for name, test in tests.items()
    }
    stays = settings.n_layers + 1
    while stays > 0 and rows[stays - 1]["answer_rank"] == 1:
        stays -= 1
    found["rank1_stable"] = stays if stays <= settings.n_layers else None
    result = {
        "model": settings.model,
        "prompt_id": prompt["prompt_id"],
        "relation": prompt["relation"],
        "lens": lens,
        "n_layers": settings.n_layers,
        "top1_correct": rows[-1]["answer_rank"] == 1,
    }
    for name in MILESTONES:
        layer = found[name]
        result[f"{name}_layer"] = layer
        result[f"{name}_depth"] = None if layer is None else layer / settings.n_layers
        result[f"{name}_reason"] = f"never ({name})" if layer is None else None
    return result


def manifest_of(settings: Settings, n_prompts: int) -> dict[str, Any]:
    """What such a record says of itself."""
    return {
        "schema_version": SCHEMA_VERSION,
        "status": "complete",
        "lensbench_version": "0.1.0",
        "versions": {"python": "3.11.9", "torch": "2.13.0", "transformers": "5.23.0"},
        "git": {"commit": "0" * 40, "dirty": False},
        "created": "2025-01-01T00:00:00Z",
        "model": {
            "name": settings.model,
            "source": "made by a test",
            "model_type": "llama",
            "n_layers": settings.n_layers,
            "d_model": 64,
            "d_vocab": 512,
            "n_params": 1_000_000,
            "norm": "RMS",
            "soft_cap": None,
            "parallel": False,
            "weights_sha256": "a" * 64,
            "tokenizer_sha256": "b" * 64,
            "dtype": settings.dtype,
            "device": "cpu",
        },
        "settings": {
            "prompts": "facts",
            "prompts_sha256": "c" * 64,
            "n_prompts": n_prompts,
            "lenses": list(settings.lenses),
            "sites": ["embed", "resid_post"],
            "positions": "last",
            "heatmap_prompts": settings.heatmap_prompts,
            "top_k": 5,
            "batch_tokens": 1024,
            "template": "plain",
            "seed": 0,
        },
        "gate": [
            {
                "identity": "KL(model || last-layer lens)",
                "error": 3.2e-7,
                "bound": 1e-4,
                "unit": "bits",
                "passed": True,
                "reason": "",
            },
            {
                "identity": "attention rows sum to 1",
                "error": None,
                "bound": None,
                "unit": "",
                "passed": None,
                "reason": "no attention recorded",
            },
        ],
        "problems": 1,
        "wall_s": 12.5,
        "peak_memory_bytes": 123456789,
        "machine": {"cpu": "test", "cores": 2, "memory_bytes": 8 << 30, "os": "Linux"},
    }
