"""The second path on an accelerator: generation, traces, 8 and 4 bits, training."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lensbench.pico.train import train_pico
from lensbench.quantized.generation.generate import Generation, generate
from lensbench.quantized.generation.spec import Decoding
from lensbench.quantized.generation.trace import ResidualMeans
from lensbench.quantized.loading.load import AdaptedModel, load_quantized
from lensbench.quantized.training.train import train
from tests.harness.adapted import prompts_of
from tests.harness.files import manifest, write_jsonl
from tests.harness.pico import curve_of as pico_curve
from tests.harness.pico import pico_spec, write_texts
from tests.harness.tiny import TINY, Case, save
from tests.harness.training import ROWS, curve_of, spec_of

pytestmark = pytest.mark.gpu
N_NEW = 8
DECODINGS = {
    "greedy": Decoding(max_new_tokens=N_NEW),
    "sampled": Decoding(max_new_tokens=N_NEW, temperature=1.3, top_p=0.95, seed=5),
    "penalised": Decoding(max_new_tokens=N_NEW, repetition_penalty=1.3),
}
# KL to float32 that a 128 wide random model may have; of real ones it is .03 (int8) and .3 (nf4).
WORST_BITS = {8: 0.2, 4: 2.0}


def says(
    model: AdaptedModel, decoding: Decoding, tracer: ResidualMeans | None = None
) -> list[Generation]:
    return generate(model, prompts_of(model), decoding, tracer=tracer)


@pytest.mark.parametrize("how", DECODINGS)
def test_a_response_is_the_cpus(llama: Case, device: str, how: str) -> None:
    """A sampled token is drawn on the CPU, by each row's own generator."""
    models = [load_quantized(llama.folder, 32, device=where) for where in (device, "cpu")]
    there, here = (says(model, DECODINGS[how]) for model in models)
    for one, other in zip(there, here, strict=True):
        assert one.token_ids == other.token_ids
        assert one.token_logprob_bits == pytest.approx(other.token_logprob_bits, abs=1e-4)
        assert one.entropy_bits == pytest.approx(other.entropy_bits, abs=1e-4)


def test_a_trace_is_the_cpus(llama: Case, device: str) -> None:
    found = []
    for where in (device, "cpu"):
        model = load_quantized(llama.folder, 32, device=where)
        tracer = ResidualMeans(model, keep=(1,))
        says(model, DECODINGS["greedy"], tracer)
        spans = [tracer.means(span).cpu() for span in ("prompt", "generated")]
        found.append([*spans, tracer.kept(1, 0).cpu(), tracer.mean_norms("generated").cpu()])
    for there, here in zip(*found, strict=True):
        torch.testing.assert_close(there, here, rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Wide enough for the kernels of 8 and 4 bits."""
    sizes = {"hidden_size": 128, "intermediate_size": 256}
    return save(TINY["llama"], tmp_path_factory.mktemp("wide") / "llama", sizes)


def log2_probs(model: AdaptedModel) -> torch.Tensor:
    """Of every token of the prompts, one prompt at a time."""
    rows = []
    for ids in prompts_of(model):
        with torch.inference_mode():
            logits = model.base(torch.tensor([ids], device=model.device)).logits[0]
        rows.append(logits.float().cpu())
    return torch.cat(rows).double().log_softmax(-1) / math.log(2)


def mean_kl_bits(p: torch.Tensor, q: torch.Tensor) -> float:
    return float((p.exp2() * (p - q)).sum(-1).mean())


@pytest.mark.parametrize("bits", [8, 4])
def test_few_bits_say_what_they_say_on_the_cpu(wide: Path, device: str, bits: Any) -> None:
    """The same packed numbers; the products are made in another format, so within its rounding."""
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
    exact = log2_probs(load_quantized(wide, 32, device="cpu"))
    there, here = (load_quantized(wide, bits, device=where) for where in (device, "cpu"))
    own, cpu = log2_probs(there), log2_probs(here)
    assert mean_kl_bits(exact, own) < WORST_BITS[bits]
    assert mean_kl_bits(cpu, own) < 0.2 * WORST_BITS[bits]
    assert there.weight_bytes == here.weight_bytes
    assert there.facts()["device"] == device
    for one in says(there, DECODINGS["greedy"]):
        assert len(one.token_ids) == N_NEW or one.finish_reason == "stop"


@pytest.mark.parametrize("cache_prefix", [False, True])
def test_training_takes_the_steps_that_it_takes_on_the_cpu(
    llama: Case, tmp_path: Path, device: str, cache_prefix: bool
) -> None:
    data = write_jsonl(tmp_path / "pairs.jsonl", ROWS[:14])
    held_out = write_jsonl(tmp_path / "held.jsonl", ROWS[14:])
    folders = [tmp_path / "there", tmp_path / "here"]
    for folder, where in zip(folders, (device, "cpu"), strict=True):
        train(spec_of(llama, data, held_out, folder, device=where, cache_prefix=cache_prefix))
    there, here = map(curve_of, folders)
    for name in ("loss_nats", "eval_loss_nats", "grad_norm"):
        np.testing.assert_allclose(there[name], here[name], rtol=5e-3, atol=1e-4, err_msg=name)
    first = there["loss_nats"].dropna().iloc[0], here["loss_nats"].dropna().iloc[0]
    assert first[0] == pytest.approx(first[1], rel=1e-5)
    assert manifest(folders[0])["settings"] == manifest(folders[1])["settings"]


@pytest.mark.parametrize("bits", [8, 4])
def test_training_over_few_bits_learns(wide: Path, tmp_path: Path, device: str, bits: int) -> None:
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
    data = write_jsonl(tmp_path / "pairs.jsonl", ROWS[:14])
    case = Case("wide", TINY["llama"], wide)
    train(spec_of(case, data, None, tmp_path / "out", device=device, bits=bits, epochs=3))
    losses = curve_of(tmp_path / "out")["loss_nats"].dropna()
    assert losses.iloc[-3:].mean() < 0.9 * losses.iloc[0]


def test_a_small_model_learns_there_as_on_the_cpu(tmp_path: Path, device: str) -> None:
    texts = write_texts(tmp_path / "texts")
    curves = []
    for name, where in (("there", device), ("here", "cpu")):
        train_pico(pico_spec(texts, tmp_path / name, device=where, dropout=0.0))
        curves.append(pico_curve(tmp_path / name))
    for name in ("loss_nats", "eval_loss_nats"):
        np.testing.assert_allclose(curves[0][name], curves[1][name], rtol=2e-3, err_msg=name)
