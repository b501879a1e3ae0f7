"""How alike heads look: Jensen-Shannon divergence of their patterns, query by query, over prompts.

0 bits: two heads spread every query's attention alike; 1 bit: never on the same key. Its square
root is a distance (Endres & Schindelin 2003). Clark et al. 2019 ("What does BERT look at?", section
6) compare heads in this way.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Float
from torch import Tensor

from lensbench.attention.gate import has_sinks
from lensbench.attention.patterns import Seen, Source
from lensbench.models.model import LensModel
from lensbench.prompts.batch import plan_batches
from lensbench.records.schema.attention import SIMILARITY
from lensbench.stats.resampling import Floats

N_PROMPTS = 32  # of a run at most, spread over it: the cost is that of all pairs of heads
N_QUERIES = 16  # of a prompt at most, drawn at random: all heads' rows of one prompt stand at once
SEED = 0


class Similarity:
    """The mean over prompts, patterns of one prompt at a time.

    Memory: heads x heads, and `N_QUERIES` rows of every head's pattern of one prompt.
    """

    def __init__(self, n_heads: int) -> None:
        self.n_prompts = 0
        self._sum = np.zeros((n_heads, n_heads))

    def add(self, rows: Float[Tensor, "head query key"]) -> None:
        """Some rows of every head's pattern of a prompt; each sums to 1."""
        self._sum += js_bits(rows)
        self.n_prompts += 1

    @property
    def js_bits(self) -> Float[np.ndarray, "head head"]:
        """Bits, 0..1, mean over queries and then over prompts."""
        return self._sum / max(self.n_prompts, 1)


def js_bits(rows: Float[Tensor, "head query key"]) -> Float[np.ndarray, "head head"]:
    """Of every pair of heads, mean over queries, bits, 0..1."""
    entropy = torch.special.entr(rows).sum(-1)  # [head, query]
    found = torch.zeros(len(rows), len(rows), dtype=torch.float64)
    for one in range(len(rows) - 1):
        others = slice(one + 1, None)
        mixed = torch.special.entr((rows[one] + rows[others]) / 2).sum(-1)
        divergence = mixed - (entropy[one] + entropy[others]) / 2  # [other, query]
        found[one, others] = divergence.mean(-1).clamp(min=0).cpu().double()
    bits: Floats = ((found + found.T) / math.log(2)).clamp(max=1.0).numpy()
    return bits


def with_sink(rows: Float[Tensor, "head query key"]) -> Float[Tensor, "head query key_or_sink"]:
    """With what a sink that is no token takes (gpt-oss) as one more place to look: rows sum to 1.

    Otherwise a head that gives all to the sink would be half a bit from one that gives it nothing.
    """
    left = (1 - rows.sum(-1, keepdim=True)).clamp(min=0)
    return torch.cat([rows, left], dim=-1)


def queries(n_tokens: int, number: int, most: int = N_QUERIES) -> list[int]:
    """Of which positions a prompt's rows are compared: not the first, which has but one key.

    Args:
        number: of the prompt; the same one always gives the same positions.
    """
    places = np.arange(1, n_tokens)
    if len(places) > most:
        places = np.random.default_rng((SEED, number)).choice(places, size=most, replace=False)
    return [int(place) for place in np.sort(places)]


def some(n_prompts: int, most: int = N_PROMPTS) -> list[int]:
    """Which prompts are compared: at most so many, evenly spread."""
    return [int(i) for i in np.linspace(0, n_prompts - 1, min(n_prompts, most)).round()]


def head_similarity(
    model: LensModel, token_ids: Sequence[Sequence[int]], batch_tokens: int = 512
) -> Similarity:
    """Of all heads, block by block, over prompts of two tokens or more."""
    found, source = Similarity(model.n_layers * model.n_heads), Source(model)
    sinks = any(has_sinks(model, block) for block in range(model.n_layers))
    for items in plan_batches([len(ids) for ids in token_ids], batch_tokens, model.rope_switch):
        kept: list[list[Tensor]] = [[] for _ in items]

        def see(
            seen: Seen, items: Sequence[int] = items, kept: Sequence[list[Tensor]] = kept
        ) -> None:
            places = queries(seen.pattern.shape[-1], items[seen.number])
            rows = seen.pattern[:, places]
            kept[seen.number].append(with_sink(rows) if sinks else rows)

        source.watch([token_ids[item] for item in items], see)
        for own in kept:
            found.add(torch.cat(own))
    return found


def similarity_table(model: LensModel, found: Similarity) -> pa.Table:
    """One row per pair of heads."""
    one, other = np.triu_indices(model.n_layers * model.n_heads, 1)
    return SIMILARITY.of_columns(
        {
            "model": np.full(len(one), model.name, dtype=object),
            "block_a": one // model.n_heads,
            "head_a": one % model.n_heads,
            "block_b": other // model.n_heads,
            "head_b": other % model.n_heads,
            "js_bits": found.js_bits[one, other],
            "n_prompts": np.full(len(one), found.n_prompts),
        }
    )
