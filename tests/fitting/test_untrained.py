"""The control of an untrained model: its weights, whose states it reads, and its figures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from lensbench.fitting.linear_lens import control_quality
from lensbench.fitting.method import Fitter
from lensbench.fitting.spec import FitSpec
from lensbench.fitting.windows import Window
from lensbench.models.load import load_model
from lensbench.models.untrained import untrained
from lensbench.studies.stages.fit import fit_lens
from tests.harness.files import tables
from tests.harness.tiny import Case


@pytest.mark.parametrize("family", ("llama", "gemma2", "gpt2", "stablelm"))
def test_an_untrained_model_is_transformers_own_of_that_seed(
    tiny_case: Callable[[str], Case], family: str
) -> None:
    case = tiny_case(family)
    model, before = load_model(case.folder, device="cpu"), torch.get_rng_state()
    made = untrained(model, seed=3)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(3)
    own = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(case.folder)).eval()
    ids = torch.tensor([case.token_ids[0]])
    with torch.no_grad():
        wanted = own(ids).logits
        found = made.bridge.run_with_hooks(ids, return_type="logits")
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
        assert (case.hf(ids).logits - wanted).abs().max() > 1e-2
    assert (made.n_layers, made.d_model, made.d_vocab) == (
        model.n_layers, model.d_model, model.d_vocab,
    )  # fmt: skip


@pytest.fixture(scope="module")
def fit(
    llama: Case, fit_spec: Callable[..., FitSpec], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    out = tmp_path_factory.mktemp("controlled") / "linear"
    assert fit_lens(fit_spec(llama, no_untrained=False), out).ok
    return out


def test_its_figures_stand_beside_the_lens_at_every_layer_but_the_last(
    llama: Case, fit: Path
) -> None:
    rows = tables(fit)["fit_quality"].query("reading == 'untrained'")
    assert rows.layer.tolist() == list(range(llama.model.n_layers))
    assert (rows.kl_bits > 0).all() and rows.strength.notna().all()


def test_fitted_to_the_models_own_states_the_control_is_the_lens(
    llama: Case, fit: Path, fit_spec: Callable[..., FitSpec]
) -> None:
    """The same corpus through the control's own way: no figure differs but its name."""
    quality = tables(fit)["fit_quality"]
    fitter = fitter_of(llama, fit, fit_spec(llama))
    again = load_model(llama.folder, device="cpu")
    same = control_quality(replace(fitter, source=again)).to_pandas()
    wanted = quality[(quality.reading == "fitted") & (quality.layer < llama.model.n_layers)]
    for column in ("layer", "strength", "kl_bits", "top1_agreement", "calibration_error"):
        np.testing.assert_allclose(same[column], wanted[column], rtol=1e-4, atol=1e-6)


def fitter_of(case: Case, folder: Path, spec: FitSpec) -> Fitter:
    """The fit's own windows, cut again by hand from its documents."""
    documents, corpus = tables(folder)["fit_documents"], Path(spec.corpus)
    windows: dict[str, list[Window]] = {}
    for row in documents.itertuples():
        text = (corpus / row.source.split(",")[0]).read_text()
        ids = tuple(case.model.tokenizer(text).input_ids[: row.n_tokens])
        windows.setdefault(row.part, []).append(Window(None, ids))  # type: ignore[arg-type]
    return Fitter(load_model(case.folder, device="cpu"), spec, windows)  # type: ignore[arg-type]


def test_states_are_of_the_source_and_targets_of_the_model(
    llama: Case, fit: Path, fit_spec: Callable[..., FitSpec]
) -> None:
    fitter = fitter_of(llama, fit, fit_spec(llama))
    other = untrained(fitter.model)
    mixed = replace(fitter, source=other)
    window, sites = fitter.windows["test"][:1], fitter.sites
    own, drawn, both = (
        next(one.states(window, sites)) for one in (fitter, replace(fitter, model=other), mixed)
    )
    assert torch.equal(both[-1], own[-1])
    assert torch.equal(both[:-1], drawn[:-1])
    assert not torch.allclose(own[1:-1], drawn[1:-1], atol=1e-2)
