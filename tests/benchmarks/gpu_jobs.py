"""The lens at the size of Llama-3-8B on one device: a model without a file, jobs, and limits.

Weights are drawn on the device. TransformerLens changes the model that it wraps, so plain Hugging
Face has one of its own, drawn by the same seed.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lensbench.models.load import load_model
from lensbench.models.model import LensModel
from tests.benchmarks.measure import round_robin, waited
from tests.benchmarks.peers import Job, entropy_kl_top, inferring, readings
from tests.harness.tiny import TINY, tokenizer
from tests.harness.waits import waits

CONFIG = Path(__file__).parents[1] / "configs" / "llama3-8b.json"
_COPIED_BYTES, _WIDTH = 4 << 30, 8192


@dataclass(frozen=True)
class Size:
    """How much is read: of a model, in a number format, prompts of so many tokens."""

    config: Any
    dtype: torch.dtype
    n_tokens: int  # of the one prompt that is read everywhere
    n_prompts: int  # of those that are read at their last position
    prompt_tokens: int  # of each of these
    small: bool

    @property
    def n_blocks(self) -> int:
        """Parameters of the blocks."""
        c = self.config
        attention = c.hidden_size * c.head_dim * 2 * (c.num_attention_heads + c.num_key_value_heads)
        return int(c.num_hidden_layers * (attention + 3 * c.hidden_size * c.intermediate_size))

    @property
    def n_head(self) -> int:
        """Parameters of the head."""
        return int(self.config.hidden_size * self.config.vocab_size)


def size(small: bool) -> Size:
    """Llama-3-8B in bfloat16, or a toy in float32 that proves the bench."""
    from transformers import AutoConfig

    if small:
        config = AutoConfig.for_model("llama", **TINY["llama"].fields)
        return Size(config, torch.float32, 12, 6, 5, True)
    config = AutoConfig.from_pretrained(CONFIG)
    return Size(config, torch.bfloat16, 128, 64, 24, False)


def drawn(of: Size, device: str) -> Any:
    """A model of this size on the device; always the same one."""
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    with torch.device(device):
        hf = AutoModelForCausalLM.from_config(of.config, dtype=of.dtype)
    return hf.eval().requires_grad_(False)


def wrapped(of: Size, device: str) -> LensModel:
    """The same for the lens."""
    return load_model(drawn(of, device), tokenizer=tokenizer("bytes"), name="bench")


# Limits of the device, measured.


def seconds(job: Job, device: str, rounds: int) -> list[float]:
    """Wall time of each round after a warm-up, the device's work included."""
    return round_robin({"job": waited(job, device)}, rounds)["job"]


def copy_bytes_per_s(device: str, small: bool) -> float:
    """A large copy on the device, bytes read and bytes written."""
    n = (1 << 20) if small else _COPIED_BYTES // 4
    source = torch.randn(n, device=device)
    target = torch.empty_like(source)
    return 2 * source.nbytes / statistics.median(seconds(lambda: target.copy_(source), device, 10))


def flops_per_s(device: str, dtype: torch.dtype, small: bool) -> float:
    """A large product of random numbers."""
    width = 256 if small else _WIDTH
    a, b = (torch.randn(width, width, device=device).to(dtype) for _ in range(2))
    return 2 * width**3 / statistics.median(seconds(lambda: a @ b, device, 5))


# Jobs: one prompt, every layer and position.


def ids_of(of: Size, device: str, rows: int, n_tokens: int) -> Tensor:
    """Random prompts; the work does not depend on what they say."""
    chance = torch.Generator().manual_seed(1)
    return torch.randint(5, of.config.vocab_size, (rows, n_tokens), generator=chance).to(device)


def forward(hf: Any, ids: Tensor) -> Job:
    """What everybody pays."""
    return inferring(lambda: hf(ids, use_cache=False).logits)


def floor(hf: Any, ids: Tensor, dtype: torch.dtype) -> Job:
    """The forward pass and the bare head products of all layers; each is dropped at once."""

    def products() -> None:
        head = hf.get_output_embeddings().weight.to(dtype)
        for state in hf(ids, use_cache=False, output_hidden_states=True).hidden_states:
            torch.nn.functional.linear(state[0].to(dtype), head)

    return inferring(products)


def bridged_forward(model: LensModel, ids: Tensor) -> Job:
    """The forward pass as TransformerLens makes it, which lensbench reads: attention is eager."""
    return inferring(lambda: model.bridge(ids, return_type="logits"))


def last_positions(hf: Any, ids: Tensor) -> Job:
    """Plain Hugging Face over a batch of prompts of one length, read at their last position."""
    norm, head = hf.model.norm, hf.get_output_embeddings()

    def read() -> list[tuple[Tensor, ...]]:
        output = hf(ids, use_cache=False, output_hidden_states=True, logits_to_keep=1)
        states = [norm(state[:, -1]) for state in output.hidden_states[:-1]]
        states.append(output.hidden_states[-1][:, -1])
        p = output.logits[:, 0].float()
        found = [entropy_kl_top(p, head(state).float()) for state in states]
        return [tuple(each.cpu() for each in own) for own in found]

    return inferring(read)


# What a job took besides time.


def peak_bytes(job: Job, device: str) -> int | None:
    """Of the device's memory, beyond what is there anyway; None where nobody counts."""
    if not device.startswith("cuda"):
        return None
    job()
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    job()
    torch.cuda.synchronize()
    return int(torch.cuda.max_memory_allocated() - before)


def n_waits(job: Job, device: str) -> int | None:
    """How often the job waited for the device; None where nobody tells."""
    if not device.startswith("cuda"):
        return None
    with waits() as found:
        job()
    return len(found)


def profile(job: Job, device: str) -> str:
    """Where a job's time goes: the calls that keep the device, and the host, busy longest."""
    from torch.profiler import ProfilerActivity, profile

    kinds = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * device.startswith("cuda")
    whole = waited(job, device)
    whole()
    with profile(activities=kinds) as found:
        whole()
    calls = found.key_averages()
    orders = ["self_cpu_time_total"] + ["self_cuda_time_total"] * device.startswith("cuda")
    return "\n".join(calls.table(sort_by=o, row_limit=25, max_name_column_width=70) for o in orders)


# How far a job's numbers are from exact products.


def exact_entropy_bits(
    states: Float[Tensor, "layer d_model"], norm: Callable[[Tensor], Tensor], head: Tensor
) -> Float[Tensor, " layer"]:
    """Entropies of states, products and sums in float64; `head` is [d_model, d_vocab]."""
    found = []
    for state in norm(states.float()).split(8):
        log_p = (state.double() @ head.double()).log_softmax(-1)
        found.append(-(log_p.exp() * log_p).sum(-1) / math.log(2))
    return torch.cat(found)


@torch.inference_mode()
def off_bits(model: LensModel, ids: Tensor, **how: Any) -> dict[str, float]:
    """The worst error of an entropy at the last position, over layers.

    Of lensbench, and of the same states read by products in the model's own format. Beside them
    the share of all readings, at every position, that lensbench made again in float64.
    """
    whole = readings(model, ids, ("final",), **how)()
    n_readings = len(whole.sites) * sum(map(len, whole.positions))
    last = ids.shape[1] - 1
    found = readings(model, ids, ("final",), (last,), keep_stream=True, **how)()  # type: ignore[arg-type]
    assert found.stream is not None
    readout, states = model.readout, found.stream[:, 0].to(model.device)
    exact = exact_entropy_bits(states, readout.norm, readout.W_U).cpu()
    half = torch.log_softmax(readout.rounded(readout.norm(states)), -1)
    rounded = (-(half.exp() * half).sum(-1) / math.log(2)).cpu()
    own = found.lenses["final"]["entropy_bits"][:, 0]
    return {
        "lensbench": float((own.double() - exact).abs().max()),
        "own_format": float((rounded.double() - exact).abs().max()),
        "read_again": whole.n_read_again / n_readings,
    }
