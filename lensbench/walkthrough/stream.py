"""The residual stream of one text: its state at every layer, and what each block writes into it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from lensbench.errors import ModelError
from lensbench.lens.gate import SITE_IDENTITIES, Identity
from lensbench.lens.logit import model_output
from lensbench.models.model import LensModel
from lensbench.models.sites import Site
from lensbench.prompts.batch import make_batch
from lensbench.report.walk.numbers import Writes
from lensbench.residuals.capture import capture_positions
from lensbench.walkthrough.path import Attribution

N_PROMOTED = 6


@dataclass(frozen=True)
class Stream:
    """Of one text, float32."""

    states: Float[Tensor, "layer pos d_model"]
    attention: Float[Tensor, "block pos d_model"]
    mlp: Float[Tensor, "block pos d_model"]
    logits: Float[Tensor, " d_vocab"]  # behind the last token

    @property
    def sum_errors(self) -> Float[Tensor, "block pos"]:
        """How far state, attention and MLP of a block are from the next state, relative to it."""
        off = self.states[:-1] + self.attention + self.mlp - self.states[1:]
        return off.norm(dim=-1) / self.states[1:].norm(dim=-1)

    @property
    def last_parts(self) -> Float[Tensor, "part d_model"]:
        """At the last position: the embedding, then attention and MLP of each block."""
        blocks = torch.stack([self.attention[:, -1], self.mlp[:, -1]], dim=1).flatten(0, 1)
        return torch.cat([self.states[:1, -1], blocks])


def read_stream(model: LensModel, ids: Sequence[int]) -> tuple[Stream, Identity]:
    """One pass, with what it is held to: state, attention and MLP of a block sum to the next state.

    Raises ModelError where a block does not show what it adds.
    """
    summed = SITE_IDENTITIES["resid_post"].measure(model, make_batch([0], [ids]))
    if summed.passed is None:
        raise ModelError(f"{model.name}: {summed.reason}, so its stream cannot be taken apart.")
    sites = model.sites(("embed", "attn_out", "mlp_out", "resid_post"))
    residuals = capture_positions(model, [ids], [range(len(ids))], sites)
    layers = range(1, model.n_layers + 1)

    def every(kind: str) -> Float[Tensor, "block pos d_model"]:
        return torch.stack([residuals.at(Site(kind, layer)) for layer in layers])

    states = torch.cat([residuals.at(Site("embed", 0))[None], every("resid_post")])
    last = slice(len(ids) - 1, len(ids))
    logits = model_output(model, residuals, last)[0]
    return Stream(states, every("attn_out"), every("mlp_out"), logits), summed


def writes_of(
    attribution: Attribution, writes: Float[Tensor, "block pos d_model"], stream: Stream
) -> Writes:
    """What a kind of sub-layer adds: how much, and which tokens it makes likelier."""
    n_blocks, n_pos, _ = writes.shape
    lengths = attribution.lengths(stream.states[-1]).repeat(n_blocks, 1)
    ids, effects = attribution.top(writes.flatten(0, 1), lengths, N_PROMOTED)
    return Writes(
        norms=writes.norm(dim=-1).cpu().numpy(),
        top_ids=ids.reshape(n_blocks, n_pos, -1).cpu().numpy(),
        top_effects=effects.reshape(n_blocks, n_pos, -1).cpu().numpy(),
    )
