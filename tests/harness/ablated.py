"""Heads replaced by their means in plain transformers, by hooks of torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from tests.harness.tiny import Case


def projection(block: Any) -> torch.nn.Module:
    """The module that a block's heads are put out through."""
    own = getattr(block, "attn", None) or getattr(block, "self_attn", None) or block.attention
    names = ("o_proj", "c_proj", "dense")
    return next(getattr(own, name) for name in names if hasattr(own, name))


Heads = Sequence[tuple[int, int]]


class Plain:
    """Hugging Face's own model, one unpadded prompt at a time, hooks of torch."""

    def __init__(self, case: Case) -> None:
        self.hf = case.fresh_hf()
        self.hf.set_attn_implementation("eager")
        self.blocks = list(getattr(getattr(self.hf, case.row.backbone), case.row.blocks))
        self.n_heads = self.hf.config.num_attention_heads

    def logits(self, ids: Sequence[int]) -> torch.Tensor:
        with torch.no_grad():
            return self.hf(torch.tensor([list(ids)])).logits[0].double()

    def means(self, prompts: Sequence[Sequence[int]]) -> list[torch.Tensor]:
        """Per block, what goes into its projection, over positions behind the first."""
        seen: list[list[torch.Tensor]] = [[] for _ in self.blocks]
        handles = [
            projection(block).register_forward_pre_hook(
                lambda module, args, own=own: own.append(args[0][0, 1:].clone())
            )
            for block, own in zip(self.blocks, seen, strict=True)
        ]
        for ids in prompts:
            self.logits(ids)
        for handle in handles:
            handle.remove()
        return [torch.cat(own).double().mean(0).float() for own in seen]

    @contextmanager
    def without(self, heads: Heads, means: list[torch.Tensor]) -> Iterator[None]:
        def replace(block: int) -> Any:
            def hook(module: torch.nn.Module, args: tuple) -> tuple:
                z = args[0].clone()
                width = z.shape[-1] // self.n_heads
                for own, head in heads:
                    part = slice(head * width, (head + 1) * width)
                    if own == block:
                        z[:, 1:, part] = means[block][part]
                return (z, *args[1:])

            return hook

        handles = [
            projection(block).register_forward_pre_hook(replace(number))
            for number, block in enumerate(self.blocks)
        ]
        yield
        for handle in handles:
            handle.remove()

    def nats(self, ids: Sequence[int], answer: int) -> tuple[float, float]:
        log_p = self.logits(ids).log_softmax(-1)
        loss = -sum(float(log_p[i, token]) for i, token in enumerate(ids[1:]))
        return loss, -float(log_p[-1, answer])
