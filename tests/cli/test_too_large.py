"""A model that is too large is refused before a byte of its weights is read; the remedy works."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from lensbench.checkpoints import identity, placement
from lensbench.checkpoints.families import weight_bytes
from lensbench.quantized.precision import sizes_of
from tests.harness.files import manifest
from tests.harness.program import Program
from tests.harness.tiny import Case


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    found: list[str] = []
    own = identity.sha256_of
    monkeypatch.setattr(identity, "sha256_of", lambda path: found.append(path.name) or own(path))
    monkeypatch.setattr(identity, "_known", {})
    return found


@pytest.fixture
def room(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Sets the bytes that there are."""

    def there(n_bytes: int) -> None:
        monkeypatch.setattr(placement, "memory_available", lambda device: n_bytes)

    return there


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.csv"
    path.write_text("id,prompt,answer\na,The capital of Italy is,Rome\n")
    return path


@pytest.mark.parametrize(
    "verb",
    [
        pytest.param(("lens",), marks=pytest.mark.slow),  # it reports as well
        ("cache",),
        pytest.param(("attention", "--no-nulls", "--repeat-tokens", "15"), marks=pytest.mark.slow),
    ],
)
def test_the_dtype_that_is_named_can_be_given_to_the_same_command(
    llama: Case,
    prompts: Path,
    tmp_path: Path,
    hashed: list[str],
    room: Callable[[int], None],
    lensbench: Program,
    verb: tuple[str, ...],
) -> None:
    name, *more = verb
    out = tmp_path / "out"
    asked = (name, llama.folder, "--prompts", prompts, "-o", out, "--device", "cpu", *more)
    room(3 * weight_bytes(1, "int8") * sum(w.numel() for w in llama.hf.parameters()))
    refused = lensbench(*asked)
    assert refused.status != 0 and "Try --dtype bfloat16" in refused.said
    assert not hashed and not out.exists()
    assert lensbench(*asked, "--dtype", "bfloat16").status == 0
    assert hashed
    (written,) = {path.parent for path in out.rglob("manifest.json")}
    assert manifest(written)["model"]["dtype"] == "bfloat16"


@pytest.mark.parametrize("verb", ["sample", "embed", "classify"])
def test_what_names_no_dtype_is_refused_before_it_is_hashed(
    llama: Case,
    prompts: Path,
    tmp_path: Path,
    hashed: list[str],
    room: Callable[[int], None],
    lensbench: Program,
    verb: str,
) -> None:
    out = tmp_path / "out"
    room(1000)
    given = {
        "sample": [llama.folder, "--prompts", prompts, "--no-tasks", "--continued", 0],
        "embed": ["--contextual", llama.folder, "--encoder"],
        "classify": ["--causal", llama.folder, "--methods", "zero_shot"],
    }
    refused = lensbench(verb, *given[verb], "-o", out, "--device", "cpu")
    assert refused.status != 0 and "on cpu are available" in refused.said
    assert not [name for name in hashed if name.endswith(".safetensors")]
    assert not list(out.rglob("manifest.json"))


@pytest.mark.parametrize("verb", ["infer", "train", "eval"])
def test_the_second_path_refuses_before_it_hashes(
    llama: Case,
    prompts: Path,
    tmp_path: Path,
    hashed: list[str],
    room: Callable[[int], None],
    lensbench: Program,
    verb: str,
) -> None:
    pairs = tmp_path / "pairs.jsonl"
    pair = {"instruction": "The capital of Italy?", "response": "Rome"}
    pairs.write_text("".join(json.dumps({"id": str(i)} | pair) + "\n" for i in range(4)))
    out = tmp_path / ("out.csv" if verb == "infer" else "out")
    room(sizes_of(llama.hf.config).loading_bytes(8))
    given = {"infer": [prompts], "train": [pairs, "--eval-share", 0], "eval": ["--data", pairs]}
    asked = (verb, llama.folder, *given[verb], "-o", out, "--bits", 32, "--device", "cpu")
    refused = lensbench(*asked)
    assert refused.status != 0 and "Try --bits 8" in refused.said
    assert not [name for name in hashed if name.endswith(".safetensors")]
    assert not out.exists()
