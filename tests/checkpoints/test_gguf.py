"""What a GGUF file says of its model is what the loaded model is, or the file is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from lensbench import load_model
from lensbench.checkpoints.config.fields import NEUTRAL_FIELDS
from lensbench.checkpoints.open import open_config, open_tokenizer, quiet
from lensbench.checkpoints.pull import convert_gguf
from lensbench.checkpoints.weights import open_weights
from lensbench.errors import ModelError
from lensbench.quantized.loading.load import load_quantized
from tests.harness.files import CONFIGS
from tests.harness.gguf import HEADS, TOKENS, WIDTH, write_tiny_gguf

LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500_000.0,
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


def opened(folder: Path) -> Any:
    with quiet():
        return open_weights(folder, torch.float32)


def written(tmp_path: Path, **how: Any) -> Path:
    write_tiny_gguf(tmp_path / "tiny.gguf", **how)
    return tmp_path


@pytest.mark.parametrize("architecture", ["llama", "gemma3"])
def test_a_file_that_says_nothing_unusual_is_read(tmp_path: Path, architecture: str) -> None:
    folder = written(tmp_path, architecture=architecture)
    ids = torch.arange(3, 40)[None]
    with quiet(), torch.inference_mode():
        plain = AutoModelForCausalLM.from_pretrained(folder, gguf_file="tiny.gguf").eval()
        assert torch.equal(opened(folder)(ids).logits, plain(ids).logits)


def llama3_file(folder: Path) -> Path:
    """Llama 3.2's factors, by transformers' own frequencies with and without the scaling."""
    fields = {"hidden_size": WIDTH, "num_attention_heads": HEADS, "max_position_embeddings": 64}
    config = AutoConfig.for_model("llama", **fields, rope_parameters=LLAMA3)
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, "cpu")
    plain = 500_000.0 ** -(torch.arange(0, 8, 2) / 8)
    factors = (plain / scaled).numpy().astype(np.float32)
    assert factors.max() == pytest.approx(32)
    return written(
        folder,
        fields={"rope.freq_base": 500_000.0},
        tensors={"rope_freqs.weight": factors},
    )


def test_llama_3_scaling_is_taken_over_from_its_factors(tmp_path: Path) -> None:
    """transformers passes over the tensor; the right model is the same file with its config."""
    folder = llama3_file(tmp_path)
    config = AutoConfig.from_pretrained(folder, gguf_file="tiny.gguf")
    config.rope_parameters = LLAMA3
    ids = torch.arange(3, 60)[None]
    with quiet(), torch.inference_mode():
        how = {"gguf_file": "tiny.gguf"}
        right = AutoModelForCausalLM.from_pretrained(folder, config=config, **how).eval()(ids)
        wrong = AutoModelForCausalLM.from_pretrained(folder, **how).eval()(ids)
        assert (right.logits - wrong.logits).abs().max() > 1e-3
        assert torch.equal(opened(folder)(ids).logits, right.logits)
        convert_gguf(folder / "tiny.gguf", tmp_path / "converted")
        assert torch.equal(opened(tmp_path / "converted")(ids).logits, right.logits)
        quantised = load_quantized(folder, 8, device="cpu")
    assert quantised.base.config.rope_parameters["factor"] == 32


def test_factors_of_another_scaling_are_refused(tmp_path: Path) -> None:
    factors = np.array([1, 2, 3, 4], dtype=np.float32)
    folder = written(tmp_path, tensors={"rope_freqs.weight": factors})
    for open_it in (open_config, opened, load_model, lambda f: load_quantized(f, 8)):
        with pytest.raises(ModelError, match=r"rope_freqs\.weight: rotary scaling that is not"):
            open_it(folder)
    write_tiny_gguf(
        tmp_path / "tiny.gguf", tensors={"rope_freqs.weight": np.ones(4, dtype=np.float32)}
    )
    opened(folder)  # no scaling


@pytest.mark.parametrize(
    ("architecture", "key", "value", "said"),
    [
        ("llama", "rope.scaling.type", "linear", "linear, but the config has none"),
        ("llama", "rope.scaling.factor", 8.0, "the config has None"),
        ("llama", "attention.sliding_window", 16, "the config has None"),
        ("llama", "attention.scale", 0.125, "the config has 0.35"),
        ("llama", "logit_scale", 0.5, "the config has None"),
        ("llama", "final_logit_softcapping", 30.0, "the config has None"),
        ("llama", "expert_count", 8, "the config has None"),
        ("llama", "some.new.switch", True, "unknown to lensbench"),
        ("llama", "attention.causal", False, "False, but the config has True"),
        ("gemma3", "rope.scaling.type", "linear", "linear, but the config has none"),
        ("gemma3", "rope.freq_base_swa", 20_000.0, "the config has 10000"),
        ("gemma3", "attention.sliding_window_pattern", [True, False], "[True, True]"),
        ("gemma3", "attn_logit_softcapping", 50.0, "the config has None"),
    ],
)
def test_what_would_be_lost_is_refused(
    tmp_path: Path, architecture: str, key: str, value: Any, said: str
) -> None:
    folder = written(tmp_path, architecture=architecture, fields={key: value})
    for open_it in (open_config, opened):
        with pytest.raises(ModelError) as caught:
            open_it(folder)
        assert f"{architecture}.{key}" in str(caught.value)
        assert said in str(caught.value)
        assert "Take the model as safetensors" in str(caught.value)


def test_everything_that_would_be_lost_is_said_at_once(tmp_path: Path) -> None:
    fields = {"rope.scaling.type": "yarn", "rope.scaling.factor": 4.0, ".adapter.alpha": 8.0}
    with pytest.raises(ModelError) as caught:
        opened(written(tmp_path, fields=fields))
    assert all(key.lstrip(".") in str(caught.value) for key in fields)


@pytest.mark.parametrize(
    ("fields", "without", "said"),
    [
        # llama.cpp's default is 10,000; Gemma 3's class has a million.
        ({}, "rope.freq_base", r"rope\.freq_base is not said, and the config has 1000000"),
        ({}, "attention.sliding_window", r"sliding_window is not said, and the config has 4096"),
        # The width of a head decides the scale in every Gemma but the 27B.
        (
            {"attention.key_length": 8},
            "",
            r"attention\.scale is not said, and the config has 0\.0625",
        ),
    ],
)
def test_what_the_file_leaves_to_defaults_is_compared_too(
    tmp_path: Path, fields: dict[str, Any], without: str, said: str
) -> None:
    folder = written(tmp_path, architecture="gemma3", fields=fields, without=[without])
    with pytest.raises(ModelError, match=said):
        opened(folder)


@pytest.mark.parametrize(
    "key",
    ["context_length", "attention.layer_norm_rms_epsilon", "attention.head_count_kv"],
)
def test_a_key_that_transformers_would_guess_is_missed(tmp_path: Path, key: str) -> None:
    """Without the number of key heads it leaves a llama's rows in llama.cpp's order."""
    with pytest.raises(ModelError, match=rf"llama\.{key} is not said"):
        opened(written(tmp_path, without=[key]))


def test_tensors_are_all_there_and_all_used(tmp_path: Path) -> None:
    bias = {"blk.0.attn_q.bias": np.ones(WIDTH, dtype=np.float32)}
    with pytest.raises(ModelError, match=r"blk\.0\.attn_q\.bias: a tensor that transformers has"):
        opened(written(tmp_path, tensors=bias))
    (tmp_path / "tiny.gguf").unlink()
    with pytest.raises(ModelError, match=r"missing, .*: model\.layers\.1\.mlp\.up_proj\.weight"):
        opened(written(tmp_path, without=["blk.1.ffn_up.weight"]))


def test_what_transformers_cannot_read_is_said(tmp_path: Path) -> None:
    write_tiny_gguf(tmp_path / "tiny.gguf", architecture="klingon")
    for open_it in (open_config, opened, load_model):
        with pytest.raises(ModelError, match=r"klingon.*Take the model as safetensors"):
            open_it(tmp_path)
    (tmp_path / "tiny.gguf").write_bytes((tmp_path / "tiny.gguf").read_bytes()[:500])
    with pytest.raises(ModelError, match="no whole GGUF file"):
        open_config(tmp_path)


def test_texts_are_split_as_the_file_says(tmp_path: Path) -> None:
    """SmolLM takes digits off first; transformers does not know that and splits as GPT-2 does."""
    folder = written(tmp_path)
    own = open_tokenizer(folder)
    vocabulary = {token: number for number, token in enumerate(TOKENS)}
    merges = [("Ġ", "t"), ("Ġt", "h"), ("Ċ", "Ċ")]
    published = Tokenizer(models.BPE(vocabulary, merges))
    published.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(False)]
    )
    published.decoder = decoders.ByteLevel()
    for text in ("\n\n1. the", "a  7", "in 2024, they", "  \n\n42"):
        assert own(text, add_special_tokens=False).input_ids == published.encode(text).ids
    assert own("\n\n1", add_special_tokens=False).input_ids == [
        vocabulary["ĊĊ"],
        vocabulary["1"],
    ]
    convert_gguf(folder / "tiny.gguf", tmp_path / "converted")
    again = open_tokenizer(tmp_path / "converted")
    assert again("\n\n1").input_ids == own("\n\n1").input_ids
    (tmp_path / "tiny.gguf").unlink()
    with pytest.raises(ModelError, match=r"tokenizer\.ggml\.pre = klingon: how texts are split"):
        opened(written(tmp_path, pre="klingon"))


@pytest.mark.parametrize("said", [None, True, False])
def test_llama_3_begins_with_bos_and_merges_no_token(tmp_path: Path, said: bool | None) -> None:
    """As llama.cpp and the published tokenizer.json do; files of Llama 3 do not say it."""
    fields = {} if said is None else {".tokenizer.ggml.add_bos_token": said}
    folder = written(tmp_path, pre="llama-bpe", more_tokens=["Ġthen"], fields=fields)
    vocabulary = {token: number for number, token in enumerate([*TOKENS, "Ġthen"])}
    merges = [("Ġ", "t"), ("Ġt", "h"), ("Ċ", "Ċ")]
    published = Tokenizer(models.BPE(vocabulary, merges, ignore_merges=True))
    published.pre_tokenizer = pre_tokenizers.ByteLevel(False)
    wanted = published.encode("a then thus").ids
    assert vocabulary["Ġthen"] in wanted
    bos = [] if said is False else [1]
    convert_gguf(folder / "tiny.gguf", tmp_path / "converted")
    for own in (open_tokenizer(folder), open_tokenizer(tmp_path / "converted")):
        assert own("a then thus").input_ids == [*bos, *wanted]


@pytest.mark.parametrize("said", [None, True, False])
def test_a_sentencepiece_text_begins_with_a_space_unless_the_file_says_no(
    tmp_path: Path, said: bool | None
) -> None:
    fields = {} if said is None else {".tokenizer.ggml.add_space_prefix": said}
    folder = written(tmp_path, pieces=True, fields=fields)
    first = "The" if said is False else "▁The"
    convert_gguf(folder / "tiny.gguf", tmp_path / "converted")
    for own in (open_tokenizer(folder), open_tokenizer(tmp_path / "converted")):
        ids = own("The a", add_special_tokens=False).input_ids
        assert "".join(own.convert_ids_to_tokens(ids)) == f"{first}▁a"
        assert own.decode(ids) == "The a"
        assert own("The a").input_ids == [own.bos_token_id, *ids]


def test_an_adapter_beside_a_gguf_file_is_refused(tmp_path: Path) -> None:
    folder = written(tmp_path)
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(ModelError, match="FOLDER\\+ADAPTER"):
        opened(folder)


@pytest.mark.real
@pytest.mark.parametrize("alias", ["smollm2-135m", "gemma3-270m"])
def test_the_demo_models_have_their_published_configs(
    alias: str, request: pytest.FixtureRequest
) -> None:
    """Every field that decides the forward pass, whatever of it the GGUF file says.

    Gemma 3's sliding pattern, local rotary base, attention scale and missing soft caps do not stand
    in its file: they are llama.cpp's and transformers' defaults, and those that were published.
    """
    fixture = {"smollm2-135m": "smollm_folder", "gemma3-270m": "gemma3_folder"}[alias]
    folder = request.getfixturevalue(fixture)
    published = AutoConfig.for_model(**json.loads((CONFIGS / f"{alias}.json").read_text()))
    own = open_config(folder).to_dict()
    skipped = {*NEUTRAL_FIELDS, "rms_norm_eps", "head_dim"}
    wanted = {k: v for k, v in published.to_dict().items() if k not in skipped}
    assert {key: own[key] for key in wanted if key in own} == {
        key: value for key, value in wanted.items() if key in own
    }
    assert {*wanted} - {*own} <= {"rope_interleaved", "head_dim"}
    assert own["rms_norm_eps"] == pytest.approx(published.rms_norm_eps, rel=1e-8)
