"""What a fit is given that is too little, of another kind, or of another model."""

from __future__ import annotations

import errno
import os
import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from lensbench import logit_lens
from lensbench.corpora.corpus import Document
from lensbench.errors import InputProblems, ModelError, RecordsError
from lensbench.files import write_bytes
from lensbench.fitting import quality
from lensbench.fitting.spec import FitSpec
from lensbench.fitting.windows import Window
from lensbench.lens.fitted.artifact import FILE
from lensbench.models.load import load_model
from lensbench.models.sites import Site
from lensbench.records import parts
from lensbench.residuals.capture import Residuals
from lensbench.studies.stages.fit import fit_lens
from tests.harness.files import manifest, tables
from tests.harness.tiny import TINY, Case, save, tokenizer

FitSpecOf = Callable[..., FitSpec]
SLOW = pytest.mark.slow
ALSO = (pytest.param("tuned", marks=SLOW),)


@pytest.mark.parametrize("text", ["", " \n\t\n"])
def test_a_corpus_without_text_is_refused(
    llama: Case, fit_spec: FitSpecOf, tmp_path: Path, text: str
) -> None:
    (tmp_path / "some.txt").write_text(text)
    with pytest.raises(InputProblems, match="holds no text"):
        fit_lens(fit_spec(llama, corpus=str(tmp_path / "some.txt")), tmp_path / "out")


@pytest.mark.parametrize("method", ["linear", *ALSO, pytest.param("jacobian", marks=SLOW)])
def test_fewer_states_than_dimensions_are_refused_with_the_number_that_is_enough(
    llama: Case, fit_spec: FitSpecOf, tmp_path: Path, method: str
) -> None:
    with pytest.raises(InputProblems, match=r"31 states .* 32 dimensions.*--tokens") as refused:
        fit_lens(fit_spec(llama, tokens=20, method=method), tmp_path)
    needed = re.search(r"--tokens (\d+)", str(refused.value))
    assert needed is not None
    assert fit_lens(fit_spec(llama, tokens=int(needed[1]), method=method), tmp_path).ok


def test_text_in_another_script_and_a_file_that_is_no_utf8(
    llama: Case, fit_spec: FitSpecOf, tmp_path: Path
) -> None:
    """The one is fitted to, the other left out and named."""
    chance, folder = random.Random(0), tmp_path / "texts"
    folder.mkdir()
    for number in range(120):
        text = "".join(chance.choices("柏林是德国的首都莱茵河流经法国和荷兰", k=60))
        (folder / f"{number}.txt").write_text(text, encoding="utf-8")
    (folder / "latin.txt").write_bytes("Zürich ist die größte Stadt der Schweiz".encode("latin-1"))
    outcome = fit_lens(fit_spec(llama, corpus=str(folder)), tmp_path / "out")
    (problem,) = outcome.problems
    assert problem.where == "latin.txt"
    assert "UTF-8" in problem.what
    kl_bits = tables(tmp_path / "out")["fit_quality"].set_index("reading").kl_bits
    assert kl_bits["fitted"].mean() < kl_bits["final"].mean()


@pytest.mark.parametrize("method", ["linear", *ALSO])
def test_states_that_are_nan_end_a_fit_with_their_text(
    llama: Case,
    fit_spec: FitSpecOf,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    method: str,
) -> None:
    """As of a model that overflows in half precision. Nothing is kept of it, and it can go on."""
    passes, broken = 0, 3

    def overflows(*given: Any, **more: Any) -> Residuals:
        nonlocal passes
        residuals, passes = capture(*given, **more), passes + 1
        if passes == broken:
            residuals.stream[1, -1, 3] = torch.inf
        return residuals

    capture = quality.capture_positions
    monkeypatch.setattr(quality, "capture_positions", overflows)
    with pytest.raises(ModelError, match=r"NaN or Inf for a text of the corpus \(\d+\.txt"):
        fit_lens(fit_spec(llama, method=method), tmp_path)
    assert not (tmp_path / FILE).exists()
    assert fit_lens(fit_spec(llama, method=method), tmp_path).ok


def test_large_states_are_no_nan(llama: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their sum may be Inf where each of them is a number."""

    def large(*given: Any, **more: Any) -> Residuals:
        residuals = capture(*given, **more)
        residuals.stream[0] = 3e38
        return residuals

    capture = quality.capture_positions
    monkeypatch.setattr(quality, "capture_positions", large)
    window = Window(Document("a.txt", "abcd", "-"), (1, 2, 3, 4))
    sites = [Site("embed", 0), llama.model.final_site]
    assert quality.states_of(llama.model, [window], sites).stream[0].isfinite().all()


def test_a_full_disk_ends_a_fit_that_goes_on_when_there_is_room(
    llama: Case,
    fit_spec: FitSpecOf,
    linear: Callable[[Case], Path],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    def full(path: Path, data: bytes) -> None:
        if path.name == "moments-000002.safetensors":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write_bytes(path, data)

    with monkeypatch.context() as patched:
        patched.setattr(parts, "write_bytes", full)
        with pytest.raises(RecordsError, match=r"No space left.*run the same command again"):
            fit_lens(fit_spec(llama), tmp_path)
    assert fit_lens(fit_spec(llama), tmp_path).ok
    assert manifest(tmp_path)["resumed_batches"] == 2
    assert (tmp_path / FILE).read_bytes() == (linear(llama) / FILE).read_bytes()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"num_hidden_layers": 4}, "n_layers: 3 there, 4 now"),
        ({"hidden_size": 64}, "d_model: 32 there, 64 now"),
        ({}, "tokenizer_sha256"),
    ],
)
def test_a_lens_of_another_depth_width_or_tokenizer_is_refused(
    llama: Case,
    linear: Callable[[Case], Path],
    tmp_path: Path,
    changes: dict[str, Any],
    said: str,
) -> None:
    folder = tmp_path / "other"
    if changes:
        save(TINY["llama"], folder, changes)
    else:
        shutil.copytree(llama.folder, folder)
        tokenizer("bytes").save_pretrained(folder)
    with pytest.raises(RecordsError, match=rf"(?s)fitted to another model.*{said}"):
        logit_lens(load_model(folder, device="cpu"), "Rome", lens=linear(llama))


def test_a_pickle_in_place_of_the_maps_is_never_loaded(
    llama: Case, linear: Callable[[Case], Path], tmp_path: Path
) -> None:
    folder = tmp_path / "linear"
    shutil.copytree(linear(llama), folder)
    torch.save({"A.0": torch.eye(32)}, folder / FILE)
    with pytest.raises(RecordsError, match=rf"{FILE}: it was altered.*Fit the lens again"):
        logit_lens(load_model(llama.folder, device="cpu"), "Rome", lens=folder)


def test_an_embedding_that_never_varies_is_read_as_the_mean_target(
    fit_spec: FitSpecOf, tmp_path: Path
) -> None:
    """And every other layer as well as it goes: no NaN, nowhere."""
    folder = save(TINY["llama"], tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    weights["model.embed_tokens.weight"][:] = weights["model.embed_tokens.weight"][5].clone()
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    case = Case("alike", TINY["llama"], folder)
    assert fit_lens(fit_spec(case), tmp_path / "out").ok
    maps = load_file(tmp_path / "out" / FILE)
    assert not maps["A.0"].any()
    assert all(bool(tensor.isfinite().all()) for tensor in maps.values())
    figures = tables(tmp_path / "out")["fit_quality"]
    assert figures.kl_bits.notna().all()
