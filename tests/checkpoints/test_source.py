"""Names to folders, and what is said about a folder that would not load."""

from __future__ import annotations

import json
import shutil
import tomllib
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from lensbench.checkpoints.families import family_for_alias
from lensbench.checkpoints.source import (
    PACKAGED,
    PROVENANCE,
    Located,
    cache_dir,
    check_folder,
    converted_as_today,
    damage,
    gguf_file,
    locate,
)
from lensbench.errors import InputProblems, ModelError

ROOT = Path(__file__).parents[2]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LENSBENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The least that counts as a model."""
    path = tmp_path / "model"
    path.mkdir()
    (path / "config.json").write_text('{"model_type": "llama"}')
    (path / "tokenizer.json").write_text("{}")
    save_file({"a": torch.zeros(3, 4), "b": torch.ones(5)}, path / "model.safetensors")
    return path


def complaints(folder: Path, pull_name: str | None = None) -> str:
    with pytest.raises(InputProblems) as caught:
        check_folder(folder, pull_name)
    return str(caught.value)


def test_cache_dir_can_be_moved(cache: Path) -> None:
    assert cache_dir() == cache


def test_wheel_models_live_in_the_cache(cache: Path) -> None:
    assert locate("smollm2-135m").folder is None
    (cache / "models" / "smollm2-135m").mkdir(parents=True)
    found = locate("SmolLM2")
    assert found.folder == cache / "models" / "smollm2-135m"
    assert found.name == "smollm2-135m"
    assert found.hub_name is None


@pytest.mark.parametrize("extra", ["embed", "classify", "rag"])
def test_the_default_encoder_comes_with_each_extra_that_reads_it(extra: str) -> None:
    written = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    package = PACKAGED["all-minilm-l6-v2"][0]
    assert [one for one in written["optional-dependencies"][extra] if one.startswith(package)]


def test_hub_names_are_looked_up_without_network() -> None:
    for name in ("meta-llama/Meta-Llama-3-8B", "llama3-8b"):
        found = locate(name)
        assert (found.name, found.hub_name) == ("llama3-8b", "meta-llama/Meta-Llama-3-8B")
    unknown = locate("some-org/some-model-nobody-has")
    assert (unknown.folder, unknown.family) == (None, None)
    with pytest.raises(ModelError, match="lensbench pull some-org/some-model-nobody-has"):
        unknown.require_folder()


def test_folders_are_taken_as_given(
    folder: Path, monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    assert locate(str(folder)).folder == folder
    assert locate(str(folder)).require_folder() == folder
    monkeypatch.chdir(folder.parent)
    assert locate("./model").folder == Path("model")
    shutil.copytree(folder, folder.parent / "smollm2-135m")
    assert locate("smollm2-135m").folder is None  # the alias wins
    assert locate("./smollm2-135m").folder == Path("smollm2-135m")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("tinylama", "Did you mean tinyllama"),
        ("all-minilm", "Did you mean all-minilm-l6-v2"),
        ("qqqq", "a folder, or a hub name like org/model"),
        ("./nowhere", "no folder ./nowhere"),
        ("/a/b/c", "no folder /a/b/c"),
        ("org/bad name!", "not a hub name"),
        ("", "No model is called ''"),
    ],
)
def test_unknown_names_are_explained(name: str, words: str) -> None:
    with pytest.raises(ModelError) as caught:
        locate(name)
    assert words in str(caught.value)


def test_of_a_training_a_step_is_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    monkeypatch.chdir(folder.parent)
    for step in (0, 60, 9):
        shutil.copytree(folder, Path(f"pico0/step-{step:06d}"))
    Path("pico0/step-000099").mkdir()  # holds no model
    for name in ("pico0", "./pico0", "pico0/"):
        such = f"{name.rstrip('/')}/step-000060"
        message = f"{name} is a training; name a step of it, such as {such}."
        for wanted in (Located.require_folder, Located.require_tokenizer):
            with pytest.raises(ModelError) as caught:
                wanted(locate(name))
            assert str(caught.value) == message
        assert locate(such).require_folder() == Path(such)


def test_a_mistyped_step_is_not_to_be_pulled(
    folder: Path, monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    monkeypatch.chdir(folder.parent)
    shutil.copytree(folder, Path("pico0/step-000060"))
    with pytest.raises(ModelError) as caught:
        locate("pico0/step-00060").require_folder()
    assert str(caught.value) == (
        "pico0 is a folder here and has no step-00060; did you mean pico0/step-000060?"
    )
    with pytest.raises(ModelError, match=r"did you mean \./pico0/step-000060\?"):
        locate("./pico0/step-00060")
    with pytest.raises(ModelError, match="lensbench pull pico0/gemma"):  # of the hub, it may be
        locate("pico0/gemma").require_folder()


def test_a_file_is_not_a_folder(folder: Path) -> None:
    with pytest.raises(ModelError, match="Give the folder that holds it"):
        locate(str(folder / "config.json"))
    with pytest.raises(ModelError, match="no folder"):
        check_folder(folder / "nothing")


def test_whole_folder_passes(folder: Path) -> None:
    check_folder(folder)


def test_all_problems_come_at_once(folder: Path) -> None:
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        (folder / name).unlink()
    message = complaints(folder)
    assert "3 problems with" in message
    assert "config.json: is missing" in message
    assert "no tokenizer" in message
    assert "no weights" in message
    assert "lensbench pull mine" in complaints(folder, pull_name="mine")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "consolidated.00.pth"])
def test_pickles_are_refused_with_the_way_to_convert(folder: Path, name: str) -> None:
    (folder / "model.safetensors").unlink()
    (folder / name).write_bytes(b"\x80\x04")
    message = complaints(folder)
    assert name in message
    assert "safetensors or GGUF" in message
    assert "save_pretrained" in message


def test_pickles_beside_safetensors_do_not_matter(folder: Path) -> None:
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04")
    check_folder(folder)


@pytest.mark.parametrize("keep", [-1, -60, 40, 5, 0])
def test_cut_off_weights_are_found(folder: Path, keep: int) -> None:
    path = folder / "model.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:keep] if keep else b"")
    message = complaints(folder)
    assert "model.safetensors" in message
    assert f"{path.stat().st_size:,}" in message
    if keep < 0:
        assert f"expected {len(whole):,} bytes, found {len(whole) + keep:,}" in message


def test_other_damage_is_found(folder: Path) -> None:
    path = folder / "model.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole + b"x")
    assert "longer than its header says" in str(damage(path))
    path.write_bytes(whole[:8] + b"?" + whole[9:])
    assert "damaged header" in str(damage(path))
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    assert "git-lfs pointer" in str(damage(path))
    path.unlink()
    path.symlink_to(folder / "gone")
    assert "link to a file that is not there" in str(damage(path))


def test_missing_shards_are_listed(folder: Path) -> None:
    index = folder / "model.safetensors.index.json"
    (folder / "model.safetensors").rename(folder / "model-00001-of-00003.safetensors")
    names = [f"model-0000{number}-of-00003.safetensors" for number in (1, 2, 3)]
    index.write_text(json.dumps({"weight_map": dict(zip("abc", names, strict=True))}))
    message = complaints(folder)
    assert f"2 of 3 shards are missing: {names[1]}, {names[2]}" in message
    for name in names[1:]:
        shutil.copy(folder / names[0], folder / name)
    check_folder(folder)
    index.write_text("[]")
    assert "is not a list of shards" in complaints(folder)


def test_an_adapter_is_not_a_model(folder: Path) -> None:
    (folder / "config.json").rename(folder / "adapter_config.json")
    assert "an adapter, not a model" in complaints(folder)


def test_one_gguf_file_is_a_model_and_two_are_not(tmp_path: Path) -> None:
    (tmp_path / "a.gguf").write_bytes(b"GGUF")
    check_folder(tmp_path)
    assert gguf_file(tmp_path) == tmp_path / "a.gguf"
    (tmp_path / "b.gguf").write_bytes(b"GGUF")
    assert "more than one GGUF" in complaints(tmp_path)


def test_a_model_that_an_older_version_converted_is_converted_again(tmp_path: Path) -> None:
    """SmolLM2's first conversion lost how its tokenizer splits digits."""
    family = family_for_alias("smollm2-135m")
    assert family is not None
    for made, today in (({}, False), ({"conversion": family.conversion}, True)):
        (tmp_path / PROVENANCE).write_text(json.dumps(made))
        assert converted_as_today(tmp_path, family) is today
    (tmp_path / PROVENANCE).unlink()
    assert converted_as_today(tmp_path, family)
