"""A model that is too large is refused before a byte of its weights is read; the remedy works."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lensbench.checkpoints import identity, placement
from lensbench.checkpoints.families import weight_bytes
from lensbench.checkpoints.ref import ModelRef
from lensbench.errors import ModelError
from lensbench.models.adapted import require_loadable_with_control
from lensbench.quantized import precision
from lensbench.quantized.peaks import Batch, Use, Verb
from lensbench.quantized.precision import sizes_of
from tests.harness.encoders import save_encoder
from tests.harness.program import Program
from tests.harness.tiny import Case

MODEL, OUT, FILES = "MODEL", "OUT", "FILES"
SHORT = ("--max-new-tokens", 4, "--bits", 32)  # the stand-in has a window of 64 tokens
# What is typed for each verb that loads a decoder; the second path's say their bits.
VERBS: dict[str, tuple[object, ...]] = {
    "lens": ("lens", MODEL, "The capital of Italy is"),
    "lens over prompts": ("lens", MODEL, "--prompts", f"{FILES}/prompts.csv", "-o", OUT),
    "walk": ("walk", MODEL, "The capital of Italy is", "-o", f"{OUT}.html"),
    "check": ("check", MODEL),
    "cache": ("cache", MODEL, "--prompts", f"{FILES}/prompts.csv", "-o", OUT),
    "attention": (
        *("attention", MODEL, "--prompts", f"{FILES}/prompts.csv", "-o", OUT),
        *("--no-nulls", "--repeat-tokens", 15),
    ),
    "fit": (
        *("fit", MODEL, "-o", OUT, "--no-untrained", "--directions", 0, "--window", 16),
        *("--tokens", 600, "--choose-tokens", 64, "--test-tokens", 64),
    ),
    "sample": (
        *("sample", MODEL, "--prompts", f"{FILES}/prompts.csv", "--no-tasks", "--continued", 0),
        *("-o", OUT),
    ),
    "embed": ("embed", "--contextual", MODEL, "--encoder", "-o", OUT),
    "classify": ("classify", "--causal", MODEL, "--methods", "zero_shot", "-o", OUT),
    "infer": (*("infer", MODEL, f"{FILES}/prompts.csv", "-o", f"{OUT}.csv"), *SHORT),
    "train": ("train", MODEL, f"{FILES}/pairs.jsonl", "--eval-share", 0, "-o", OUT, "--bits", 32),
    "eval": (*("eval", MODEL, "--data", f"{FILES}/pairs.jsonl", "-o", OUT), *SHORT),
    "transfer": ("run", f"{FILES}/transfer", "-o", OUT),
}
# The same of text encoders, which are read in float32 only.
ENCODERS: dict[str, tuple[object, ...]] = {
    "attention": ("attention", MODEL, "--prompts", f"{FILES}/prompts.csv", "-o", OUT, "--no-nulls"),
    "embed": ("embed", "--contextual", MODEL, "--encoder", "-o", OUT),
    "classify": ("classify", "--encoder", MODEL, "--methods", "probe", "-o", OUT),
}
NO_WAY_OUT = {"transfer"}  # its file says the format
NO_DEVICE = {"transfer", "train"}  # its file says it; one alone, and it says so


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files of weights that are hashed."""
    found: list[str] = []
    own = identity.sha256_of

    def noted(path: Path) -> str:
        found.extend([path.name] if path.suffix == ".safetensors" else [])
        return own(path)

    monkeypatch.setattr(identity, "sha256_of", noted)
    monkeypatch.setattr(identity, "_known", {})
    return found


@pytest.fixture
def room(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Sets the bytes that there are; of a tiny model no more counts than its weights."""
    monkeypatch.setattr(precision, "_LOADING", 0)

    def there(n_bytes: int) -> None:
        monkeypatch.setattr(placement, "memory_available", lambda device: n_bytes)

    return there


@pytest.fixture
def typed(tmp_path: Path, lensbench: Program) -> Callable[..., Any]:
    """Runs what is typed for a verb, of a model, in a folder with what it reads."""
    files = tmp_path / "files"
    (files / "transfer").mkdir(parents=True)
    (files / "prompts.csv").write_text("id,prompt,answer\na,The capital of Italy is,Rome\n")
    pair = {"instruction": "The capital of Italy?", "response": "Rome"}
    pairs = "".join(json.dumps({"id": str(i)} | pair) + "\n" for i in range(4))
    (files / "pairs.jsonl").write_text(pairs)

    def run(words: tuple[object, ...], model: object, *more: object, device: str = "cpu") -> Any:
        spec = f'kind = "transfer"\nmodels = ["{model}", "{model}@8"]\nlenses = ["linear"]\n'
        (files / "transfer" / "analysis.toml").write_text(spec)
        places = {MODEL: str(model), OUT: str(tmp_path / "out"), FILES: str(files)}
        filled = [re.sub("|".join(places), lambda m: places[m[0]], str(word)) for word in words]
        named = () if words[0] == "run" else ("--device", device)
        return lensbench(*filled, *named, *more)

    return run


@pytest.mark.parametrize("verb", VERBS)
def test_a_model_is_refused_before_it_is_hashed(
    llama: Case,
    tmp_path: Path,
    hashed: list[str],
    room: Callable[[int], None],
    typed: Callable[..., Any],
    verb: str,
) -> None:
    room(1000)
    refused = typed(VERBS[verb], llama.folder)
    assert refused.status != 0 and "on cpu are available" in refused.said
    assert not hashed
    assert not [*tmp_path.rglob("manifest.json"), *tmp_path.rglob("out*.csv")]


@pytest.mark.parametrize("verb", sorted(VERBS.keys() - NO_DEVICE))
def test_a_device_that_is_not_there_is_refused_before_anything_is_hashed(
    llama: Case, tmp_path: Path, hashed: list[str], typed: Callable[..., Any], verb: str
) -> None:
    nowhere = tmp_path / "nowhere"
    refused = typed(VERBS[verb], llama.folder, device=f"cpu,disk={nowhere}")
    assert refused.status != 0 and str(nowhere) in "".join(refused.said.split()), refused.said
    assert not hashed
    assert not [*tmp_path.rglob("manifest.json"), *tmp_path.rglob("out*.csv")]


@pytest.mark.parametrize("verb", ENCODERS)
def test_an_encoder_is_refused_before_it_is_hashed_and_no_format_is_named(
    tmp_path: Path,
    hashed: list[str],
    room: Callable[[int], None],
    typed: Callable[..., Any],
    verb: str,
) -> None:
    room(1000)
    refused = typed(ENCODERS[verb], save_encoder("bert", tmp_path / "bert"))
    assert refused.status != 0 and "on cpu are available" in refused.said
    assert not re.search("--dtype|--bits|NAME@", refused.said)
    assert not hashed and not [*tmp_path.rglob("manifest.json")]


@pytest.mark.parametrize("verb", ["attention", "fit"])
def test_where_only_the_control_is_too_large_it_can_be_left_out(
    llama: Case,
    room: Callable[[int], None],
    monkeypatch: pytest.MonkeyPatch,
    verb: Verb,
) -> None:
    monkeypatch.setattr(placement, "PROGRAM", 0)  # a tenth of it is more than a tiny model
    sizes, ref = sizes_of(llama.hf.config), ModelRef.of(str(llama.folder))
    batch, cpu = Batch(1, 8, control=False), placement.Placement.of("cpu")
    asked, weights = Use(verb, replace(batch, control=True)), sizes.weight_bytes(32)
    alone = placement.least_bytes(weights, Use(verb, batch).beside(sizes, 32), cpu)
    room(alone)
    require_loadable_with_control(ref, "float32", "cpu", Use(verb, batch), "--no-control")
    with pytest.raises(ModelError, match=r"untrained model beside .* available.* --no-control\.$"):
        require_loadable_with_control(ref, "float32", "cpu", asked, "--no-control")
    room(alone // 2)
    with pytest.raises(ModelError, match="available") as refused:
        require_loadable_with_control(ref, "float32", "cpu", asked, "--no-control")
    assert "--no-control" not in str(refused.value)
    room(placement.least_bytes(weights, asked.beside(sizes, 32), cpu))
    require_loadable_with_control(ref, "float32", "cpu", asked, "--no-control")


@pytest.mark.slow
@pytest.mark.parametrize("verb", sorted(VERBS.keys() - NO_WAY_OUT))
def test_what_the_refusal_names_can_be_given_to_the_same_command(
    llama: Case, room: Callable[[int], None], typed: Callable[..., Any], verb: str
) -> None:
    """Each remedy that is named, where the verb has it; the name always."""
    words = VERBS[verb]
    room(_needed(llama, 16))
    said = typed(words, llama.folder).said
    named = re.search(r"Try (--dtype bfloat16|--bits (\d+)) .*, or NAME@(\d+) where", said)
    assert named is not None, said
    option, bits, in_name = named.groups()
    bare = words[: words.index("--bits")] if "--bits" in words else words
    assert typed(bare, f"{llama.folder}@{in_name}").status == 0
    if "--bits" in words:
        assert bits == in_name
    elif option in typed((words[0], "--help"), llama.folder).said:
        assert typed(words, llama.folder, *option.split(), "--force").status == 0


def _needed(case: Case, bits: Any) -> int:
    sizes = sizes_of(case.hf.config)
    plain = weight_bytes(1, "bfloat16") * sum(w.numel() for w in case.hf.parameters())
    return max(sizes.loading_bytes(bits), plain)
