"""Synthetic records of the second path, with texts that are meant to break reports."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lensbench.records.schema import KINDS, SCHEMA_VERSION, TABLES
from tests.harness.files import write_manifest
from tests.harness.lens_records import NASTY

MODEL = "tiny/model|a"
N_LAYERS = 6
D_MODEL = 4

Rows = dict[str, list[dict[str, Any]]]


def write(folder: Path, kind: str, rows: Rows, **manifest: Any) -> Path:
    """One record; tables that `rows` does not name are empty, `manifest` replaces its entries."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in KINDS[kind].names:
        table = pa.Table.from_pylist(rows.get(name, []), TABLES[name].schema)
        pq.write_table(table, folder / f"{name}.parquet")
    whole = {**_manifest(kind), **manifest}
    if kind == "evaluation":
        conditions = dict.fromkeys(row["condition"] for row in rows.get("evaluation", []))
        whole["context_cut"] = {"examples": 1, "tokens": 23}
        whole["settings"] = {**whole["settings"], "conditions": list(conditions) or ["base"]}
    write_manifest(folder, whole)
    return folder


def write_run(folder: Path) -> Path:
    """A run folder as an adapter study leaves it: training, four conditions, an evaluation."""
    write_training(folder / "train")
    for adapter in (None, "train"):
        for retrieved in (False, True):
            name = "-".join(["adapter"] * bool(adapter) + ["rag"] * retrieved) or "base"
            rows = {"responses": responses(retrieved=retrieved, seed=len(name))}
            write(folder / name, "inference", rows, model=model(adapter=adapter))
    write_trace(folder / "trace", name="other")
    write_evaluation(folder / "eval")
    return folder


def write_training(folder: Path, curve: list[dict[str, Any]] | None = None, **changes: Any) -> Path:
    """A training record: losses that fall, an evaluation loss that turns up at the end."""
    settings = {"rank": 8, "alpha": 16, "layers": [4, 5], "targets": ["q_proj", "v_proj"]}
    modules = [f"model.layers.{i}.self_attn.{t}" for i in (4, 5) for t in ("q_proj", "v_proj")]
    adapter = {"trainable": 2_252_800, "total": 1_102_301_184, "modules": modules}
    rows = {"training": training_rows() if curve is None else curve}
    manifest = {"settings": settings, "adapter": adapter, "examples_cut": 3, **changes}
    example = {"id": "e|1", "split": "eval", "instruction": "say *it*", "reference": "it"}
    example |= {"base": "</td>a\n| b", "adapter": "it"}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "examples.jsonl").write_text(json.dumps(example) + "\n", encoding="utf-8")
    return write(folder, "training", rows, **manifest)


def training_rows() -> list[dict[str, Any]]:
    """30 logged steps and three evaluations: 2.0, 1.5, 1.75."""
    logged = [
        {
            "step": step,
            "epoch": step / 10,
            "loss_nats": 1 + 2 / step,
            "grad_norm": 5 / step,
            "learning_rate": 1e-4 * step,
            "tokens_per_s": 100.0 + step,
        }
        for step in range(1, 31)
    ]
    evaluated = [
        {"step": step, "epoch": step / 10, "eval_loss_nats": loss}
        for step, loss in ((10, 2.0), (20, 1.5), (30, 1.75))
    ]
    return sorted([*logged, *evaluated], key=lambda row: row["step"])


def responses(n: int = 12, retrieved: bool = False, seed: int = 0) -> list[dict[str, Any]]:
    """`n` responses; every third is cut at the limit, the first has a context that was cut."""
    rng = np.random.default_rng(seed)
    return [_response(i, rng, retrieved) for i in range(n)]


def _response(i: int, rng: np.random.Generator, retrieved: bool) -> dict[str, Any]:
    n = int(rng.integers(3, 9))
    found = {
        "retrieved_ids": [f"doc{i}"],
        "retrieved_scores": [0.5 + i / 100],
        "context_start": 0,
        "context_end": 3,
        "context_tokens_cut": 7 if i == 0 else 0,
    }
    return {
        "model": MODEL,
        "prompt_id": f"p{i:02d}",
        "prompt": f"ask {NASTY[i % len(NASTY)]}",
        "text": f"ask {NASTY[i % len(NASTY)]}",
        "style": "none",
        "response": NASTY[(i + 3) % len(NASTY)],
        "finish_reason": "length" if i % 3 == 0 else "stop",
        "n_prompt_tokens": 5 + i,
        "n_generated_tokens": n,
        "prompt_ids": list(range(5 + i)),
        "token_ids": list(range(n)),
        "token_logprob_bits": (-rng.random(n)).tolist(),
        "entropy_bits": (4 * rng.random(n)).tolist(),
        "batch": i // 4,
        "batch_ids": [f"p{j:02d}" for j in range(i // 4 * 4, i // 4 * 4 + 4)],
        **(found if retrieved else {}),
    }


def write_trace(folder: Path, **changes: Any) -> Path:
    """Responses and their mean activations; the last prompt has no generated token."""
    asked = responses(8, seed=3)
    activations = [
        _activation(i, span, layer)
        for i in range(8)
        for span in ("prompt", "generated")
        for layer in range(N_LAYERS + 1)
    ]
    rows = {"responses": asked, "activations": activations}
    return write(folder, "trace", rows, model=model(weights_sha256="c" * 64, **changes))


def _activation(i: int, span: str, layer: int) -> dict[str, Any]:
    silent = span == "generated" and i == 7
    mean = [3.0 * (layer + 1), 4.0 * (layer + 1), 0.0, 0.0]  # of norm 5 (layer + 1)
    return {
        "model": MODEL,
        "prompt_id": f"p{i:02d}",
        "span": span,
        "site": "embed" if layer == 0 else "resid_post",
        "layer": layer,
        "depth": layer / N_LAYERS,
        "n_tokens": 0 if silent else 4 + i,
        "mean": None if silent else mean,
        "mean_norm": None if silent else 6.0 * (layer + 1) + i,
    }


def write_evaluation(folder: Path, n: int = 40, **manifest: Any) -> Path:
    """Four conditions over `n` examples, the adapter's a little better everywhere."""
    rng = np.random.default_rng(0)
    rows = []
    for i in range(n):
        start = rng.random()
        for j, condition in enumerate(("base", "adapter", "rag", "adapter+rag")):
            rows.append(evaluation_row(i, condition, 0.5 * start + 0.1 * j + 0.05 * rng.random()))
    with_adapter = {"model": model(adapter="train"), **manifest}
    return write(folder, "evaluation", {"evaluation": rows}, **with_adapter)


def evaluation_row(i: int, condition: str, score: float) -> dict[str, Any]:
    """One example in one condition, everything about as good as `score` (0..1)."""
    n = 20
    orders = [n - k for k in range(4)]
    matches = [round(score * total / (k + 1)) for k, total in enumerate(orders)]
    return {
        "model": MODEL,
        "condition": condition,
        "prompt_id": f"p{i:02d}",
        "group": None,
        "prompt": f"explain {NASTY[i % len(NASTY)]}",
        "reference": f"def f():\n    return {NASTY[i % len(NASTY)]!r}",
        "response": f"{NASTY[(i + 1) % len(NASTY)]}\n\n  | said in {condition}",
        "finish_reason": "stop" if i % 4 else "length",
        "n_generated_tokens": 10 + i % 5,
        "bleu": 100 * score,
        "bleu_statistics": [n, n, *matches, *orders],
        "rouge1": score,
        "rouge2": None if i == 1 else score / 2,
        "rougel": score * 0.9,
        "reference_nll_bits": 60 * (1 - score / 2),
        "n_reference_tokens": 15 + i % 3,
        "format_ok": i % 4 != 0,
        "self_check": i % 5 == 0 and condition == "base",
        "duplicated": i % 6 == 0,
    }


def model(**changes: Any) -> dict[str, Any]:
    """The model's part of a manifest."""
    return {
        "name": MODEL,
        "source": "made by a test",
        "model_type": "llama",
        "n_layers": N_LAYERS,
        "d_model": D_MODEL,
        "bits": 8,
        "int8_threshold": 6.0,
        "adapter": None,
        "dtype": "bfloat16",
        "device": "cpu",
        "weights_sha256": "a" * 64,
        "tokenizer_sha256": "b" * 64,
        **changes,
    }


def _manifest(kind: str) -> dict[str, Any]:
    return {
        "schema_version": SCHEMA_VERSION,
        "kind": kind,
        "status": "complete",
        "lensbench_version": "0.1.0",
        "versions": {"python": "3.11.9", "torch": "2.13.0"},
        "git": {"commit": "0" * 40, "dirty": False},
        "created": "2025-01-01",
        "model": model(),
        "settings": {"style": "none", "max_new_tokens": 8},
        "gate": [],
        "problems": 0,
        "wall_s": 12.5,
        "peak_memory_bytes": 123456789,
        "machine": {"cpu": "a | b", "cores": 2, "memory_bytes": 8 << 30, "os": "Linux"},
        **{entry.name: None if entry.null else {} for entry in KINDS[kind].entries},
    }
