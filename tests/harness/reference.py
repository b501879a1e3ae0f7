"""The lens computed without lensbench and without TransformerLens: Hugging Face and numpy alone.

The stream comes from Hugging Face's own modules, the readout from its own final norm, the head's
product and all statistics are in float64.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
import torch
from scipy.spatial.distance import jensenshannon
from scipy.special import log_softmax
from scipy.stats import entropy
from transformers import PreTrainedModel

from tests.harness.tiny import Case, Tiny

Key = tuple[str, int]  # point and layer, as in lensbench's tables
Array = np.ndarray


@dataclass(frozen=True)
class Reference:
    """A Hugging Face model seen from outside."""

    hf: PreTrainedModel
    row: Tiny

    @property
    def final_norm(self) -> torch.nn.Module:
        return _at(self.hf, f"{self.row.backbone}.{self.row.final_norm}")

    @property
    def blocks(self) -> list[torch.nn.Module]:
        return list(_at(self.hf, f"{self.row.backbone}.{self.row.blocks}"))

    def run(self, ids: Sequence[int]) -> tuple[dict[Key, torch.Tensor], Array]:
        """The stream at every point, each [pos, d_model], and the model's logits [pos, d_vocab].

        Hugging Face's last hidden state is normed already, so the stream after the last block is
        what its final norm receives.
        """
        received: dict[Key, torch.Tensor] = {}

        def keep(key: Key) -> Any:
            def hook(module: torch.nn.Module, args: tuple, kwargs: dict) -> None:
                x = args[0] if args else kwargs["hidden_states"]
                received[key] = x[0].detach().clone()

            return hook

        watched = [(("resid_post", len(self.blocks)), self.final_norm)]
        if self.row.ln2 is not None:
            watched += [
                (("resid_mid", i), getattr(block, self.row.ln2))
                for i, block in enumerate(self.blocks, start=1)
            ]
        handles = [m.register_forward_pre_hook(keep(k), with_kwargs=True) for k, m in watched]
        with torch.no_grad():
            out = self.hf(torch.tensor([list(ids)]), output_hidden_states=True)
        for handle in handles:
            handle.remove()
        received["embed", 0] = out.hidden_states[0][0]
        for layer in range(1, len(self.blocks)):
            received["resid_post", layer] = out.hidden_states[layer][0]
        return received, out.logits[0].float().numpy().astype(np.float64)

    def logits(self, resid: torch.Tensor, lens: str, key: Key) -> Array:
        """[pos, d_vocab], float64: norm, head, bias, scale and soft cap, each by hand."""
        with torch.no_grad():
            normed = self.norm(lens, key)(resid[None])[0].double()
            head = self.hf.get_output_embeddings()
            logits = normed @ head.weight.double().T
            if head.bias is not None:
                logits = logits + head.bias.double()
        # Cohere multiplies by one, Granite divides by the other.
        logits = logits * getattr(self.hf.config, "logit_scale", 1.0)
        logits = logits / getattr(self.hf.config, "logits_scaling", 1.0)
        cap = getattr(self.hf.config, "final_logit_softcapping", None)
        return (logits if cap is None else cap * torch.tanh(logits / cap)).numpy()

    def norm(self, lens: str, key: Key) -> Any:
        """The module that `lens` applies at `key`; KeyError where the model has none."""
        if lens == "raw":
            return torch.nn.Identity()
        if lens == "final":
            return self.final_norm
        point, layer = key
        if point == "resid_mid":
            return getattr(self.blocks[layer - 1], str(self.row.ln2))
        if layer == len(self.blocks):
            return self.final_norm
        return getattr(self.blocks[layer], self.row.ln1)


def _at(root: torch.nn.Module, path: str) -> Any:
    return reduce(getattr, path.split("."), root)


def statistics(
    lens_logits: Array, model_logits: Array, answer: int, following: Sequence[int]
) -> dict[str, Array]:
    """The numbers of one prompt at one layer, [pos], in float64. `following` is one shorter."""
    q, p = log_softmax(lens_logits, axis=-1), log_softmax(model_logits, axis=-1)
    surprisal = -q[range(len(following)), following] / np.log(2)
    return {
        "entropy_bits": entropy(np.exp(q), base=2, axis=-1),
        "kl_bits": entropy(np.exp(p), np.exp(q), base=2, axis=-1),
        "js_bits": jensenshannon(np.exp(p), np.exp(q), base=2, axis=-1) ** 2,
        "answer_prob": np.exp(q[:, answer]),
        "answer_margin_bits": (q[:, answer] - np.delete(q, answer, -1).max(-1)) / np.log(2),
        "next_surprisal_bits": np.append(surprisal, np.nan),
    }


# Closer than this in log-probability, float32 cannot be held to tell two tokens apart.
TIE = 2e-5


def possible_ranks(lens_logits: Array, token: int) -> range:
    """Ranks (1 = best) of `token`: one, unless others are closer to it than `TIE`."""
    ahead = lens_logits - lens_logits[token]
    return range(1 + int((ahead > TIE).sum()), 1 + int((ahead >= -TIE).sum()))


def is_top_k(lens_logits: Array, ids: Sequence[int]) -> bool:
    """Whether `ids` are the best tokens, best first, up to exchanges within `TIE`."""
    best = np.sort(lens_logits)[::-1][: len(ids)]
    return len(set(ids)) == len(ids) and bool(np.all(np.abs(lens_logits[ids] - best) <= TIE))


def layers_of_hugging_face(case: Case, ids: Sequence[int]) -> list[torch.Tensor]:
    """The residual stream [pos, d_model] at the embedding and after each block, by hooks."""
    seen: list[torch.Tensor] = []
    backbone = getattr(case.hf, case.row.backbone)
    blocks = getattr(backbone, case.row.blocks)
    first = blocks[0].register_forward_pre_hook(
        lambda block, args, kwargs: seen.append(args[0] if args else kwargs["hidden_states"]),
        with_kwargs=True,
    )
    rest = [
        block.register_forward_hook(
            lambda block, args, out: seen.append(out[0] if isinstance(out, tuple) else out)
        )
        for block in blocks
    ]
    with torch.no_grad():
        case.hf(torch.tensor([list(ids)]))
    for handle in (first, *rest):
        handle.remove()
    return [stream.reshape(len(ids), -1) for stream in seen]


def head_of_hugging_face(case: Case, states: torch.Tensor) -> torch.Tensor:
    """Logits of states: Hugging Face's own norm and head, and the family's own last steps."""
    normed = getattr(getattr(case.hf, case.row.backbone), case.row.final_norm)(states)
    config = case.hf.config
    logits: torch.Tensor = case.hf.get_output_embeddings()(normed)
    logits = logits * getattr(config, "logit_scale", 1.0)
    cap = getattr(config, "final_logit_softcapping", None)
    return cap * torch.tanh(logits / cap) if cap else logits
