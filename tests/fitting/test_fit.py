"""A fitted lens end to end: its numbers against Hugging Face's own passes, and its refusals."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from lensbench import InputProblems, logit_lens, open_record
from lensbench.corpora.corpus import Document
from lensbench.errors import ModelError, RecordsError
from lensbench.fitting.quality import Measured, mean_kl_bits, measure
from lensbench.fitting.spec import FitSpec
from lensbench.fitting.tables import quality_table
from lensbench.fitting.windows import Window
from lensbench.lens.base import Final
from lensbench.lens.fitted.affine import Affine, AffineMap
from lensbench.lens.fitted.artifact import FILE
from lensbench.models.load import load_model
from lensbench.models.sites import Site
from lensbench.models.untrained import untrained
from lensbench.records.engine import Job, done_by, one_by_one
from lensbench.records.parts import Parts
from lensbench.report.fit.section import share_verdict
from lensbench.stats.estimates import Estimate
from lensbench.studies.lens import run
from lensbench.studies.specs.cache import CacheSpec
from lensbench.studies.specs.lens import RunSpec
from lensbench.studies.stages.cache import run_cache
from lensbench.studies.stages.cached import run_cached
from lensbench.studies.stages.fit import fit_lens
from tests.harness.caches import require_equal
from tests.harness.facts import facts_rows
from tests.harness.files import manifest, table_bytes, tables, write_csv
from tests.harness.fits import small_fit
from tests.harness.forks import Ended, Forks, parts_done
from tests.harness.program import Program
from tests.harness.reference import head_of_hugging_face
from tests.harness.tiny import Case

FAMILIES = ("llama", "gemma2", "qwen3", "gpt2", "cohere")
Fit = Callable[[Case], Path]


def bits(logits: torch.Tensor) -> torch.Tensor:
    return logits.double().log_softmax(-1) / np.log(2)


def pass_of(case: Case, ids: list[int]) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Hugging Face's states before the final norm at each layer [pos, d], and its logits."""
    states: list[torch.Tensor] = []
    model, backbone = case.hf, getattr(case.hf, case.row.backbone)
    hooks = [
        block.register_forward_pre_hook(lambda _, args, **__: states.append(args[0][0]))
        for block in getattr(backbone, case.row.blocks)
    ]
    norm = getattr(backbone, case.row.final_norm)
    hooks.append(norm.register_forward_pre_hook(lambda _, args: states.append(args[0][0])))
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0]
    for hook in hooks:
        hook.remove()
    return states, logits


@pytest.mark.parametrize(  # a reading knows no attention, where qwen3 differs from llama
    "family", [pytest.param(n, marks=[pytest.mark.slow] if n == "qwen3" else []) for n in FAMILIES]
)
def test_a_reading_is_the_map_and_then_hugging_faces_own_head(
    tiny_case: Callable[[str], Case], linear: Fit, family: str
) -> None:
    case = tiny_case(family)
    folder, ids = linear(case), case.token_ids[0]
    file, model = load_file(folder / FILE), load_model(case.folder, device="cpu")
    result = logit_lens(model, [ids], lens=["final", folder], positions="last", top_k=3)
    frame = result.to_pandas()
    assert set(frame.lens) == {"final", "linear"}
    states, logits = pass_of(case, ids)
    p = bits(logits[-1])
    for row in frame[(frame.lens == "linear") & (frame.layer < model.n_layers)].itertuples():
        q = bits(
            head_of_hugging_face(
                case, states[row.layer][-1] @ file[f"A.{row.layer}"] + file[f"b.{row.layer}"]
            )
        )
        assert row.kl_bits == pytest.approx(float((p.exp2() * (p - q)).sum()), rel=1e-3, abs=1e-4)
        assert row.top_ids[0] == int(q.argmax())
    last = frame[frame.layer == model.n_layers].set_index("lens")
    assert last.entropy_bits["linear"] == last.entropy_bits["final"]  # the identity, to the bit


@pytest.mark.parametrize("family", ("llama", "gpt2"))
def test_the_figures_are_those_of_a_loop_over_documents(
    tiny_case: Callable[[str], Case], linear: Fit, corpus: Path, family: str
) -> None:
    case = tiny_case(family)
    folder = linear(case)
    file, frames = load_file(folder / FILE), tables(folder)
    documents, quality = frames["fit_documents"], frames["fit_quality"]
    texts = {path.name: path.read_text() for path in corpus.iterdir()}
    read: dict[tuple[str, int], list[tuple[np.ndarray, np.ndarray, np.ndarray]]] = {}
    for row in documents[documents.part == "test"].itertuples():
        ids = case.model.tokenizer(texts[row.source.split(",")[0]]).input_ids[: row.n_tokens]
        states, logits = pass_of(case, ids)
        p = bits(logits[1:])
        for layer in range(case.model.n_layers):
            slope, shift = file[f"A.{layer}"], file[f"b.{layer}"]
            identity = torch.eye(len(shift)), torch.zeros_like(shift)
            for name, own in {"fitted": (slope, shift), "final": identity}.items():
                mapped = states[layer][1:] @ own[0] + own[1]
                q = bits(head_of_hugging_face(case, mapped).detach())
                own_read = (p.exp2().numpy(), q.exp2().numpy(), np.array(ids[2:]))
                read.setdefault((name, layer), []).append(own_read)
    assert {name for name, _ in read} == {"fitted", "final"}
    for (name, layer), own_reads in read.items():
        row = quality[(quality.reading == name) & (quality.layer == layer)].iloc[0]
        ps, qs = (np.concatenate([one[i] for one in own_reads]) for i in (0, 1))
        assert (row.n_tokens, row.n_documents) == (len(ps), len(own_reads))
        assert row.kl_bits == pytest.approx((ps * np.log2(ps / qs)).sum(1).mean(), rel=1e-3)
        assert row.kl_bits_low < row.kl_bits < row.kl_bits_high
        agree = (ps.argmax(1) == qs.argmax(1)).mean()
        assert row.top1_agreement == pytest.approx(agree, abs=1.5 / len(ps))
        assert row.marginal_kl_bits == pytest.approx(marginal_kl_bits(ps, qs), rel=1e-3)
        known = [(q[: len(after)], after) for _, q, after in own_reads]
        error = calibration_error(
            np.concatenate([q for q, _ in known]), np.concatenate([a for _, a in known])
        )
        assert row.calibration_error == pytest.approx(error, abs=2e-3)
        assert row.calibration_error_low <= row.calibration_error <= row.calibration_error_high
        parts = [
            np.concatenate([one[i] for k, one in enumerate(own_reads) if k % 6 != out])
            for out in range(6)
            for i in (0, 1)
        ]
        left_out = [marginal_kl_bits(*parts[2 * k : 2 * k + 2]) for k in range(6)]
        half = 2.5706 * (5 * np.var(left_out)) ** 0.5  # Student's quantile, 5 degrees of freedom
        assert row.marginal_kl_bits_high - row.marginal_kl_bits == pytest.approx(half, rel=0.02)


def marginal_kl_bits(ps: np.ndarray, qs: np.ndarray) -> float:
    p, q = ps.mean(0), qs.mean(0)
    return float((p * np.log2(p / q)).sum())


def calibration_error(q: np.ndarray, following: np.ndarray) -> float:
    """Ten bins of confidence of equal width: |hits - confidence|, weighted by tokens."""
    confidence, hits = q.max(1), q.argmax(1) == following
    bins = np.minimum((confidence * 10).astype(int), 9)
    gaps = [abs(hits[bins == b].sum() - confidence[bins == b].sum()) for b in range(10)]
    return float(sum(gaps) / len(q))


@pytest.mark.parametrize("name", ["llama", "gemma2", "cohere"])
def test_what_chooses_a_strength_is_the_figure_of_all(
    tiny_case: Callable[[str], Case], name: str
) -> None:
    """One pass without rows of logits, with a soft cap and a logit scale, against whole rows."""
    model = load_model(tiny_case(name).folder, device="cpu")
    ids = tiny_case(name).token_ids
    windows = [
        Window(Document(str(i), "", str(i)), tuple(own))
        for i, own in enumerate(ids)
        if len(own) > 2
    ]
    g, width = torch.Generator().manual_seed(0), model.d_model
    maps = {
        layer: AffineMap(torch.randn(width, width, generator=g), torch.randn(width, generator=g))
        for layer in range(model.n_layers)
    }
    lenses = [Affine(model, maps, "some"), Final(model)]
    for source in (None, untrained(model)):
        sites = model.sites(("embed", "resid_post"))[:-1]
        one = mean_kl_bits(model, lenses, sites, windows, 24, source)
        every = measure(model, lenses, sites, windows, 24, source).mean_kl_bits
        np.testing.assert_allclose(one, every, rtol=2e-5, atol=2e-5)
        assert every.min() > 1e-2


def test_the_share_of_scale_and_bias_is_that_of_the_gain(llama: Case, linear: Fit) -> None:
    quality = tables(linear(llama))["fit_quality"].set_index(["reading", "layer"])
    told = quality.calibration_share.dropna()
    assert set(told.index.get_level_values("reading")) <= {"fitted"}
    for layer in range(llama.model.n_layers):
        final, own, plain = (
            quality.kl_bits[name, layer] for name in ("final", "fitted", "calibration")
        )
        row = quality.loc[("fitted", layer)]
        if not np.isnan(row.calibration_share):
            assert row.calibration_share == pytest.approx((final - plain) / (final - own))
            assert row.calibration_share_low < row.calibration_share < row.calibration_share_high
    assert len(told)
    assert np.isnan(quality.calibration_share["fitted", llama.model.n_layers])  # the model itself


@pytest.mark.parametrize("turned", (False, True))
def test_a_layer_that_only_lacks_scale_and_bias_is_calibration_only(
    llama: Case, turned: bool
) -> None:
    """Ten documents: a lens that gains 4 bits, of which scale and bias gain 3.6, or 0.4."""
    n, noise = 10, np.random.default_rng(0).normal(0, 0.05, (3, 1, 10))
    kl = np.array([1.0, 4.6 if turned else 1.4, 5.0])[:, None, None] + noise
    bins = np.ones((3, 1, n, 3, 10))
    same = np.ones((3, 1))
    measured = Measured(
        np.full(n, 100), 100 * kl, 50 * np.ones_like(kl), bins, same, np.ones((6, 3, 1))
    )
    readings = ["fitted", "calibration", "final"]
    sites = [Site("embed", 0)]
    table = quality_table(llama.model, readings, sites, measured, {}).to_pandas()
    share = table.set_index("reading").calibration_share["fitted"]
    assert share == pytest.approx(0.1 if turned else 0.9, abs=0.03)
    low, high = (table[f"calibration_share_{end}"][0] for end in ("low", "high"))
    verdict = share_verdict(Estimate(share, low, high, n, n))
    assert verdict == ("translation" if turned else "calibration only")


def test_no_document_is_in_two_parts(llama: Case, linear: Fit) -> None:
    documents = tables(linear(llama))["fit_documents"]
    assert not documents.document.duplicated().any()
    tokens = documents.groupby("part").n_tokens.sum()
    assert tokens["fit"] >= 600 and tokens["choose"] >= 100 and tokens["test"] >= 500


def test_at_the_last_layer_every_reading_of_the_lens_is_the_model(llama: Case, linear: Fit) -> None:
    quality = tables(linear(llama))["fit_quality"].set_index(["reading", "layer"])
    assert quality.kl_bits["fitted", llama.model.n_layers] < 1e-6
    assert quality.top1_agreement["final", llama.model.n_layers] == 1
    assert quality.marginal_kl_bits["fitted", llama.model.n_layers] < 1e-6


# --- a run with it ------------------------------------------------------------------------------


@pytest.fixture
def run_spec(llama: Case, linear: Fit, tmp_path: Path) -> RunSpec:
    prompts = write_csv(tmp_path / "small.csv", facts_rows())
    lenses = ("final", str(linear(llama)))
    return RunSpec((str(llama.folder),), prompts=str(prompts), limit=4, lenses=lenses)


def test_a_record_says_which_lens_it_was_read_with(
    run_spec: RunSpec, llama: Case, linear: Fit, tmp_path: Path
) -> None:
    record = open_record(run(run_spec, tmp_path).folder)
    assert record.lenses == ["final", "linear"]
    told = record.manifest["lenses"]["linear"]
    fitted = manifest(linear(llama))
    assert told["lens_sha256"] == fitted["checksums"][FILE]
    assert told["fitted_to"]["weights_sha256"] == fitted["model"]["weights_sha256"]
    assert record.lens_kind("linear").fitted is True
    assert record.lens_kind("final").words == "the model's own final norm and the head"
    assert record.lens_kind().fitted is True  # the lens of the headline
    assert str(linear(llama).parent) not in (record.folder / "manifest.json").read_text()


def test_a_cache_is_read_with_it_as_a_live_run_is(
    run_spec: RunSpec, llama: Case, tmp_path: Path
) -> None:
    cache = CacheSpec(run_spec.models[0], prompts=run_spec.prompts, limit=run_spec.limit)
    run_cache(cache, tmp_path / "cache")
    spec = run_spec.changed(heatmap_prompts=0)
    live = open_record(run(spec, tmp_path / "live").folder)
    folder, problems = run_cached(
        llama.folder, tmp_path / "cache", tmp_path / "read", lenses=spec.lenses
    )
    cached = open_record(folder)
    assert problems == []
    assert cached.manifest["lenses"] == live.manifest["lenses"]
    assert cached.settings["lens_sha256"] == live.settings["lens_sha256"]
    require_equal(cached.table("lens"), live.table("lens"), exactly=False)
    assert cached.table("milestones").equals(live.table("milestones"))
    with pytest.raises(InputProblems, match="linear without final"):
        run_cached(llama.folder, tmp_path / "cache", tmp_path / "x", lenses=spec.lenses[1:])


def test_a_run_does_not_go_on_with_a_lens_fitted_anew(
    run_spec: RunSpec, llama: Case, fit_spec: Callable[..., FitSpec], tmp_path: Path
) -> None:
    anew = tmp_path / "linear"
    shutil.copytree(run_spec.lenses[1], anew)
    spec = run_spec.changed(lenses=("final", str(anew)))
    assert run(spec, tmp_path / "run").ok
    shutil.rmtree(anew)
    assert fit_lens(fit_spec(llama, tokens=500), anew).ok
    (error,) = run(spec, tmp_path / "run").failed.values()
    assert "lens_sha256" in str(error)


# --- refusals -----------------------------------------------------------------------------------


def test_a_lens_of_another_model_is_refused(
    llama: Case, linear: Fit, tiny_case: Callable[[str], Case]
) -> None:
    """Even of one with the same weights, which another config makes another model of."""
    other = load_model(tiny_case("mistral").folder, device="cpu")
    with pytest.raises(RecordsError, match=r"(?s)fitted to another model.*config_sha256"):
        logit_lens(other, "Rome", lens=str(linear(llama)))


def test_other_bits_are_said(llama: Case, linear: Fit, caplog: pytest.LogCaptureFixture) -> None:
    half = load_model(f"{llama.folder}@16", device="cpu")
    assert logit_lens(half, "Rome is the", lens=str(linear(llama))).table.num_rows
    assert "bits None there, 16 now" in caplog.text


def test_an_altered_file_is_refused(llama: Case, linear: Fit, tmp_path: Path) -> None:
    folder = tmp_path / "linear"
    shutil.copytree(linear(llama), folder)
    tensors = load_file(folder / FILE)
    tensors["b.1"][0] += 1
    save_file(tensors, folder / FILE)
    model = load_model(llama.folder, device="cpu")
    with pytest.raises(RecordsError, match="altered"):
        logit_lens(model, "Rome", lens=str(folder))


def test_a_state_that_has_no_map_is_refused(llama: Case, linear: Fit) -> None:
    model = load_model(llama.folder, device="cpu")
    with pytest.raises(ModelError, match="no map for resid_mid"):
        logit_lens(model, "Rome", lens=str(linear(llama)), sites=["resid_mid"])


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("tuned-in", "there is no 'tuned-in'"),
        (["final", "final"], "two lenses are called 'final'"),
        ("linear", "lensbench fit"),  # none has been fitted
    ],
)
def test_a_name_without_a_lens_is_refused(
    llama: Case, given: str, said: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("LENSBENCH_CACHE", str(tmp_path))
    with pytest.raises((InputProblems, RecordsError), match=said):
        logit_lens(load_model(llama.folder, device="cpu"), "Rome", lens=given)


def test_a_corpus_that_is_too_small_says_what_is_missing(
    llama: Case, fit_spec: Callable[..., FitSpec], tmp_path: Path
) -> None:
    with pytest.raises(InputProblems, match=r"gives [\d,]+ tokens .* 1,000,600 are needed"):
        fit_lens(fit_spec(llama, tokens=1_000_000), tmp_path)


# --- interruptions ------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("parts", [1, 5])
def test_an_interrupted_fit_ends_in_the_same_bytes(
    llama: Case,
    linear: Fit,
    fit_spec: Callable[..., FitSpec],
    forks: Forks,
    tmp_path: Path,
    parts: int,
) -> None:
    fitting: Callable[..., Ended] = partial(forks.run, fit_lens, fit_spec(llama), tmp_path)
    ended = fitting(kill=signal.SIGKILL, when=lambda: parts_done(tmp_path) >= parts)
    assert ended.status == -signal.SIGKILL
    assert fitting().status == 0
    assert manifest(tmp_path)["resumed_batches"] >= parts
    assert table_bytes(tmp_path) == table_bytes(linear(llama))
    assert (tmp_path / FILE).read_bytes() == (linear(llama) / FILE).read_bytes()
    assert not (tmp_path / "parts").exists()


@pytest.mark.slow
def test_a_fit_killed_while_it_is_written_ends_in_the_same_bytes(
    llama: Case, linear: Fit, fit_spec: Callable[..., FitSpec], forks: Forks, tmp_path: Path
) -> None:
    fitting: Callable[..., Ended] = partial(forks.run, fit_lens, fit_spec(llama), tmp_path)
    fitting(kill=signal.SIGKILL, when=lambda: bool(list(tmp_path.glob("*fit_quality*"))))
    assert fitting().status == 0
    assert table_bytes(tmp_path) == table_bytes(linear(llama))
    assert (tmp_path / FILE).read_bytes() == (linear(llama) / FILE).read_bytes()


# --- the program --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "method", ["linear", "jacobian", pytest.param("tuned", marks=pytest.mark.slow)]
)
def test_sums_that_were_altered_in_between_become_no_lens(
    llama: Case, corpus: Path, tmp_path: Path, method: Any
) -> None:
    def altering(do: Any, context: Any, jobs: Sequence[Job[Any]], parts: Parts) -> Any:
        yield from one_by_one(do, context, jobs, parts)
        (path, *_) = sorted(parts.folder.glob("*-000000.safetensors"))
        data = bytearray(path.read_bytes())
        data[-6] ^= 1  # a number that is about as large
        path.write_bytes(data)

    with done_by(altering), pytest.raises(RecordsError, match="it was altered"):
        fit_lens(small_fit(corpus, llama, method=method), tmp_path / "lens")


def test_the_verb_fits_shows_and_is_found_by_its_name(
    lensbench: Program, llama: Case, corpus: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("LENSBENCH_CACHE", str(tmp_path))
    sizes = ["--tokens", "300", "--choose-tokens", "50", "--test-tokens", "80", "--window", "32"]
    done = lensbench("fit", llama.folder, "--corpus", corpus, *sizes)
    assert done.status == 0, done.err
    assert "KL(model || lens) in bits" in done.out
    report = next(tmp_path.glob("lenses/*/linear/report.md")).read_text(encoding="utf-8")
    quality = tables(next(tmp_path.glob("lenses/*/linear")))["fit_quality"]
    middle = quality[(quality.layer == llama.model.n_layers // 2) & (quality.reading == "fitted")]
    assert f"fitted lens: {middle.kl_bits.iloc[0]:.2f}" in report
    assert "documents were left out because a sentence of theirs holds subject and" in report
    assert "different facts)" in report
    read = lensbench("lens", llama.folder, "The capital of Germany is", "--lens", "linear")
    assert read.status == 0, read.err


def test_identity_maps_read_as_the_final_lens_to_the_bit(llama: Case) -> None:
    model = load_model(llama.folder, device="cpu")
    width = model.d_model
    nothing = AffineMap(torch.eye(width), torch.zeros(width))
    lens = Affine(model, dict.fromkeys(range(model.n_layers), nothing), "identity")
    states = torch.randn(5, width)
    for site in model.sites(("embed", "resid_post")):
        assert torch.equal(lens.logits(states, site), model.readout(states))
