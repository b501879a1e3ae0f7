"""A loaded model: a TransformerLens bridge, its tokenizer and its readout under one name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from lensbench.models.readout import Point, Readout, Site

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class LensModel:
    """What the lens needs of a model; made by `load_model`.

    `bridge` is any model with TransformerLens' structural protocol (`cfg`, `run_with_hooks`,
    `ln_final`, `W_U`, `b_U`, `blocks`): a TransformerBridge, or a HookedTransformer on 3.9.
    `folder` is None for a model that came as a Python object.
    """

    name: str
    source: str
    bridge: Any
    tokenizer: PreTrainedTokenizerBase
    readout: Readout
    folder: Path | None = None
    model_type: str = "unknown"

    @property
    def n_layers(self) -> int:
        """Number of transformer blocks."""
        return int(self.bridge.cfg.n_layers)

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""
        return int(self.readout.W_U.shape[0])

    @property
    def d_vocab(self) -> int:
        """Number of logits."""
        return int(self.readout.W_U.shape[1])

    @property
    def n_ctx(self) -> int:
        """Longest prompt in tokens."""
        return int(self.bridge.cfg.n_ctx)

    @property
    def n_params(self) -> int:
        """Number of parameters, tied ones once.

        TransformerLens keeps a joint q/k/v matrix beside the three that it splits it into.
        """
        named = self.bridge.named_parameters()
        return sum(weight.numel() for name, weight in named if ".qkv." not in name)

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the head, and so of the logits' product."""
        return self.readout.W_U.dtype

    @property
    def device(self) -> torch.device:
        """Device of the head."""
        return self.readout.W_U.device

    @property
    def norm(self) -> str:
        """ "RMS" or "LN": the kind of the final norm."""
        return "RMS" if str(self.bridge.cfg.normalization_type).startswith("RMS") else "LN"

    @property
    def parallel(self) -> bool:
        """Attention and MLP read the same residual, so there is no point between them."""
        return bool(getattr(self.bridge.cfg, "parallel_attn_mlp", False))

    def sites(self, points: Sequence[Point] = ("embed", "resid_post")) -> list[Site]:
        """The residual sites of the wanted kinds, in the order the residual stream passes them.

        A parallel block has no `resid_mid`; asking for it there gives none.
        """
        sites = [Site("embed", 0)] if "embed" in points else []
        for layer in range(1, self.n_layers + 1):
            if "resid_mid" in points and not self.parallel:
                sites.append(Site("resid_mid", layer))
            if "resid_post" in points:
                sites.append(Site("resid_post", layer))
        return sites

    @property
    def final_site(self) -> Site:
        """After the last block: where the lens must equal the model."""
        return Site("resid_post", self.n_layers)

    def __repr__(self) -> str:
        cap = "no soft cap" if self.readout.soft_cap is None else f"cap {self.readout.soft_cap:g}"
        return (
            f"LensModel({self.name}: {self.n_layers} layers x {self.d_model}, "
            f"{self.d_vocab:,} tokens, {self.norm} norm, {cap}, "
            f"{str(self.dtype).removeprefix('torch.')} on {self.device})"
        )
