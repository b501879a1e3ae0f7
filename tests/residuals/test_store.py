"""The residual cache: on disk what the model computed, in either number format, or refused."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from lensbench import GateError, InputProblems, Prompt, logit_lens
from lensbench.errors import RecordsError
from lensbench.lens.cached import lens_from_cache
from lensbench.models.load import load_model
from lensbench.models.model import LensModel
from lensbench.models.sites import Site
from lensbench.progress import Progress
from lensbench.prompts.encode import Encoder
from lensbench.records.residuals import shard
from lensbench.records.schema import KINDS, TABLES
from lensbench.report.build import build_report
from lensbench.residuals.store import ResidualCache, keep, open_cache
from lensbench.studies.stages.cache import run_cache
from lensbench.studies.stages.cached import run_cached
from tests.harness.caches import ROWS, require_equal, spec_of, write_prompts
from tests.harness.files import UNEQUAL, contents, manifest, write_manifest
from tests.harness.reference import layers_of_hugging_face
from tests.harness.tiny import TINY, Case

FILES = [f"{name}.parquet" for name in KINDS["cache"].names]


# --- what is on disk is what the model computed -------------------------------------------------


@pytest.mark.parametrize(
    ("name", "positions"),
    [("llama", "last"), ("llama", "all"), ("llama", "answer"), ("gpt2", "answer")],
)
def test_every_vector_is_hugging_faces_own(
    name: str, positions: str, tiny_case: Callable[[str], Case], prompts: Path, tmp_path: Path
) -> None:
    case = tiny_case(name)
    run_cache(spec_of(case.folder, prompts, positions=positions), tmp_path)
    cache = open_cache(tmp_path)
    n_layers = case.model.n_layers
    kept = [cache.layer(layer) for layer in range(n_layers + 1)]
    by_name = ["embed", *(f"blocks.{block}.resid_post" for block in range(n_layers))]
    assert all(torch.equal(cache.layer(name), kept[i]) for i, name in enumerate(by_name))
    rows = pq.read_table(tmp_path / "prompts.parquet").to_pylist()
    cells = cache.cells
    assert set(cells.prompt_id) == {row["prompt_id"] for row in rows} == {r[0] for r in ROWS}
    for row in rows:
        own = cells[cells.prompt_id == row["prompt_id"]]
        n = row["n_tokens"]
        answer = case.model.tokenizer(f" {row['answer']}", add_special_tokens=False).input_ids
        k = row["answer_n_tokens"] or 1
        ids = list(row["token_ids"])
        expected = {"last": [n - 1], "all": [*range(n)], "answer": [*range(n - 1, n + k - 1)]}
        assert own.position.tolist() == expected[positions]
        if positions == "answer" and k > 1 and TINY[name].tokenizer != "spaces":
            ids += answer[:-1]
        elif positions == "answer":
            ids += own.token_id.tolist()[1:]
        assert own.token_id.tolist() == [ids[p] for p in own.position]
        streams = layers_of_hugging_face(case, ids)
        for layer, stream in enumerate(streams):
            found = kept[layer][own.index.tolist()]
            scale = float(stream.abs().max())
            torch.testing.assert_close(
                found, stream[own.position.tolist()], rtol=1e-4, atol=1e-5 * scale
            )


def test_some_answer_has_several_tokens_and_each_is_predicted_once(
    make: Callable[..., Path], model: LensModel
) -> None:
    """The distribution at the last kept position is that of the answer's last token."""
    cache = open_cache(make(positions="answer"))
    encoder = Encoder(model.tokenizer, model.n_ctx)
    prompt = encoder.encode(Prompt("rhine", ROWS[3][1], answer=ROWS[3][2]))
    assert prompt.answer is not None
    whole = [*prompt.token_ids, *prompt.answer.token_ids]
    assert len(prompt.answer.token_ids) > 2
    own = cache.cells[cache.cells.prompt_id == "rhine"]
    following = [whole[position + 1] for position in own.position]
    assert following == list(prompt.answer.token_ids)


def test_a_prompt_whose_answer_does_not_fit_is_left_out(llama: Case, tmp_path: Path) -> None:
    long = ("long", " ".join(["the"] * 56), " ".join(["the"] * 12))
    path = write_prompts(tmp_path / "long.csv", [*ROWS, long])
    (problem,) = run_cache(spec_of(llama.folder, path, positions="answer"), tmp_path / "c")
    assert problem.prompt_id == "long"
    assert "the model's context holds 64" in problem.what
    assert len(open_cache(tmp_path / "c").cells.prompt_id.unique()) == len(ROWS)


def test_the_record_says_what_it_holds(make: Callable[..., Path], llama: Case) -> None:
    folder = make(positions="all", layers=(0, 2, 3))
    for name in KINDS["cache"].names:
        assert pq.read_schema(folder / f"{name}.parquet").equals(TABLES[name].schema)
    found = manifest(folder)
    assert found["status"] == "complete"
    assert found["sites"] == [["embed", 0], ["resid_post", 2], ["resid_post", 3]]
    assert set(found["prompt_sha256"]) == {row[0] for row in ROWS}
    assert [identity["passed"] for identity in found["gate"]] == [True] * 6
    assert found["stored_kl_bits"] < 1e-5
    cache = open_cache(folder)
    assert cache.sites == [Site("embed", 0), Site("resid_post", 2), Site("resid_post", 3)]
    with pytest.raises(RecordsError, match=r"does not hold resid_post\.1\. It holds: embed\.0, r"):
        cache.layer(1)


def test_a_kept_answer_is_counted_apart_from_the_prompt(make: Callable[..., Path]) -> None:
    index = pq.read_table(make(positions="answer") / "residual_index.parquet").to_pandas()
    rhine = index[index.prompt_id == "rhine"]
    assert (rhine.n_prompt_tokens == 1).all()
    assert (rhine.n_generated_tokens > 1).all()
    assert (index[index.prompt_id == "italy"].n_generated_tokens == 0).all()


@pytest.mark.parametrize("span", ["prompt", "generated"])
def test_means_are_those_of_each_prompts_cells(span: str, make: Callable[..., Path]) -> None:
    files = open_cache(make(positions="answer")).files
    vectors = files.layer("resid_post", 2).astype(np.float64)
    means = files.means("resid_post", 2, span)
    for row, item in enumerate(files.prompt_ids):
        own = vectors[(files.cells.prompt_id == item).to_numpy()]
        own = own[:1] if span == "prompt" else own[1:]  # the prompt's last position, the answer's
        assert files.n_tokens(span)[row] == len(own)
        if len(own):
            np.testing.assert_allclose(means[row], own.sum(0) / len(own), rtol=1e-6)
        else:
            assert np.isnan(means[row]).all()


# --- whose cache it is --------------------------------------------------------------------------


def test_a_cache_of_another_model_is_refused_by_name(
    make: Callable[..., Path], llama: Case, gpt2: Case, tmp_path: Path
) -> None:
    other = Path(shutil.copytree(llama.folder, tmp_path / "other"))
    weights = load_file(other / "model.safetensors")
    weights["model.norm.weight"] *= 1.01
    save_file(weights, other / "model.safetensors", metadata={"format": "pt"})
    cache = open_cache(make())
    with pytest.raises(RecordsError, match=r"is a cache of another model:\n.*weights_sha256"):
        run_cached(str(other), make(), tmp_path / "out")
    with pytest.raises(RecordsError, match="weights_sha256"):
        lens_from_cache(cache, load_model(other, name=str(llama.folder), device="cpu"))
    with pytest.raises(RecordsError, match=r"tokenizer_sha256: \w+ there"):
        lens_from_cache(cache, load_model(gpt2.folder, device="cpu"))
    with pytest.raises(RecordsError, match=r"dtype: float32 there, bfloat16 now"):
        lens_from_cache(cache, load_model(llama.folder, device="cpu", dtype="bfloat16"))
    with pytest.raises(RecordsError, match="came as an object"):
        lens_from_cache(cache, load_model(llama.fresh_hf(), tokenizer=llama.model.tokenizer))


def test_another_run_in_the_same_folder_is_refused(
    copy_of: Callable[..., Path], llama: Case, prompts: Path
) -> None:
    with pytest.raises(RecordsError, match=r"settings\.positions: 'last' there, 'all' now"):
        run_cache(spec_of(llama.folder, prompts, positions="all"), copy_of())


def test_a_folder_without_a_complete_cache_is_refused(
    copy_of: Callable[..., Path], tmp_path: Path
) -> None:
    with pytest.raises(RecordsError, match="no residual cache"):
        open_cache(tmp_path / "nowhere")
    folder = copy_of()
    write_manifest(folder, manifest(folder) | {"status": "running"})
    with pytest.raises(RecordsError, match="is not complete"):
        open_cache(folder)


# --- number formats -----------------------------------------------------------------------------


def test_bfloat16_takes_half_the_room_and_keeps_its_bound(
    make: Callable[..., Path], model: LensModel, tmp_path: Path, llama: Case
) -> None:
    full = open_cache(make(positions="all"))
    half = open_cache(make(positions="all", residual_dtype="bfloat16"))
    assert half.files.n_bytes < 0.7 * full.files.n_bytes  # headers are not halved
    for layer in range(4):
        exact, rounded = full.layer(layer).double(), half.layer(layer).double()
        assert ((exact - rounded).abs() <= exact.abs() * 2.0**-8).all()
        assert not torch.equal(exact, rounded)
    assert manifest(half.folder)["stored_kl_bits"] > manifest(full.folder)["stored_kl_bits"]
    live = lens_from_cache(full, model).to_pandas()
    found = lens_from_cache(half, model).to_pandas()
    assert (live.entropy_bits - found.entropy_bits).abs().max() < 0.1


@given(st.lists(st.floats(-(2.0**127), 2.0**127, width=32), min_size=1, max_size=64))
def test_the_bound_holds_for_any_number(
    tmp_path_factory: pytest.TempPathFactory, numbers: list[float]
) -> None:
    path = tmp_path_factory.mktemp("bound") / "shard"
    exact = torch.tensor([numbers])
    (content,) = shard(0, {"resid_post.1": exact.to(torch.bfloat16)}, "r").values()
    path.write_bytes(content)
    with safe_open(path, framework="pt") as opened:
        found = opened.get_tensor("resid_post.1").double()
    bound = exact.double().abs() * 2.0**-8 + 1e-40
    assert ((found - exact.double()).abs() <= bound).all()


def test_a_cache_whose_last_layer_was_rounded_too_far_is_not_read_by_the_lens(
    copy_of: Callable[..., Path], model: LensModel
) -> None:
    folder = copy_of()
    changed = manifest(folder) | {"stored_kl_bits": 0.5}
    write_manifest(folder, changed)
    with pytest.raises(GateError, match=r"on disk = the model's output: error 0\.5"):
        lens_from_cache(open_cache(folder), model)


# --- bad input ----------------------------------------------------------------------------------


def test_all_problems_with_the_settings_come_at_once(llama: Case, prompts: Path) -> None:
    with pytest.raises(InputProblems) as caught:
        spec_of(llama.folder, prompts, positions="first", residual_dtype="int8", limit=0)
    assert {p.where for p in caught.value.problems} == {"positions", "residual_dtype", "limit"}


def test_layers_that_do_not_exist_are_refused_before_anything_is_written(
    llama: Case, prompts: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputProblems, match="has no layer 4, 9"):
        run_cache(spec_of(llama.folder, prompts, layers=(1, 4, 9)), tmp_path)
    assert contents(tmp_path, UNEQUAL) == {}


def test_an_empty_set_is_refused(llama: Case, tmp_path: Path) -> None:
    path = write_prompts(tmp_path / "empty.csv", [])
    with pytest.raises(InputProblems, match="no usable row"):
        run_cache(spec_of(llama.folder, path), tmp_path / "c")


def test_one_prompt_of_one_token(llama: Case, model: LensModel, tmp_path: Path) -> None:
    path = write_prompts(tmp_path / "one.csv", [("a", "Rome", None)])
    run_cache(spec_of(llama.folder, path), tmp_path / "c")
    cache = open_cache(tmp_path / "c")
    assert cache.cells.position.tolist() == [len(model.tokenizer("Rome").input_ids) - 1]
    found = lens_from_cache(cache, model).to_pandas()
    live = logit_lens(model, [Prompt("a", "Rome", "capital")], positions="last").to_pandas()
    require_equal(found, live, exactly=True)


def test_a_prompt_that_gives_nan_is_a_problem_and_its_batch_goes_on(
    overflowing: Path, tmp_path: Path
) -> None:
    rows = [*ROWS[:1], ("rome", "The city of Rome is", "old"), *ROWS[2:]]
    path = write_prompts(tmp_path / "rome.csv", rows)
    (problem,) = run_cache(spec_of(overflowing, path), tmp_path / "c")
    assert (problem.prompt_id, "NaN or Inf" in problem.what) == ("rome", True)
    cache = open_cache(tmp_path / "c")
    assert set(cache.cells.prompt_id) == {row[0] for row in rows} - {"rome"}
    assert bool(cache.layer(3).isfinite().all())
    folder, left_out = run_cached(str(overflowing), tmp_path / "c", tmp_path / "lens")
    assert [p.prompt_id for p in left_out] == ["rome"]
    assert "rome" not in pq.read_table(folder / "prompts.parquet")["prompt_id"].to_pylist()


def test_nothing_but_nan_is_a_cache_of_nothing(overflowing: Path, tmp_path: Path) -> None:
    path = write_prompts(tmp_path / "rome.csv", [("rome", "The city of Rome is", "old")])
    with pytest.raises(GateError, match="NaN or Inf for every prompt"):
        run_cache(spec_of(overflowing, path), tmp_path / "c")
    assert contents(tmp_path / "c", UNEQUAL) == {}


def test_a_disk_that_cannot_hold_it_is_refused_with_the_sum(
    llama: Case, prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=(64 << 20) + 2000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    said: list[str] = []
    with pytest.raises(RecordsError, match=r"6 cells x 4 sites x 32 numbers x 4 bytes = 0\.0 MB"):
        run_cache(spec_of(llama.folder, prompts), tmp_path, notify=said.append)
    assert said == []
    assert contents(tmp_path, UNEQUAL) == {}


def test_the_size_is_said_before_the_run_and_is_the_size(
    llama: Case, prompts: Path, tmp_path: Path
) -> None:
    said: list[str] = []

    def progress(now: Progress) -> None:
        assert len(said) == 1 or now.total is None  # while it loads, nobody knows

    run_cache(spec_of(llama.folder, prompts, positions="all"), tmp_path, progress, said.append)
    cache = open_cache(tmp_path)
    numbers = sum(cache.layer(site).numel() for site in cache.sites)
    n_cells = len(cache.cells)
    assert said[0].startswith(f"{n_cells} cells x 4 sites x 32 numbers x 4 bytes = ")
    assert n_cells * 4 * 32 == numbers
    overhead = cache.files.n_bytes - 4 * numbers
    assert 0 < overhead < 2000 * len(list((tmp_path / "residuals").iterdir()))


def test_keep_names_positions(model: LensModel) -> None:
    """By hand: a prompt of n tokens and an answer of k."""
    encoder = Encoder(model.tokenizer, model.n_ctx)
    prompt = encoder.encode(Prompt("a", "The capital of Germany is", answer="Berlin, Rome"))
    assert prompt.answer is not None
    n, k = len(prompt.token_ids), len(prompt.answer.token_ids)
    assert k >= 3
    assert keep(prompt, "last", 64).positions == range(n - 1, n)
    assert keep(prompt, "all", 64).positions == range(n)
    kept = keep(prompt, "answer", 64)
    assert kept.positions == range(n - 1, n + k - 1)
    assert kept.token_ids == prompt.token_ids + prompt.answer.token_ids[:-1]
    with pytest.raises(InputProblems, match="with its answer it has"):
        keep(prompt, "answer", n + k - 2)


def test_a_report_passes_over_caches(make: Callable[..., Path]) -> None:
    with pytest.raises(RecordsError, match="residual caches only, which have no report"):
        build_report([make()])


def test_a_cache_says_what_it_is(make: Callable[..., Path]) -> None:
    cache = open_cache(make())
    assert isinstance(cache, ResidualCache)
    assert "6 cells of 6 prompts x 4 sites, positions last, float32" in repr(cache)
