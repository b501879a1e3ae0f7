"""The demo models say what they said when lensbench first converted them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from lensbench.checkpoints import pull as pulling
from lensbench.checkpoints.families import FAMILIES, Fingerprint
from lensbench.checkpoints.hashes import FINGERPRINT_BITS, fingerprint_error, weights_sha256
from lensbench.errors import ModelError
from lensbench.lens.gate import published_identity
from lensbench.models.model import LensModel
from tests.harness.program import Program
from tests.harness.tiny import Case

SMOLLM, GEMMA = (family for family in FAMILIES if family.wheels)


@pytest.mark.real
@pytest.mark.parametrize("family", [SMOLLM, pytest.param(GEMMA, marks=pytest.mark.slow)])
def test_the_demo_models_say_what_they_said(family: Any, request: pytest.FixtureRequest) -> None:
    """Plain Hugging Face, so that a change of any library shows, whatever lensbench does."""
    fixture = "smollm_folder" if family is SMOLLM else "gemma3_folder"
    folder: Path = request.getfixturevalue(fixture)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    ids = tokenizer(family.fingerprint.text).input_ids
    with torch.inference_mode():
        logits = model(torch.tensor([ids])).logits[0, -1]
    assert fingerprint_error(family.fingerprint, ids, lambda _: logits) <= FINGERPRINT_BITS
    assert logits.topk(5).indices.tolist() == list(family.fingerprint.top_ids)
    assert weights_sha256(folder) == family.fingerprint.weights_sha256


@pytest.mark.real
@pytest.mark.slow
def test_check_shows_it_and_fails_where_a_library_changes(
    smollm: LensModel, lensbench: Program
) -> None:
    found = published_identity(smollm)
    assert found is not None
    assert found.passed
    rotary = smollm.bridge.original_model.model.rotary_emb
    with scaled(rotary.inv_freq, 0.5):  # as if the rotary base were lost
        other = published_identity(smollm)
    assert other is not None
    assert other.passed is False
    assert other.error is not None
    assert other.error > 0.1
    done = lensbench("check", "smollm2-135m")
    assert "output = the one" in done.out
    assert done.status == 0


@contextmanager
def scaled(buffer: torch.Tensor, factor: float) -> Iterator[None]:
    buffer.mul_(factor)
    try:
        yield
    finally:
        buffer.div_(factor)


def fingerprint_of(case: Case) -> Fingerprint:
    ids = case.model.tokenizer(Fingerprint("", (), (), ()).text).input_ids
    with torch.inference_mode():
        bits = case.hf(torch.tensor([ids])).logits[0, -1].log_softmax(-1) / math.log(2)
    top = bits.topk(5)
    weights = weights_sha256(case.folder)
    return Fingerprint(weights, tuple(ids), tuple(top.indices.tolist()), tuple(top.values.tolist()))


def test_other_models_have_none(llama: Case) -> None:
    assert published_identity(llama.model) is None


def test_a_conversion_that_gives_another_model_is_not_kept(llama: Case) -> None:
    right = fingerprint_of(llama)
    pulling._require_fingerprint(llama.folder, right)
    off = tuple(bits + 0.01 for bits in right.top_bits)
    for wrong in (replace(right, top_bits=off), replace(right, token_ids=(1, *right.token_ids))):
        with pytest.raises(ModelError, match="says something else than lensbench knows of it"):
            pulling._require_fingerprint(llama.folder, wrong)
