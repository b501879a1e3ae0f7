"""The stream of patterns: one block at a time over many prompts, and none is kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from lensbench.again import Sent
from lensbench.attention.facts import Facts, TokenKinds, looking_back
from lensbench.attention.scores import Pattern
from lensbench.attention.values import Lengths, Outputs, moved, value_site
from lensbench.checkpoints.config.shape import attention_windows
from lensbench.errors import ModelError
from lensbench.models.model import LensModel
from lensbench.models.sites import Site
from lensbench.models.text_encoder import TextEncoder
from lensbench.prompts.batch import make_batch
from lensbench.residuals.capture import watch
from lensbench.spec import ranges


@dataclass(frozen=True)
class Seen:
    """What the heads of one block do with one prompt, by its number in the batch; float32."""

    number: int
    block: int
    pattern: Pattern
    lengths: Lengths | None  # of what each token's value moves, where that was asked for

    def weighted(self, weighting: str) -> Pattern:
        """The pattern itself (`plain`), or weighted by what it moves (`moved`)."""
        if weighting == "plain":
            return self.pattern
        assert self.lengths is not None  # asked for
        return moved(self.pattern, self.lengths)


class Patterns(Protocol):
    """A model whose patterns can be read, whichever way it looks."""

    @property
    def model(self) -> LensModel | TextEncoder:
        """The model itself."""

    def watch(
        self, token_ids: Sequence[Sequence[int]], see: Callable[[Seen], None], moved: bool = False
    ) -> None:
        """Run prompts as one batch; `see` is handed each block's pattern of each prompt."""


@dataclass(frozen=True)
class Source(Sent):
    """A model whose patterns are read, and what is made of it once."""

    model: LensModel

    @cached_property
    def kinds(self) -> TokenKinds:
        """Of which kinds its tokens are."""
        return TokenKinds(self.model.tokenizer)

    @cached_property
    def outputs(self) -> Outputs:
        """Its heads' output projections."""
        return Outputs(self.model)

    @cached_property
    def windows(self) -> list[int | None]:
        """How many tokens a query may look at, by block; None: all before it."""
        config = self.model.hf_config
        return [None] * self.model.n_layers if config is None else attention_windows(config)

    def facts(self, token_ids: Sequence[int]) -> dict[int | None, Facts]:
        """What is known of a prompt, for each window that the model has."""
        ids, kinds = torch.tensor(token_ids), self.kinds(token_ids)
        return {w: Facts(ids, kinds, looking_back(len(ids), w)) for w in {*self.windows}}

    def watch(
        self, token_ids: Sequence[Sequence[int]], see: Callable[[Seen], None], moved: bool = False
    ) -> None:
        """Run prompts as one batch; `see` is handed each block's pattern of each prompt.

        Memory beyond the forward pass: one block. Raises ModelError as `require_readable`, and with
        `moved` where values cannot be read.
        """
        require_readable(self.model)
        values: dict[int, Tensor] = {}

        def look(site: Site, value: Float[Tensor, "batch ..."]) -> None:
            if site.kind != "pattern":
                values[site.layer] = value
                return
            own = values.pop(site.layer, None)
            for number, ids in enumerate(token_ids):
                n = len(ids)  # padding stands behind
                lengths = None
                if own is not None:
                    lengths = self.outputs.lengths(site.layer, own[number, :n])
                pattern = value[number, :, :n, :n].float()
                see(Seen(number, site.layer - 1, pattern, lengths))

        sites = self.model.sites("pattern")
        if moved:
            sites = [s for site in sites for s in (value_site(site.layer), site)]
        watch(self.model, make_batch(range(len(token_ids)), token_ids), sites, look)


def require_readable(model: LensModel) -> None:
    """Raise ModelError, with the blocks, for a model whose attention has no pattern everywhere."""
    there = {site.layer for site in model.sites("pattern")}
    missing = [layer - 1 for layer in range(1, model.n_layers + 1) if layer not in there]
    if missing:
        kinds = getattr(model.hf_config, "layer_types", None) or []
        named = sorted({kinds[block] for block in missing if block < len(kinds)})
        kind = f" ({', '.join(named)})" if named else ""
        raise ModelError(
            f"{model.name}: the attention of {_blocks(missing)}{kind} cannot be read. A state "
            "space or linear attention has no pattern, and of other kinds TransformerLens shows "
            "none here. Choose a model whose blocks all have softmax attention."
        )


def _blocks(numbers: Sequence[int]) -> str:
    return f"block{'s' if len(numbers) > 1 else ''} {ranges(numbers, ', ')}"
