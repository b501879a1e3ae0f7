"""The learning itself: from a base and examples to a last checkpoint, or on from an earlier one."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lensbench.checkpoints.blocks import block_list
from lensbench.checkpoints.config.shape import n_blocks, rope_switch
from lensbench.checkpoints.devices import memory_available
from lensbench.checkpoints.open import open_config, quiet
from lensbench.progress import Notify, Progress, Watch
from lensbench.quantized.adapters.lora import Matched, adapt
from lensbench.quantized.loading.load import AdaptedModel, load_quantized
from lensbench.quantized.peaks import Batch, Use
from lensbench.quantized.training import prefix
from lensbench.quantized.training.arithmetic import bfloat16_slowdown, prepare_base
from lensbench.quantized.training.checkpoints import CHECKPOINTS, drop_torn, latest, state_of
from lensbench.quantized.training.examples import TrainingData
from lensbench.quantized.training.spec import TrainSpec
from lensbench.records.recording import Recording

if TYPE_CHECKING:
    from peft import PeftModel
    from torch import nn
    from transformers import TrainingArguments

    from lensbench.quantized.training.trainer import Frozen, ResponseTrainer

PREFIX = "prefix"  # a folder that a finished run has no more
BATCH_TOKENS = 2048  # of a forward pass that needs no gradient
_SPARE = 0.25  # of free memory, what weights may take that wait for the answers
_SLOW = 3.0  # a bfloat16 product that takes so many times longer is worth a word
_SMALLER = (
    "a smaller --batch-size with more --gradient-accumulation (the same steps), a smaller "
    "--max-length, upper --blocks with --cache-prefix, or fewer --bits"
)


def learn(
    spec: TrainSpec,
    data: TrainingData,
    matched: Matched,
    record: Recording,
    watch: Watch,
    notify: Notify,
) -> tuple[dict[str, Any], AdaptedModel | None]:
    """Train up to the last checkpoint.

    Returns what the manifest says of it, and the base without any adapter, as it was loaded; None
    where its lower blocks were dropped, because nobody asks for answers or memory is short.
    """
    from transformers import set_seed

    from lensbench.quantized.training.exact import enough_memory

    watch(Progress(f"loading {spec.ref}"))
    model = load_quantized(spec.ref, device=spec.device)
    restore: Callable[[], None] | None = prepare_base(model)
    _mention_arithmetic(model, notify)
    record.begin(model.facts())
    drop_torn(spec.out / CHECKPOINTS)
    set_seed(spec.seed)
    with quiet():
        adapted = adapt(model.hf, matched, spec.lora, spec.ref.located.public_name)
    trainable, total = adapted.get_nb_trainable_parameters()
    facts: dict[str, Any] = {
        "adapter": {
            "trainable": trainable,
            "total": total,
            "modules": list(matched.modules),
            "blocks": [{"block": i, "record_layer": i + 1} for i in matched.layers],
        }
    }
    for line in (*matched.lines(), f"{trainable:,} of {total:,} parameters are trained"):
        notify(line)
    aside = _aside(spec, matched, model)
    frozen, facts["prefix"] = _freeze(spec, data, matched, model, watch, notify)
    if frozen is not None and not aside:
        restore = None  # it holds on to all blocks
    checkpoint = latest(spec.out / CHECKPOINTS)
    state = state_of(checkpoint) if checkpoint else None
    facts["resumed_from_step"] = state.global_step if state else None
    if state is None or state.global_step < state.max_steps:
        trainer = _trainer(spec, data, adapted, frozen, checkpoint, watch)
        with quiet(), enough_memory(_SMALLER):
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    if restore is None:
        return facts, None
    if frozen is not None:
        prefix.put_back(block_list(model.base)[1], aside)
    adapted.unload()
    restore()
    return facts, model


def used(spec: TrainSpec, data: TrainingData, matched: Matched) -> Use:
    """What a training loads its model for."""
    longest = max(len(example.token_ids) for example in data.examples[: data.n_train])
    n_trained = n_blocks(open_config(spec.ref.folder)) - matched.layers[0]
    return Use("train", Batch(min(spec.batch_size, data.n_train), longest, n_trained=n_trained))


def _mention_arithmetic(model: AdaptedModel, notify: Notify) -> None:
    if model.bits != 16 or model.device.type != "cpu":
        return
    times = bfloat16_slowdown(model.d_model)
    if times > _SLOW:
        notify(
            f"training in 16 bits is slow on this processor: a product of the backward pass takes "
            f"{times:.0f} times as long in bfloat16 as in float32. --bits 32 is faster; so are 8 "
            "and 4, which train in float32 arithmetic here"
        )


def _aside(spec: TrainSpec, matched: Matched, model: AdaptedModel) -> list[nn.Module]:
    """The blocks below those that are trained, for the answers; none where memory is short."""
    below = [*block_list(model.base)[1]][: matched.layers[0]]
    n_bytes = sum(weight.nbytes for block in below for weight in block.parameters())
    free = memory_available(str(model.device))
    return below if spec.n_examples and n_bytes < _SPARE * free else []


def _freeze(
    spec: TrainSpec,
    data: TrainingData,
    matched: Matched,
    model: AdaptedModel,
    watch: Watch,
    notify: Notify,
) -> tuple[Frozen | None, dict[str, Any]]:
    """The prefix cache, if it is wanted and possible, and what the manifest says of it."""
    from lensbench.quantized.training.trainer import Frozen

    if not spec.cache_prefix:
        return None, {"used": False, "reason": "not asked for"}
    first = matched.layers[0]
    blocks = block_list(model.base)[1]
    reason = prefix.obstacle(blocks, model.base.base_model, first)
    if reason is not None:
        notify(f"no prefix cache: {reason}")
        return None, {"used": False, "reason": reason}
    token_ids = [example.token_ids for example in data.examples]
    facts: dict[str, Any] = {"first": first, "device": model.device.type, **model.weights}
    where, shape = spec.out / PREFIX, (model.d_model, model.base.dtype)
    states = prefix.state_file(where, token_ids, BATCH_TOKENS, *shape, facts, model.rope_switch)
    notify(f"prefix cache: {states.n_tokens:,} tokens, {states.n_bytes / 1e6:,.1f} MB on disk")
    if model.ref.int8_threshold and model.device.type != "cpu":
        notify(
            "LLM.int8 picks outlier columns over a whole batch, so cached states differ a little "
            "from those of a training batch; --int8-threshold 0 makes them equal"
        )
    if not states.path.exists():
        prefix.require_room(states)
        prefix.write_states(states, model.base, blocks[first], token_ids, watch)
    entry = prefix.release(blocks, first)
    return Frozen(states, entry), {"used": True, "bytes": states.n_bytes, "blocks_dropped": first}


def _trainer(
    spec: TrainSpec,
    data: TrainingData,
    adapted: PeftModel,
    frozen: Frozen | None,
    checkpoint: Path | None,
    watch: Watch,
) -> ResponseTrainer:
    from lensbench.quantized.training.trainer import ResponseTrainer

    return ResponseTrainer(
        adapted,
        _arguments(spec, data.n_train, fresh=checkpoint is None),
        data.examples,
        data.n_train,
        BATCH_TOKENS,
        frozen=frozen,
        watch=watch,
        switch=rope_switch(adapted.config),
    )


def _arguments(spec: TrainSpec, n_train: int, fresh: bool) -> TrainingArguments:
    from lensbench.quantized.training.exact import arguments

    batches = math.ceil(n_train / spec.batch_size)
    return arguments(
        spec.out / CHECKPOINTS,
        steps=spec.max_steps or spec.epochs * math.ceil(batches / spec.gradient_accumulation),
        batch_size=spec.batch_size,
        gradient_accumulation=spec.gradient_accumulation,
        peak_learning_rate=spec.peak_learning_rate,
        warmup=spec.warmup,
        seed=spec.seed,
        device=spec.device,
        checkpoint_every=spec.checkpoint_every,
        fresh=fresh,
    )
