"""Mean ablation: what the model loses when a head always gives what it gives on average.

A head's output, before the projection W_O, is replaced by its mean over prompts and positions but
the first; over many prompts, for the mean of a few says what is in them. The first position stays
as it is: a token that has nothing to look at but itself, and in which most models keep a sink, is
no sample of what the head does elsewhere.

One pass without ablation keeps the state before every block. From there each ablation begins: the
blocks below are not run again, and many ablations at one block make a batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from lensbench.attention.causal.resume import repeated, replaced, resumed
from lensbench.checkpoints.devices import wide
from lensbench.errors import GateError, InputProblems, Problem
from lensbench.lens.gate import worst
from lensbench.models.forward import worst_kl_bits
from lensbench.models.model import LensModel
from lensbench.models.readout import KL_BITS
from lensbench.models.sites import Site
from lensbench.prompts.batch import Batch, make_batch, plan_batches
from lensbench.residuals.capture import watch

Head = tuple[int, int]  # block, head
Means = Sequence[Float[Tensor, "head d_head"]]  # of each block, whose heads may be wider
NO_ANSWER = -1
_ROWS = 64  # positions whose distribution over the vocabulary stands at once


@dataclass(frozen=True)
class Losses:
    """Nats of each prompt, as the model is and without each group of heads."""

    n_tokens: Int[np.ndarray, " prompt"]  # that are predicted: all but the first
    clean: Float[np.ndarray, " prompt"]  # nats, summed over them
    without: Float[np.ndarray, "prompt group"]
    clean_answer: Float[np.ndarray, " prompt"]  # nats of the answer's first token; NaN without one
    without_answer: Float[np.ndarray, "prompt group"]

    @property
    def change(self) -> Float[np.ndarray, "prompt group"]:
        """Nats per predicted token that are lost; negative where the model is better without."""
        return (self.without - self.clean[:, None]) / self.n_tokens[:, None]

    @property
    def answer_change(self) -> Float[np.ndarray, "prompt group"]:
        """Nats by which the answer is less likely."""
        return self.without_answer - self.clean_answer[:, None]


def every_head(model: LensModel) -> list[Head]:
    """All heads, block by block."""
    return [(block, head) for block in range(model.n_layers) for head in range(model.n_heads)]


def ablated(
    model: LensModel,
    token_ids: Sequence[Sequence[int]],
    groups: Sequence[Sequence[Head]],
    answers: Sequence[int] | None = None,
    batch_tokens: int = 512,
    means: Means | None = None,
) -> Losses:
    """Losses without each group of heads; a head alone is a group of one.

    Cost beyond that of a pass from the lowest block of each group on: two passes over the prompts.
    Memory: the states before all blocks of one batch, and `batch_tokens` rows of logits.

    Args:
        answers: of each prompt, the token that should come behind it, or `NO_ANSWER`.
        means: of every head, as `mean_outputs` measures them; None for those of these prompts.

    Raises InputProblems for prompts of one token, GateError where a pass from the middle on is not
    what the whole pass gives.
    """
    _require_two_tokens(token_ids)
    means = mean_outputs(model, token_ids, batch_tokens) if means is None else means
    answers = [NO_ANSWER] * len(token_ids) if answers is None else answers
    n = len(token_ids)
    found = Losses(
        np.array([len(ids) - 1 for ids in token_ids]),
        np.empty(n),
        np.empty((n, len(groups))),
        np.empty(n),
        np.empty((n, len(groups))),
    )
    for items, own, nats in passes(model, token_ids, groups, answers, batch_tokens, means):
        ends = np.array([len(token_ids[item]) - 1 for item in items])
        loss = np.where(np.arange(nats.shape[-1]) < ends[:, None], nats, 0.0).sum(-1)
        answer = nats[:, np.arange(len(items)), ends]
        if own is None:
            found.clean[items], found.clean_answer[items] = loss[0], answer[0]
        else:
            found.without[np.ix_(items, own)] = loss.T
            found.without_answer[np.ix_(items, own)] = answer.T
    return found


class Pass(NamedTuple):
    """Nats of what stands behind each position; at a prompt's last, its answer's (NaN: none).

    `groups`: numbers of those that it is without, each a copy of the batch; None: without none.
    """

    items: list[int]  # of the prompts
    groups: list[int] | None
    nats: Float[np.ndarray, "group batch pos"]


def passes(
    model: LensModel,
    token_ids: Sequence[Sequence[int]],
    groups: Sequence[Sequence[Head]],
    answers: Sequence[int],
    batch_tokens: int,
    means: Means,
) -> Iterator[Pass]:
    """Batch by batch, the prompts as the model reads them and then without each group.

    Arguments and GateError as of `ablated`.
    """
    tested = False
    for items in _plan(model, token_ids, batch_tokens):
        batch = make_batch(items, token_ids)
        ends = torch.tensor([answers[item] for item in items])
        states, logits = _clean(model, batch)
        tested = tested or _require_same(model, batch, states, logits)
        yield Pass(items, None, _nats(logits, batch, ends)[None])
        del logits
        for block, members in _by_first_block(groups).items():
            size = max(1, batch_tokens // batch.token_ids.numel())
            for start in range(0, len(members), size):
                own = members[start : start + size]
                heads = [groups[member] for member in own]
                nats = _without(model, batch, block, states[block], heads, means, ends)
                yield Pass(items, own, nats)


def mean_outputs(
    model: LensModel, token_ids: Sequence[Sequence[int]], batch_tokens: int = 512
) -> Means:
    """What each head gives on average before W_O, over all positions but the first, float32.

    Prompts whose heads give NaN or Inf are left out. Raises GateError where all do.
    """
    sums, counts = dict[int, Tensor](), dict[int, int]()

    for items in _plan(model, token_ids, batch_tokens):
        batch = make_batch(items, token_ids)
        inside = batch.attention_mask[:, 1:].to(model.device).bool()

        def see(site: Site, value: Tensor, inside: Tensor = inside) -> None:
            heads = wide(value.reshape(*value.shape[:2], model.n_heads, -1)[:, 1:].float())
            finite = (heads.isfinite().all(-1).all(-1) | ~inside).all(-1)  # [batch]
            own = inside & finite[:, None]
            total = heads[own].sum(0)
            sums[site.layer] = sums.get(site.layer, torch.zeros_like(total)) + total
            counts[site.layer] = counts.get(site.layer, 0) + int(own.sum())

        watch(model, batch, [Site("attn.hook_z", i + 1) for i in range(model.n_layers)], see)
    if not all(counts.values()):
        raise GateError(f"{model.name}: its heads give NaN or Inf in every prompt, so no mean.")
    return [(sums[layer] / counts[layer]).float() for layer in sorted(sums)]


def _plan(
    model: LensModel, token_ids: Sequence[Sequence[int]], batch_tokens: int
) -> list[list[int]]:
    return plan_batches([len(ids) for ids in token_ids], batch_tokens, model.rope_switch)


def _clean(
    model: LensModel, batch: Batch
) -> tuple[list[Float[Tensor, "batch pos d_model"]], Float[Tensor, "batch pos d_vocab"]]:
    """The state before each block, and the logits."""
    states: dict[int, Tensor] = {}
    sites = [Site.state(block) for block in range(model.n_layers)]
    logits = watch(model, batch, sites, lambda site, value: states.update({site.layer: value}))
    return [states[block] for block in range(model.n_layers)], logits


def _require_same(model: LensModel, batch: Batch, states: Sequence[Tensor], logits: Tensor) -> bool:
    """A pass from the middle on gives what the whole pass gives.

    False where nothing is tested, since it all is NaN.
    """
    block = model.n_layers // 2
    again = resumed(model, batch, block, states[block])
    ends = batch.attention_mask.sum(-1).tolist()
    pairs = [(own[:n], other[:n]) for own, other, n in zip(logits, again, ends, strict=True)]
    errors = [worst_kl_bits(*pair) for pair in pairs if bool(pair[0].isfinite().all())]
    if errors and not (error := worst(errors)) <= KL_BITS[model.dtype]:
        raise GateError(
            f"{model.name}: a pass that begins at block {block} gives another output than the "
            f"whole pass, by {error:.3g} bits (bound {KL_BITS[model.dtype]:g}), so heads of this "
            "model cannot be ablated."
        )
    return bool(errors)


def _by_first_block(groups: Sequence[Sequence[Head]]) -> dict[int, list[int]]:
    """Numbers of the groups by the block at which a pass without them begins."""
    found: dict[int, list[int]] = {}
    for number, heads in enumerate(groups):
        found.setdefault(min(block for block, _ in heads), []).append(number)
    return dict(sorted(found.items()))


def _without(
    model: LensModel,
    batch: Batch,
    block: int,
    state: Float[Tensor, "batch pos d_model"],
    groups: Sequence[Sequence[Head]],
    means: Means,
    ends: Int[Tensor, " batch"],
) -> Float[np.ndarray, "group batch pos"]:
    """Nats without each of some groups, in one pass: a copy of the batch for each."""
    rows = len(batch.items)
    at: dict[int, list[tuple[int, slice]]] = {}
    for number, heads in enumerate(groups):
        for own, head in heads:
            at.setdefault(own, []).append((head, slice(number * rows, (number + 1) * rows)))
    hooks = [replaced(own, placed, means[own]) for own, placed in at.items()]
    many = repeated(batch, len(groups))
    logits = resumed(model, many, block, state.repeat(len(groups), 1, 1), hooks)
    nats = _nats(logits, many, ends.repeat(len(groups)))
    return nats.reshape(len(groups), rows, -1)


def _nats(
    logits: Float[Tensor, "batch pos d_vocab"], batch: Batch, ends: Int[Tensor, " batch"]
) -> Float[np.ndarray, "batch pos"]:
    """Of each token behind the first, and of the one that comes behind them; NaN of padding."""
    lengths = batch.attention_mask.sum(-1)
    wanted = torch.cat([batch.token_ids[:, 1:], ends[:, None]], dim=1).clone()
    places = torch.arange(wanted.shape[1])
    wanted[places == lengths[:, None] - 1] = ends
    surprisal = torch.full(wanted.shape, torch.nan, dtype=torch.float64)
    cells = ((places < lengths[:, None]) & (wanted != NO_ANSWER)).nonzero()
    for some in cells.split(_ROWS):
        row, place = some.T.to(logits.device)
        own = logits[row, place].float()
        of = own.gather(1, wanted[tuple(some.T)].to(own.device)[:, None])[:, 0]
        surprisal[tuple(some.T)] = (own.logsumexp(-1) - of).cpu().double()
    found: Float[np.ndarray, "batch pos"] = surprisal.numpy()
    return found


def _require_two_tokens(token_ids: Sequence[Sequence[int]]) -> None:
    what, remedy = "it is one token, so nothing in it is predicted", "Give two tokens or more."
    short = [number for number, ids in enumerate(token_ids) if len(ids) < 2]
    if short:
        raise InputProblems([Problem(f"prompt {number}", what, remedy) for number in short])


def nested(order: Sequence[Head], sizes: Sequence[int]) -> Iterator[list[Head]]:
    """The first so many heads of an order, for each size: what goes when heads go one by one."""
    for size in sizes:
        yield list(order[:size])
