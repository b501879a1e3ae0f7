"""A forward pass through TransformerLens, and the gate that it is the model's own."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import torch

from lensbench.checkpoints.blocks import keeps_some
from lensbench.checkpoints.devices import wide
from lensbench.checkpoints.open import quiet
from lensbench.checkpoints.stored.offload import in_memory, is_offloaded
from lensbench.errors import refused_by_library
from lensbench.prompts.batch import Batch

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor
    from transformers import PreTrainedModel

Hooks = Sequence[tuple[str, Callable[..., "Tensor | None"]]]
_ROWS = 8  # of whole distributions compared at once, in float64


def forward(
    bridge: Any,
    batch: Batch,
    device: torch.device,
    hooks: Hooks = (),
    cache: Any = None,
    columns: Sequence[int] | None = None,
) -> Float[Tensor, "batch column d_vocab"]:
    """The model's own logits, of some columns only (None: of all); `hooks` see what they ask for.

    The head is most of a pass where the vocabulary is large, and few columns are read of most.

    What a hook returns stands in place of what it was handed.

    TransformerLens 3's HookedTransformer makes its own position ids.

    `cache`: keys and values of the tokens before these, of every row; theirs are added to it.
    """
    mask, positions, ids = batch.attention_mask, batch.position_ids, batch.token_ids.to(device)
    inputs: dict[str, Any] = {}
    if cache is not None:
        seen = cache.get_seq_length()
        mask = torch.cat([mask.new_ones(len(mask), seen), mask], dim=1)
        positions = positions + seen
        inputs = {"past_key_values": cache, "use_cache": True}
    if type(bridge).__name__ != "HookedTransformer":
        inputs["position_ids"] = positions.to(device)
    inputs["attention_mask"] = mask.to(device)
    kept = None if columns is None or len(columns) == ids.shape[1] else list(columns)
    if kept is not None and keeps_some(getattr(bridge, "original_model", None)):
        inputs["logits_to_keep"], kept = torch.tensor(kept, device=device), None
    found = bridge.run_with_hooks(ids, fwd_hooks=list(hooks), return_type="logits", **inputs)
    logits = found[0] if isinstance(found, tuple) else found  # beside the cache
    return logits if kept is None else logits[:, kept]


@contextmanager
def attention_in_memory(bridge: Any) -> Iterator[None]:
    """While a block's attention runs, its weights are there: TransformerLens reads one of them."""
    if not is_offloaded(bridge):
        yield
        return
    held: list[ExitStack] = []

    def load(attention: Any, *_: Any) -> None:
        held.append(ExitStack())
        held[-1].enter_context(in_memory(attention))

    def drop(*_: Any) -> None:
        held.pop().close()

    with ExitStack() as hooks:
        for block in bridge.blocks:
            hooks.enter_context(block.attn.register_forward_pre_hook(load))
            hooks.enter_context(block.attn.register_forward_hook(drop, always_call=True))
        yield


def own_logits(
    hf_model: PreTrainedModel, ids: Sequence[int], name: str
) -> Float[Tensor, "pos d_vocab"]:
    """What Hugging Face's own class says to some tokens, before TransformerLens has touched it.

    Raises ModelError where that class itself cannot run.
    """
    device = next(hf_model.parameters()).device
    kind = type(hf_model).__name__
    remedy = "Check that this checkpoint runs with transformers itself, or take another model."
    with quiet(), torch.inference_mode(), refused_by_library(f"{name} ({kind}) cannot run", remedy):
        batch = torch.tensor([list(ids)], device=device)
        return hf_model(input_ids=batch, use_cache=False).logits[0].float()


def worst_kl_bits(p: Float[Tensor, "pos d_vocab"], q: Float[Tensor, "pos d_vocab"]) -> float:
    """KL(p || q) of two tables of logits, the worst position; NaN where there is one."""
    values = []
    for own, other in zip(p.split(_ROWS), q.split(_ROWS), strict=True):
        log_p, log_q = wide(own).log_softmax(-1), wide(other).log_softmax(-1)
        values.append((log_p.exp() * (log_p - log_q)).sum(-1))
    return float(torch.cat(values).max()) / math.log(2)
