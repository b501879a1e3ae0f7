"""What a contextual model holds at a word, layer by layer: the mean over the word's tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float

from lensbench.embeddings.senses.sentences import Sentence
from lensbench.errors import InputProblems, Problem
from lensbench.models.model import LensModel
from lensbench.models.text_encoder import TextEncoder
from lensbench.prompts.batch import make_batch, plan_batches
from lensbench.prompts.prompt import Prompt
from lensbench.prompts.words import align
from lensbench.residuals.capture import capture_positions

Reader = LensModel | TextEncoder


@dataclass(frozen=True)
class Placed:
    """A sentence as ids, and where the tokens of its word are."""

    number: int
    token_ids: tuple[int, ...]
    positions: tuple[int, ...]


def placed(
    model: Reader, sentences: Sequence[Sentence], where: str
) -> tuple[list[Placed], list[Problem]]:
    """The sentences in the model's tokens; one that is too long, or whose word is in a token with
    another, is left out and a problem."""
    encoder, found, problems = model.encoder(where=where), list[Placed](), list[Problem]()
    for number, sentence in enumerate(sentences):
        try:
            ids = encoder.encode(Prompt(f"{sentence.word}-{number}", sentence.text)).token_ids
        except InputProblems as error:
            problems += error.problems
            continue
        aligned = align(model.tokenizer, sentence.text, ids, f"{where}, {sentence.text!r}")
        if own := aligned.positions[sentence.place]:
            found.append(Placed(number, tuple(ids), own))
        else:
            problems += aligned.problems
    return found, problems


def word_states(
    model: Reader, items: Sequence[Placed], batch_tokens: int = 512
) -> Float[np.ndarray, "layer sentence d_model"]:
    """Layer 0 is the embedding, as the first block reads it; layer i is after block i - 1.

    float64 means of float32 states.
    """
    states: dict[int, Float[np.ndarray, "layer d_model"]] = {}
    lengths = [len(item.token_ids) for item in items]
    for rows in plan_batches(lengths, batch_tokens, model.rope_switch):
        own = [items[row] for row in rows]
        states |= dict(zip(rows, _read(model, own), strict=True))
    return np.stack([states[row] for row in range(len(items))], axis=1)


def _read(model: Reader, items: Sequence[Placed]) -> list[np.ndarray]:
    """Of one batch, [layer, d_model] each."""
    if isinstance(model, TextEncoder):
        return _of_encoder(model, items)
    return _of_causal(model, items)


def _of_causal(model: LensModel, items: Sequence[Placed]) -> list[np.ndarray]:
    sites = model.sites(("embed", "resid_post"))
    ids, positions = [item.token_ids for item in items], [item.positions for item in items]
    stream = capture_positions(model, ids, positions, sites, head=False).stream
    parts = stream.cpu().double().split([len(own) for own in positions], dim=1)
    return [part.mean(1).numpy() for part in parts]


def _of_encoder(model: TextEncoder, items: Sequence[Placed]) -> list[np.ndarray]:
    pad = int(model.tokenizer.pad_token_id or 0)
    batch = make_batch(range(len(items)), [item.token_ids for item in items], pad_id=pad)
    with torch.inference_mode():
        output = model.hf(
            input_ids=batch.token_ids.to(model.device),
            attention_mask=batch.attention_mask.to(model.device),
            output_hidden_states=True,
        )
    stream = torch.stack(output.hidden_states).cpu().double()  # [layer, batch, pos, d_model]
    return [stream[:, row, list(item.positions)].mean(1).numpy() for row, item in enumerate(items)]
