"""A model with blocks on disk gives every number of the same model in memory, bit for bit.

The same tensors go through the same products: nothing but where they lay before differs.
"""

from __future__ import annotations

import gc
import os
import resource
import shutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch

from lensbench.attention.causal.direct import direct_effects
from lensbench.attention.causal.tables import Ablator, Asked
from lensbench.attention.circuits.table import circuits_table
from lensbench.attention.result import read_heads
from lensbench.attention.settings import AttentionSettings
from lensbench.checkpoints.stored.offload import is_offloaded
from lensbench.errors import InputProblems, ModelError
from lensbench.fitting.spec import FitSpec
from lensbench.lens.result import logit_lens
from lensbench.models.load import load_model
from lensbench.quantized.generation.generate import generate
from lensbench.quantized.generation.spec import Decoding
from lensbench.quantized.generation.trace import ResidualMeans
from lensbench.quantized.loading.load import load_quantized
from lensbench.records.schema.generation import SPANS
from lensbench.residuals.capture import residual_stream
from lensbench.studies.stages.cache import run_cache
from lensbench.studies.stages.fit import fit_lens
from tests.harness.adapters import make_adapter
from tests.harness.caches import ROWS, spec_of, write_prompts
from tests.harness.files import manifest, table_bytes
from tests.harness.fits import small_fit, write_corpus
from tests.harness.forks import Forks
from tests.harness.program import Program
from tests.harness.spread import load_and_die, on_disk, spread
from tests.harness.tiny import PROMPTS, Case

FEW = ("gpt2", "qwen3")  # joint q/k/v and LayerNorm; norms inside of attention and a tied head
SITES = ("embed", "resid_mid", "resid_post", "attn_out", "mlp_out", "head_out")


@pytest.fixture
def offload(tmp_path: Path) -> Path:
    (tmp_path / "scratch").mkdir()
    return tmp_path / "scratch"


@pytest.fixture(params=FEW)
def case(request: pytest.FixtureRequest, tiny_case: Callable[[str], Case]) -> Case:
    return tiny_case(request.param)


def require_equal_readings(case: Case, offload: Path, dtype: str) -> None:
    plain = load_model(case.folder, name=case.name, device="cpu", dtype=dtype)
    away = spread(case, offload, dtype)
    assert is_offloaded(away.bridge)
    assert away.facts() == plain.facts() | {"blocks_on": {"cpu": 1, "disk": 2}}
    for prompt in PROMPTS[:2]:
        here, there = (residual_stream(m, prompt, SITES) for m in (plain, away))
        assert here.sites == there.sites
        assert torch.equal(here.stream, there.stream)
        assert torch.equal(here.logits, there.logits)
    lenses = ["final", "next", "raw"]
    here, there = (logit_lens(m, [*PROMPTS], lens=lenses).to_pandas() for m in (plain, away))
    pd.testing.assert_frame_equal(here, there, check_exact=True)
    assert is_offloaded(away.bridge)  # nothing that was read stays in memory


def test_the_stream_the_heads_and_the_lens_are_those_of_the_model_in_memory(
    case: Case, offload: Path
) -> None:
    require_equal_readings(case, offload, "float32")


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_readings_of_every_family(family: Case, offload: Path, dtype: str) -> None:
    require_equal_readings(family, offload, dtype)


def test_scores_of_heads_ablations_effects_and_circuits_too(case: Case, offload: Path) -> None:
    plain, away = case.model, spread(case, offload)
    settings = AttentionSettings(n_repeated=2, repeat_tokens=5)
    here, there = (read_heads(m, [*PROMPTS], settings).to_pandas() for m in (plain, away))
    pd.testing.assert_frame_equal(here, there, check_exact=True)
    ids = case.token_ids
    asked = [Asked(f"p{i}", tuple(own), answer=7) for i, own in enumerate(ids[:2])]
    both = [Ablator(m, asked, ids, 64) for m in (plain, away)]
    assert both[1].has_weights
    first, second = (ablator.part(asked).tables["ablation"] for ablator in both)
    assert first.equals(second)
    effects = [direct_effects(m, ids[:2], [7, 9]) for m in (plain, away)]
    assert torch.equal(*effects)
    assert circuits_table(plain).equals(circuits_table(away))
    assert is_offloaded(away.bridge)


def test_a_cache_and_a_fitted_lens_have_the_same_bytes(
    llama: Case, offload: Path, tmp_path: Path
) -> None:
    device = on_disk(llama.folder, offload)
    prompts = write_prompts(tmp_path / "prompts.csv", ROWS)
    for name, where in (("plain", "cpu"), ("spread", device)):
        run_cache(spec_of(llama.folder, prompts, device=where), tmp_path / name)
    there = manifest(tmp_path / "spread")
    assert there["settings"]["device"] == "cpu,disk"  # and no folder of this machine
    assert there["model"]["blocks_on"] == {"cpu": 1, "disk": 2}
    shards = [sorted((tmp_path / name).glob("*.safetensors")) for name in ("plain", "spread")]
    assert table_bytes(tmp_path / "plain") == table_bytes(tmp_path / "spread")
    for a, b in zip(*shards, strict=True):
        assert len(a.read_bytes()) == len(b.read_bytes())
    (tmp_path / "corpus").mkdir()
    corpus = write_corpus(tmp_path / "corpus")
    for name, where in (("fit", "cpu"), ("fit2", device)):
        assert fit_lens(small_fit(corpus, llama, device=where), tmp_path / name).ok
    assert table_bytes(tmp_path / "fit") == table_bytes(tmp_path / "fit2")


@pytest.mark.parametrize("bits", [32, 16])
def test_answers_and_their_traces_are_those_of_the_model_in_memory(
    llama: Case, offload: Path, bits: int
) -> None:
    dtype = {32: "float32", 16: "bfloat16"}[bits]
    said = []
    for device in ("cpu", on_disk(llama.folder, offload, dtype)):
        model = load_quantized(llama.folder, bits, device=device)  # type: ignore[arg-type]
        assert is_offloaded(model.hf) == (device != "cpu")
        trace = ResidualMeans(model)
        made = generate(model, llama.token_ids, Decoding(max_new_tokens=5), tracer=trace)
        said.append((made, *(trace.means(span) for span in SPANS)))
    assert said[0][0] == said[1][0]
    assert all(torch.equal(a, b) for a, b in zip(said[0][1:], said[1][1:], strict=True))


def test_the_files_on_disk_go_with_their_model(llama: Case, offload: Path) -> None:
    model = spread(llama, offload)
    (kept,) = offload.iterdir()
    assert len([*kept.glob("*.safetensors")]) == 18  # two blocks of nine weights, norms included
    del model
    gc.collect()
    assert not [*offload.iterdir()]


@pytest.mark.slow
def test_what_a_killed_process_left_is_swept_and_what_another_uses_is_not(
    llama: Case, offload: Path, forks: Forks
) -> None:
    device = on_disk(llama.folder, offload)
    assert forks.run(load_and_die, llama.folder, device).status == 1
    (left,) = offload.iterdir()
    first = load_model(llama.folder, device=device)
    assert not left.exists()
    (kept,) = offload.iterdir()
    second = load_model(llama.folder, device=device)
    assert kept.exists() and len([*offload.iterdir()]) == 2
    here, there = (residual_stream(m, PROMPTS[0]) for m in (first, second))
    assert torch.equal(here.stream, there.stream)


def test_a_disk_that_cannot_be_written_to_or_fills_up_is_named(
    llama: Case, offload: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = on_disk(llama.folder, offload)
    free = shutil.disk_usage(offload)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: free)
    with pytest.raises(ModelError, match=r"No weights can be kept in /proc: .*name another folder"):
        load_model(llama.folder, device=device.replace(str(offload), "/proc"))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5_000, limits[1]))  # a weight has 6,144 bytes
    try:
        with pytest.raises(ModelError, match=r"could not be written to .*too large"):
            load_model(llama.folder, device=device)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not [*offload.iterdir()]
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(InputProblems, match=f"the folder {offload} cannot be written to"):
        load_model(llama.folder, device=device)


def test_a_user_names_the_folder_and_the_lens_is_the_same(
    lensbench: Program, llama: Case, offload: Path
) -> None:
    device = on_disk(llama.folder, offload)
    plain = lensbench("lens", llama.folder, PROMPTS[0], "--device", "cpu")
    away = lensbench("lens", llama.folder, PROMPTS[0], "--device", device)
    assert (plain.status, away.status) == (0, 0)
    assert plain.out == away.out
    gc.collect()


def test_what_cannot_be_spread_says_why(
    lensbench: Program, llama: Case, offload: Path, tmp_path: Path
) -> None:
    device = on_disk(llama.folder, offload)
    with pytest.raises(ModelError, match="packed for the device"):
        load_quantized(llama.folder, 8, device=f"cpu=0.066MB,disk={offload}")
    with pytest.raises(ModelError, match="adapters merge"):
        load_quantized(llama.folder, 32, make_adapter(llama, tmp_path / "adapter"), device=device)
    with pytest.raises(InputProblems, match="gradients go through"):
        FitSpec(str(llama.folder), method="jacobian", device=device)
    done = lensbench("train", llama.folder, "x.jsonl", "-o", "out", "--device", device)
    assert done.status == 2
    assert "are on one device" in done.said
    gc.collect()
    assert not [*offload.iterdir()]
