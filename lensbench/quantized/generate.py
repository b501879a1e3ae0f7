"""Generation: batches of prompts in, texts with per-token log-probability and entropy out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lensbench.quantized.load import AdaptedModel


@dataclass(frozen=True)
class Decoding:
    """How tokens are chosen. Temperature 0 is greedy, and then top_p, top_k and seed are idle."""

    max_new_tokens: int = 200
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0  # 0: all tokens
    repetition_penalty: float = 1.0
    seed: int = 0


@dataclass(frozen=True)
class Generation:
    """One response. Both lists have one value per generated token, the end token included."""

    text: str  # without special tokens
    token_ids: tuple[int, ...]
    token_logprob_bits: tuple[float, ...]  # log2 p under the model itself, temperature 1
    entropy_bits: tuple[float, ...]  # of the model's own distribution there, temperature 1
    finish_reason: str  # "stop" or "length"
    n_prompt_tokens: int


def generate(
    model: AdaptedModel,
    prompts: Sequence[Sequence[int]],
    decoding: Decoding,
    seeds: Sequence[int] | None = None,
    tracer: Any = None,
    streamer: Any = None,
) -> list[Generation]:
    """Generate one response per prompt (token ids), as one left-padded batch.

    `seeds` are one per prompt; by default they follow from `decoding.seed` and the row's number.
    """
    raise NotImplementedError
