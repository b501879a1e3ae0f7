"""Merging: an adapter added into the weights of its float base, saved as a model of its own."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from lensbench.checkpoints.open import quiet
from lensbench.checkpoints.ref import ModelRef
from lensbench.checkpoints.weights import open_weights
from lensbench.errors import ModelError
from lensbench.files import sync_folder, write_bytes, write_text
from lensbench.quantized.adapters.prompt_format import PROMPT_FORMAT, file_of, saved_format
from lensbench.quantized.loading.load import AdaptedModel, load_quantized
from lensbench.records.manifest import versions

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PROVENANCE = "merge.json"
# Of the logits' largest size: float32 rounds W + BA once more than W x + B A x, in every block.
BOUND = 1e-4
_PROBES = (
    "The capital of Germany is Berlin, and the capital of France is",
    "### Instruction:\nWrite a function that adds two numbers.\n\n### Response:\ndef add(a, b):",
)


@dataclass(frozen=True)
class Merge:
    """A merged model, and how far its logits are from those of base and adapter.

    Errors are the largest difference of a logit over two probe texts, divided by the largest
    logit there, in float32. `changed` is the same for base against base with adapter.
    """

    folder: Path
    error: float
    bound: float
    changed: float


def merge(model: str | Path | ModelRef, adapter: Path, out: Path) -> Merge:
    """Merge `adapter` into `model` and save the result, with its tokenizer, in `out`.

    It keeps the prompt format that the adapter was trained in, which is its default from then on.
    The saved model is loaded again and must give the logits of base and adapter within `BOUND`;
    only then does it take its name. The result is in float32.

    Raises:
        ModelError: the adapter is of another base, `out` is there already, or the logits differ.
    """
    if out.exists():
        raise ModelError(f"{out} is there already. Give another folder, or delete that one.")
    loaded = load_quantized(model, 32, adapter, "cpu")
    probes = [loaded.tokenizer(text).input_ids for text in _PROBES]
    with loaded.hf.disable_adapter():
        before = logits_of(loaded.hf, probes)
    wanted = logits_of(loaded.hf, probes)
    plain = loaded.hf.merge_and_unload()
    part = out.with_name(f".{out.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    try:
        with quiet():
            plain.save_pretrained(part)
            loaded.tokenizer.save_pretrained(part)
            saved = open_weights(part, torch.float32)
        error = distance(logits_of(saved, probes), wanted)
        if not error <= BOUND:
            raise ModelError(
                f"The merged model's logits differ from the adapter's by {error:.1e} of the "
                f"largest (bound {BOUND:.0e}), so it was not kept."
            )
        merged = Merge(out, error, BOUND, distance(before, wanted))
        _write_provenance(part, merged, loaded, adapter)
        if (own := saved_format(adapter)) is not None:
            write_bytes(part / PROMPT_FORMAT, file_of(own))
        part.rename(out)
        sync_folder(out.parent)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return merged


def logits_of(model: PreTrainedModel, probes: list[list[int]]) -> Float[Tensor, "tokens d_vocab"]:
    """The logits at every position of some texts, one at a time."""
    model.eval()
    with torch.inference_mode():
        rows = [model(input_ids=torch.tensor([ids])).logits[0].float() for ids in probes]
    return torch.cat(rows)


def distance(a: Float[Tensor, "..."], b: Float[Tensor, "..."]) -> float:
    """The largest difference, divided by the largest size in `b`."""
    return float((a - b).abs().max() / b.abs().max())


def _write_provenance(folder: Path, merged: Merge, model: AdaptedModel, adapter: Path) -> None:
    """Where the merged weights come from."""
    numbers = asdict(merged)
    del numbers["folder"]
    found = {
        "base": {
            "name": model.ref.located.source,
            "weights_sha256": model.weights["weights_sha256"],
        },
        "adapter": {"name": adapter.name, "weights_sha256": model.weights["adapter_sha256"]},
        "logits": numbers,
        "versions": versions("training", quantized=True),
    }
    write_text(folder / PROVENANCE, json.dumps(found, indent=2, sort_keys=True) + "\n")
