"""The gate of texts longer than some block looks back: one row with padding and one without."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig

from lensbench.checkpoints.config.shape import attention_reach
from lensbench.errors import GateError
from lensbench.quantized.generation.generate import generate
from lensbench.quantized.generation.spec import Decoding
from lensbench.quantized.loading.load import AdaptedModel, load_quantized
from tests.harness.tiny import TINY, Tiny, save

WINDOW = 70
ANSWERS = Decoding(max_new_tokens=12)
# Longer than what the gate reads of other prompts; the answers end beyond the window.
ALIKE, PADDED = [[5] * 66, [6] * 66], [[5] * 68, [6] * 66]


@pytest.fixture
def model(tmp_path: Path) -> AdaptedModel:
    fields = {"sliding_window": WINDOW, "max_position_embeddings": 128}
    folder = save(Tiny("mistral", TINY["mistral"].fields | fields, "spaces"), tmp_path / "window")
    model = load_quantized(folder, 32, device="cpu")
    model.base.generation_config.eos_token_id = None
    model.tokenizer.eos_token = None
    return model


def wrong_beyond(model: AdaptedModel, n: int, row: int = 0) -> None:
    """A token of that row that comes alone behind so many is read otherwise."""
    position = torch.zeros(1)

    def note(_: object, __: object, given: dict[str, torch.Tensor]) -> None:
        position.fill_(int(given["position_ids"].max()) if "position_ids" in given else 0)

    def other(_: object, __: object, states: torch.Tensor) -> torch.Tensor:
        if states.shape[1] == 1 and position >= n and len(states) > row:
            states = states.clone()
            states[row] = states[row].flip(-1)
        return states

    model.base.register_forward_pre_hook(note, with_kwargs=True)
    model.base.get_input_embeddings().register_forward_hook(other)


def passes(model: AdaptedModel, made: Callable[[], object]) -> int:
    """How many passes beyond those of the answers something takes."""
    found: list[object] = []
    hook = model.base.register_forward_pre_hook(lambda *_: found.append(None))
    made()
    hook.remove()
    return len(found) - ANSWERS.max_new_tokens


def test_one_row_of_each_kind_is_read_again_once(model: AdaptedModel) -> None:
    generate(model, [[5, 6, 7], [8, 9]], ANSWERS)  # what short texts show
    generate(model, [[5, 6, 7], [8, 9, 10]], ANSWERS)
    both = [passes(model, lambda: generate(model, PADDED, ANSWERS)) for _ in range(2)]
    assert both == [2, 0]
    assert passes(model, lambda: generate(model, ALIKE, ANSWERS)) == 0


@pytest.mark.parametrize(
    ("prompts", "row", "said"),
    [
        (ALIKE, 0, r"\(MistralForCausalLM\): beyond 70 tokens"),
        (PADDED, 0, r"\(MistralForCausalLM\): beyond 70 tokens"),
        (PADDED, 1, "in a padded batch beyond 70 tokens, .* or run it with --batch-size 1"),
    ],
    ids=["alone", "beside padding", "padded"],
)
def test_a_cache_that_goes_wrong_there_is_refused(
    model: AdaptedModel, prompts: list[list[int]], row: int, said: str
) -> None:
    wrong_beyond(model, WINDOW, row)
    with pytest.raises(GateError, match=said):
        generate(model, prompts, ANSWERS)


@pytest.mark.parametrize(
    ("kind", "reach"),
    {
        "mistral": 4096,
        "gemma3_text": 4096,
        "gpt_neo": 256,
        "gpt_oss": 128,
        "llama4_text": 8192,
        "recurrent_gemma": 2048,
        "inkling_text": 512,
        "doge": 2048,
        "qwen2": None,  # has a window that it does not use
        "llama": None,
        "gpt2": None,
    }.items(),
)
def test_the_reach_is_what_the_class_says(kind: str, reach: int | None) -> None:
    assert attention_reach(AutoConfig.for_model(kind)) == reach
