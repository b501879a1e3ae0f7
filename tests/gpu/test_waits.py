"""How often a batch waits for the accelerator: not more often for more cells, layers or tokens."""

from __future__ import annotations

from pathlib import Path

import pytest

from lensbench.lens.logit import read_batch
from lensbench.lens.settings import LensSettings
from lensbench.lens.vocabulary import bound
from lensbench.models.load import load_model
from lensbench.prompts.encode import EncodedPrompt, Word
from lensbench.prompts.prompt import Prompt
from tests.harness.tiny import TINY, save
from tests.harness.waits import waits

pytestmark = pytest.mark.gpu


def of_a_batch(folder: Path, n_prompts: int, n_tokens: int, dtype: str) -> list[str]:
    """Waits of one batch, after another one like it."""
    model = load_model(folder, device="cuda", dtype=dtype)
    answer = Word("-", (7,), "written")
    prompts = [
        EncodedPrompt(Prompt(f"p{i}", "-"), "-", "plain", (9, *range(10, 9 + n_tokens)), answer)
        for i in range(n_prompts)
    ]
    settings = LensSettings(("final", "next"), positions="all", top_k=5)
    read_batch(model, prompts, settings)
    with waits() as found:
        read_batch(model, prompts, settings)
    return found


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_batch_waits_a_fixed_number_of_times(tmp_path: Path, device: str, dtype: str) -> None:
    if device != "cuda":
        pytest.skip("only CUDA says when it is waited for")
    shallow = save(TINY["llama"], tmp_path / "shallow")
    deep = save(TINY["llama"], tmp_path / "deep", {"num_hidden_layers": 9})
    wide = save(TINY["llama"], tmp_path / "wide", {"vocab_size": 9000})
    small = of_a_batch(shallow, 2, 4, dtype)
    assert len(of_a_batch(shallow, 8, 12, dtype)) == len(small), "by cell"
    assert len(of_a_batch(deep, 2, 4, dtype)) == len(small), "by layer"
    assert len(of_a_batch(wide, 2, 4, dtype)) == len(small), "by tile of the vocabulary"
    assert len(small) <= 20, "\n".join(small)


def test_readings_made_again_are_sent_and_fetched_at_once(
    tmp_path: Path, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not once for each layer, or each statistic."""
    if device != "cuda":
        pytest.skip("only CUDA says when it is waited for")
    folder = save(TINY["llama"], tmp_path, {"num_hidden_layers": 9})
    inside = of_a_batch(folder, 4, 8, "float32")
    monkeypatch.setattr(bound, "BITS", 0.0)
    monkeypatch.setattr(bound, "RELATIVE", 0.0)
    assert len(of_a_batch(folder, 4, 8, "float32")) <= len(inside) + 2 * 4, "of two lenses"
