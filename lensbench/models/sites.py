"""Sites: places in a model where something can be captured, as data."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lensbench.errors import InputProblems, Problem

if TYPE_CHECKING:
    from torch import Tensor

# Kind -> TransformerLens' hook point inside a block, in the order in which a block passes them.
HOOKS = {
    "pattern": "attn.hook_pattern",  # [batch, head, query, key]
    "head_out": "attn.hook_result",  # [batch, pos, head, d_model], before the output's bias
    "attn_out": "hook_attn_out",  # what attention adds to the residual stream
    "resid_mid": "hook_resid_mid",
    "mlp_out": "hook_mlp_out",  # what the MLP adds to it
    "resid_post": "hook_resid_post",
}
KINDS = ("embed", *HOOKS)
STREAM = ("embed", "resid_mid", "resid_post")  # states of the residual stream: a lens reads these
VECTORS = (*STREAM, "attn_out", "mlp_out", "head_out")  # one d_model vector per position (and head)

_KIND_OF = {hook: kind for kind, hook in HOOKS.items()}
_IN_BLOCK = re.compile(r"blocks\.(\d+)\.(.+?)(\.\d+)?")


@dataclass(frozen=True)
class Site:
    """A place: `layer` 0 is the embedding, i is inside or after block i - 1 (blocks count from 0).

    `kind` is one of `KINDS`, or TransformerLens' own name of a hook point inside a block, such as
    "attn.hook_z". `head` chooses one head where there are several.

    >>> str(Site("head_out", 6, 3))
    'blocks.5.head_out.3'
    """

    kind: str
    layer: int
    head: int | None = None

    @classmethod
    def state(cls, layer: int) -> Site:
        """The residual stream at a layer: behind so many blocks, and what enters the next."""
        return cls("resid_post", layer) if layer else cls("embed", 0)

    @classmethod
    def of(cls, name: str, layer: int) -> Site:
        """From its name and layer, as records have them: "head_out.3", 6."""
        kind, _, head = name.rpartition(".")
        return cls(kind, layer, int(head)) if head.isdigit() else cls(name, layer)

    @classmethod
    def parse(cls, text: str) -> Site:
        """A site by its name: `embed`, `blocks.5.resid_post`, `blocks.5.head_out.3`.

        What enters a block is what left the one before it: `blocks.5.resid_pre` is
        `blocks.4.resid_post`. Raises InputProblems for a text that is no such name.
        """
        found = _IN_BLOCK.fullmatch(str(text))
        if found is None:
            if text == "embed":
                return cls("embed", 0)
            what, remedy = f"there is no {text!r}", f"Write blocks.5.KIND, of {', '.join(KINDS)}."
            raise InputProblems([Problem("sites", what, remedy)])
        block, kind = int(found[1]), _KIND_OF.get(found[2], found[2])
        if kind in ("resid_pre", "hook_resid_pre"):
            return cls.state(block)
        return cls.of(kind + (found[3] or ""), block + 1)

    @property
    def name(self) -> str:
        """Kind and head, as records have them beside the layer (`of`)."""
        return self.kind if self.head is None else f"{self.kind}.{self.head}"

    @property
    def hook(self) -> str:
        """TransformerLens' name of the hook point."""
        if self.kind == "embed":
            return "blocks.0.hook_resid_pre"
        return f"blocks.{self.layer - 1}.{HOOKS.get(self.kind, self.kind)}"

    @property
    def is_vector(self) -> bool:
        """Whether there is one vector of d_model numbers at a position."""
        return self.kind in VECTORS and (self.kind == "head_out") == (self.head is not None)

    def depth(self, n_layers: int) -> float:
        """Share of the blocks passed, 0..1; up to and after attention counts as half a block."""
        attention = self.kind in ("pattern", "head_out", "attn_out", "resid_mid")
        return (self.layer - 0.5 * (attention or self.kind.startswith("attn."))) / n_layers

    def part(self, value: Tensor) -> Tensor:
        """What the hook point gives, for the head if one is chosen: all but its axis."""
        if self.head is None:
            return value
        axis = 1 if self.kind in ("pattern", "attn.hook_attn_scores") else 2
        return value.select(axis, self.head)

    def __str__(self) -> str:
        return self.name if self.kind == "embed" else f"blocks.{self.layer - 1}.{self.name}"
