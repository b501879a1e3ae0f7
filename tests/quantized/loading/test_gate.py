"""The gate of generation: shown by answers that are made anyway where they can show it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from lensbench.checkpoints.ref import Bits
from lensbench.errors import GateError
from lensbench.quantized.generation.generate import generate
from lensbench.quantized.generation.spec import Decoding
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
