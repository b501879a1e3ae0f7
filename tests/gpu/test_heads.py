"""Heads on an accelerator: scores, ablations, direct effects, circuits and text encoders."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import lensbench
from lensbench.attention.causal.ablation import ablated, every_head
from lensbench.attention.causal.direct import direct_effects
from lensbench.attention.circuits.composition import compositions
from lensbench.attention.circuits.copying import copying
from lensbench.attention.circuits.weights import head_weights
from lensbench.models.load import load_model
from lensbench.models.text_encoder import load_encoder
from lensbench.quantized.rag.embedding import load_embedder
from lensbench.records.schema.attention import SCORES
from tests.harness.tiny import Case
from tests.harness.tiny_bert import save_bert

pytestmark = pytest.mark.gpu
FAMILIES = ("llama", "gpt2", "gemma2")


@pytest.fixture(params=FAMILIES)
def case(request: pytest.FixtureRequest, tiny_case: Callable[[str], Case]) -> Case:
    return tiny_case(request.param)


def both(case: Case, device: str, read: Callable[[Any], Any]) -> tuple[Any, Any]:
    """What is read there and on the CPU."""
    there, here = (read(load_model(case.folder, device=d)) for d in (device, "cpu"))
    return there, here


def near(there: Any, here: Any, atol: float = 1e-5) -> None:
    np.testing.assert_allclose(np.asarray(there), np.asarray(here), rtol=1e-4, atol=atol)


def test_scores_of_heads_are_the_cpus(case: Case, device: str) -> None:
    prompts = [ids for ids in case.token_ids if len(ids) > 2]
    there, here = both(case, device, lambda model: lensbench.attention(model, prompts).to_pandas())
    keys = ["prompt_id", "condition", "weighting", "block", "head"]
    there, here = (frame.sort_values(keys).reset_index(drop=True) for frame in (there, here))
    assert there[keys].equals(here[keys])
    for name in SCORES:
        near(there[name].astype(float), here[name].astype(float), 2e-5)


def test_ablated_heads_lose_what_they_lose_on_the_cpu(case: Case, device: str) -> None:
    prompts = [ids for ids in case.token_ids if len(ids) > 1]
    answers = [5 + 7 * number for number in range(len(prompts))]

    def read(model: Any) -> tuple[Any, ...]:
        groups = [[head] for head in every_head(model)]
        found = ablated(model, prompts, groups, answers, batch_tokens=64)
        return found.clean, found.without, found.without_answer

    for there, here in zip(*both(case, device, read), strict=True):
        near(there, here, 2e-4)


def test_direct_effects_are_the_cpus(case: Case, device: str) -> None:
    answers = [5 + 7 * number for number in range(len(case.token_ids))]
    there, here = both(case, device, lambda model: direct_effects(model, case.token_ids, answers))
    near(there, here, 1e-4)


def test_circuits_are_the_cpus(case: Case, device: str) -> None:
    def read(model: Any) -> tuple[list[Any], list[Any]]:
        copied = [own for one in copying(model, 64) for own in (one.eigenvalues, one.own_rank)]
        composed = compositions(head_weights(model))
        return copied, [ratio for one in composed for ratio in one.ratio.values()]

    for there, here in zip(*both(case, device, read), strict=True):
        for one, other in zip(there, here, strict=True):
            near(one.cpu(), other, 1e-3)


def test_a_text_encoder_looks_where_it_looks_on_the_cpu(tmp_path: Path, device: str) -> None:
    folder = save_bert(tmp_path / "bert")
    texts = ["river mountain gold", "the capital city of music and science", "a winter engine"]
    there, here = (
        lensbench.attention(load_encoder(folder, where), texts).to_pandas()
        for where in (device, "cpu")
    )
    numbers = here.select_dtypes("number").columns
    near(there[numbers].astype(float), here[numbers].astype(float))
    vectors = [load_embedder(str(folder), where).embed(texts) for where in (device, "cpu")]
    near(*vectors)


def test_no_tensor_of_scores_is_left_there(llama: Case, device: str) -> None:
    model = load_model(llama.folder, device=device)
    found = lensbench.attention(model, llama.token_ids[0], keep="p1", conditions="text")
    assert isinstance(found.pattern("p1", 0, 0), np.ndarray)
    assert all(p.device.type == torch.device(device).type for p in model.bridge.parameters())
