"""Training examples: a pair as one row of tokens, and where its response begins."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Int
from torch import Tensor

from lensbench.checkpoints.open import open_tokenizer, quiet
from lensbench.checkpoints.source import gguf_file
from lensbench.errors import InputProblems, ModelError, Problem
from lensbench.json_text import read_json
from lensbench.prompts.batch import Batch, make_batch
from lensbench.prompts.encode import NO_ROW, without_row
from lensbench.quantized.data.pairs import Pair, PairSet, pair_tokens, read_pairs, style_of
from lensbench.quantized.data.split import split
from lensbench.quantized.style import Style
from lensbench.quantized.training.labels import MASKED

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from lensbench.quantized.training.spec import TrainSpec


@dataclass(frozen=True)
class Example:
    """One pair as tokens. The loss counts those from `n_prompt` on, the end token included."""

    pair: Pair
    token_ids: tuple[int, ...]
    n_prompt: int


@dataclass(frozen=True)
class Encoded:
    """The examples of a file, those that were cut to fit, and the pairs that were skipped."""

    examples: list[Example]
    cut: list[Problem]
    problems: list[Problem]


def end_tokens(tokenizer: PreTrainedTokenizerBase, folder: Path) -> list[int]:
    """The tokens that end a response: the tokenizer's first, then the checkpoint's others.

    Raises ModelError when neither names one, for then no response could be taught to end.
    """
    named: list[int] | int | None = None
    path = folder / "generation_config.json"
    if gguf_file(folder) is None and path.is_file():
        named = read_json(path).get("eos_token_id")
    ids = [tokenizer.eos_token_id, *(named if isinstance(named, list) else [named])]
    ends = list(dict.fromkeys(int(i) for i in ids if i is not None))
    if not ends:
        raise ModelError(f"{folder}: neither tokenizer nor checkpoint names an end token (eos).")
    return ends


def encode(
    tokenizer: PreTrainedTokenizerBase,
    ends: Sequence[int],
    pairs: Sequence[Pair],
    style: Style,
    max_length: int,
    where: str,
    d_vocab: int | None = None,
) -> Encoded:
    """Pairs as examples of at most `max_length` tokens; a longer response loses its end.

    A pair whose prompt alone takes all of them is skipped: nothing of it could be learned; so is
    one with a token for which the embedding's `d_vocab` rows hold none.
    Raises InputProblems when nothing is left, ModelError for a style that the model lacks.
    """
    found = Encoded([], [], [])
    for pair in pairs:
        place = f"{where}, row {pair.row}, id {pair.id}"
        try:
            asked, response = _tokens(tokenizer, ends, pair, style)
        except InputProblems as error:
            what, remedy = error.problems[0].what, error.problems[0].remedy
            found.problems.append(Problem(place, what, remedy, pair.id))
            continue
        if missing := without_row([*asked, *response], d_vocab):
            found.problems.append(Problem(place, missing, NO_ROW, pair.id))
            continue
        n_tokens = len(asked) + len(response)
        if len(asked) >= max_length:
            what = f"all labels masked: the prompt alone has {len(asked)} of {max_length} tokens"
            remedy = "Shorten it or raise --max-length."
            found.problems.append(Problem(place, what, remedy, pair.id))
            continue
        if n_tokens > max_length:
            what = f"cut from {n_tokens} to {max_length} tokens, its end token with it"
            remedy = "Shorten it or raise --max-length."
            found.cut.append(Problem(place, what, remedy, pair.id))
        whole = (*asked, *response)[:max_length]
        found.examples.append(Example(pair, whole, len(asked)))
    if not found.examples:
        raise InputProblems(found.problems)
    return found


def _tokens(
    tokenizer: PreTrainedTokenizerBase, ends: Sequence[int], pair: Pair, style: Style
) -> tuple[list[int], list[int]]:
    """The pair's prompt and response. Raises InputProblems when the style has no place for it."""
    if pair.system and style != "chat":
        remedy = "Train with --style chat, or leave the system message out."
        what = f"it has a system message, and style {style} no place for one"
        raise InputProblems([Problem(pair.id, what, remedy)])
    return pair_tokens(tokenizer, style, pair, ends)


def labels_of(examples: Sequence[Example], batch: Batch) -> Int[Tensor, "batch pos"]:
    """The batch's own tokens where a response stands, `MASKED` elsewhere."""
    labels = batch.token_ids.masked_fill(batch.attention_mask == 0, MASKED)
    for row, item in enumerate(batch.items):
        labels[row, : examples[item].n_prompt] = MASKED
    return labels


def batch_of(examples: Sequence[Example], items: Sequence[int]) -> dict[str, Tensor]:
    """Some examples, padded on the right, as the inputs of a causal language model."""
    batch = make_batch(items, [example.token_ids for example in examples])
    return {
        "items": torch.tensor(batch.items),
        "input_ids": batch.token_ids,
        "attention_mask": batch.attention_mask,
        "labels": labels_of(examples, batch),
    }


def parted(inputs: dict[str, Tensor], switch: int | None) -> list[dict[str, Tensor]]:
    """A batch as it may go through a model whose rotary frequencies change beyond `switch` tokens.

    Rows that pass it apart from those that do not, each part as wide as its longest row: padding
    counts too. The rows keep their order.
    """
    lengths = inputs["attention_mask"].sum(1)
    beyond = lengths > (switch or int(lengths.max()))
    if bool((beyond == beyond[0]).all()):
        return [inputs]
    parts = []
    for rows in (~beyond, beyond):
        own, width = {key: value[rows] for key, value in inputs.items()}, int(lengths[rows].max())
        parts.append({key: t[:, :width] if t.dim() > 1 else t for key, t in own.items()})
    return parts


@dataclass(frozen=True)
class TrainingData:
    """The examples, those to train on first, and what decided them."""

    examples: list[Example]
    n_train: int
    cut: list[Problem]
    problems: list[Problem]
    settings: dict[str, Any]


def training_data(spec: TrainSpec, folder: Path, n_ctx: int, d_vocab: int) -> TrainingData:
    """Both files read, parted and tokenised.

    The model has room for `n_ctx` tokens, and its embedding `d_vocab` rows.
    """
    train_set = read_pairs(spec.data)
    eval_set = read_pairs(spec.eval_data) if spec.eval_data is not None else None
    style = spec.style or style_of(spec.data)
    train_pairs, eval_pairs = _parted(spec, train_set, eval_set)
    with quiet():
        tokenizer = open_tokenizer(folder)
    ends, max_length = end_tokens(tokenizer, folder), spec.length_in(n_ctx)
    parts = [encode(tokenizer, ends, train_pairs, style, max_length, train_set.name, d_vocab)]
    if eval_pairs:
        name = (eval_set or train_set).name
        parts.append(encode(tokenizer, ends, eval_pairs, style, max_length, name, d_vocab))
    return TrainingData(
        examples=[example for part in parts for example in part.examples],
        n_train=len(parts[0].examples),
        cut=[problem for part in parts for problem in part.cut],
        problems=[
            problem
            for part in (train_set, eval_set, *parts)
            if part is not None
            for problem in part.problems
        ],
        settings={
            "style": style,
            "max_length": max_length,
            "data": train_set.name,
            "data_sha256": train_set.sha256,
            "eval_data": eval_set.name if eval_set else None,
            "eval_sha256": eval_set.sha256 if eval_set else None,
            "eval_share": None if eval_set else spec.held_out_share,
            "n_train": len(parts[0].examples),
            "n_eval": len(parts[1].examples) if eval_pairs else 0,
        },
    )


def _parted(
    spec: TrainSpec, train_set: PairSet, eval_set: PairSet | None
) -> tuple[Sequence[Pair], Sequence[Pair]]:
    if eval_set is not None:
        return train_set.pairs, eval_set.pairs
    share = spec.held_out_share
    if not share:
        return train_set.pairs, []
    shares = {"train": 1 - share, "eval": share}
    try:
        parts = split(train_set.pairs, shares, spec.seed)
    except InputProblems as error:
        where = f"eval_share {share}"
        found = [Problem(where, problem.what, _remedy(spec.data)) for problem in error.problems]
        raise InputProblems(found) from error
    return parts["train"], parts["eval"]


def _remedy(data: Path) -> str:
    """The hash that made the parts of a split puts none of one part's rows elsewhere."""
    sibling = data.with_name("eval.jsonl")
    file = sibling if sibling.is_file() else "FILE"
    return (
        "A part that `data split` made with this seed has no rows for another part: evaluate on "
        f"the one beside it (--eval {file}). Give another share, or 0 for no evaluation."
    )
