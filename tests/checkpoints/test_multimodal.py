"""Of a multimodal checkpoint the text model is read, and it says what the whole says of a text."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForImageTextToText, PreTrainedModel

from lensbench import load_model
from lensbench.checkpoints.blocks import block_list
from lensbench.checkpoints.open import quiet
from lensbench.errors import LensbenchError, ModelError
from lensbench.quantized.loading.load import load_quantized
from tests.harness.damage import damaged, renamed, without
from tests.harness.tiny import TINY, tokenizer

IDS = torch.tensor([[1, 5, 9, 30, 31, 7]])
SPECIAL = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
# As deep as the text model: a search for a list of so many blocks would find the tower's.
TOWER = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": 16,
    "patch_size": 4,
}
# The whole, its text model, its tower.
KINDS = {
    "gemma3": ("gemma3_text", "siglip_vision_model", {"mm_tokens_per_image": 4}),
    "llava": ("llama", "clip_vision_model", {}),
    "mistral3": ("mistral", "pixtral", {}),
}
DECODERS = {"gemma3": "Gemma3DecoderLayer", "llava": "LlamaDecoderLayer"}
DECODERS |= {"mistral3": "MistralDecoderLayer"}
all_kinds = pytest.mark.parametrize(
    "kind", ["gemma3", *(pytest.param(k, marks=pytest.mark.slow) for k in ("llava", "mistral3"))]
)


def whole_model(kind: str) -> PreTrainedModel:
    text, tower, fields = KINDS[kind]
    config = AutoConfig.for_model(
        kind,
        text_config=TINY[text].fields | SPECIAL | {"model_type": text},
        vision_config=TOWER
        | {"model_type": tower}
        | ({"head_dim": 8} if kind == "mistral3" else {}),
        image_token_index=383,
        **fields,
    )
    torch.manual_seed(0)
    model = AutoModelForImageTextToText.from_config(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim == 1:
                weight.add_(0.3 * torch.randn_like(weight))
            else:
                weight.copy_(1.2 * torch.randn_like(weight) / min(weight.shape) ** 0.5)
    return model


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    made: dict[str, Path] = {}

    def get(kind: str) -> Path:
        if kind not in made:
            made[kind] = tmp_path_factory.mktemp("whole") / kind
            with quiet():
                whole_model(kind).save_pretrained(made[kind])
            tokenizer("spaces").save_pretrained(made[kind])
        return made[kind]

    return get


def logits(model: Any) -> torch.Tensor:
    with torch.inference_mode():
        return model(input_ids=IDS).logits.float()


@all_kinds
def test_the_text_model_is_that_of_the_whole(whole: Callable[[str], Path], kind: str) -> None:
    wanted = logits(whole_model(kind))
    loaded = load_quantized(whole(kind), 32, device="cpu")
    assert torch.equal(logits(loaded.hf), wanted)
    assert type(loaded.blocks[0]).__name__ == DECODERS[kind]
    assert not any("vision" in name for name, _ in loaded.hf.named_parameters())
    for lens in (
        load_model(whole(kind), device="cpu"),
        load_model(whole_model(kind), tokenizer=tokenizer("spaces")),
    ):
        assert lens.model_type == KINDS[kind][0]
        with torch.inference_mode():
            found = lens.bridge(IDS, return_type="logits")
        torch.testing.assert_close(found, wanted, atol=1e-4, rtol=0)


@all_kinds
def test_its_linear_layers_are_quantised(whole: Callable[[str], Path], kind: str) -> None:
    loaded = load_quantized(whole(kind), 8, device="cpu")
    assert loaded.quantised_modules == 3 * 7
    error = (logits(loaded.hf).softmax(-1) - logits(whole_model(kind)).softmax(-1)).abs().max()
    assert error < 0.2


@all_kinds
def test_damage_anywhere_in_it_is_refused(
    whole: Callable[[str], Path], kind: str, tmp_path: Path
) -> None:
    changes = [
        without("layers.1.mlp"),
        renamed(lambda name: f"_orig_mod.{name}"),
        lambda tensors: tensors | {"extra.weight": torch.ones(2, 2)},
    ]
    for number, change in enumerate(changes):
        with pytest.raises(LensbenchError, match=r"not those of the model that config\.json"):
            load_quantized(damaged(tmp_path / str(number), whole(kind), change), 8, device="cpu")


def test_a_text_model_that_cannot_run_alone_is_refused(tmp_path: Path) -> None:
    text = TINY["llama"].fields | {"rope_parameters": {"mrope_section": [1, 1, 2]}}
    config = AutoConfig.for_model("qwen2_5_vl", text_config=text, vision_config={"depth": 3})
    config.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"\x02\0\0\0\0\0\0\0{}")
    tokenizer("spaces").save_pretrained(tmp_path)
    for load in (load_model, lambda folder: load_quantized(folder, 8)):
        with pytest.raises(ModelError, match=r"multimodal model \(qwen2_5_vl\).*text-only model"):
            load(tmp_path)


@all_kinds
def test_blocks_are_those_of_the_text_decoder(kind: str) -> None:
    name, blocks = block_list(whole_model(kind))
    assert "vision" not in name
    assert type(blocks[0]).__name__ == DECODERS[kind]


def test_two_lists_of_blocks_are_refused(llama: Any) -> None:
    model = llama.fresh_hf()
    assert block_list(model)[0] == "model.layers"
    model.model.others = nn.ModuleList([nn.Linear(2, 2) for _ in range(3)])
    with pytest.raises(ModelError, match=r"found: model\.layers, model\.others"):
        block_list(model)
