"""The gate of generation: shown by answers that are made anyway where they can show it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest
import torch

from lensbench.checkpoints.ref import Bits
from lensbench.errors import GateError
from lensbench.quantized.generation.generate import generate, greedy
from lensbench.quantized.generation.spec import Decoding
from lensbench.quantized.loading.gate import require_answers
from lensbench.quantized.loading.load import AdaptedModel, load_quantized
from tests.harness.tiny import Case

ALIKE, PADDED = [[5, 6, 7], [8, 9, 10]], [[5, 6, 7], [8, 9]]
GREEDY = Decoding(max_new_tokens=5)
ONE_PASS, BY_TEXTS = 1, (4, 9)  # alone; and padded besides


@pytest.fixture
def model(llama: Case) -> AdaptedModel:
    return endless(load_quantized(llama.folder, 32, device="cpu"))


def endless(model: AdaptedModel) -> AdaptedModel:
    """No token ends a text."""
    model.base.generation_config.eos_token_id = None
    model.tokenizer.eos_token = None
    return model


def passes(model: AdaptedModel, made: Callable[[], object]) -> int:
    """How many passes through the model something takes."""
    found: list[object] = []
    hook = model.base.register_forward_pre_hook(lambda *_: found.append(None))
    made()
    hook.remove()
    return len(found)


@pytest.mark.parametrize("prompts", [ALIKE, PADDED])
def test_greedy_answers_are_proven_by_one_pass_once(
    model: AdaptedModel, prompts: list[list[int]]
) -> None:
    counts = [passes(model, lambda: generate(model, prompts, GREEDY)) for _ in range(2)]
    assert counts == [GREEDY.max_new_tokens + ONE_PASS, GREEDY.max_new_tokens]


def test_each_kind_of_batch_is_proven(model: AdaptedModel) -> None:
    counts = [passes(model, lambda p=p: generate(model, p, GREEDY)) for p in (ALIKE, PADDED)]
    assert counts == [GREEDY.max_new_tokens + ONE_PASS] * 2


@pytest.mark.parametrize(
    "decoding",
    [Decoding(max_new_tokens=5, temperature=1.0), Decoding(max_new_tokens=2)],
    ids=["drawn", "too short"],
)
@pytest.mark.parametrize(("prompts", "more"), [(ALIKE, BY_TEXTS[0]), (PADDED, BY_TEXTS[1])])
def test_others_are_proven_by_texts(
    model: AdaptedModel, prompts: list[list[int]], more: int, decoding: Decoding
) -> None:
    count = passes(model, lambda: generate(model, prompts, decoding))
    assert count == decoding.max_new_tokens + more


def test_a_long_prompt_is_not_read_twice(model: AdaptedModel) -> None:
    count = passes(model, lambda: generate(model, [[5] * 65 for _ in range(2)], GREEDY))
    assert count == GREEDY.max_new_tokens + BY_TEXTS[0]


def test_a_model_that_mixes_padded_rows_is_refused(model: AdaptedModel) -> None:
    def mixed(_: object, __: object, states: torch.Tensor) -> torch.Tensor:
        return states + states.mean(0, keepdim=True)

    model.base.get_input_embeddings().register_forward_hook(mixed)
    with pytest.raises(GateError, match=r"in a padded batch .* --batch-size 1"):
        generate(model, PADDED, GREEDY)


def test_a_cache_that_holds_something_else_is_refused(model: AdaptedModel) -> None:
    """A block that reads a token otherwise where it comes alone, as behind a cache."""

    def other(_: object, __: object, states: torch.Tensor) -> torch.Tensor:
        return states.flip(-1) if states.shape[1] == 1 else states

    model.base.get_input_embeddings().register_forward_hook(other)
    with pytest.raises(GateError, match="not what it says of the same tokens"):
        generate(model, ALIKE, GREEDY)


def wrong_behind_twelve(model: AdaptedModel) -> AdaptedModel:
    """Its embedding reads a token otherwise where it comes alone behind twelve and more."""
    position = torch.zeros(1)

    def note(_: object, __: object, given: dict[str, torch.Tensor]) -> None:
        position.fill_(int(given["position_ids"].max()) if "position_ids" in given else 0)

    def other(_: object, __: object, states: torch.Tensor) -> torch.Tensor:
        return states.flip(-1) if states.shape[1] == 1 and position > 12 else states

    model.base.register_forward_pre_hook(note, with_kwargs=True)
    model.base.get_input_embeddings().register_forward_hook(other)
    return model


@pytest.mark.parametrize("bits", [32, 16])
def test_a_cache_that_goes_wrong_once_it_is_longer_is_refused(llama: Case, bits: Bits) -> None:
    made = [endless(load_quantized(llama.folder, bits, device="cpu")) for _ in range(2)]
    short, long = map(wrong_behind_twelve, made)
    generate(short, ALIKE, Decoding(max_new_tokens=8))
    with pytest.raises(GateError, match="over 40 tokens its cache gives other answers"):
        generate(long, ALIKE, Decoding(max_new_tokens=40))


@pytest.mark.parametrize("temperature", [0.0, 1.0], ids=["greedy", "drawn"])
@pytest.mark.parametrize("before", [None, 8], ids=["at once", "after short answers"])
def test_what_passed_by_short_answers_is_measured_by_longer_ones(
    model: AdaptedModel, before: int | None, temperature: float
) -> None:
    wrong = wrong_behind_twelve(model)
    if before is not None:
        generate(wrong, ALIKE, Decoding(max_new_tokens=before, temperature=temperature))
    with pytest.raises(GateError, match="over 40 tokens its cache gives other answers"):
        generate(wrong, ALIKE, Decoding(max_new_tokens=40, temperature=temperature))


class Shown:
    """What transformers hands tokens to as they come."""

    def put(self, _: torch.Tensor) -> None: ...

    def end(self) -> None: ...


def test_an_answer_that_was_shown_as_it_came_is_measured_too(model: AdaptedModel) -> None:
    with pytest.raises(GateError, match="over 40 tokens its cache gives other answers"):
        generate(
            wrong_behind_twelve(model),
            ALIKE[:1],
            Decoding(max_new_tokens=40),
            streamer=Shown(),
        )


def test_the_longest_answer_of_a_batch_is_measured(model: AdaptedModel) -> None:
    wrong = wrong_behind_twelve(model)
    ended, other = greedy(wrong, ALIKE, 40)
    cut = {"token_ids": ended.token_ids[:4], "token_logprob_bits": ended.token_logprob_bits[:4]}
    with pytest.raises(GateError, match="over 40 tokens its cache gives other answers"):
        require_answers(wrong, ALIKE, [replace(ended, **cut), other], partial(greedy, wrong))


def test_answers_of_a_growing_length_are_measured_a_few_times(model: AdaptedModel) -> None:
    """Each time they are more than twice as long, up to a limit."""
    counts = {
        n: passes(model, lambda n=n: generate(model, ALIKE, Decoding(max_new_tokens=n))) - n
        for n in (5, 10, 11, 70, 90)
    }
    assert [n for n, more in counts.items() if more] == [5, 11, 70]
