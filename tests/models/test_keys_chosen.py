"""Sparse attention: a text is as long as all of its tokens are chosen, or it is refused.

Beyond that DeepSeek's indexer chooses among equal scores, and which ones goes by padding and cache.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
from transformers import AutoConfig

from lensbench.checkpoints.config.shape import context_length, keys_chosen
from lensbench.models.load import load_model
from lensbench.quantized.loading.load import load_quantized
from tests.harness.causal_lms import save_tiny, tiny_config
from tests.harness.sweep import Plain, outcome

CHOSEN, CONTEXT = 4, 64  # of the tiny forms, which choose as many as their context holds
SPARSE = ("axk2", "deepseek_v32", "dots3_note_text", "glm_moe_dsa", "hy_v4")
BRIDGED = "glm_moe_dsa"  # by TransformerLens too


@pytest.fixture
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return save_tiny(request.param, tmp_path / "model")


@pytest.fixture(autouse=True)
def _notes(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "lensbench")


def choose(folder: Path, n: int) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"index_topk": n}))


@pytest.mark.parametrize("kind", SPARSE)
def test_the_context_is_what_is_chosen(kind: str) -> None:
    config = tiny_config(kind)
    assert context_length(config) == CONTEXT
    config.index_topk = CHOSEN
    assert keys_chosen(config) == context_length(config) == CHOSEN


def test_others_choose_none() -> None:
    for kind in ("llama", "gpt2", "deepseek_v3", "qwen3_moe"):
        config = AutoConfig.for_model(kind)
        assert keys_chosen(config) is None
        assert context_length(config) == config.max_position_embeddings


@pytest.mark.parametrize(
    "folder",
    ["axk2", *(pytest.param(kind, marks=pytest.mark.slow) for kind in SPARSE[1:])],
    indirect=True,
)
def test_longer_texts_are_refused_and_texts_of_that_length_are_equal(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert outcome("infer", Plain(folder), tmp_path / "equal").verdict == "equal"
    choose(folder, CHOSEN)
    said = outcome("infer", Plain(folder), tmp_path / "refused")
    assert said.verdict == "refused"
    assert "exceed the model's window of 4" in said.said
    assert "equal scores would be told apart by chance" in caplog.text


@pytest.mark.parametrize("folder", [BRIDGED], indirect=True)
def test_it_is_said_and_held_to_on_both_paths(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert outcome("lens", Plain(folder), tmp_path / "equal").verdict == "equal"
    choose(folder, CHOSEN)
    for load in (lambda: load_model(folder), lambda: load_quantized(folder, 32)):
        caplog.clear()
        assert load().n_ctx == CHOSEN
        assert "its context is held to 4 tokens" in caplog.text
    assert outcome("lens", Plain(folder), tmp_path / "refused").verdict == "refused"
