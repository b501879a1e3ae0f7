"""Training a small model: from a text to a record, with the model of many steps beside it.

The trainer's last checkpoint holds all that the record is made of, so whatever interrupts a run,
the same command goes on from the newest whole checkpoint, or only finishes the record.
"""

from __future__ import annotations

import math
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Int
from torch import Tensor

from lensbench.checkpoints.hashes import hashes
from lensbench.checkpoints.open import count_parameters, quiet
from lensbench.corpora.corpus import load_corpus
from lensbench.errors import Problem, RecordsError, packages_of
from lensbench.pico.model import config_of, new_model
from lensbench.pico.runs import HELD_OUT, held_out_file
from lensbench.pico.spec import PicoSpec, Plan
from lensbench.pico.text import END, new_tokenizer, packed, parted, tokenizer_sha256, with_passages
from lensbench.progress import Notify, Progress, Watch, ignore
from lensbench.quantized.training.checkpoints import (
    CHECKPOINTS,
    drop_torn,
    latest,
    log_of,
    state_of,
)
from lensbench.records.engine import Outcome, summing
from lensbench.records.recording import Finished, Recording, Request, recording
from lensbench.records.store import RecordStore

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from lensbench.pico.trainer import PicoTrainer

_WEIGHT_DECAY, _BETA2 = 0.1, 0.95  # of AdamW, as GPT-3's (Brown et al. 2020)
COPIES = 7  # of the weights: two checkpoints to go on from, with Adam's two sums, and one more
_SMALLER = "a smaller --batch-size or --context"


def train_pico(spec: PicoSpec, progress: Watch = ignore, notify: Notify = ignore) -> Outcome:
    """Train a small model into `spec.out`; the same call goes on after an interruption.

    Raises:
        InputProblems: an unknown corpus, or one with less text than one sequence.
        ModelError: the loss became NaN or infinite (the last good checkpoint is kept).
        RecordsError: the folder holds another run or anything else, or the disk is full.
        MissingExtraError: no accelerate.
    """
    _require_packages()
    store = RecordStore(spec.out, spec.name, "pretraining")
    store.require_free()
    progress(Progress("reading the corpus"))
    text = _text(spec, progress)
    corpus = {"corpus": text.facts["name"], "corpus_sha256": text.facts["sha256"]}
    with recording(Request(store, spec.settings() | corpus, {"name": spec.name})) as record:
        if not record.finished:
            with summing(record):
                facts = _learn(spec, text, record, progress, notify)
            record.finish(_made(spec, text), **facts)
        shutil.rmtree(spec.out / CHECKPOINTS, ignore_errors=True)
    return Outcome([spec.out], problems=text.problems)


def _require_packages() -> None:
    with packages_of("quant", "accelerate"):
        import accelerate  # noqa: F401


@dataclass(frozen=True)
class _Text:
    """A corpus as rows of tokens, those to train on first."""

    tokenizer: PreTrainedTokenizerBase
    rows: Int[Tensor, "row context"]
    n_train: int
    held_out: bytes  # as it is kept
    facts: dict[str, Any]
    problems: list[Problem]


def _text(spec: PicoSpec, watch: Watch) -> _Text:
    plan = spec.plan
    corpus = load_corpus(spec.corpus, whole=True, watch=watch)
    documents = parted(corpus, spec.held_out_share, spec.share)
    tokenizer = new_tokenizer(documents.train, plan.vocabulary, watch)
    train = packed(documents.train, tokenizer, plan.context, "train on", watch)
    rows = with_passages(train, plan.repeated_share)
    held_out = packed(documents.held_out, tokenizer, plan.context, "validate on")
    held_out = held_out[: math.ceil(spec.validation_tokens / plan.context)]
    facts = {
        "name": corpus.name,
        "sha256": corpus.sha256,
        "n_documents": len(documents.train),
        "n_tokens": train.numel(),
        "n_held_out_documents": len(documents.held_out),
        "n_held_out_tokens": held_out.numel(),
        **corpus.origin,
    }
    return _Text(
        tokenizer,
        torch.cat([rows, held_out]),
        len(rows),
        held_out_file(documents.held_out),
        facts,
        list(corpus.problems),
    )


def _learn(
    spec: PicoSpec, text: _Text, record: Recording, watch: Watch, notify: Notify
) -> dict[str, Any]:
    """Train up to the last checkpoint; returns what the manifest says of it."""
    from lensbench.quantized.training.exact import enough_memory

    plan = spec.plan
    end_token = text.tokenizer.convert_tokens_to_ids(END)
    config = config_of(plan, len(text.tokenizer), end_token)
    n_params = count_parameters(config)
    record.begin(_model_facts(spec, text, n_params))
    _tell(plan, text, n_params, notify)
    drop_torn(spec.out / CHECKPOINTS)
    checkpoint = latest(spec.out / CHECKPOINTS)
    if checkpoint is None:
        _require_space(spec, plan, n_params)
    state = state_of(checkpoint) if checkpoint else None
    if state is None or state.global_step < state.max_steps:
        trainer = _trainer(spec, text, config, fresh=checkpoint is None, watch=watch)
        with quiet(), enough_memory(_SMALLER):
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    return {"resumed_from_step": state.global_step if state else None}


def _model_facts(spec: PicoSpec, text: _Text, n_params: int) -> dict[str, Any]:
    plan = spec.plan
    return {
        "name": spec.name,
        "source": "trained here from random weights",
        "model_type": "stablelm",
        "n_layers": plan.layers,
        "d_model": plan.width,
        "d_vocab": len(text.tokenizer),
        "n_params": n_params,
        "dtype": "float32",
        "tokenizer_sha256": tokenizer_sha256(text.tokenizer),
    }


def _require_space(spec: PicoSpec, plan: Plan, n_params: int) -> None:
    """Raise RecordsError, before anything is trained, where the disk cannot hold all of it."""
    needed = 4 * n_params * (len(plan.kept) + COPIES)
    free = shutil.disk_usage(spec.out).free
    if free < needed:
        raise RecordsError(
            f"{spec.out}: {needed / 1e9:.1f} GB are needed for {len(plan.kept)} models and the "
            f"checkpoints of the run, {free / 1e9:.1f} GB are free. Give a folder on another disk."
        )


def _tell(plan: Plan, text: _Text, n_params: int, notify: Notify) -> None:
    """What is trained on what, and the arithmetic of what it takes."""
    n_tokens, n_rows = plan.steps * plan.step_tokens, text.n_train * plan.context
    notify(
        f"{n_params:,} parameters: {plan.layers} layers of {plan.heads} heads, width {plan.width}, "
        f"{len(text.tokenizer):,} tokens"
    )
    if plan.repeated_share:
        notify(
            f"{plan.repeated_share:.0%} of the sequences are a curriculum: one passage of the "
            "text, over and over"
        )
    notify(
        f"{n_rows:,} tokens to train on, {plan.steps:,} steps of {plan.step_tokens:,}: "
        f"{n_tokens / n_rows:.1f} times through them, "
        f"about {6 * n_params * n_tokens:.1e} operations"
    )


def _trainer(spec: PicoSpec, text: _Text, config: Any, fresh: bool, watch: Watch) -> PicoTrainer:
    from lensbench.pico.trainer import PicoTrainer
    from lensbench.quantized.training.exact import arguments

    plan = spec.plan
    args = arguments(
        spec.out / CHECKPOINTS,
        steps=plan.steps,
        batch_size=plan.batch_size,
        peak_learning_rate=plan.peak_learning_rate,
        weight_decay=_WEIGHT_DECAY,
        beta2=_BETA2,
        warmup=spec.warmup,
        seed=spec.seed,
        device=spec.device,
        checkpoint_every=spec.checkpoint_every,
        fresh=fresh,
    )
    model = new_model(config, spec.seed)
    return PicoTrainer(model, args, text.tokenizer, text.rows, text.n_train, plan.kept, watch)


def _made(spec: PicoSpec, text: _Text) -> Finished:
    """The record out of the last checkpoint, and of the models that are kept beside it."""
    from lensbench.pico.trainer import step_folder

    checkpoint = latest(spec.out / CHECKPOINTS)
    folders = {step: step_folder(spec.out, step) for step in spec.plan.kept}
    gone = [folder for folder in folders.values() if not folder.is_dir()]
    if checkpoint is None or gone:
        what = gone[0] if gone else spec.out / CHECKPOINTS
        raise RecordsError(
            f"{what} is gone since it was written. Delete {spec.out} and run the same command."
        )
    kept = [
        {"step": step, "folder": folder.name, **hashes(folder)} for step, folder in folders.items()
    ]
    return Finished(
        text.problems,
        {"training": log_of(checkpoint)},
        files={HELD_OUT: text.held_out},
        facts={"corpus": text.facts, "kept": kept},
        beside=list(folders.values()),
    )
