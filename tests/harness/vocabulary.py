"""Distributions put through the lens' pass over the vocabulary, and the same in float64."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from lensbench.lens.vocabulary.output import Output
from lensbench.lens.vocabulary.reading import Reading
from lensbench.lens.vocabulary.stream import Stream, Vectors
from lensbench.models.readout import Readout


def stream_of(
    readout: Readout,
    model_logits: Tensor,
    sought: Mapping[str, Tensor],
    k: int = 5,
    normed: Tensor | None = None,
) -> Stream:
    """A stream for cells whose model says `model_logits` [cell, d_vocab].

    With the vectors that the head made them of they are at hand: there is no mean row.
    """

    def logits(cells: Any, tokens: Any) -> Tensor:
        return model_logits[cells, tokens].clone()

    return Stream(Output.of(readout, len(model_logits), logits, normed), sought, k)


def read_logits(
    logits: Tensor, model_logits: Tensor | None = None, k: int = 5, **sought: object
) -> Reading:
    """The reading of rows of logits, [row, d_vocab].

    They are the head, and its inputs the unit vectors: every product is exact.
    """
    readout = Readout(norm=lambda x: x, W_U=logits, b_U=None)
    tokens = {name: torch.as_tensor(ids).expand(len(logits)) for name, ids in sought.items()}
    stream = stream_of(readout, logits if model_logits is None else model_logits, tokens, k)
    units = torch.eye(len(logits)).unsqueeze(1)
    return stream.read(Vectors(units, slice(0, len(logits))))


def exact_logits(readout: Readout, normed: Tensor) -> Tensor:
    """Logits of [row, d_model] in float64, by plain torch."""
    logits = normed.double() @ readout.W_U.double()
    if readout.b_U is not None:
        logits = logits + readout.b_U.double()
    logits = logits * readout.logit_scale
    cap = readout.soft_cap
    return logits if cap is None else cap * torch.tanh(logits / cap)
