"""A training loads its base once, and answers its examples with that very base."""

from __future__ import annotations

import gc
import itertools
import json
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch

from lensbench.checkpoints.open import quiet
from lensbench.quantized.adapters.lora import adapt, match
from lensbench.quantized.adapters.spec import Lora
from lensbench.quantized.generation.generate import generate
from lensbench.quantized.generation.spec import Decoding
from lensbench.quantized.loading import load
from lensbench.quantized.loading.load import load_quantized, with_adapter
from lensbench.quantized.training import learn, prefix
from lensbench.quantized.training.arithmetic import prepare_base
from lensbench.quantized.training.train import train
from tests.harness.tiny import Case
from tests.harness.training import examples_of, spec_of

IDS = torch.arange(3, 19)[None]
every_precision = pytest.mark.parametrize("bits", [32, 16, 8, 4])


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The folders whose weights are read, one after the other."""
    found: list[Path] = []
    own = load.open_weights

    def counted(folder: Path, *rest: Any, **more: Any) -> Any:
        found.append(folder)
        return own(folder, *rest, **more)

    monkeypatch.setattr(load, "open_weights", counted)
    return found


@pytest.mark.parametrize(
    ("bits", "cache_prefix"),
    [(8, False)]
    + [
        pytest.param(bits, cached, marks=pytest.mark.slow)
        for bits, cached in itertools.product((32, 16, 8, 4), (False, True))
        if (bits, cached) != (8, False)
    ],
)
def test_the_weights_are_read_once_and_the_answers_are_those_of_a_fresh_model(
    llama: Case,
    data: Path,
    held_out: Path,
    tmp_path: Path,
    opened: list[Path],
    bits: Any,
    cache_prefix: bool,
) -> None:
    how = {"bits": bits, "cache_prefix": cache_prefix, "n_examples": 2, "max_steps": 2}
    spec = spec_of(llama, data, held_out, tmp_path / "adapter", **how)
    assert train(spec).ok
    assert len(opened) == 1
    rows = [json.loads(line) for line in (spec.out / "examples.jsonl").read_text().splitlines()]
    model = load_quantized(spec.ref, adapter=spec.out, device="cpu")
    shown = examples_of(llama, held_out)[:2]
    prompts = [one.token_ids[: one.n_prompt] for one in shown]
    room = min(64, model.n_ctx - max(map(len, prompts)))
    said = [one.text for one in generate(model, prompts, Decoding(max_new_tokens=room))]
    assert [row["adapter"] for row in rows] == said
    with model.hf.disable_adapter():
        said = [one.text for one in generate(model, prompts, Decoding(max_new_tokens=room))]
    assert [row["base"] for row in rows] == said


@pytest.mark.slow
def test_blocks_that_memory_has_no_room_for_are_dropped_and_read_again(
    llama: Case,
    data: Path,
    held_out: Path,
    tmp_path: Path,
    opened: list[Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    how = {"bits": 8, "cache_prefix": True, "n_examples": 1, "max_steps": 1}
    assert train(spec_of(llama, data, held_out, tmp_path / "aside", **how)).ok
    opened.clear()
    monkeypatch.setattr(learn, "memory_available", lambda device: 0)
    dropped, own = [], prefix.release

    def released(blocks: torch.nn.ModuleList, first: int) -> Any:
        dropped.extend(weakref.ref(block) for block in [*blocks][:first])
        return own(blocks, first)

    monkeypatch.setattr(prefix, "release", released)
    gone: list[bool] = []
    real = learn._trainer

    def looked(*given: Any) -> Any:
        gc.collect()
        gone.extend(block() is None for block in dropped)
        return real(*given)

    monkeypatch.setattr(learn, "_trainer", looked)
    assert train(spec_of(llama, data, held_out, tmp_path / "dropped", **how)).ok
    assert gone and all(gone)  # nobody holds on to them while it trains
    assert len(opened) == 2
    first, second = ((tmp_path / name / "examples.jsonl") for name in ("aside", "dropped"))
    assert first.read_bytes() == second.read_bytes()


def _logits(model: Any) -> torch.Tensor:
    with torch.inference_mode():
        return model(input_ids=IDS).logits


@every_precision
def test_a_base_that_was_trained_on_is_itself_again_to_the_bit(
    llama: Case, tmp_path: Path, bits: Any
) -> None:
    fresh = _logits(load_quantized(llama.folder, bits, device="cpu").hf)
    model = load_quantized(llama.folder, bits, device="cpu")
    restore = prepare_base(model)
    lora = Lora(dropout=0.0)
    with quiet():
        adapted = adapt(model.hf, match(model.hf, lora), lora, "base")
    adapted.train()
    optimiser = torch.optim.AdamW([p for p in adapted.parameters() if p.requires_grad], lr=0.1)
    for _ in range(2):
        adapted(input_ids=IDS, labels=IDS).loss.backward()
        optimiser.step()
        optimiser.zero_grad()
    adapted.save_pretrained(tmp_path, save_embedding_layers=False)
    adapted.unload()
    restore()
    assert torch.equal(_logits(model.hf), fresh)
    loaded = load_quantized(llama.folder, bits, tmp_path, device="cpu")
    again = with_adapter(model, tmp_path)
    assert torch.equal(_logits(again.hf), _logits(loaded.hf))
    assert not torch.equal(_logits(again.hf), fresh)
    assert again.ref == loaded.ref and again.weights == loaded.weights
    assert again.facts() == loaded.facts()
