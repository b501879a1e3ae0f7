"""Loading: every way in gives the same model, and what is wrong is said before any number is."""

from __future__ import annotations

import gc
import hashlib
import json
import shutil
import subprocess
import sys
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

from lensbench import (
    GateError,
    InputProblems,
    Prompt,
    check_identities,
    load_model,
    logit_lens,
    residual_stream,
)
from lensbench.checkpoints.ref import ModelRef
from lensbench.errors import ModelError
from lensbench.lens.gate import require
from lensbench.models import load
from lensbench.models.load import Loader
from lensbench.models.model import LensModel
from lensbench.models.sites import Site
from lensbench.prompts.batch import make_batch
from lensbench.residuals.capture import capture
from tests.harness.families import distinct_families
from tests.harness.files import CONFIGS
from tests.harness.tiny import PROMPTS, Case, random_model, tokenizer


def logits_of(model: LensModel, ids: list[int]) -> torch.Tensor:
    batch = make_batch([0], [ids])
    return capture(model, batch, [], [(0, p) for p in range(len(ids))]).model_logits(slice(None))


def copy_of(case: Case, folder: Path, weights: dict[str, Any] | None = None) -> Path:
    """The checkpoint once more, with some of its weights changed: name -> function."""
    model = case.fresh_hf()
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name, change in (weights or {}).items():
            change(parameters[name])
    model.save_pretrained(folder)
    tokenizer(case.row.tokenizer).save_pretrained(folder)
    return folder


# Ways in.


@distinct_families
def test_a_hugging_face_object_is_the_same_model(family: Case) -> None:
    given = load_model(family.fresh_hf(), tokenizer=family.model.tokenizer, name="mine")
    require(check_identities(given, family.token_ids))
    assert (given.name, given.ref, given.model_type) == ("mine", None, family.row.model_type)
    ids = family.token_ids[0]
    assert torch.equal(logits_of(given, ids), logits_of(family.model, ids))


@distinct_families
def test_an_object_that_was_never_saved(family: Case) -> None:
    """Its config lists no architectures, which TransformerLens goes by."""
    model = random_model(family.row)
    given = load_model(model, tokenizer=tokenizer(family.row.tokenizer))
    require(check_identities(given, family.token_ids))


@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt2"])
@pytest.mark.parametrize("folded", [False, True])
def test_a_transformer_lens_object(tiny_case: Any, name: str, folded: bool) -> None:
    """Also in compatibility mode, where the norm's weight has moved into its neighbours."""
    from transformer_lens.model_bridge import TransformerBridge

    case = tiny_case(name)
    bridge = TransformerBridge.boot_transformers(
        f"some/{name}", hf_model=case.fresh_hf(), tokenizer=case.model.tokenizer, device="cpu"
    )
    if folded:
        bridge.enable_compatibility_mode(disable_warnings=True)
    given = load_model(bridge, name=name)
    require(check_identities(given, case.token_ids))
    assert given.readout.soft_cap == case.model.readout.soft_cap
    ids = case.token_ids[0]
    wanted, got = (logits_of(m, ids).log_softmax(-1) for m in (case.model, given))
    torch.testing.assert_close(got, wanted, atol=1e-4, rtol=0)  # folding re-rounds the weights


def test_an_alias_is_found_in_the_cache(
    llama: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LENSBENCH_CACHE", str(tmp_path))
    with pytest.raises(ModelError, match="lensbench pull smollm2-135m"):
        load_model("smollm2")
    shutil.copytree(llama.folder, tmp_path / "models" / "smollm2-135m")
    model = load_model("SmolLM2", device="cpu")
    assert model.name == "smollm2-135m"
    assert model.ref.folder == tmp_path / "models" / "smollm2-135m"


@pytest.mark.parametrize("name", ["pythia", "gpt2-small", "a folder, with spaces"])
def test_a_folder_may_have_any_name(gpt2: Case, tmp_path: Path, name: str) -> None:
    """TransformerLens knows old aliases like "pythia" and would take another model's config."""
    folder = shutil.copytree(gpt2.folder, tmp_path / name)
    model = load_model(folder, device="cpu")
    assert model.n_layers == 3
    require(check_identities(model, gpt2.token_ids))


@distinct_families
def test_loading_leaves_folder_and_tokenizer_as_they_were(family: Case, tmp_path: Path) -> None:
    """TransformerLens rewrites BOS settings; the caller's tokenizer must not see that."""
    folder = shutil.copytree(family.folder, tmp_path / "model")
    before = {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.iterdir()}
    fresh = AutoTokenizer.from_pretrained(folder)
    given = AutoTokenizer.from_pretrained(folder)
    model = load_model(folder, tokenizer=given, device="cpu")
    assert model.tokenizer is given
    for text in (*PROMPTS, "a", ""):
        wanted = fresh(text).input_ids
        assert given(text).input_ids == wanted
        assert family.model.tokenizer(text).input_ids == wanted
    assert (wanted == [1]) == (family.row.tokenizer != "bytes")
    after = {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.iterdir()}
    assert after == before


@pytest.mark.real
def test_the_demo_model_loads_by_its_alias(smollm: LensModel) -> None:
    assert (smollm.n_layers, smollm.d_model, smollm.d_vocab) == (30, 576, 49_152)
    assert smollm.n_params == 134_515_008
    assert smollm.dtype == torch.float32


# What a loaded model says of itself.


def test_a_model_describes_itself(family: Case) -> None:
    model, config = family.model, family.hf.config
    assert model.n_layers == config.num_hidden_layers
    assert model.d_model == config.hidden_size
    assert model.d_vocab == config.vocab_size
    assert model.n_ctx == config.max_position_embeddings
    assert model.n_params == family.hf.num_parameters()
    assert model.parallel == (family.row.ln2 is None)
    assert model.norm == family.row.norm
    cap = "cap 30" if family.name == "gemma2" else "no soft cap"
    assert repr(model) == (
        f"LensModel({family.name}: 3 layers x 32, {config.vocab_size} tokens, "
        f"{family.row.norm} norm, {cap}, float32 on cpu)"
    )


def test_sites_come_in_the_order_of_the_stream(llama: Case) -> None:
    sites = llama.model.sites(("resid_post", "resid_mid", "embed"))
    assert sites[:3] == [Site("embed", 0), Site("resid_mid", 1), Site("resid_post", 1)]
    assert sites[-1] == llama.model.final_site == Site("resid_post", 3)
    depths = [site.depth(3) for site in sites]
    assert depths == pytest.approx([0, 1 / 6, 1 / 3, 1 / 2, 2 / 3, 5 / 6, 1])
    assert llama.model.sites(("resid_mid",)) == [Site("resid_mid", i) for i in (1, 2, 3)]


# What is refused.


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_broken_weights_are_named(llama: Case, tmp_path: Path, value: float) -> None:
    def spoil(weight: torch.Tensor) -> None:
        weight.view(-1)[3] = value

    names = ["model.layers.1.mlp.up_proj.weight", "model.norm.weight"]
    folder = copy_of(llama, tmp_path / "broken", dict.fromkeys(names, spoil))
    with pytest.raises(ModelError, match="NaN or Inf in the weights of") as caught:
        load_model(folder, device="cpu")
    assert all(name in str(caught.value) for name in names)
    assert "model.layers.0" not in str(caught.value)


def test_an_unknown_field_is_named_and_can_be_vouched_for(llama: Case, tmp_path: Path) -> None:
    folder = shutil.copytree(llama.folder, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"final_logit_softcapping": 30.0}))
    with pytest.raises(ModelError, match="final_logit_softcapping: = 30"):
        load_model(folder, device="cpu")
    vouched = load_model(folder, allow_fields=["final_logit_softcapping"], device="cpu")
    assert vouched.n_layers == 3


@pytest.mark.parametrize(
    ("available", "words"),
    [
        (20e9, "Try --dtype bfloat16 (16.1 GB)"),
        (11e9, "It would fit in 8 bits: NAME@8 (10."),
        (9e9, "read its blocks from a disk: --device cpu,disk=FOLDER"),
    ],
)
def test_a_model_that_cannot_fit_is_refused_with_the_sum(
    llama: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, available: float, words: str
) -> None:
    """Before any weight is read: there are none of that size in this folder."""
    folder = shutil.copytree(llama.folder, tmp_path / "big")
    shutil.copy(CONFIGS / "llama3-8b.json", folder / "config.json")
    monkeypatch.setattr(
        "lensbench.checkpoints.placement.memory_available", lambda device: int(available)
    )
    with pytest.raises(ModelError) as caught:
        load_model(folder, device="cpu", dtype="float32")
    message = str(caught.value)
    assert "8.03e+09 parameters x 4 bytes (float32) = 32.1 GB" in message
    assert f"{available / 1e9:.1f} GB on cpu are available" in message
    assert words in message


def test_a_folder_without_a_tokenizer(llama: Case, tmp_path: Path) -> None:
    folder = shutil.copytree(llama.folder, tmp_path / "model")
    (folder / "tokenizer.json").unlink()
    with pytest.raises(InputProblems, match="no tokenizer") as caught:
        load_model(folder, device="cpu")
    assert str(folder) in str(caught.value)


def test_an_object_without_a_tokenizer(llama: Case) -> None:
    with pytest.raises(ModelError, match="Pass tokenizer="):
        load_model(llama.fresh_hf())


def test_an_architecture_whose_head_does_more_is_stopped_by_the_gate(tmp_path: Path) -> None:
    """BERT's head has a dense layer of its own; TransformerLens bridges it all the same."""
    from transformers import BertConfig, BertLMHeadModel

    small = {"vocab_size": 384, "hidden_size": 32, "num_hidden_layers": 2}
    config = BertConfig(**small, num_attention_heads=4, intermediate_size=48, is_decoder=True)
    BertLMHeadModel(config).save_pretrained(tmp_path)
    tokenizer("bytes").save_pretrained(tmp_path)
    model = load_model(tmp_path, device="cpu")
    with pytest.raises(GateError, match="lens 'final' at the last layer"):
        logit_lens(model, PROMPTS[0])


@pytest.mark.parametrize(
    ("how", "words"),
    [({"dtype": "int3"}, "is no dtype"), ({"device": "tpu:9"}, "is no device|There is no tpu")],
)
def test_bad_options(llama: Case, how: dict[str, str], words: str) -> None:
    with pytest.raises(ModelError, match=words):
        load_model(llama.folder, **how)  # type: ignore[arg-type]


# Float16 overflow, as with Gemma: the weights fit, the activations do not.


@pytest.fixture(scope="module")
def overflowing(tiny_case: Any, tmp_path_factory: pytest.TempPathFactory) -> LensModel:
    """Gemma 2 in float16, whose token for "gold" is too large once scaled by sqrt(d_model)."""
    case = tiny_case("gemma2")
    gold = case.model.tokenizer("is gold").input_ids[-1]

    def enlarge(weight: torch.Tensor) -> None:
        weight[gold] = 3e4 * weight[gold] / weight[gold].abs().max()

    folder = tmp_path_factory.mktemp("overflow") / "gemma2"
    copy_of(case, folder, {"model.embed_tokens.weight": enlarge})
    return load_model(folder, dtype="float16", device="cpu", name="hot")


@pytest.mark.parametrize("positions", ["all", "last"])
@pytest.mark.parametrize("padding_side", ["left", "right"])
def test_float16_overflow_is_a_problem_of_its_prompt(
    overflowing: LensModel, positions: str, padding_side: Any
) -> None:
    how: dict[str, Any] = {"positions": positions, "padding_side": padding_side}
    result = logit_lens(overflowing, list(PROMPTS), **how)
    (problem,) = result.problems
    assert problem.prompt_id == "p3"  # the one with gold in it
    assert "hot in float16 gives NaN or Inf" in problem.what
    assert "bfloat16" in problem.remedy
    assert result.prompts["prompt_id"].to_pylist() == ["p1", "p2", "p4"]
    frame = result.to_pandas()
    assert set(frame.prompt_id) == {"p1", "p2", "p4"}
    assert frame[["entropy_bits", "kl_bits"]].notna().all(axis=None)
    rest = [Prompt(f"p{i + 1}", PROMPTS[i]) for i in (0, 1, 3)]
    alone = logit_lens(overflowing, rest, **how).to_pandas()
    key = ["prompt_id", "position", "site", "layer"]
    both = frame.merge(alone, on=key, suffixes=("", "_alone"))
    assert len(both) == len(frame)
    assert (both.entropy_bits == both.entropy_bits_alone).all()


def test_overflow_everywhere_leaves_nothing_to_report(overflowing: LensModel) -> None:
    with pytest.raises(InputProblems, match="float16 overflows above 65,504"):
        logit_lens(overflowing, [PROMPTS[2]])


def test_overflow_above_the_layers_asked_for(llama: Case, tmp_path: Path) -> None:
    """The lens of layer 1 is finite, but there is no model output to compare it with."""
    weights = {"model.layers.2.mlp.down_proj.weight": lambda weight: weight.mul_(20_000)}
    model = load_model(copy_of(llama, tmp_path, weights), dtype="float16", device="cpu")
    with pytest.raises(InputProblems, match="float16 overflows"):
        logit_lens(model, PROMPTS[0], layers=[1])


def test_what_would_overflow_in_a_lens_alone_is_read(llama: Case, tmp_path: Path) -> None:
    """The stream stays below 65,504, and so do the model's logits; its raw product does not.

    Made in float16, NaN logits would put every answer at rank 1: nothing is greater than NaN.
    """

    def grow(factor: float) -> Any:
        return lambda weight: weight.mul_(factor)

    changes = {
        "model.embed_tokens.weight": grow(15_000),
        "lm_head.weight": grow(3),
        "model.norm.weight": grow(1 / 3),
    }
    model = load_model(copy_of(llama, tmp_path, changes), dtype="float16", device="cpu")
    found = logit_lens(model, PROMPTS[0], lens=["final", "raw"])
    assert found.problems == []
    assert found.to_pandas()["entropy_bits"].notna().all()
    raw = residual_stream(model, PROMPTS[0], ["embed"]).stream[0, -1]
    assert (raw @ model.readout.W_U.float()).abs().max() > 65_504


def test_the_same_weights_are_fine_in_float32(overflowing: LensModel) -> None:
    result = logit_lens(load_model(overflowing.ref, device="cpu"), list(PROMPTS))
    assert result.problems == []
    assert len(result.prompts) == 4


# Memory.

_PEAK = """
import sys, resource, torch, transformers, transformer_lens.model_bridge
from lensbench.models.load import load_model
def status(key):
    text = open("/proc/self/status").read()
    return int(text.split(key + ":")[1].split()[0]) * 1024
before = status("VmRSS")
model = load_model(sys.argv[1], device="cpu", dtype=sys.argv[2])
print((status("VmHWM") - before) / sum(p.numel() * p.element_size()
      for p in set(model.bridge.parameters())))
"""


@pytest.mark.real
@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_loading_takes_the_weights_once(smollm_folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _PEAK, str(smollm_folder), "float32"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert float(done.stdout) < 1.4  # and 100 MB or so of libraries and tokenizer


# One after the other.


def test_a_loader_has_let_go_of_one_model_before_it_loads_the_next(
    tiny_case: Callable[[str], Case], monkeypatch: pytest.MonkeyPatch
) -> None:
    bridges: list[weakref.ref[object]] = []

    def loaded(ref: ModelRef, **how: Any) -> LensModel:
        assert all(bridge() is None for bridge in bridges)
        model = load_model(ref, **how)
        bridges.append(weakref.ref(model.bridge))
        return model

    monkeypatch.setattr(load, "load_model", loaded)
    loader, refs = Loader(), [ModelRef.of(tiny_case(name).folder) for name in ("llama", "gpt2")]
    gc.disable()
    try:
        for ref in (refs[0], refs[0], refs[1], refs[0]):
            assert loader(ref, device="cpu").ref == ref
    finally:
        gc.enable()
    assert len(bridges) == 3
