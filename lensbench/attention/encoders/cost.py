"""What the jobs of an encoder's attention take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from lensbench.attention.cost import batch_of
from lensbench.attention.encoders.record import EncoderReader
from lensbench.attention.phenomena.asking import Asking
from lensbench.attention.record import Reading
from lensbench.costs.cost import Cost, unpadded
from lensbench.costs.shape import Shape


def encoder_cost(
    reader: EncoderReader, shape: Shape, item: Reading | Asking, control: bool = False
) -> Cost:
    """What one job takes: a pass; what is made of patterns is no product of matrices.

    `control`: an untrained encoder is in memory too.
    """
    held = shape.held("lens", replace(batch_of(item), n_read=0))  # heads' weights are not read
    held += shape.sizes.weight_bytes(32) if control else 0
    return _of_item(reader, shape, item) + Cost(working_bytes=held)


def _of_item(reader: EncoderReader, shape: Shape, item: Reading | Asking) -> Cost:
    settings, model = reader.settings, reader.source.model
    n_heads, weightings = model.n_layers * model.n_heads, len(settings.weightings)
    if isinstance(item, Asking):
        n_questions = sum(len(one.questions) for one in item.asked)
        rows = {"answers": n_questions * weightings}
        return _pass(reader, shape, [one.token_ids for one in item.asked]) + Cost(rows=rows)
    ids = [text.token_ids for text in item.texts]
    kept = [text for text in item.texts if text.prompt_id in settings.keep]
    kept = kept if item.condition == "text" else []
    rows = {"encoder_heads": len(ids) * weightings * n_heads, "patterns": len(kept) * n_heads}
    rows["patterns.weights"] = sum(len(text.token_ids) ** 2 for text in kept) * n_heads
    return _pass(reader, shape, ids) + Cost(rows=rows)


def _pass(reader: EncoderReader, shape: Shape, ids: Sequence[Sequence[int]]) -> Cost:
    """One batch without logits; of each token's value in each head the length, where it counts."""
    lengths = list(map(len, ids))
    n, longest = len(lengths), max(lengths)
    moved = 0.0
    if reader.settings.moved:
        d_head = shape.d_model // reader.source.model.n_heads
        moved = 2.0 * sum(lengths) * reader.source.model.n_layers * shape.d_model * d_head
    return shape.batch(n, longest, 0) + unpadded(lengths) + Cost(flops=moved)
