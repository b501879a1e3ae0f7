"""The base under an adapter is the base: against Hugging Face's model and PEFT's adapted one."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from lensbench.errors import ModelError
from lensbench.quantized.adapters.initial import olora, pissa
from lensbench.quantized.adapters.update import base_for, read_updates, update_norms
from lensbench.quantized.loading.load import load_quantized
from lensbench.quantized.loading.merged import distance, merge
from tests.harness.adapters import logits
from tests.harness.program import Program
from tests.harness.tiny import TINY, Case, save

IDS = torch.tensor([[5, 9, 40, 77, 120, 33]])
# PEFT's ways to make an adapter: what may change the base, and what could be lost with it.
KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "gaussian": {"init_lora_weights": "gaussian"},
    "random": {"init_lora_weights": False},
    "orthogonal": {"init_lora_weights": "orthogonal"},
    "mica": {"init_lora_weights": "mica"},
    "pissa": {"init_lora_weights": "pissa"},
    "pissa, rank-stabilised": {"init_lora_weights": "pissa", "use_rslora": True},
    "pissa, patterns": {
        "init_lora_weights": "pissa",
        "rank_pattern": {"layers.1.self_attn.q_proj": 2},
        "alpha_pattern": {"layers.0.self_attn.v_proj": 32},
    },
    "olora": {"init_lora_weights": "olora"},
    "pissa, all biases": {"init_lora_weights": "pissa", "bias": "all"},
    "all biases": {"bias": "all"},
    "its biases": {"bias": "lora_only"},
    "bias of B": {"lora_bias": True},
    "dora": {"use_dora": True},
    "head": {"modules_to_save": ["lm_head"]},
    "embedding": {"modules_to_save": ["embed_tokens"]},
    "tokens": {"trainable_token_indices": [5, 9]},
    "some blocks": {"layers_to_transform": [0, 2]},
}
NEED_THE_BASE = [kind for kind in KINDS if kind.startswith(("pissa", "olora"))]
QUICK = ("plain", "pissa, patterns", "pissa, all biases", "olora", "dora", "tokens")
each_kind = pytest.mark.parametrize(
    "kind", [pytest.param(k, marks=[] if k in QUICK else [pytest.mark.slow]) for k in KINDS]
)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama with biases."""
    return save(TINY["llama"], tmp_path_factory.mktemp("base") / "base", {"attention_bias": True})


def fresh(base: Path) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()


def said(model: Any, ids: Tensor = IDS) -> Tensor:
    with torch.no_grad():
        return model(input_ids=ids).logits.float()


@pytest.fixture(scope="module")
def made(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tuple[Path, Any]]:
    """An adapter of a kind as a few steps of PEFT's own training leave it, and PEFT's model."""
    kept: dict[str, tuple[Path, Any]] = {}

    def make(kind: str) -> tuple[Path, Any]:
        if kind not in kept:
            folder = tmp_path_factory.mktemp("adapters") / "a"
            kept[kind] = folder, trained(base, folder, **KINDS[kind])
        return kept[kind]

    return make


def trained(base: Path, folder: Path, **how: Any) -> Any:
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    settings = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"]} | how
    model = get_peft_model(fresh(base), LoraConfig(task_type="CAUSAL_LM", **settings))
    steps = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.3)
    for _ in range(6):
        steps.zero_grad()
        model(input_ids=IDS, labels=IDS).loss.backward()
        steps.step()
    model.eval().save_pretrained(folder)
    return model


@pytest.mark.parametrize("kind", KINDS)
def test_on_it_is_pefts_model_and_off_it_is_the_base(
    kind: str, base: Path, made: Callable[..., tuple[Path, Any]]
) -> None:
    folder, peft = made(kind)
    model = load_quantized(base, 32, folder, device="cpu")
    own = said(fresh(base))
    assert distance(said(model.hf), said(peft)) < 1e-5
    with model.hf.disable_adapter():
        assert torch.equal(said(model.hf), own)
    assert distance(said(model.hf), said(peft)) < 1e-5  # and on again
    assert distance(said(peft), own) > 0.05


@pytest.mark.parametrize("bits", [pytest.param(16, marks=pytest.mark.slow), 8, 4])
@each_kind
def test_the_base_of_a_quantised_model_is_the_quantised_base(
    bits: Any, kind: str, base: Path, made: Callable[..., tuple[Path, Any]]
) -> None:
    folder, peft = made(kind)
    own = load_quantized(base, bits, device="cpu")
    model = load_quantized(base, bits, folder, device="cpu")
    with model.hf.disable_adapter():
        assert torch.equal(said(model.hf), said(own.hf))
    if bits != 4:  # nf4 is a coarse copy of a random matrix
        assert distance(said(model.hf), said(peft)) < 0.1


@each_kind
def test_an_update_is_merged_minus_base_weight(
    kind: str, base: Path, made: Callable[..., tuple[Path, Any]], tmp_path: Path
) -> None:
    """Measured on the merged model's weights; what is more than such updates is refused."""
    folder, _ = made(kind)
    merged = merge(base, folder, tmp_path / "merged")
    assert merged.error < 1e-5
    one, other = (model.state_dict() for model in (fresh(base), fresh(merged.folder)))
    changed = {
        name: float((other[name].double() - one[name].double()).norm())
        for name in one
        if not torch.equal(one[name], other[name])
    }
    more = KINDS[kind].keys() & {"bias", "lora_bias", "use_dora", "modules_to_save"}
    if more or kind == "tokens":
        with pytest.raises(ModelError, match="is no plain LoRA adapter"):
            read_updates(folder, base_for(folder, str(base)))
        return
    updates = read_updates(folder, base_for(folder, str(base)))
    assert {f"{name}.weight" for name in updates} == changed.keys()
    for name, update in updates.items():
        assert update.norm() == pytest.approx(changed[f"{name}.weight"], rel=1e-4)


@pytest.mark.parametrize("kind", NEED_THE_BASE)
def test_without_the_base_such_an_update_is_not_told(
    kind: str, made: Callable[..., tuple[Path, Any]]
) -> None:
    folder, _ = made(kind)
    with pytest.raises(ModelError, match=r"can only be told with the base. Name it with --model"):
        read_updates(folder)


@pytest.mark.parametrize(
    ("how", "why"),
    [
        ({"init_lora_weights": "pissa_niter_4"}, "began with pissa_niter_4"),
        ({"init_lora_weights": "pissa", "use_dora": True}, "began with pissa with DoRA"),
        ({"layer_replication": [(0, 2), (1, 3)]}, "it has blocks 3, but the model has only 0-2"),
    ],
)
def test_what_cannot_be_taken_out_of_the_base_again_is_refused(
    how: dict[str, Any], why: str, base: Path, tmp_path: Path
) -> None:
    trained(base, tmp_path / "a", **how)
    with pytest.raises(ModelError, match=why):
        load_quantized(base, 32, tmp_path / "a", device="cpu")


@pytest.mark.slow
def test_both_beginnings_are_pefts_own_for_every_family(family: Case, tmp_path: Path) -> None:
    require_pefts_own(family, tmp_path)


def test_both_beginnings_are_pefts_own_where_weights_are_transposed(
    gpt2: Case, tmp_path: Path
) -> None:
    """GPT-2 keeps its weights the other way round; PEFT's OLoRA is for the usual way only."""
    require_pefts_own(gpt2, tmp_path)


def require_pefts_own(family: Case, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model
    from peft.utils import get_peft_model_state_dict

    from lensbench.quantized.adapters.adapter import attach
    from lensbench.quantized.adapters.lora import match
    from lensbench.quantized.adapters.spec import Lora

    transposed = match(family.hf, Lora()).transposed
    for init in ("pissa",) if transposed else ("pissa", "olora"):
        config = LoraConfig(
            r=4,
            lora_alpha=6,
            target_modules=list(match(family.hf, Lora()).targets),
            init_lora_weights=init,
            fan_in_fan_out=transposed,
        )
        model = get_peft_model(family.fresh_hf(), config)
        assert any(get_peft_model_state_dict(model, save_embedding_layers=False))
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.add_(0.1 * torch.randn(parameter.shape))
        folder = tmp_path / init
        model.eval().save_pretrained(folder, save_embedding_layers=False)
        attached = attach(family.fresh_hf(), folder, "")
        assert distance(logits(attached, family), logits(model, family)) < 1e-4
        with attached.disable_adapter():
            assert torch.equal(logits(attached, family), logits(family.hf, family))


def test_the_beginnings_in_closed_form() -> None:
    """Of diag(4, 3, 2, 1) PiSSA takes the largest values, OLoRA the first rows."""
    weight = torch.diag(torch.tensor([4.0, 3.0, 2.0, 1.0]))
    up, down = pissa(weight, 2, 0.5)
    torch.testing.assert_close(0.5 * up @ down, torch.diag(torch.tensor([4.0, 3.0, 0.0, 0.0])))
    up, down = olora(weight, 2, 0.5)
    torch.testing.assert_close(up @ down, torch.diag(torch.tensor([4.0, 3.0, 0.0, 0.0])))


def test_the_manifest_of_a_lens_has_the_true_norms(
    base: Path, made: Callable[..., tuple[Path, Any]]
) -> None:
    from lensbench.checkpoints.ref import ModelRef

    folder, _ = made("pissa")
    ref = ModelRef.of(base, adapter=folder)
    updates = read_updates(folder, base_for(folder, str(base)))
    norms = update_norms(folder, ref, 3)["adapter_update_norms"]
    squares = [sum(u.norm() ** 2 for u in updates.values() if u.block == i) for i in range(3)]
    assert norms == pytest.approx([square**0.5 for square in squares])


def test_the_verbs_take_the_base_that_the_config_names(
    lensbench: Program, base: Path, made: Callable[..., tuple[Path, Any]], tmp_path: Path
) -> None:
    import json
    import shutil

    from tests.harness.adapters import change_config

    folder, _ = made("pissa")
    copy = shutil.copytree(folder, tmp_path / "copy")
    wanted = next(iter(read_updates(folder, base_for(folder, str(base))).values())).norm()
    status, out, err = lensbench("adapters", "show", copy, "--json")
    assert (status, json.loads(out)[0]["norm"]) == (0, pytest.approx(wanted))
    assert "the base is" in err
    change_config(copy, base_model_name_or_path="nowhere")
    status, out, err = lensbench("adapters", "show", copy, "--json")
    assert (status, out) == (2, "")
    assert "Name it with --model" in " ".join(err.split())
    status, out, _ = lensbench("adapters", "diff", folder, copy, "--model", base, "--json")
    assert status == 0
    assert max(row["norm_difference"] for row in json.loads(out)) < 1e-6


def test_an_adapter_in_the_models_own_folder_is_left_out_and_said(
    base: Path,
    made: Callable[..., tuple[Path, Any]],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    import shutil

    from lensbench.checkpoints.hashes import hashes
    from lensbench.models.load import load_model

    folder, peft = made("plain")
    both = shutil.copytree(base, tmp_path / "both")
    shutil.copytree(folder, both, dirs_exist_ok=True)
    own = said(fresh(base))
    caplog.set_level(logging.WARNING, "lensbench")
    for bits in (32, 8):
        caplog.clear()
        plain = load_quantized(base, bits, device="cpu")
        assert torch.equal(said(load_quantized(both, bits, device="cpu").hf), said(plain.hf))
        assert "holds an adapter too" in caplog.text
    model = load_model(both, device="cpu")
    assert distance(model.bridge(IDS).detach(), own) < 1e-5
    assert hashes(both) == hashes(base)
    caplog.clear()
    named = load_quantized(f"{both}@32+{both}", device="cpu")
    assert distance(said(named.hf), said(peft)) < 1e-5
    assert "holds an adapter too" not in caplog.text
