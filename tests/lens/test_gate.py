"""The gate lets the right lens through and stops each well-known shortcut.

Every shortcut of the literature that passed for a "norm-aware" lens is built here as a wrong
readout, and the gate, which is what stands between it and a report, has to see it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import log_softmax

from lensbench import GateError, check_identities, load_model, logit_lens, residual_stream
from lensbench.lens.gate import Identity, lens_identity, require
from lensbench.models.model import LensModel
from lensbench.models.readout import Norm
from lensbench.models.sites import Site
from tests.harness.families import distinct_families
from tests.harness.reference import Reference
from tests.harness.tiny import TINY, Case

RMS = [name for name, row in TINY.items() if row.norm == "RMS"]
GEMMA = [name for name, row in TINY.items() if row.model_type.startswith("gemma")]
Get = Callable[[str], Case]


def with_readout(model: LensModel, **changes: Any) -> LensModel:
    return replace(model, readout=replace(model.readout, **changes))


def lens_error(model: LensModel, case: Case) -> float:
    """Bits by which the gate says the last layer is off; GateError must follow from it."""
    identities = check_identities(model, case.token_ids)
    assert identities[0].error is not None
    if not identities[0].passed:
        with pytest.raises(GateError, match="lens 'final' at the last layer"):
            require(identities)
    return identities[0].error


def final_norm(case: Case) -> torch.nn.Module:
    """Hugging Face's own module, for its weight and eps."""
    return Reference(case.hf, case.row).final_norm


def eps(case: Case) -> float:
    module = final_norm(case)
    return float(getattr(module, "variance_epsilon", None) or module.eps)


def rms(x: torch.Tensor, epsilon: float) -> torch.Tensor:
    return x / (x.pow(2).mean(-1, keepdim=True) + epsilon).sqrt()


def gamma(case: Case) -> torch.Tensor:
    """What really multiplies: Gemma stores it minus one."""
    return final_norm(case).weight.detach() + (1.0 if case.name in GEMMA else 0.0)


# The right lens.


def test_the_gate_passes(family: Case) -> None:
    identities = check_identities(family.model, family.token_ids)
    require(identities)
    assert [identity.passed for identity in identities] == [True] * 5
    assert all(identity.error < 1e-5 for identity in identities if identity.error is not None)


def test_a_norm_written_by_hand_passes_too(tiny_case: Get) -> None:
    """So the failures below are due to what each leaves out."""
    for name in RMS:
        case = tiny_case(name)
        by_hand: Norm = lambda x, case=case: rms(x, eps(case)) * gamma(case)  # noqa: E731
        assert lens_error(with_readout(case.model, norm=by_hand), case) < 1e-5


@distinct_families
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_the_gate_passes_in_half_precision(family: Case, dtype: str) -> None:
    model = load_model(family.folder, dtype=dtype, device="cpu")
    identities = check_identities(model, family.token_ids)
    require(identities)
    assert all(identity.passed for identity in identities)


@pytest.mark.real
@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_the_demo_model_passes_in_every_dtype(smollm_folder: object, dtype: str) -> None:
    model = load_model("smollm2-135m", dtype=dtype, device="cpu")
    texts = ("The capital of Germany is", "Two plus two is four, and three plus three is six, so")
    identities = check_identities(model, [model.tokenizer(text).input_ids for text in texts])
    require(identities)
    assert all(identity.passed for identity in identities)


# The seven shortcuts, as (families, wrong norm).


def raw(case: Case) -> Norm:
    return lambda x: x


def without_gamma(case: Case) -> Norm:
    return lambda x: rms(x, eps(case))


def twice(case: Case) -> Norm:
    """What norming Hugging Face's last hidden state does: it is normed already."""
    right = case.model.readout.norm
    return lambda x: right(right(x))


def gemma_weight_as_it_stands(case: Case) -> Norm:
    return lambda x: rms(x, eps(case)) * (gamma(case) - 1.0)


def next_block_norm(case: Case) -> Norm:
    """The norm that the last block applies, in place of the final one."""
    return case.model.next_norms[Site("resid_post", case.model.n_layers - 1)]


def scale_of_the_embedding(case: Case) -> Norm:
    """One norm scale cached at one layer, used at all: here that of the embedding."""
    stream, _ = Reference(case.hf, case.row).run(case.token_ids[0])
    scale = stream["embed", 0].pow(2).mean(-1).sqrt().mean()
    return lambda x: x / scale * gamma(case)


ALL = list(TINY)
SHORTCUTS = [
    *[(raw, name) for name in ALL],
    *[(without_gamma, name) for name in RMS],
    *[(twice, name) for name in ALL],
    *[(gemma_weight_as_it_stands, name) for name in GEMMA],
    *[(next_block_norm, name) for name in ALL],
    *[(scale_of_the_embedding, name) for name in RMS],
]


@pytest.mark.parametrize(("shortcut", "name"), SHORTCUTS, ids=lambda x: getattr(x, "__name__", x))
def test_a_shortcut_fails_the_gate(
    tiny_case: Get, shortcut: Callable[[Case], Norm], name: str
) -> None:
    case = tiny_case(name)
    error = lens_error(with_readout(case.model, norm=shortcut(case)), case)
    assert error > 0.1  # a thousand times the bound of 1e-4


def test_gemma2_without_its_soft_cap_fails_though_its_top_token_is_right(tiny_case: Get) -> None:
    """The cap is monotonous, so no test of accuracy can ever see that it is missing."""
    case = tiny_case("gemma2")
    uncapped = with_readout(case.model, soft_cap=None)
    assert lens_error(uncapped, case) > 0.5
    for ids in case.token_ids:
        stream, model_logits = Reference(case.hf, case.row).run(ids)
        resid = stream["resid_post", case.model.n_layers]
        logits = uncapped.readout(resid)
        assert logits.argmax(-1).tolist() == model_logits.argmax(-1).tolist()
    with pytest.raises(GateError):
        logit_lens(uncapped, "The capital of Germany is")


def test_gemma_weight_as_it_stands_is_wrong_about_the_top_token(tiny_case: Get) -> None:
    case = tiny_case("gemma2")
    readout = replace(case.model.readout, norm=gemma_weight_as_it_stands(case))
    stream, model_logits = Reference(case.hf, case.row).run(case.token_ids[2])
    logits = readout(stream["resid_post", 3])
    agree = (logits.argmax(-1).numpy() == model_logits.argmax(-1)).mean()
    assert agree < 0.5


@pytest.mark.parametrize("name", RMS)
def test_one_cached_scale_is_wrong_where_the_gate_does_not_look(tiny_case: Get, name: str) -> None:
    """With the last layer's scale the last layer is right, and so the gate passes.

    What catches it is the comparison of every layer (test_lens_parity.py): repeated here, it must
    see this very readout.
    """
    case = tiny_case(name)
    reference = Reference(case.hf, case.row)
    n_layers, ids = case.model.n_layers, case.token_ids[0]
    stream, _ = reference.run(ids)
    last = stream["resid_post", n_layers]
    scale = (last.pow(2).mean(-1, keepdim=True) + eps(case)).sqrt()  # one per position
    cached = replace(case.model.readout, norm=lambda x: x / scale * gamma(case))

    def error_bits(layer: int) -> float:
        key = ("resid_post", layer)
        got = cached(stream[key]).numpy().astype(float)
        wanted = reference.logits(stream[key], "final", key)
        return float(np.abs(entropy_bits(got) - entropy_bits(wanted)).max())

    assert error_bits(n_layers) < 1e-4
    assert max(error_bits(layer) for layer in range(1, n_layers)) > 0.1


def entropy_bits(logits: np.ndarray) -> np.ndarray:
    log_probs = log_softmax(logits, axis=-1)
    return -(np.exp(log_probs) * log_probs).sum(-1) / np.log(2)


def test_the_raw_lens_is_named_and_fails_as_a_lens_of_the_output(tiny_case: Get) -> None:
    """`lensbench check --norm raw`."""
    for name in RMS:
        case = tiny_case(name)
        identities = check_identities(case.model, case.token_ids, lens="raw")
        assert identities[0].passed is False
        assert "lens 'raw'" in identities[0].identity
        with pytest.raises(GateError, match="lens 'raw'"):
            require(identities)


def test_a_missing_bias_or_scale_fails(tiny_case: Get) -> None:
    case = tiny_case("llama")
    noise = torch.linspace(-1, 1, case.model.d_vocab)
    assert lens_error(with_readout(case.model, b_U=noise), case) > 0.01
    assert lens_error(with_readout(case.model, logit_scale=0.9), case) > 0.01


# What follows from a failure.


def test_a_failed_gate_stops_the_lens(llama: Case) -> None:
    wrong = with_readout(llama.model, norm=without_gamma(llama))
    with pytest.raises(GateError, match="nothing is reported"):
        logit_lens(wrong, "The capital of Germany is")
    with pytest.raises(GateError):
        logit_lens(wrong, "The capital of Germany is", layers=[1])
    with pytest.raises(GateError):
        logit_lens(wrong, "The capital of Germany is", lens="raw")


def test_the_message_has_identity_error_bound_and_reason(llama: Case) -> None:
    failed = lens_identity(llama.model, 2.5)
    with pytest.raises(GateError) as caught:
        require([failed])
    for part in (failed.identity, "2.5 bits", "0.0001", "24-bit mantissa", "lensbench check"):
        assert part in str(caught.value)
    assert failed.as_dict()["bound"] == 1e-4


def test_bounds_hold_exactly(llama: Case) -> None:
    assert lens_identity(llama.model, 1e-4).passed is True
    assert lens_identity(llama.model, 1.01e-4).passed is False
    assert lens_identity(llama.model, float("nan")).passed is False
    assert lens_identity(llama.model, float("inf")).passed is False


def test_nothing_testable_is_no_failure(llama: Case) -> None:
    identities = check_identities(llama.model, llama.token_ids[:1])
    assert identities[1] == Identity(
        "a padded batch = one prompt at a time",
        None,
        1e-4,
        "bits",
        None,
        "needs prompts of at least two lengths",
    )
    require(identities)


@pytest.mark.parametrize("broken", range(4))
def test_nan_in_any_prompt_fails(gpt2: Case, broken: int) -> None:
    """Python's max passes over a NaN unless it comes first."""
    model, right = gpt2.model, gpt2.model.readout.norm
    bad = residual_stream(model, gpt2.token_ids[broken]).at(model.final_site)[-1]

    def norm(x: torch.Tensor) -> torch.Tensor:
        return right(x).masked_fill((x == bad).all(-1, keepdim=True), float("nan"))

    identities = check_identities(with_readout(model, norm=norm), gpt2.token_ids)
    assert identities[0].passed is False
    with pytest.raises(GateError, match="error nan"):
        require(identities)


def hooked(case: Case, name: str, change: Callable[[torch.Tensor], torch.Tensor]) -> LensModel:
    """The model with one of its activations changed for good."""
    model = load_model(case.folder, device="cpu")
    model.bridge.hook_dict[name].add_hook(lambda x, hook: change(x), is_permanent=True)
    return model


def failed(model: LensModel, case: Case) -> list[bool]:
    return [i.passed is False for i in check_identities(model, case.token_ids)]


@distinct_families
def test_a_block_that_does_more_than_add_fails_the_sum(family: Case) -> None:
    """A forgotten residual multiplier: the lens holds, but the parts do not make the stream."""
    model = hooked(family, "blocks.1.hook_out", lambda x: 0.9 * x)
    assert failed(model, family) == [False, False, True, False, False]


@distinct_families
def test_attention_that_does_not_sum_to_one_fails(family: Case) -> None:
    model = hooked(family, "blocks.1.attn.hook_pattern", lambda x: 0.9 * x)
    assert failed(model, family) == [False, False, False, True, False]


def test_a_model_that_mixes_padding_in_fails(llama: Case) -> None:
    """A block that reads the whole row, padding included, on either side."""
    model = hooked(llama, "blocks.1.hook_out", lambda x: x + x.mean(1, keepdim=True))
    assert failed(model, llama)[1]


def test_a_model_that_takes_positions_from_the_columns_fails(gpt2: Case) -> None:
    """GPT-2 without position ids counts left padding as text; on the right it would not show."""

    class Columns:
        def __init__(self, bridge: Any) -> None:
            self.bridge = bridge

        def __getattr__(self, name: str) -> Any:
            return getattr(self.bridge, name)

        def run_with_hooks(self, ids: Any, **inputs: Any) -> Any:
            inputs["position_ids"] = torch.arange(ids.shape[1]).expand_as(ids)
            return self.bridge.run_with_hooks(ids, **inputs)

    model = replace(gpt2.model, bridge=Columns(gpt2.model.bridge))
    assert failed(model, gpt2) == [False, True, False, False, False]


def test_nan_in_the_stream_fails_every_identity(llama: Case) -> None:
    model = hooked(llama, "blocks.1.hook_out", lambda x: x * float("nan"))
    assert failed(model, llama) == [True, True, True, True, True]
