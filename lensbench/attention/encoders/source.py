"""The stream of an encoder's patterns: one block at a time over many texts, and none is kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import cast

from jaxtyping import Float
from torch import Tensor, nn

from lensbench.again import Sent
from lensbench.attention.patterns import Seen
from lensbench.attention.values import factor_of, lengths_of
from lensbench.models.text_encoder import Kind, TextEncoder


@dataclass(frozen=True)
class EncoderSource(Sent):
    """An encoder whose patterns are read, as `attention.patterns.Source` is a causal model."""

    model: TextEncoder

    @cached_property
    def outputs(self) -> list[Float[Tensor, "head d_head d_model"]]:
        """W_O of each head, block by block."""
        weights = [linear.weight.detach() for linear in self._linear]  # [d_model, head * d_head]
        return [weight.T.unflatten(0, (self.model.n_heads, -1)) for weight in weights]

    @property
    def biases(self) -> list[Float[Tensor, " d_model"]]:
        """What is added to what the heads write, block by block."""
        return [linear.bias.detach() for linear in self._linear]

    @property
    def _linear(self) -> list[nn.Linear]:
        """The output projections."""
        return [cast(nn.Linear, parts["output"]) for parts in self.model.parts]

    @cached_property
    def factors(self) -> list[Float[Tensor, "head rank d_head"]]:
        """Of each block what lengths are made with."""
        return [factor_of(weight) for weight in self.outputs]

    def watch(
        self, token_ids: Sequence[Sequence[int]], see: Callable[[Seen], None], moved: bool = False
    ) -> None:
        """Run texts as one batch; `see` is handed each block's pattern of each text.

        Padding is cut off. Memory beyond the forward pass: one block. Raises ModelError where
        blocks do not give attention weights.
        """
        values: dict[int, Tensor] = {}

        def look(kind: Kind, block: int, value: Tensor) -> None:
            if kind == "values":  # they are made before the pattern
                values[block] = value
                return
            own = values.pop(block, None)
            for number, ids in enumerate(token_ids):
                n = len(ids)  # padding stands behind
                lengths = None
                if own is not None:
                    lengths = lengths_of(own[number, :n], self.factors[block])
                see(Seen(number, block, value[number, :, :n, :n].float(), lengths))

        self.model.watch(token_ids, look, ("values", "pattern") if moved else ("pattern",))
