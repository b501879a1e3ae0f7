"""The residual cache: on disk what the model computed, read a layer at a time, damage named."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from lensbench import GateError, InputProblems, Prompt, logit_lens
from lensbench.errors import RecordsError
from lensbench.lens.cached import cached_prompts, lens_from_cache
from lensbench.models.load import load_model
from lensbench.models.model import LensModel
from lensbench.models.readout import Site
from lensbench.prompts.encode import Encoder
from lensbench.quantized.generation.infer import InferenceSpec, run_inference
from lensbench.quantized.loading.load import load_quantized
from lensbench.records.residuals import ResidualFiles, shard_name, write_shard
from lensbench.records.schema import KINDS, TABLES
from lensbench.report.build import build_report
from lensbench.residuals.store import ResidualCache, keep, open_cache
from lensbench.studies.cache import CacheSpec, run_cache
from lensbench.studies.cached import run_cached
from lensbench.studies.lens import run
from lensbench.studies.lens_spec import RunSpec
from tests.harness.tiny import TINY, Case

ROWS = [
    ("germany", "The capital of Germany is", "Berlin"),
    ("one", "Rome", "capital"),
    ("gold", "The chemical symbol of gold is Au and the opposite of hot is", "cold"),
    ("rhine", "The river Rhine flows through Germany, France and", "the Netherlands"),
    ("brazil", "People in Brazil speak", "Portuguese"),
    ("italy", "The capital of Italy is", None),
]
BATCH_TOKENS = 40
FILES = [f"{name}.parquet" for name in KINDS["cache"]]


def write_prompts(path: Path, rows: Sequence[tuple[str, str, str | None]]) -> Path:
    frame = pd.DataFrame(rows, columns=["id", "prompt", "answer"])
    frame.insert(1, "relation", "capital")
    frame.to_csv(path, index=False)
    return path


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_prompts(tmp_path_factory.mktemp("prompts") / "small.csv", ROWS)


def spec_of(folder: Path, prompts: Path, **changes: Any) -> CacheSpec:
    return CacheSpec(str(folder), str(prompts), **{"batch_tokens": BATCH_TOKENS} | changes)


@pytest.fixture(scope="module")
def make(
    llama: Case, prompts: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Path]:
    """A cache of the tiny llama, made once for each way of making it."""
    made: dict[str, Path] = {}

    def get(**changes: Any) -> Path:
        key = repr(sorted(changes.items()))
        if key not in made:
            made[key] = tmp_path_factory.mktemp("cache") / "c"
            assert run_cache(spec_of(llama.folder, prompts, **changes), made[key]) == []
        return made[key]

    return get


@pytest.fixture
def copy_of(make: Callable[..., Path], tmp_path: Path) -> Callable[..., Path]:
    """A cache of one's own, to damage."""

    def get(**changes: Any) -> Path:
        return Path(shutil.copytree(make(**changes), tmp_path / "copy"))

    return get


@pytest.fixture(scope="module")
def model(llama: Case) -> LensModel:
    return load_model(llama.folder, device="cpu")


def manifest(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "manifest.json").read_text())


def contents(folder: Path) -> dict[str, bytes]:
    """Every table and shard; the manifest has times in it."""
    kept = [*folder.glob("*.parquet"), *folder.glob("residuals/*")]
    return {str(path.relative_to(folder)): path.read_bytes() for path in kept}


def layers_of_hugging_face(case: Case, ids: Sequence[int]) -> list[torch.Tensor]:
    """The residual stream [pos, d_model] at the embedding and after each block, by hooks."""
    seen: list[torch.Tensor] = []
    backbone = getattr(case.hf, case.row.backbone)
    blocks = getattr(backbone, case.row.blocks)
    first = blocks[0].register_forward_pre_hook(
        lambda block, args, kwargs: seen.append(args[0] if args else kwargs["hidden_states"]),
        with_kwargs=True,
    )
    rest = [
        block.register_forward_hook(
            lambda block, args, out: seen.append(out[0] if isinstance(out, tuple) else out)
        )
        for block in blocks
    ]
    with torch.no_grad():
        case.hf(torch.tensor([list(ids)]))
    for handle in (first, *rest):
        handle.remove()
    return [stream.reshape(len(ids), -1) for stream in seen]


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
    for name in KINDS["cache"]:
        assert pq.read_schema(folder / f"{name}.parquet").equals(TABLES[name])
    found = manifest(folder)
    assert found["status"] == "complete"
    assert found["sites"] == [["embed", 0], ["resid_post", 2], ["resid_post", 3]]
    assert set(found["prompt_sha256"]) == {row[0] for row in ROWS}
    assert [identity["passed"] for identity in found["gate"]] == [True] * 5
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


@pytest.mark.parametrize("phase", ["prompt", "generated"])
def test_means_are_those_of_each_prompts_cells(phase: str, make: Callable[..., Path]) -> None:
    files = open_cache(make(positions="answer")).files
    vectors = files.layer("resid_post", 2).astype(np.float64)
    means = files.means("resid_post", 2, phase)
    for row, item in enumerate(files.prompt_ids):
        own = vectors[(files.cells.prompt_id == item).to_numpy()]
        own = own[:1] if phase == "prompt" else own[1:]  # the prompt's last position, the answer's
        assert files.n_tokens(phase)[row] == len(own)
        if len(own):
            np.testing.assert_allclose(means[row], own.sum(0) / len(own), rtol=1e-6)
        else:
            assert np.isnan(means[row]).all()


# --- the lens from the cache is the lens live ---------------------------------------------------

OF_THE_MODEL = {"kl_bits", "js_bits"}  # they involve the model's own logits


def require_equal(cached: pd.DataFrame, live: pd.DataFrame, exactly: bool) -> None:
    keys = ["prompt_id", "lens", "position", "point", "layer"]
    cached, live = (f.sort_values(keys).reset_index(drop=True) for f in (cached, live))
    assert cached.columns.tolist() == live.columns.tolist()
    for name in live.columns:
        a, b = cached[name].tolist(), live[name].tolist()
        if exactly and name not in OF_THE_MODEL:
            np.testing.assert_equal(a, b, err_msg=name)
        elif name.endswith("_bits"):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5, err_msg=name)


def test_the_lens_reads_from_the_cache_what_it_computes_live(
    family: Case, prompts: Path, tmp_path: Path
) -> None:
    run_cache(spec_of(family.folder, prompts, positions="all"), tmp_path)
    require_live(open_cache(tmp_path), load_model(family.folder, device="cpu"), "all")


def test_the_last_positions_are_read_alike(make: Callable[..., Path], model: LensModel) -> None:
    require_live(open_cache(make()), model, "last")


def require_live(cache: ResidualCache, model: LensModel, positions: str) -> None:
    """Every statistic of every lens, from the cache and from a forward pass over equal batches."""
    lenses: tuple[Any, ...] = ("final", "next", "raw")
    cached = lens_from_cache(cache, model, lens=lenses, batch_tokens=BATCH_TOKENS)
    asked = [Prompt(item, text, "capital", answer) for item, text, answer in ROWS]
    live = logit_lens(model, asked, lens=lenses, positions=positions, batch_tokens=BATCH_TOKENS)
    require_equal(cached.to_pandas(), live.to_pandas(), exactly=True)
    assert cached.prompts.equals(live.prompts)


def test_without_equal_batches_it_is_the_same_within_rounding(
    make: Callable[..., Path], model: LensModel
) -> None:
    cached = lens_from_cache(open_cache(make(positions="all")), model, layers=[1, 3])
    asked = [Prompt(item, text, "capital", answer) for item, text, answer in ROWS]
    live = logit_lens(model, asked, layers=[1, 3], batch_tokens=1)
    require_equal(cached.to_pandas(), live.to_pandas(), exactly=False)


@pytest.mark.parametrize("positions", ["last", "all"])
def test_the_record_from_a_cache_is_that_of_a_live_run(
    positions: str, make: Callable[..., Path], llama: Case, prompts: Path, tmp_path: Path
) -> None:
    heat_maps = 12 if positions == "all" else 0
    spec = RunSpec("live", (str(llama.folder),), str(prompts), None, heatmap_prompts=heat_maps)
    spec = dataclasses.replace(spec, batch_tokens=BATCH_TOKENS)
    live = run(spec, tmp_path / "live").folders[0]
    made = run_cached(str(llama.folder), make(positions=positions), tmp_path / "cached")
    folder, problems = made
    assert problems == []
    assert manifest(folder)["settings"]["residuals_from"] == "cache"
    assert manifest(folder)["gate"] == manifest(make(positions=positions))["gate"]
    for name in KINDS["lens"]:
        a, b = (pq.read_table(f / f"{name}.parquet") for f in (folder, live))
        assert a.schema.equals(b.schema)
        if name == "lens":
            require_equal(a.to_pandas(), b.to_pandas(), exactly=False)
            assert a["prompt_id"].equals(b["prompt_id"])  # the order too
        else:
            assert a.equals(b)
    before = (folder / "manifest.json").read_bytes()
    assert run_cached(str(llama.folder), make(positions=positions), tmp_path / "cached") == made
    assert (folder / "manifest.json").read_bytes() == before  # nothing was done again


def test_a_record_needs_every_layer_and_a_lens_the_last(
    make: Callable[..., Path], llama: Case, model: LensModel, tmp_path: Path
) -> None:
    with pytest.raises(RecordsError, match=r"lacks layer 1, and a record's milestones"):
        run_cached(str(llama.folder), make(positions="all", layers=(0, 2, 3)), tmp_path)
    cache = open_cache(make(layers=(0, 1)))
    with pytest.raises(RecordsError, match=r"lacks layer 3, the last one"):
        lens_from_cache(cache, model)


def test_positions_that_were_not_kept_are_refused(
    make: Callable[..., Path], model: LensModel
) -> None:
    cache = open_cache(make())
    (prompt,) = [p for p in cached_prompts(cache, model) if p.prompt.id == "germany"]
    with pytest.raises(RecordsError, match=r"position 1 of prompt 'germany': it keeps --positions"):
        cache.residuals(model, [prompt.prompt.id], [[1]], model.sites())


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
    text = (folder / "manifest.json").read_text()
    (folder / "manifest.json").write_text(text.replace('"complete"', '"running"'))
    with pytest.raises(RecordsError, match="is not complete"):
        open_cache(folder)


# --- damage is named, and no more than it is ----------------------------------------------------

SITES = [Site("embed", 0), *(Site("resid_post", layer) for layer in (1, 2, 3))]


def alter(path: Path, tensor: str) -> None:
    """Flip the lowest bit of one number of one tensor; the file's shape stays."""
    with safe_open(path, framework="pt") as shard:
        value = shard.get_tensor(tensor)
    data = bytearray(path.read_bytes())
    raw = value.reshape(-1).view(torch.uint8).numpy().tobytes()
    data[data.index(raw)] ^= 1
    path.write_bytes(bytes(data))


@pytest.mark.parametrize("layer", [0, 2])
def test_an_altered_layer_is_named_and_the_others_are_read_all_the_same(
    layer: int, copy_of: Callable[..., Path], make: Callable[..., Path]
) -> None:
    whole = open_cache(make(positions="all"))
    folder = copy_of(positions="all")
    alter(folder / shard_name(1), f"{SITES[layer].point}.{layer}")
    cache = open_cache(folder)
    for site in SITES:
        if site.layer == layer:
            with pytest.raises(
                RecordsError, match=rf"000001\.safetensors: its tensor .*\.{layer} "
            ):
                cache.layer(site)
        else:
            assert torch.equal(cache.layer(site), whole.layer(site))
    wrong = {file: what for file, what in cache.files.verify() if what}
    assert list(wrong) == [shard_name(1)]


def test_only_the_bytes_of_the_layer_asked_for_are_mapped(
    copy_of: Callable[..., Path], make: Callable[..., Path]
) -> None:
    """With every other tensor overwritten, the layer reads as before."""
    whole = open_cache(make(positions="all"))
    folder = copy_of(positions="all")
    for path in (folder / "residuals").iterdir():
        for site in SITES:
            if site.layer != 2:
                alter(path, f"{site.point}.{site.layer}")
    assert torch.equal(open_cache(folder).layer(2), whole.layer(2))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def scribble(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[12] ^= 0xFF
    path.write_bytes(bytes(data))


def strip(path: Path) -> None:
    """The same tensors without what the shard says of itself."""
    save_file(load_file(path), path)


def swap(path: Path) -> None:
    path.write_bytes((path.parent / "000000.safetensors").read_bytes())


@pytest.mark.parametrize("damage", [Path.unlink, cut, empty, scribble, strip, swap])
def test_a_damaged_shard_is_named(
    damage: Callable[[Path], Any], copy_of: Callable[..., Path]
) -> None:
    folder = copy_of(positions="all")
    damage(folder / shard_name(1))
    cache = open_cache(folder)
    with pytest.raises(RecordsError, match=r"residuals/000001\.safetensors: it is "):
        cache.layer(2)
    assert [file for file, what in cache.files.verify() if what] == [shard_name(1)]


def test_a_shard_of_another_cache_is_named(
    copy_of: Callable[..., Path], make: Callable[..., Path]
) -> None:
    """Its checksums hold; it is of other layers of the same prompts."""
    folder = copy_of()
    other = make(layers=(0, 2, 3)) / shard_name(1)
    shutil.copy(other, folder / shard_name(1))
    with pytest.raises(RecordsError, match=r"000001\.safetensors: it is a shard of another record"):
        open_cache(folder).layer(3)


def test_the_kept_layers_of_a_trace_are_of_the_same_format(llama: Case, tmp_path: Path) -> None:
    path = tmp_path / "in.csv"
    pd.DataFrame({"id": ["a", "b"], "prompt": ["Rome", "The capital of Germany is"]}).to_csv(
        path, index=False
    )
    spec = InferenceSpec(path, tmp_path / "out.csv", trace=tmp_path / "t", trace_layers=(0, 2))
    loaded = load_quantized(str(llama.folder), 32, device="cpu")
    run_inference(loaded, dataclasses.replace(spec, decoding=short(3)))
    files = ResidualFiles(tmp_path / "t")
    assert files.sites == [("embed", 0), ("resid_post", 2)]
    responses = pq.read_table(tmp_path / "t" / "responses.parquet").to_pylist()
    for row in responses:
        ids = row["prompt_ids"] + row["token_ids"]
        own = files.cells[files.cells.prompt_id == row["prompt_id"]]
        assert own.position.tolist() == list(range(len(ids)))
        stream = layers_of_hugging_face(llama, ids)[2]
        found = files.at("resid_post", 2, own.index.to_numpy())
        np.testing.assert_allclose(found, stream, rtol=1e-3, atol=1e-4)
    alter(tmp_path / "t" / shard_name(0), "resid_post.2")
    with pytest.raises(RecordsError, match="was altered"):
        ResidualFiles(tmp_path / "t").layer("resid_post", 2)


def short(n: int) -> Any:
    from lensbench.quantized.generation.generate import Decoding

    return Decoding(max_new_tokens=n)


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
    folder = tmp_path_factory.mktemp("bound")
    exact = torch.tensor([numbers])
    write_shard(folder, 0, {"resid_post.1": exact.to(torch.bfloat16)}, "r")
    with safe_open(folder / shard_name(0), framework="pt") as shard:
        found = shard.get_tensor("resid_post.1").double()
    bound = exact.double().abs() * 2.0**-8 + 1e-40
    assert ((found - exact.double()).abs() <= bound).all()


def test_a_cache_whose_last_layer_was_rounded_too_far_is_not_read_by_the_lens(
    copy_of: Callable[..., Path], model: LensModel
) -> None:
    folder = copy_of()
    changed = manifest(folder) | {"stored_kl_bits": 0.5}
    (folder / "manifest.json").write_text(json.dumps(changed))
    with pytest.raises(GateError, match=r"on disk = the model's output: error 0\.5"):
        lens_from_cache(open_cache(folder), model)


# --- bad input ----------------------------------------------------------------------------------


def test_all_problems_with_the_settings_come_at_once(llama: Case, prompts: Path) -> None:
    spec = spec_of(llama.folder, prompts, positions="first", residual_dtype="int8", limit=0)
    with pytest.raises(InputProblems) as caught:
        run_cache(spec, Path("nowhere"))
    assert {p.where for p in caught.value.problems} == {"positions", "residual_dtype", "limit"}


def test_layers_that_do_not_exist_are_refused_before_anything_is_written(
    llama: Case, prompts: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputProblems, match="has no layer 4, 9"):
        run_cache(spec_of(llama.folder, prompts, layers=(1, 4, 9)), tmp_path)
    assert contents(tmp_path) == {}


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
    with pytest.raises(GateError):
        run_cache(spec_of(overflowing, path), tmp_path / "c")
    assert contents(tmp_path / "c") == {}


def test_a_disk_that_cannot_hold_it_is_refused_with_the_sum(
    llama: Case, prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=(64 << 20) + 2000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    said: list[str] = []
    with pytest.raises(RecordsError, match=r"6 cells x 4 sites x 32 numbers x 4 bytes = 0\.0 MB"):
        run_cache(spec_of(llama.folder, prompts), tmp_path, notify=said.append)
    assert said == []
    assert contents(tmp_path) == {}


def test_the_size_is_said_before_the_run_and_is_the_size(
    llama: Case, prompts: Path, tmp_path: Path
) -> None:
    said: list[str] = []

    def progress(name: str, done: int, total: int) -> None:
        assert len(said) == 1

    run_cache(spec_of(llama.folder, prompts, positions="all"), tmp_path, progress, said.append)
    cache = open_cache(tmp_path)
    numbers = sum(cache.layer(site).numel() for site in cache.sites)
    n_cells = len(cache.cells)
    assert said[0].startswith(f"{n_cells} cells x 4 sites x 32 numbers x 4 bytes = ")
    assert n_cells * 4 * 32 == numbers
    overhead = cache.files.n_bytes - 4 * numbers
    assert 0 < overhead < 2000 * len(list((tmp_path / "residuals").iterdir()))


# --- interruptions ------------------------------------------------------------------------------

# A process that has imported everything and forks for each run: an interruption costs no imports.
FORKING = """
import json, os, resource, sys
from pathlib import Path
from lensbench.studies.cache import CacheSpec, run_cache
from lensbench.models.load import load_model
load_model(sys.argv[1])  # transformers imports half of itself only now
for line in sys.stdin:
    order = json.loads(line)
    child = os.fork()
    if child == 0:
        if order["largest_file"]:
            resource.setrlimit(resource.RLIMIT_FSIZE, (order["largest_file"],) * 2)
        try:
            run_cache(CacheSpec(**order["spec"]), Path(order["out"]))
            os._exit(0)
        except Exception as error:
            Path(order["out"], "said.txt").write_text(f"{type(error).__name__}: {error}")
            os._exit(2)
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


class Runner:
    """Caches made in processes that can be killed."""

    def __init__(self, spec: CacheSpec) -> None:
        self.spec = dataclasses.asdict(spec)
        pipe = subprocess.PIPE
        command = [sys.executable, "-c", FORKING, spec.model]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        self.server = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environment)

    def run(self, out: Path, when: Callable[[], bool] | None = None, largest_file: int = 0) -> int:
        """One run, killed as soon as `when()` holds; its exit status."""
        assert self.server.stdin is not None
        assert self.server.stdout is not None
        out.mkdir(exist_ok=True)
        order = {"spec": self.spec, "out": str(out), "largest_file": largest_file}
        self.server.stdin.write(json.dumps(order) + "\n")
        self.server.stdin.flush()
        child = int(self.server.stdout.readline())
        while when is not None and not when():
            time.sleep(0.0005)
        if when is not None:
            os.kill(child, signal.SIGKILL)
        return int(self.server.stdout.readline())


@pytest.fixture(scope="module")
def one_by_one(llama: Case, prompts: Path) -> CacheSpec:
    """One prompt a batch, so that there are many moments to be killed at."""
    return spec_of(llama.folder, prompts, batch_tokens=1, positions="all")


@pytest.fixture(scope="module")
def runner(one_by_one: CacheSpec) -> Iterator[Runner]:
    made = Runner(one_by_one)
    yield made
    made.server.kill()
    made.server.wait()


@pytest.fixture(scope="module")
def undisturbed(runner: Runner, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("undisturbed")
    assert runner.run(out) == 0
    return contents(out)


def n_parts(out: Path) -> int:
    return len(list(out.glob("parts/[0-9]*[0-9].parquet")))


def is_complete(out: Path) -> bool:
    path = out / "manifest.json"
    return path.exists() and json.loads(path.read_text())["status"] == "complete"


def kill_at_random(runner: Runner, out: Path, seed: int, times: int) -> None:
    chance = random.Random(seed)
    for _ in range(times):
        more = n_parts(out) + chance.randrange(3)
        pause = chance.choice([0, 0.003, 0.02]) * chance.random()

        def moment(more: int = more, pause: float = pause) -> bool:
            there = n_parts(out) >= more or is_complete(out)
            return there and time.sleep(pause) is None

        runner.run(out, moment)


def test_kills_at_random_moments_change_no_byte(
    runner: Runner, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    kill_at_random(runner, tmp_path / "c", seed=0, times=6)
    assert runner.run(tmp_path / "c") == 0
    assert contents(tmp_path / "c") == undisturbed
    assert not list((tmp_path / "c").rglob(".*.part"))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 9))
def test_many_kills_at_random_moments_change_no_byte(
    seed: int, runner: Runner, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    kill_at_random(runner, tmp_path / "c", seed, times=12)
    assert runner.run(tmp_path / "c") == 0
    assert contents(tmp_path / "c") == undisturbed


def test_a_resumed_cache_keeps_what_was_there(
    runner: Runner, undisturbed: dict[str, bytes], one_by_one: CacheSpec, tmp_path: Path
) -> None:
    assert runner.run(tmp_path / "c", lambda: n_parts(tmp_path / "c") >= 3) == -signal.SIGKILL
    with pytest.raises(RecordsError, match="is not complete"):
        open_cache(tmp_path / "c")
    there = n_parts(tmp_path / "c")
    run_cache(one_by_one, tmp_path / "c")
    assert manifest(tmp_path / "c")["resumed_batches"] == there >= 3
    assert contents(tmp_path / "c") == undisturbed


def test_a_disk_that_fills_up_on_the_way_loses_nothing(
    runner: Runner, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    """The largest shard, which comes last, does not fit; the index parts do."""
    sizes = sorted(len(data) for name, data in undisturbed.items() if "residuals/" in name)
    out = tmp_path / "c"
    assert runner.run(out, largest_file=sizes[-1] - 1) == 2
    said = (out / "said.txt").read_text()
    assert said.startswith("RecordsError")
    assert "File too large" in said
    assert "run the same command again to go on" in said
    assert n_parts(out) == len(ROWS) - 1
    assert runner.run(out) == 0
    assert contents(out) == undisturbed


# --- the demo model -----------------------------------------------------------------------------


@pytest.mark.real
def test_the_demo_model_from_a_cache(smollm: LensModel, tmp_path: Path) -> None:
    path = write_prompts(tmp_path / "p.csv", ROWS[:1])
    run_cache(CacheSpec("smollm2-135m", str(path), dtype="float32", device="cpu"), tmp_path / "c")
    found = lens_from_cache(open_cache(tmp_path / "c"), smollm).to_pandas()
    last = found.sort_values("layer").iloc[-1]
    assert (last.top_tokens[0], last.answer_rank) == (" Berlin", 1)
    asked = Prompt("germany", ROWS[0][1], "capital", "Berlin")
    live = logit_lens(smollm, [asked], positions="last").to_pandas()
    require_equal(found, live, exactly=True)


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
