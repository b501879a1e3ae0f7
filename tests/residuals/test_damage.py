"""Damage to a residual cache is named, and no more than it is."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from lensbench.errors import RecordsError
from lensbench.models.sites import Site
from lensbench.quantized.generation.infer import run_inference
from lensbench.quantized.generation.spec import InferenceSpec
from lensbench.quantized.loading.load import load_quantized
from lensbench.records.residuals import ResidualFiles, shard_name
from lensbench.residuals.store import open_cache
from tests.harness.reference import layers_of_hugging_face
from tests.harness.tiny import Case

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
    alter(folder / shard_name(1), f"{SITES[layer].kind}.{layer}")
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
                alter(path, f"{site.kind}.{site.layer}")
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
    run_inference(loaded, spec.changed(decoding=short(3)))
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
