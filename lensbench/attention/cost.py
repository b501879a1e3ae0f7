"""What the jobs of an attention record take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from lensbench.attention.causal.tables import Ablating
from lensbench.attention.phenomena.without import Losing
from lensbench.attention.record import Item, Reader, Reading
from lensbench.attention.scores import OF_KEYS
from lensbench.costs.cost import Cost, total
from lensbench.costs.shape import Shape
from lensbench.prompts.batch import plan_batches
from lensbench.quantized.peaks import Batch

_PRODUCTS = len(OF_KEYS) + 1  # of each weight of a pattern: scores of keys, and the mean distance


def job_cost(reader: Reader, shape: Shape, item: Item, control: bool = False) -> Cost:
    """What one job takes. What is asked of patterns about words is not counted: it is little.

    `control`: an untrained model is in memory too.
    """
    held = shape.held("attention", replace(batch_of(item), control=control))
    return _of_item(reader, shape, item) + Cost(working_bytes=held)


def batch_of(item: Item) -> Batch:
    """The texts that go through the model at once."""
    texts = item.texts if isinstance(item, Reading) else item.asked
    return Batch(len(texts), max(len(one.token_ids) for one in texts))


def _of_item(reader: Reader, shape: Shape, item: Item) -> Cost:
    if isinstance(item, Reading):
        return _read(reader, shape, item)
    ids = [one.token_ids for one in item.asked]
    if isinstance(item, Ablating):
        rows = {"ablation": len(ids) * _n_heads(reader)}
        return _without_each(reader, shape, ids) + Cost(rows=rows)
    n_questions = sum(len(one.questions) for one in item.asked)
    if isinstance(item, Losing):
        return _without_each(reader, shape, ids) + Cost(rows={"word_losses": n_questions})
    rows = {"answers": n_questions * len(reader.settings.weightings)}
    return _pass(shape, ids) + _moving(reader, shape, ids) + Cost(rows=rows)


def means_cost(reader: Reader, shape: Shape) -> Cost:
    """What heads give on average, over all texts, where some are to be replaced by it."""
    ablators = [one for one in (reader.ablator, reader.of_words) if one is not None]
    asked = reader.settings.ablate > 0
    return total(_passes(reader, shape, one.others) for one in ablators if asked)


def _read(reader: Reader, shape: Shape, item: Reading) -> Cost:
    ids = [text.token_ids for text in item.texts]
    weightings, n_heads = len(reader.settings.weightings), _n_heads(reader)
    kept = [text for text in item.texts if text.prompt_id in reader.settings.keep]
    kept = kept if item.condition == "text" else []
    rows = {"heads": len(ids) * weightings * n_heads, "patterns": len(kept) * n_heads}
    weights = sum(len(text.token_ids) * (len(text.token_ids) + 1) // 2 for text in kept)
    rows["patterns.weights"] = weights * n_heads
    scoring = 2.0 * _PRODUCTS * sum(len(own) ** 2 for own in ids) * weightings * n_heads
    return _pass(shape, ids) + _moving(reader, shape, ids) + Cost(flops=scoring, rows=rows)


def _pass(shape: Shape, ids: Sequence[Sequence[int]]) -> Cost:
    """One batch, whose logits are made at every position."""
    longest = max(map(len, ids))
    whole = shape.batch(len(ids), longest, longest)
    n_tokens = sum(map(len, ids))
    return whole + Cost(n_tokens=n_tokens - whole.n_tokens)


def _passes(reader: Reader, shape: Shape, ids: Sequence[Sequence[int]]) -> Cost:
    """The same of several, as they are batched."""
    lengths, switch = [len(own) for own in ids], reader.model.rope_switch
    batches = plan_batches(lengths, reader.settings.batch_tokens, switch)
    return total(_pass(shape, [ids[item] for item in items]) for items in batches)


def _moving(reader: Reader, shape: Shape, ids: Sequence[Sequence[int]]) -> Cost:
    """Of each token's value in each head the length as the head writes it: d_head^2 products."""
    n_heads = _n_heads(reader)
    if not reader.settings.moved:
        return Cost()
    d_head = shape.pair_width / (2 * n_heads)
    return Cost(flops=2.0 * sum(map(len, ids)) * n_heads * d_head**2)


def _without_each(reader: Reader, shape: Shape, ids: Sequence[Sequence[int]]) -> Cost:
    """A batch as it is, from the middle on to test that, and from each head's block on without it.

    As many copies go together as a batch holds.
    """
    n_layers, longest = reader.model.n_layers, max(map(len, ids))
    n_texts, n_each = len(ids), reader.model.n_heads
    at_once = max(reader.settings.batch_tokens // (n_texts * longest), 1)
    whole = _pass(shape, ids)
    half = shape.batch(n_texts, longest, longest, share=(n_layers - n_layers // 2) / n_layers)
    found = [whole, half]
    for block in range(n_layers):
        for start in range(0, n_each, at_once):
            copies = min(at_once, n_each - start) * n_texts
            share = (n_layers - block) / n_layers
            found.append(shape.batch(copies, longest, longest, share=share))
    resumed = total(found)
    return resumed + Cost(n_tokens=whole.n_tokens - resumed.n_tokens)


def _n_heads(reader: Reader) -> int:
    """Of all blocks."""
    return reader.model.n_layers * reader.model.n_heads
