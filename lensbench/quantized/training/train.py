"""Training an adapter: from a model and a file of pairs to a record with the adapter in it.

The Trainer's last checkpoint holds all that the record is made of, so whatever interrupts a run,
the same command goes on from the newest whole checkpoint, or only finishes the record.
"""

from __future__ import annotations

import gc
import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from lensbench.checkpoints.config.shape import context_length
from lensbench.checkpoints.open import empty_model, open_config, open_tokenizer, quiet
from lensbench.errors import InputProblems, Problem, RecordsError, packages_of
from lensbench.files import write_bytes
from lensbench.progress import Notify, Progress, Watch, ignore
from lensbench.quantized.adapters.adapter import CONFIG, WEIGHTS, read_config
from lensbench.quantized.adapters.lora import Matched, match, settings_of
from lensbench.quantized.adapters.prompt_format import PROMPT_FORMAT, new_file
from lensbench.quantized.generation.batching import apart, in_pieces
from lensbench.quantized.generation.generate import Generation, generate
from lensbench.quantized.generation.spec import Decoding
from lensbench.quantized.loading.load import (
    AdaptedModel,
    load_quantized,
    require_loadable,
    with_adapter,
)
from lensbench.quantized.training.checkpoints import CHECKPOINTS, latest, log_of
from lensbench.quantized.training.examples import TrainingData, training_data
from lensbench.quantized.training.learn import PREFIX, learn, used
from lensbench.quantized.training.spec import TrainSpec
from lensbench.records.engine import Outcome, summing
from lensbench.records.recording import Finished, Request, recording
from lensbench.records.store import RecordStore

EXAMPLES = "examples.jsonl"
EXAMPLE_TOKENS = 64
_DECIDING = {  # the fields that decide the numbers as they stand
    "epochs",
    "max_steps",
    "batch_size",
    "gradient_accumulation",
    "peak_learning_rate",
    "warmup",
    "seed",
    "cache_prefix",
}
_SHOWN_CUT = 5  # examples that were cut to fit


def train(spec: TrainSpec, progress: Watch = ignore, notify: Notify = ignore) -> Outcome:
    """Train an adapter into `spec.out`; the same call goes on after an interruption.

    `notify` gets what is trained, and which pairs are cut to fit; pairs that cannot be used are
    problems in the outcome.

    Raises:
        InputProblems: every problem with settings, layers, targets and data at once.
        ModelError: the model cannot be loaded, or the loss became NaN or infinite (the last good
            checkpoint is kept).
        RecordsError: the folder holds another run, or the disk is full.
        MissingExtraError: no peft or accelerate.
    """
    _require_packages()
    ref = spec.ref
    progress(Progress("reading the data"))
    data, matched = checked(spec, ref.folder)
    notify(f"{data.n_train} pairs to train on, {len(data.examples) - data.n_train} to evaluate on")
    _tell_cut(data.cut, notify)
    store = RecordStore(spec.out, ref.name, "training")
    if store.manifest() is None:
        require_loadable(ref, spec.device, use=used(spec, data, matched))
    request = request_of(spec, data, matched)
    with recording(replace(request, model=ref.facts(), again=ref.facts)) as record:
        if not record.finished:
            with summing(record):
                facts, base = learn(spec, data, matched, record, progress, notify)
                made = _made(spec, data, base, progress)
            record.finish(made, **facts)
        for name in (CHECKPOINTS, PREFIX):
            shutil.rmtree(spec.out / name, ignore_errors=True)
    return Outcome([spec.out], problems=data.problems)


def _tell_cut(cut: Sequence[Problem], notify: Notify) -> None:
    """Which pairs are cut to fit; the first ones in words, the rest counted."""
    if cut:
        notify(f"{len(cut)} examples are cut to fit (--max-length):")
    for problem in cut[:_SHOWN_CUT]:
        notify(f"  {problem.where}: {problem.what}")


def _require_packages() -> None:
    with packages_of("quant", "accelerate", "peft"):
        import accelerate  # noqa: F401
        import peft  # noqa: F401


def request_of(spec: TrainSpec, data: TrainingData, matched: Matched) -> Request:
    """The record that is wanted, but for what is known of the model."""
    store = RecordStore(spec.out, spec.ref.name, "training")
    return Request(store, _settings(spec, data, matched))


# --- before anything is loaded ------------------------------------------------------------------


def checked(spec: TrainSpec, folder: Path) -> tuple[TrainingData, Matched]:
    """The data and the modules; all problems with them come at once."""
    problems: list[Problem] = []
    if spec.ref.adapter is not None:
        remedy = "Merge it (`lensbench adapters merge`) first."
        problems.append(Problem(f"model {spec.ref}", "it has an adapter already", remedy))
    config = open_config(folder)
    found: list[Any] = []
    n_ctx = context_length(config)
    if spec.length_in(n_ctx) > n_ctx:
        remedy = f"Give at most {n_ctx}."
        problems.append(Problem("max_length", f"the model has room for {n_ctx} tokens", remedy))
    with _gathering(problems), quiet():
        found.append(match(empty_model(config), spec.lora))
    with _gathering(problems):
        d_vocab = int(config.get_text_config(decoder=True).vocab_size)
        found.append(training_data(spec, folder, n_ctx, d_vocab))
    if problems:
        raise InputProblems(list(dict.fromkeys(problems)))
    return found[1], found[0]


@contextmanager
def _gathering(problems: list[Problem]) -> Iterator[None]:
    """Keep the problems that are raised inside, to go on and find more."""
    try:
        yield
    except InputProblems as error:
        problems += error.problems


def settings_of_run(spec: TrainSpec) -> dict[str, Any]:
    """What decides the numbers of a run, as in its manifest. Raises InputProblems as `train`."""
    return _settings(spec, *checked(spec, spec.ref.folder))


def _settings(spec: TrainSpec, data: TrainingData, matched: Matched) -> dict[str, Any]:
    """What decides the numbers."""
    return {
        **settings_of(spec.lora, matched),
        **data.settings,
        "bits": spec.ref.bits,
        "int8_threshold": spec.ref.int8_threshold,
        **spec.model_dump(include=_DECIDING),
        "optimizer": "adamw",
        "max_grad_norm": 1.0,
        "schedule": "cosine",
    }


# --- the record ---------------------------------------------------------------------------------


def _made(spec: TrainSpec, data: TrainingData, base: AdaptedModel | None, watch: Watch) -> Finished:
    """The record out of the last checkpoint."""
    checkpoint = latest(spec.out / CHECKPOINTS)
    if checkpoint is None:
        raise RecordsError(f"{spec.out}: the last checkpoint is gone. Run the same command again.")
    gc.collect()
    config = read_config(checkpoint)
    config["target_modules"].sort()  # PEFT keeps a set: its order differs from run to run
    text = json.dumps(config, indent=2, sort_keys=True) + "\n"
    with quiet():
        tokenizer = open_tokenizer(spec.ref.folder)
    files = {
        CONFIG: text.encode(),
        WEIGHTS: (checkpoint / WEIGHTS).read_bytes(),
        PROMPT_FORMAT: new_file(data.settings["style"], tokenizer),
    }
    if spec.n_examples:
        for name, content in files.items():  # the examples are answered with the adapter as it is
            write_bytes(spec.out / name, content)
        watch(Progress("answering examples"))
        files[EXAMPLES] = _before_and_after(spec, data, base).encode()
    return Finished(
        [*data.problems, *data.cut],
        {"training": log_of(checkpoint)},
        files=files,
        facts={"problems": len(data.problems), "examples_cut": len(data.cut)},
    )


def _answers(
    model: AdaptedModel, prompts: Sequence[Sequence[int]], decoding: Decoding
) -> list[Generation]:
    """Together where they may be (`apart`)."""
    kinds = apart(model, [(len(ids), decoding.max_new_tokens) for ids in prompts])
    pieces = in_pieces(prompts, len(prompts), lambda own: generate(model, own, decoding), kinds)
    return [one for _, found in pieces.done for one in found]


def _before_and_after(spec: TrainSpec, data: TrainingData, base: AdaptedModel | None) -> str:
    """What base and adapter answer to a few prompts, as JSON Lines.

    The prompts are of the evaluation split where there is one. The adapter is loaded from its
    folder, as any user would, onto the base that it was trained on; without one both are loaded.
    """
    held_out = data.examples[data.n_train :]
    shown = (held_out or data.examples)[: spec.n_examples]
    if base is not None:
        model = with_adapter(base, spec.out)
    else:
        model = load_quantized(spec.ref, adapter=spec.out, device=spec.device)
    prompts = [example.token_ids[: example.n_prompt] for example in shown]
    room = model.n_ctx - max(map(len, prompts))
    decoding = Decoding(max_new_tokens=min(EXAMPLE_TOKENS, room))
    with_it = _answers(model, prompts, decoding)
    with model.hf.disable_adapter():
        without = _answers(model, prompts, decoding)
    rows = [
        {
            "id": example.pair.id,
            "split": "eval" if held_out else "train",
            "instruction": example.pair.question,
            "reference": example.pair.response,
            "base": before.text,
            "adapter": after.text,
        }
        for example, before, after in zip(shown, without, with_it, strict=True)
    ]
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
