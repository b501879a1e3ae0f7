"""The Jacobian lens: against TransformerLens' own, finite differences and a closed form."""

from __future__ import annotations

import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from lensbench import logit_lens
from lensbench.errors import InputProblems
from lensbench.fitting import jacobian_lens
from lensbench.fitting.jacobian import SKIPPED, jacobian
from lensbench.fitting.spec import FitSpec
from lensbench.lens.fitted.affine import Affine, AffineMap
from lensbench.lens.fitted.artifact import FILE
from lensbench.models.load import load_model
from lensbench.models.model import LensModel
from lensbench.models.readout import Readout
from lensbench.report.build import build_report
from lensbench.studies.stages.fit import fit_lens
from tests.harness.files import manifest, table_bytes, tables
from tests.harness.forks import Ended, Forks, parts_done
from tests.harness.tiny import SENTENCES, Case

FitSpecOf = Callable[..., FitSpec]
TEXT = " ".join(SENTENCES[:4])
T = 40
MORE = (
    pytest.param("gpt2", marks=pytest.mark.slow),
    pytest.param("cohere", marks=pytest.mark.slow),
)


def theirs() -> Any:
    """TransformerLens' own, which is there from version 4."""
    return pytest.importorskip("transformer_lens.tools.analysis").JacobianLens


def below(model: LensModel) -> list[Any]:
    return model.sites(("embed", "resid_post"))[:-1]


@pytest.mark.parametrize("family", ("llama", "gemma2", "gpt2", "cohere"))
def test_it_is_transformer_lens_own(tiny_case: Callable[[str], Case], family: str) -> None:
    model = load_model(tiny_case(family).folder, device="cpu")
    ids = model.to_tokens(TEXT)[0, :T].tolist()
    found = jacobian(model, ids, below(model), 200)  # five columns at once, and two at last
    lens = theirs().fit(model.bridge, [TEXT], corpus="x", max_seq_len=T, show_progress=False)
    assert lens.source_layers == list(range(model.n_layers - 1))  # blocks: none for the embedding
    for block, expected in lens.jacobians.items():
        torch.testing.assert_close(found[block + 1].T, expected, rtol=1e-5, atol=1e-6)
    assert all(weight.grad is None for weight in model.bridge.parameters())


@pytest.mark.parametrize("family", ("llama", "gemma2", "gpt2"))
def test_it_is_the_finite_difference_of_hugging_faces_own_pass(
    tiny_case: Callable[[str], Case], family: str
) -> None:
    """At every layer, the embedding among them: u J v for directions u of the state, v of the last.

    Every source position is moved at once, so the differences add up over sources and targets.
    Smaller steps would drown: the norms of transformers count in float32 whatever they are given.
    """
    case, g = tiny_case(family), torch.Generator().manual_seed(0)
    model = load_model(case.folder, device="cpu")
    ids = model.to_tokens(TEXT)[0, :T].tolist()
    hf = case.fresh_hf().double()
    backbone = getattr(hf, case.row.backbone)
    places = slice(SKIPPED, len(ids) - 1)
    norm, last = getattr(backbone, case.row.final_norm), []
    norm.register_forward_pre_hook(lambda _, args: last.append(args[0][0, places].sum(0)))
    found = jacobian(model, ids, below(model), 512).double()
    for layer, block in enumerate(getattr(backbone, case.row.blocks)):
        u, v = torch.randn(2, model.d_model, generator=g, dtype=torch.float64)
        for step in (1e-3, -1e-3):

            def move(_: Any, args: Any, by: torch.Tensor = step * u) -> Any:
                moved = args[0].clone()
                moved[:, places] += by
                return (moved, *args[1:])

            handle = block.register_forward_pre_hook(move)
            with torch.no_grad():
                hf(torch.tensor([ids]))
            handle.remove()
        plus, minus = last[-2:]
        expected = float((plus - minus) @ v) / 2e-3 / (len(ids) - 1 - SKIPPED)
        assert float(u @ found[layer] @ v) == pytest.approx(expected, rel=1e-3, abs=1e-3)


class Blocks(torch.nn.Module):
    """A model of linear blocks as TransformerLens would show it."""

    def __init__(self, d_model: int, n_layers: int) -> None:
        super().__init__()
        g = torch.Generator().manual_seed(0)
        self.cfg = SimpleNamespace(n_layers=n_layers)
        self.embed = torch.nn.Parameter(torch.randn(50, d_model, generator=g))
        steps = [torch.randn(d_model, d_model, generator=g) / 4 for _ in range(n_layers)]
        self.steps = torch.nn.ParameterList(steps)

    def run_with_hooks(self, ids: torch.Tensor, fwd_hooks: Any, **_: Any) -> torch.Tensor:
        hooks, x = dict(fwd_hooks), self.embed[ids]

        def passed(name: str, value: torch.Tensor) -> torch.Tensor:
            seen = hooks[name](value, None) if name in hooks else None
            return value if seen is None else seen

        x = passed("blocks.0.hook_resid_pre", x)
        for number, step in enumerate(self.steps):
            x = passed(f"blocks.{number}.hook_resid_post", x + x @ step)
        return x


def test_on_linear_blocks_the_lens_is_exact() -> None:
    d_model, n_layers = 6, 4
    blocks = Blocks(d_model, n_layers)
    readout = Readout(lambda x: x / x.norm(dim=-1, keepdim=True), torch.randn(d_model, 30), None)
    model = LensModel("linear", "", blocks, None, readout)  # type: ignore[arg-type]
    sites = [*below_of(n_layers), model.final_site]
    slopes = jacobian(model, list(range(20)), sites[:-1], 64)
    maps = {layer: AffineMap(slope, torch.zeros(d_model)) for layer, slope in enumerate(slopes)}
    lens, x = Affine(model, maps, "jacobian"), blocks.embed.detach()
    states = [x]
    for step in blocks.steps:
        states.append(states[-1] + states[-1] @ step.detach())
    for site, state in zip(sites, states, strict=True):
        expected = readout(states[-1])
        torch.testing.assert_close(lens.logits(state, site), expected, rtol=1e-4, atol=1e-5)


def below_of(n_layers: int) -> list[Any]:
    from lensbench.models.sites import Site

    return [Site("embed", 0), *(Site("resid_post", layer) for layer in range(1, n_layers))]


# --- end to end ---------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def jacobian_spec(fit_spec: FitSpecOf) -> FitSpecOf:
    return partial(fit_spec, method="jacobian", tokens=400, jacobian_tokens=200)


@pytest.fixture(scope="session")
def fitted(
    jacobian_spec: FitSpecOf, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[Case], Path]:
    there: dict[str, Path] = {}

    def get(case: Case) -> Path:
        if case.name not in there:
            out = tmp_path_factory.mktemp("lenses") / "jacobian"
            assert fit_lens(jacobian_spec(case), out).ok
            there[case.name] = out
        return there[case.name]

    return get


def as_theirs(folder: Path, model: LensModel) -> Any:
    file = load_file(folder / FILE)
    jacobians = {layer - 1: file[f"A.{layer}"].T for layer in range(1, model.n_layers)}
    return theirs()(jacobians, n_prompts=1, d_model=model.d_model)


@pytest.mark.parametrize("family", ("gemma2", pytest.param("llama", marks=pytest.mark.slow), *MORE))
def test_a_reading_is_transformer_lens_own(
    tiny_case: Callable[[str], Case], fitted: Callable[[Case], Path], family: str
) -> None:
    case = tiny_case(family)
    model, ids = load_model(case.folder, device="cpu"), case.token_ids[2]
    frame = logit_lens(model, [ids], lens=[fitted(case)], positions="last", top_k=5).to_pandas()
    readout = as_theirs(fitted(case), model).readout(
        model.bridge, torch.tensor([ids]), positions=[-1], return_full_logits=True
    )
    assert len(frame) == model.n_layers + 1
    for row in frame[frame.layer > 0].itertuples():
        q = readout.lens_logits[row.layer - 1][0].softmax(-1)
        assert row.top_ids[0] == int(q.argmax())
        torch.testing.assert_close(
            torch.tensor(row.top_probs).float(), q.topk(5).values, rtol=1e-3, atol=1e-5
        )


def test_the_maps_are_the_mean_over_the_texts(
    llama: Case, fitted: Callable[[Case], Path], corpus: Path
) -> None:
    folder = fitted(llama)
    documents = tables(folder)["fit_documents"]
    told = manifest(folder)["jacobian"]
    own = documents[documents.part == "fit"][: told["n_texts"]]
    model = load_model(llama.folder, device="cpu")
    texts = [(corpus / row.source.split(",")[0]).read_text() for row in own.itertuples()]
    assert told["n_tokens"] == own.n_tokens.sum() >= 200 > own.n_tokens[:-1].sum()
    lens = theirs().fit(model.bridge, texts, corpus="x", max_seq_len=32, show_progress=False)
    assert told["n_texts"] == lens.n_prompts
    for block, expected in as_theirs(folder, model).jacobians.items():
        torch.testing.assert_close(expected, lens.jacobians[block], rtol=1e-4, atol=1e-5)
    shifts = [shift for name, shift in load_file(folder / FILE).items() if name.startswith("b.")]
    assert len(shifts) == model.n_layers and not any(shift.any() for shift in shifts)


def test_the_record_has_the_figures_of_the_linear_lens_beside_it(
    llama: Case, fitted: Callable[[Case], Path]
) -> None:
    folder = fitted(llama)
    quality = tables(folder)["fit_quality"].set_index(["reading", "layer"])
    assert {*quality.index.get_level_values(0)} == {
        *("fitted", "shifted", "linear", "calibration", "shuffled", "final")
    }
    build_report([folder])
    report = (folder / "report.md").read_text(encoding="utf-8")
    texts = manifest(folder)["jacobian"]["n_texts"]
    assert f"over {texts} texts of" in report
    assert f"fitted lens with a shift: {quality.kl_bits['shifted', 1]:.2f}" in report


@pytest.mark.slow
def test_an_interrupted_fit_ends_in_the_same_bytes(
    llama: Case,
    fitted: Callable[[Case], Path],
    jacobian_spec: FitSpecOf,
    forks: Forks,
    tmp_path: Path,
) -> None:
    fitting: Callable[..., Ended] = partial(forks.run, fit_lens, jacobian_spec(llama), tmp_path)
    ended = fitting(kill=signal.SIGKILL, when=lambda: parts_done(tmp_path) >= 2)
    assert ended.status == -signal.SIGKILL
    assert fitting().status == 0
    assert manifest(tmp_path)["resumed_batches"] >= 2
    assert table_bytes(tmp_path) == table_bytes(fitted(llama))
    assert (tmp_path / FILE).read_bytes() == (fitted(llama) / FILE).read_bytes()
    assert not (tmp_path / "parts").exists()


def test_a_text_whose_jacobian_is_nan_is_left_out_and_said(
    llama: Case, jacobian_spec: FitSpecOf, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    calls: list[int] = []

    def breaks(*given: Any) -> torch.Tensor:
        calls.append(1)
        return jacobian(*given) * (float("nan") if len(calls) == 2 else 1)

    monkeypatch.setattr(jacobian_lens, "jacobian", breaks)
    outcome = fit_lens(jacobian_spec(llama), tmp_path)
    (problem,) = outcome.problems
    assert "NaN" in problem.what
    assert manifest(tmp_path)["jacobian"]["n_texts"] == len(calls) - 1
    assert all(bool(tensor.isfinite().all()) for tensor in load_file(tmp_path / FILE).values())


def test_texts_that_are_too_short_are_refused_with_the_number_needed(
    llama: Case, jacobian_spec: FitSpecOf, tmp_path: Path
) -> None:
    with pytest.raises(InputProblems, match=r"18 tokens.*--window 18"):
        fit_lens(jacobian_spec(llama, window=16), tmp_path)


def test_its_option_is_refused_for_another_lens() -> None:
    with pytest.raises(
        InputProblems, match=r"--lens jacobian\. Give that, or leave --jacobian-tok"
    ):
        FitSpec("a", method="tuned", jacobian_tokens=100)
    with pytest.raises(InputProblems, match="--lens tuned"):
        FitSpec("a", method="jacobian", epochs=3)
    own, linear = FitSpec("a", method="jacobian").settings(), FitSpec("a").settings()
    assert {*own} - {*linear} == {"jacobian_tokens"}
