"""Batches of `infer`: halved where memory runs out, by length, and no larger than it allows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lensbench.progress import Progress
from lensbench.quantized.generation import answer as answering
from lensbench.quantized.generation.batching import (
    default_batch_size,
    in_pieces,
    is_out_of_memory,
    plan,
    row_bytes,
)
from lensbench.quantized.generation.generate import Generation, generate
from lensbench.quantized.generation.infer import run_inference
from lensbench.quantized.generation.spec import InferenceSpec
from lensbench.quantized.loading.load import AdaptedModel
from tests.harness.adapted import adapted
from tests.harness.files import table
from tests.harness.inference import PROMPTS, WARM, responses, rows_of
from tests.harness.tiny import SENTENCES, Case


@contextmanager
def little_memory(
    monkeypatch: pytest.MonkeyPatch, fits: Callable[[Sequence[Sequence[int]]], bool]
) -> Iterator[list[int]]:
    """generate() runs out of memory on batches that do not fit; yields the sizes it was given."""
    sizes: list[int] = []

    def limited(model: Any, prompts: Any, *rest: Any) -> list[Generation]:
        sizes.append(len(prompts))
        if not fits(prompts):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return generate(model, prompts, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(answering, "generate", limited)
        yield sizes


def test_batches_are_halved_when_memory_runs_out(
    model: AdaptedModel,
    spec: Callable[..., InferenceSpec],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = responses(run_inference(model, spec(batch_size=8, decoding=WARM)).folder)
    said: list[str] = []
    tight = spec(out=tmp_path / "tight.csv", batch_size=8, decoding=WARM, trace=tmp_path / "trace")
    with little_memory(monkeypatch, lambda prompts: len(prompts) <= 3) as sizes:
        outcome = run_inference(model, tight, notify=said.append)
    assert outcome.ok
    assert sizes == [8, 4, *[2] * 4, *[2] * 4], "the limit that was found is kept"
    assert said == ["memory ran out: from here on at most 2 prompts at a time"]
    found = responses(outcome.folder)
    assert {len(row["batch_ids"]) for row in found.values()} == {2}
    for item, row in found.items():
        assert row["token_ids"] == whole[item]["token_ids"]
        assert row["batch"] == whole[item]["batch"], "the plan stays"
    assert len(table(outcome.folder, "activations")) == 16 * 2 * 4


def test_a_resumed_run_keeps_the_limit_that_was_found(
    model: AdaptedModel, spec: Callable[..., InferenceSpec], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(now: Progress) -> None:
        if now.done == 4:
            raise KeyboardInterrupt

    with (
        little_memory(monkeypatch, lambda prompts: len(prompts) <= 1),
        pytest.raises(KeyboardInterrupt),
    ):
        run_inference(model, spec(batch_size=4), progress=stop)
    with little_memory(monkeypatch, lambda prompts: True) as sizes:
        run_inference(model, spec(batch_size=4))
    assert sizes == [1] * 12


def test_a_prompt_that_does_not_fit_even_alone_is_left_out(
    model: AdaptedModel, spec: Callable[..., InferenceSpec], monkeypatch: pytest.MonkeyPatch
) -> None:
    lengths = {key: len(model.tokenizer(text).input_ids) for key, text in PROMPTS.items()}
    longest = max(lengths.values())
    too_long = {key for key, length in lengths.items() if length == longest}

    def fits(prompts: Sequence[Sequence[int]]) -> bool:
        return max(map(len, prompts)) < longest

    with little_memory(monkeypatch, fits):
        outcome = run_inference(model, spec(batch_size=8))
    assert {problem.prompt_id for problem in outcome.problems} == too_long
    assert all("memory ran out on it alone" in str(problem) for problem in outcome.problems)
    assert set(responses(outcome.folder)) == set(PROMPTS) - too_long
    assert {row["id"] for row in rows_of(spec().out)} == set(PROMPTS) - too_long


def test_the_allocators_own_errors_are_recognised_and_others_are_not() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(10**17)
    assert is_out_of_memory(caught.value)
    assert is_out_of_memory(MemoryError())
    assert is_out_of_memory(torch.cuda.OutOfMemoryError("CUDA out of memory"))
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    with pytest.raises(RuntimeError, match="shapes"):
        in_pieces([1, 2], 2, lambda piece: torch.ones(2, 3) @ torch.ones(2, 3))


@settings(max_examples=10)
@given(st.lists(st.integers(1, 9), max_size=12), st.integers(1, 12), st.integers(1, 30))
def test_every_item_goes_through_once_or_is_too_big(
    sizes: list[int], limit: int, room: int
) -> None:
    """Items of given sizes, `room` for all of a piece."""

    def work(piece: Sequence[int]) -> list[int]:
        if sum(piece) > room:
            raise MemoryError
        return list(piece)

    pieces = in_pieces(sizes, limit, work)
    done = [item for _, result in pieces.done for item in result]
    assert sorted(done + pieces.too_big) == sorted(sizes)
    assert done == [item for item in sizes if item <= room]
    assert all(item > room for item in pieces.too_big)
    assert 1 <= pieces.limit <= limit
    assert all(len(piece) <= limit for piece, _ in pieces.done)


@given(st.lists(st.integers(1, 50), max_size=40), st.integers(1, 12))
def test_a_plan_has_every_prompt_once_by_length(lengths: list[int], size: int) -> None:
    batches = plan(lengths, size)
    flat = [item for batch in batches for item in batch]
    assert sorted(flat) == list(range(len(lengths)))
    assert [lengths[item] for item in flat] == sorted(lengths)
    assert all(len(batch) == size for batch in batches[:-1])
    assert all(batches)


def test_the_memory_of_a_row_covers_its_cache(family: Case) -> None:
    """Against the bytes of the cache that Hugging Face makes."""
    model = adapted(family)
    prompt = model.tokenizer(SENTENCES[0]).input_ids
    with torch.no_grad():
        cache = model.base(torch.tensor([prompt]), use_cache=True).past_key_values
    held = sum(
        tensor.nbytes
        for layer in cache.layers
        for tensor in (layer.keys, layer.values)
        if not getattr(layer, "is_sliding", False)
    )
    full = [layer for layer in cache.layers if not getattr(layer, "is_sliding", False)]
    each = held / max(len(full), 1) / len(prompt)
    grown = row_bytes(model, 100, 60) - row_bytes(model, 100, 50)
    assert not full or grown == each * model.n_layers * 10
    assert row_bytes(model, 10, 0) > 0


def test_the_default_batch_size_is_between_one_and_the_cap(model: AdaptedModel) -> None:
    assert default_batch_size(model, 10, 10) == 24
    assert default_batch_size(model, 10**12, 10) == 1
