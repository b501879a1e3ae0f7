"""The tuned lens: gradients against autograd, known optima, and a training that ends well."""

from __future__ import annotations

import itertools
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from lensbench import logit_lens
from lensbench.errors import InputProblems
from lensbench.fitting import tuned as trainings
from lensbench.fitting import tuned_lens
from lensbench.fitting.linear import Centred
from lensbench.fitting.moments import Moments
from lensbench.fitting.spec import FitSpec
from lensbench.fitting.tuned import Trained, White, _Adam, gradient, mean_kl_bits, train
from lensbench.lens.fitted.affine import AffineMap
from lensbench.lens.fitted.artifact import FILE
from lensbench.models.load import load_model
from lensbench.models.readout import Readout
from lensbench.report.build import build_report
from lensbench.studies.stages.fit import fit_lens
from tests.harness.files import manifest, table_bytes, tables
from tests.harness.forks import Ended, Forks, parts_done
from tests.harness.reference import head_of_hugging_face
from tests.harness.tiny import Case

FitSpecOf = Callable[..., FitSpec]
D, VOCAB = 8, 40


def white(moments: Moments) -> White:
    return White.of(Centred.of(moments, 0), 1e-9)


@pytest.mark.parametrize("family", ("llama", "gemma2", "qwen3", "gpt2", "cohere"))
def test_the_gradient_is_autograds_through_hugging_faces_norm_and_head(
    tiny_case: Callable[[str], Case], family: str
) -> None:
    """Soft cap, logit scale, LayerNorm with its bias and Gemma's 1 + w among them."""
    case, g = tiny_case(family), torch.Generator().manual_seed(0)
    model = load_model(case.folder, device="cpu")
    width = model.d_model
    x = torch.randn(7, width, generator=g)
    slope = torch.eye(width) + 0.1 * torch.randn(width, width, generator=g)
    own = AffineMap(slope, torch.randn(width, generator=g))
    probs = torch.softmax(torch.randn(7, model.d_vocab, generator=g), -1)
    found = gradient(model.readout, own, x, probs)
    leaves = [tensor.clone().requires_grad_() for tensor in own]
    logits = head_of_hugging_face(case, x @ leaves[0] + leaves[1])
    kl = torch.nn.functional.kl_div(logits.log_softmax(-1), probs, reduction="sum")
    for one, expected in zip(found, torch.autograd.grad(kl, leaves), strict=True):
        torch.testing.assert_close(one, expected, rtol=1e-3, atol=1e-5)
    assert all(parameter.grad is None for parameter in model.bridge.parameters())


def test_a_half_precision_heads_gradient_is_that_of_its_own_weights() -> None:
    """Made tile by tile, from the rounded weights in float32."""
    g = torch.Generator().manual_seed(0)
    head = torch.randn(D, 300, generator=g).bfloat16()
    x, probs = torch.randn(5, D, generator=g), torch.softmax(torch.randn(5, 300, generator=g), -1)
    own = AffineMap(torch.eye(D), torch.zeros(D))
    half, whole = (
        gradient(Readout(lambda v: v, one, None), own, x, probs) for one in (head, head.float())
    )
    for one, expected in zip(half, whole, strict=True):
        torch.testing.assert_close(one, expected)


def test_adam_is_torchs() -> None:
    g = torch.Generator().manual_seed(0)
    start = torch.randn(3, 4, generator=g)
    theirs, own = start.clone().requires_grad_(), _Adam(start.clone())
    optimiser = torch.optim.Adam([theirs])
    for rate in (1e-2, 1e-3, 3e-2):
        theirs.grad = torch.randn(3, 4, generator=g)
        optimiser.param_groups[0]["lr"] = rate
        optimiser.step()
        own.step(theirs.grad, rate)
        torch.testing.assert_close(own.weights, theirs.detach())


# --- a training ---------------------------------------------------------------------------------


def planted(
    n: int = 6000,
) -> tuple[Readout, AffineMap, torch.Tensor, torch.Tensor, list[White]]:
    """A model whose last state is an affine map of the one layer that is read, and its data."""
    g = torch.Generator().manual_seed(1)
    readout = Readout(lambda v: v, torch.randn(D, VOCAB, generator=g), None)
    truth = AffineMap(torch.randn(D, D, generator=g) / 3, torch.randn(D, generator=g))
    scales = 10.0 ** torch.linspace(-2, 2, D)  # directions of very different variance
    x = torch.randn(n, D, generator=g) * scales + scales
    truth = AffineMap(truth.A / scales[:, None], truth.b)
    y = truth(x)
    states = torch.stack([x, y])
    moments = Moments.none(1, D)
    moments.add(states[:1], y, torch.arange(n))
    half = n // 2
    return readout, truth, states[:, :half], states[:, half:], [white(moments)]


def trained(start: AffineMap, *, rate: float = 0.3, epochs: int = 60) -> Trained:
    readout, _, states, held_out, whites = planted()
    (found,) = train(readout, [start], whites, states, held_out, rate, epochs)
    assert found.kl_bits == pytest.approx(mean_kl_bits(readout, [found.best], held_out)[0])
    return found


NOTHING = AffineMap(torch.zeros(D, D), torch.zeros(D))


def test_a_planted_map_is_found_from_afar() -> None:
    found = trained(NOTHING)
    assert found.start_kl_bits > 1
    assert found.kl_bits < 1e-3
    readout, truth, _, held_out, _ = planted()
    p, q = (readout(one(held_out[0])).log_softmax(-1) for one in (truth, found.best))
    assert float((p.exp() * (p - q)).sum(-1).mean()) < 1e-3


def test_a_start_that_is_exact_stays_to_the_bit() -> None:
    _, truth, *_ = planted()
    found = trained(truth, epochs=2)
    assert found.steps == 0
    assert torch.equal(found.best.A, truth.A) and torch.equal(found.best.b, truth.b)


@pytest.mark.parametrize("rate", [1e3, 1e30, 1e37])
def test_steps_that_explode_leave_the_start(rate: float) -> None:
    """Finite and useless, or not finite: both are no better on held-out text."""
    start = AffineMap(torch.eye(D) / 9, torch.zeros(D))
    found = trained(start, rate=rate, epochs=3)
    assert found.kl_bits <= found.start_kl_bits
    assert all(bool(tensor.isfinite().all()) for tensor in found.best)


def test_nan_on_the_way_keeps_the_last_good_map() -> None:
    """The readout gives NaN from some step on; what was found before is kept."""
    readout, _, states, held_out, whites = planted()
    passes = 0

    def norm(x: torch.Tensor) -> torch.Tensor:
        nonlocal passes
        passes += torch.is_grad_enabled()  # in training alone
        return x * (float("nan") if passes > 40 and torch.is_grad_enabled() else 1.0)

    broken = Readout(norm, readout.W_U, None)
    (found,) = train(broken, [NOTHING], whites, states, held_out, 3e-2, 20)
    assert found.broken == 41
    assert 0 < found.steps <= 40
    assert found.kl_bits < found.start_kl_bits
    assert mean_kl_bits(readout, [found.best], held_out)[0] == pytest.approx(found.kl_bits)


def test_states_that_never_vary_teach_a_shift_alone() -> None:
    readout, _, states, held_out, _ = planted()
    states, held_out = states.clone(), held_out.clone()
    states[0], held_out[0] = 7.0, 7.0
    moments = Moments.none(1, D)
    moments.add(states[:1], states[1], torch.arange(states.shape[1]))
    (found,) = train(readout, [NOTHING], [white(moments)], states, held_out, 3e-2, 20)
    assert not found.best.A.any()
    # The best constant reading has, by KL's own optimum, the model's mean distribution.
    probs = readout(held_out[1]).softmax(-1)
    best = float((probs * (probs.log() - probs.mean(0).log())).sum(-1).mean() / np.log(2))
    assert best - 1e-3 < found.kl_bits < found.start_kl_bits


# --- end to end ---------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def tuned_spec(fit_spec: FitSpecOf) -> FitSpecOf:
    return partial(fit_spec, method="tuned", learning_rate=1e-2, epochs=6)


@pytest.fixture(scope="session")
def tuned(llama: Case, tuned_spec: FitSpecOf, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("lenses") / "tuned"
    assert fit_lens(tuned_spec(llama), out).ok
    return out


def test_the_record_says_what_it_began_with_and_is_never_worse(tuned: Path, llama: Case) -> None:
    training = manifest(tuned)["training"]
    assert [one["layer"] for one in training] == list(range(llama.model.n_layers))
    assert all(one["kl_bits"] <= one["start_kl_bits"] for one in training)
    assert any(one["steps"] for one in training)
    quality = tables(tuned)["fit_quality"].set_index(["reading", "layer"])
    assert {*quality.index.get_level_values(0)} == {
        *("fitted", "linear", "calibration", "shuffled", "final")
    }
    build_report([tuned])
    report = (tuned / "report.md").read_text(encoding="utf-8")
    kept = sum(one["steps"] > 0 for one in training)
    assert f"{kept} of {len(training)} layers keep a map that training found" in report
    assert "| training |" not in report  # it stands in a table, not among the provenance
    assert quality.strength["linear"].notna().sum() == llama.model.n_layers
    assert quality.kl_bits["fitted"].mean() < quality.kl_bits["linear"].mean()


def test_its_linear_row_is_the_linear_lens(
    tuned: Path, linear: Callable[[Case], Path], llama: Case
) -> None:
    own, there = (tables(folder)["fit_quality"] for folder in (tuned, linear(llama)))
    for reading, counterpart in {"linear": "fitted", "calibration": "calibration"}.items():
        found = own[own.reading == reading].kl_bits.to_numpy()
        expected = there[there.reading == counterpart].kl_bits.to_numpy()
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_a_reading_is_the_trained_map_and_then_hugging_faces_own_head(
    tuned: Path, llama: Case
) -> None:
    model, ids = load_model(llama.folder, device="cpu"), llama.token_ids[0]
    file = load_file(tuned / FILE)
    frame = logit_lens(model, [ids], lens=[tuned], positions="last", top_k=1).to_pandas()
    with torch.no_grad():
        states = llama.hf(torch.tensor([ids]), output_hidden_states=True).hidden_states
    for row in frame[frame.layer < model.n_layers].itertuples():
        state = states[row.layer][0, -1] @ file[f"A.{row.layer}"] + file[f"b.{row.layer}"]
        q = head_of_hugging_face(llama, state).detach().softmax(-1)
        assert row.top_probs[0] == pytest.approx(float(q.max()), rel=1e-3)


def test_from_the_identity_it_is_never_worse_than_the_logit_lens(
    llama: Case, tuned_spec: FitSpecOf, tmp_path: Path
) -> None:
    assert fit_lens(tuned_spec(llama, start="identity"), tmp_path).ok
    for one in manifest(tmp_path)["training"]:
        assert one["kl_bits"] <= one["start_kl_bits"]
    quality = tables(tmp_path)["fit_quality"].set_index(["reading", "layer"])
    assert quality.kl_bits["fitted"].mean() < quality.kl_bits["final"].mean()


def test_nan_in_a_training_is_a_problem_of_the_record(
    llama: Case, tuned_spec: FitSpecOf, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    calls = itertools.count()

    def breaks(*given: Any) -> tuple[torch.Tensor, torch.Tensor]:
        slope, shift = gradient(*given)
        return (slope * float("nan"), shift) if next(calls) >= 9 else (slope, shift)

    monkeypatch.setattr(trainings, "gradient", breaks)
    outcome = fit_lens(tuned_spec(llama), tmp_path)
    assert {problem.where for problem in outcome.problems} == {"layer 0", "layer 1", "layer 2"}
    assert all("lower --learning-rate" in problem.remedy for problem in outcome.problems)
    assert all(bool(tensor.isfinite().all()) for tensor in load_file(tmp_path / FILE).values())
    for one in manifest(tmp_path)["training"]:
        assert one["steps"] < one["broken"]


def test_layers_that_do_not_fit_in_memory_together_are_trained_apart(
    llama: Case, tuned: Path, tuned_spec: FitSpecOf, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """However they are grouped, the maps are the same but for rounding."""
    monkeypatch.setattr(tuned_lens, "MOST_JOBS", 1)
    assert fit_lens(tuned_spec(llama), tmp_path).ok
    apart, together = load_file(tuned / FILE), load_file(tmp_path / FILE)
    for name, tensor in apart.items():
        torch.testing.assert_close(tensor, together[name], rtol=1e-3, atol=1e-3)


@pytest.mark.slow
def test_an_interrupted_training_ends_in_the_same_bytes(
    llama: Case, tuned: Path, tuned_spec: FitSpecOf, forks: Forks, tmp_path: Path
) -> None:
    fitting: Callable[..., Ended] = partial(forks.run, fit_lens, tuned_spec(llama), tmp_path)
    ended = fitting(kill=signal.SIGKILL, when=lambda: parts_done(tmp_path) >= 1)
    assert ended.status == -signal.SIGKILL
    assert fitting().status == 0
    assert manifest(tmp_path)["resumed_batches"] >= 1
    assert table_bytes(tmp_path) == table_bytes(tuned)
    assert (tmp_path / FILE).read_bytes() == (tuned / FILE).read_bytes()
    assert manifest(tmp_path)["training"] == manifest(tuned)["training"]
    assert not (tmp_path / "parts").exists()


def test_options_of_a_training_are_refused_for_a_lens_that_is_not_trained() -> None:
    with pytest.raises(InputProblems, match="--lens tuned"):
        FitSpec("smollm2-135m", epochs=3)
    linear, tuned = FitSpec("a").settings(), FitSpec("a", method="tuned").settings()
    assert {*tuned} - {*linear} == {"start", "learning_rate", "epochs"}
