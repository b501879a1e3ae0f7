"""`python -m tests.benchmarks.precision`: what each precision costs and saves, against float32.

Every variant answers the same prompts. Speeds are ratios within one run, variants in turn.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import cyclopts
import numpy as np
import torch
from jaxtyping import Float
from rich.console import Console
from torch import Tensor

from lensbench.checkpoints.open import quiet
from lensbench.checkpoints.source import locate
from lensbench.checkpoints.weights import open_weights
from lensbench.files import write_text
from lensbench.prompts.batch import make_batch
from lensbench.prompts.prompt import choose
from lensbench.prompts.sets import load_prompts
from lensbench.quantized.loading.load import load_quantized
from lensbench.stats.estimates import clustered_estimate
from tests.benchmarks.measure import round_robin
from tests.benchmarks.table import Model, Out, Rounds, at_least, made_by, markdown_table, ratios

_NEW_TOKENS = 16  # of a decoding job
_ROWS = 8  # of a batch
TORCHAO = "torchao int8 weights"
Ids = Sequence[Sequence[int]]


@dataclass(frozen=True, eq=False)
class Variant:
    """A model in one precision."""

    hf: Any
    weight_bytes: int


def _own(bits: Any, int8_threshold: float | None = None) -> Callable[[str], Variant]:
    def variant(name: str) -> Variant:
        model = load_quantized(name, bits, device="cpu", int8_threshold=int8_threshold)
        return Variant(model.hf, model.weight_bytes)

    return variant


def _torchao(name: str) -> Variant:
    """The alternative where bitsandbytes does not run; it is no dependency of lensbench."""
    from torchao.quantization import Int8WeightOnlyConfig
    from transformers import TorchAoConfig

    settings = TorchAoConfig(Int8WeightOnlyConfig())
    with quiet():
        hf = open_weights(
            locate(name).require_folder(), torch.bfloat16, quantisation=settings
        ).eval()
    size = sum(_inner_bytes(tensor) for tensor in (*hf.parameters(), *hf.buffers()))
    return Variant(hf, size)


def _inner_bytes(tensor: Any) -> int:
    """Bytes of a tensor, or of those that a wrapper of torchao's kind consists of."""
    if type(tensor) is torch.nn.Parameter or type(tensor) is Tensor:
        return int(tensor.nbytes)
    return sum(int(getattr(tensor, part).nbytes) for part in tensor.__tensor_flatten__()[0])


EXACT = "float32"
VARIANTS: dict[str, Callable[[str], Variant]] = {
    EXACT: _own(32),
    "bfloat16": _own(16),
    "LLM.int8": _own(8),
    "LLM.int8, threshold 0": _own(8, int8_threshold=0.0),
    "nf4": _own(4),
    TORCHAO: _torchao,
}


def logprobs(hf: Any, prompts: Ids) -> Float[Tensor, "prompt d_vocab"]:
    """Natural log-probabilities of the next token, one prompt at a time."""
    with torch.inference_mode():
        logits = [hf(torch.tensor([list(ids)])).logits[0, -1].float() for ids in prompts]
    return torch.stack(logits).log_softmax(-1)


def kl_bits(
    reference: Float[Tensor, "prompt d_vocab"], other: Float[Tensor, "prompt d_vocab"]
) -> Float[Tensor, " prompt"]:
    """KL(reference || other) of natural log-probabilities, in bits, 0 or more."""
    return (reference.exp() * (reference - other)).sum(-1) / math.log(2)


def batch_effect_bits(hf: Any, prompts: Ids, rows: int = _ROWS) -> Float[Tensor, " prompt"]:
    """KL of each prompt's next token between two batches that differ in its neighbours alone.

    All batches have one shape and a prompt keeps its row: row r of batch b changes places with row
    r of batch b + r, so that only row 0 stays. Prompts beyond full batches are left out.
    """
    n_batches = len(prompts) // rows
    first = [[b * rows + r for r in range(rows)] for b in range(n_batches)]
    second = [[(b + r) % n_batches * rows + r for r in range(rows)] for b in range(n_batches)]
    return kl_bits(_batched(hf, prompts, first), _batched(hf, prompts, second))


def _batched(hf: Any, prompts: Ids, batches: list[list[int]]) -> Float[Tensor, "prompt d_vocab"]:
    """Log-probabilities of the next token in the order of `prompts`, every batch equally wide."""
    used = sorted(item for batch in batches for item in batch)
    whole = make_batch(used, prompts)
    last = whole.attention_mask.sum(-1) - 1
    found: dict[int, Tensor] = {}
    for items in batches:
        inputs = {
            "input_ids": whole.token_ids[items],
            "attention_mask": whole.attention_mask[items],
            "position_ids": whole.position_ids[items],
        }
        with torch.inference_mode():
            logits = hf(**inputs).logits
        found |= {item: logits[row, last[item]].float() for row, item in enumerate(items)}
    return torch.stack([found[item] for item in used]).log_softmax(-1)


def _prefill(hf: Any, ids: Tensor) -> Callable[[], object]:
    def job() -> object:
        with torch.inference_mode():
            return hf(ids).logits

    return job


def _decode(hf: Any, ids: Tensor) -> Callable[[], object]:
    """Greedy tokens from the cache, the prompt's one forward pass included."""
    how: dict[str, Any] = {"max_new_tokens": _NEW_TOKENS, "min_new_tokens": _NEW_TOKENS}

    def job() -> object:
        return hf.generate(ids, do_sample=False, pad_token_id=0, **how)

    return job


def bench(
    model: Model = "smollm2-135m",
    prompts: Annotated[int, at_least(_ROWS, "Base prompts of `facts`.")] = 120,
    rounds: Rounds = 3,
    out: Out = Path("reports/bench"),
) -> None:
    """KL to float32, bytes, speed and batch effect of every precision."""
    console = Console(stderr=True)
    base = [prompt for prompt in choose(load_prompts("facts").prompts, prompts) if prompt.is_base]
    tokenizer = load_quantized(model, 32, device="cpu").tokenizer
    ids = [tokenizer(prompt.prompt).input_ids for prompt in base]
    with console.status("loading"):
        variants = {name: VARIANTS[name](model) for name in here()}
    numbers = {}
    for name, variant in variants.items():
        with console.status(f"{name}: distributions"):
            numbers[name] = (logprobs(variant.hf, ids), batch_effect_bits(variant.hf, ids))
    with console.status("timing"):
        speeds = _speeds(variants, ids, rounds)
    relations = [prompt.relation for prompt in base]
    rows = [_row(name, variants, numbers, speeds, relations) for name in variants]
    text = _markdown(model, len(ids), rounds, rows)
    write_text(out / "precision.md", text)
    Console().print(text, markup=False, highlight=False)


def here() -> list[str]:
    """The variants that can run: torchao only where somebody installed it."""
    return [n for n in VARIANTS if n != TORCHAO or importlib.util.find_spec("torchao")]


def _speeds(variants: dict[str, Variant], ids: Ids, rounds: int) -> list[dict[str, list[float]]]:
    """Seconds of each variant: the forward pass of a batch, decoding one prompt, and a batch."""
    one = torch.tensor([ids[0]])
    batch = one.repeat(_ROWS, 1)
    wide = batch.repeat(1, 128 // batch.shape[1])
    kinds = ((_prefill, wide), (_decode, one), (_decode, batch))
    return [
        round_robin({name: job(variant.hf, given) for name, variant in variants.items()}, rounds)
        for job, given in kinds
    ]


def _row(
    name: str,
    variants: dict[str, Variant],
    numbers: dict[str, tuple[Tensor, Tensor]],
    speeds: list[dict[str, list[float]]],
    relations: Sequence[str],
) -> list[str]:
    exact, (own, effect) = numbers[EXACT][0], numbers[name]
    kl = kl_bits(exact, own).numpy()
    mean = clustered_estimate(kl, relations)
    agree = float((exact.argmax(-1) == own.argmax(-1)).float().mean())
    size = variants[name].weight_bytes
    return [
        name,
        f"{mean.value:.4f} ({mean.low:.4f} to {mean.high:.4f})",
        f"{np.median(kl):.4f}, {kl.max():.2f}",
        f"{agree:.0%}",
        f"{size / 1e6:,.0f}",
        *(ratios(seconds[EXACT], seconds[name]) for seconds in speeds),
        f"{float(effect.mean()):.2g}, {float(effect.max()):.2g}",
    ]


def _markdown(model: str, n_prompts: int, rounds: int, rows: list[list[str]]) -> str:
    more = {"accelerate": importlib.metadata.version("accelerate")}
    if TORCHAO in here():
        more["torchao"] = importlib.metadata.version("torchao")
    header = (
        "precision",
        "KL to float32, bits: mean (95 % interval)",
        "median, largest",
        "same top token",
        "weights, MB",
        f"forward pass of {_ROWS} x 128 tokens",
        "decoding 1 prompt",
        f"decoding {_ROWS} prompts",
        "batch effect, bits: mean, largest",
    )
    return "\n".join(
        [
            "# What each precision costs and saves",
            "",
            f"{model} on the CPU, next token of {n_prompts} prompts of the set `facts`. The "
            "interval is that of reports (studentised bootstrap over relations). Speeds are "
            f"multiples of float32's, paired within each of {rounds} rounds: median (least to "
            "most). The batch effect is the KL of a prompt's distribution between two batches of "
            "one shape that differ in its neighbours alone.",
            "",
            *markdown_table(header, rows),
            "",
            made_by("bench-precision", more),
            "",
        ]
    )


if __name__ == "__main__":
    cyclopts.run(bench)
