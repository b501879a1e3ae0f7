"""Every number that a lens gives, on an accelerator and on the CPU; and the same twice."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import pytest

from lensbench.lens.cached import lens_from_cache
from lensbench.lens.result import LensResult, logit_lens
from lensbench.lens.table import measured
from lensbench.models.load import load_model
from lensbench.models.sites import STREAM
from lensbench.prompts.prompt import Prompt
from lensbench.studies.stages.cache import run_cache
from lensbench.studies.stages.fit import fit_lens
from tests.harness.caches import ROWS, spec_of, write_prompts
from tests.harness.files import manifest, tables
from tests.harness.fits import small_fit, write_corpus
from tests.harness.tiny import PROMPTS, Case

pytestmark = pytest.mark.gpu
KEYS = ["lens", "prompt_id", "position", "site", "layer"]
RANKS = [name for name in measured() if name.endswith(("_rank", "_ties"))]
METHODS = ("linear", "tuned", "jacobian")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("corpus"))


def readings(
    case: Case, device: str, lenses: Sequence[str], dtype: str = "float32", **how: object
) -> LensResult:
    """Everything that can be read of the prompts, at every state."""
    model = load_model(case.folder, device=device, dtype=dtype)
    prompts = [Prompt(f"p{i}", text, answer="Berlin") for i, text in enumerate(PROMPTS)]
    there = [site for site in STREAM if site != "resid_mid" or case.row.ln2]
    how = {"sites": there, "metrics": "js_bits"} | how
    return logit_lens(model, prompts, lens=lenses, **how)  # type: ignore[arg-type]


def require_near(there: pd.DataFrame, here: pd.DataFrame, bits: float = 2e-5) -> None:
    """What float32 leaves open: another order of a sum, and the decision between two that tie."""
    there, here = (frame.sort_values(KEYS).reset_index(drop=True) for frame in (there, here))
    assert there[KEYS].equals(here[KEYS])
    for name in measured():
        a, b = (frame[name].to_numpy(np.float64) for frame in (there, here))
        assert (np.isnan(a) == np.isnan(b)).all(), name
        off = np.abs(a - b)[~np.isnan(a)]
        if name in RANKS:
            assert (off > 1).sum() == 0, name
            assert (off > 0).sum() <= 0.01 * len(off), name
        else:
            allowed = bits + 10 * bits * np.abs(b[~np.isnan(b)])
            assert (off <= allowed).all(), f"{name}: off by up to {off.max():.2g}"
    first = [frame["top_ids"].map(lambda ids: ids[0]) for frame in (there, here)]
    assert (first[0] != first[1]).sum() <= 0.01 * len(there)


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2", "cohere", "qwen3"])
def test_every_lens_and_number_is_the_cpus(
    tiny_case: Callable[[str], Case], device: str, family: str
) -> None:
    case = tiny_case(family)
    lenses = ("final", "next", "raw")
    there, here = (readings(case, where, lenses) for where in (device, "cpu"))
    require_near(there.to_pandas(), here.to_pandas())
    assert max(there.gate_kl_bits, here.gate_kl_bits) < 1e-4


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_is_read_by_float32_products_there_too(
    llama: Case, device: str, dtype: str
) -> None:
    """The model's own states are rounded in another order; the gate holds there all the same."""
    there, here = (readings(llama, where, "final", dtype) for where in (device, "cpu"))
    frames = [found.to_pandas().sort_values(KEYS) for found in (there, here)]
    off = np.abs(frames[0]["entropy_bits"].to_numpy() - frames[1]["entropy_bits"].to_numpy())
    assert np.median(off) < 0.02
    embedded = [frame[frame.layer == 0] for frame in frames]  # nothing is added up before it
    of_the_output = dict.fromkeys(("kl_bits", "js_bits", "cos_final"), 0.0)
    require_near(*(frame.assign(**of_the_output) for frame in embedded), bits=1e-4)


def test_the_same_run_gives_the_same_numbers(llama: Case, device: str) -> None:
    first, second = (readings(llama, device, ("final", "next"), top_k=7) for _ in range(2))
    assert first.table.equals(second.table)


def test_how_prompts_are_batched_changes_nothing(llama: Case, device: str) -> None:
    together, alone = (readings(llama, device, "final", batch_tokens=n) for n in (None, 1))
    require_near(together.to_pandas(), alone.to_pandas())


@pytest.mark.parametrize("positions", ["last", "all"])
def test_a_beginning_that_prompts_share_is_run_once_there_too(
    llama: Case, device: str, positions: Literal["last", "all"]
) -> None:
    shared = list(range(10, 30))
    prompts = [[*shared, 40], [*shared, 41, 42, 43], [*shared, 44, 45]]
    models = [load_model(llama.folder, device=where) for where in (device, "cpu")]
    assert all(model.shares_prefixes for model in models)
    require_near(*(logit_lens(m, prompts, positions=positions).to_pandas() for m in models))


@pytest.mark.parametrize("method", METHODS)
def test_a_fit_is_the_cpus_and_reads_what_it_reads(
    llama: Case, corpus: Path, tmp_path: Path, device: str, method: str
) -> None:
    folders = tmp_path / "there", tmp_path / "here"
    for where, folder in zip((device, "cpu"), folders, strict=True):
        jacobian = {"jacobian_tokens": 64} if method == "jacobian" else {}
        spec = small_fit(corpus, llama, method=method, device=where, **jacobian)
        assert fit_lens(spec, folder / method).ok
    there, here = (tables(folder / method)["fit_quality"] for folder in folders)
    assert there[["reading", "layer"]].equals(here[["reading", "layer"]])
    for name in ("kl_bits", "marginal_kl_bits", "calibration_error"):
        np.testing.assert_allclose(there[name], here[name], rtol=5e-3, atol=5e-4, err_msg=name)
    # One lens on both, as a fit's own rounding is no part of reading it.
    fitted = str(tmp_path / "here" / method)
    states = ("embed", "resid_post")
    own, cpu = (
        readings(llama, where, ["final", fitted], sites=states) for where in (device, "cpu")
    )
    require_near(own.to_pandas(), cpu.to_pandas(), bits=1e-4)


def test_a_lens_reads_a_cache_there(llama: Case, tmp_path: Path, device: str) -> None:
    prompts = write_prompts(tmp_path / "prompts.csv", ROWS)
    spec = spec_of(llama.folder, prompts, device=device, positions="all")
    run_cache(spec, tmp_path / "cache")
    frames = [
        lens_from_cache(tmp_path / "cache", load_model(llama.folder, device=where)).to_pandas()
        for where in (device, "cpu")
    ]
    require_near(*frames)
    assert manifest(tmp_path / "cache")["model"]["device"] == device
