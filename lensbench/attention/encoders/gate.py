"""The gate of an encoder's patterns: what must hold before anything is said of its heads."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from lensbench.attention.encoders.source import EncoderSource
from lensbench.attention.patterns import Seen
from lensbench.attention.scores import Pattern
from lensbench.errors import GateError
from lensbench.lens.gate import Identity, worst
from lensbench.lens.record import short_and_long
from lensbench.models.text_encoder import Kind
from lensbench.prompts.encode import EncodedPrompt

# An encoder is read in float32. Bounds: about 100 times the rounding seen.
_BOUND = 1e-5
_PADDED_BOUND = 1e-4
_TINY = torch.finfo(torch.float32).tiny


def row_error(pattern: Pattern) -> float:
    """How far a row's sum is from 1: also where weight has gone to padding, which is cut off."""
    return float((pattern.sum(-1) - 1).abs().max())


def row_check(token_ids: Sequence[int]) -> Callable[[Seen], float]:
    """What tells the `row_error` of each block's pattern, whatever the text."""
    return lambda seen: row_error(seen.pattern)


def rows_identity(error: float) -> Identity:
    """Rows sum to 1: the worst of all that was read."""
    name = "attention rows sum to 1, and padding gets nothing"
    reason = "float32: each weight is rounded once; the worst of all texts"
    return Identity.held(name, error, _BOUND, "absolute", reason)


def gate_texts(source: EncoderSource, encoded: Sequence[EncodedPrompt]) -> list[tuple[int, ...]]:
    """A short and a long text of the run, so that padding is tested.

    Those that the encoder gives NaN or Inf for are passed over: the run skips them and says so.
    Raises GateError where all are such.
    """

    def is_finite(token_ids: tuple[int, ...]) -> bool:
        finite: list[bool] = []
        source.watch([token_ids], lambda seen: finite.append(bool(seen.pattern.isfinite().all())))
        return all(finite)

    found = short_and_long(encoded, is_finite)
    if not found:
        raise GateError(
            f"{source.model.name} gives NaN or Inf for every text, so nothing is reported. Its "
            "weights may be damaged: fetch it again."
        )
    return found


def check_encoder(source: EncoderSource, token_ids: Sequence[Sequence[int]]) -> list[Identity]:
    """Every identity on a few texts, that of rows first.

    What heads write, made of weights and values, sums to the attention's output; and patterns of a
    padded batch are those that the class gives for each text alone (`output_attentions`).
    """
    padded: list[list[Tensor]] = [[] for _ in token_ids]
    source.watch(token_ids, lambda seen: padded[seen.number].append(seen.pattern))
    rows = [row_error(pattern) for own in padded for pattern in own]
    written = [error for ids in token_ids for error in _written_errors(source, ids)]
    return [
        rows_identity(worst(rows)),
        Identity.held(
            "weights times values through the heads' output projections = the attention's output",
            worst(written),
            _BOUND,
            "relative",
            "float32: one rounding per head and addition",
        ),
        Identity.held(
            "patterns of a padded batch = the model's own, one text at a time (output_attentions)",
            worst(_padding_errors(source, token_ids, padded)),
            _PADDED_BOUND,
            "absolute",
            "float32: other shapes, other order of the same sums",
        ),
    ]


def _written_errors(source: EncoderSource, token_ids: Sequence[int]) -> list[float]:
    """The worst token of each block. Relative to the lengths of all heads, since they cancel."""
    seen: dict[int, dict[Kind, Tensor]] = {}

    def see(kind: Kind, block: int, value: Tensor) -> None:
        seen.setdefault(block, {})[kind] = value[0]

    source.model.watch([token_ids], see, ("values", "pattern", "output"))
    errors = []
    for block, own in sorted(seen.items()):
        mixed = torch.einsum("hqk,khd->qhd", own["pattern"], own["values"])
        heads = torch.einsum("qhd,hdm->qhm", mixed, source.outputs[block])
        off = heads.sum(1) + source.biases[block] - own["output"]
        length = heads.norm(dim=-1).sum(-1) + own["output"].norm(dim=-1)
        errors.append(float((off.norm(dim=-1) / length.clamp(min=_TINY)).max()))
    return errors


def _padding_errors(
    source: EncoderSource, token_ids: Sequence[Sequence[int]], padded: Sequence[Sequence[Tensor]]
) -> list[float]:
    errors = []
    for ids, own in zip(token_ids, padded, strict=True):
        with torch.inference_mode():
            given = torch.tensor([list(ids)], device=source.model.device)
            alone = source.model.hf(input_ids=given, output_attentions=True).attentions
        errors += [
            float((ours - theirs[0]).abs().max()) for ours, theirs in zip(own, alone, strict=True)
        ]
    return errors
