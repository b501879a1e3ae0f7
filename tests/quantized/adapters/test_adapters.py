"""Putting an adapter on: it is PEFT's own, or it is refused; and the verbs."""

from __future__ import annotations

import json
import logging
import math
import re
import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from lensbench.checkpoints.hashes import hashes, weights_sha256
from lensbench.errors import ModelError
from lensbench.quantized.adapters.adapter import CONFIG, MANIFEST, WEIGHTS, attach
from lensbench.quantized.adapters.update import base_of
from lensbench.quantized.loading.load import load_quantized
from tests.harness.adapters import (
    change_config,
    change_weights,
    cut_one,
    logits,
    make_adapter,
    widen,
)
from tests.harness.program import Program
from tests.harness.tiny import Case


def sha_of(case: Case) -> str:
    return weights_sha256(case.folder)


# --- putting it on ------------------------------------------------------------------------------


def test_an_attached_adapter_is_pefts(family: Case, tmp_path: Path) -> None:
    from peft import PeftModel

    folder = make_adapter(family, tmp_path / "a")
    model = attach(family.fresh_hf(), folder, sha_of(family))
    peft = PeftModel.from_pretrained(family.fresh_hf(), folder).eval()
    assert torch.equal(logits(model, family), logits(peft, family))
    assert not torch.allclose(logits(model, family), logits(family.hf, family), atol=1e-2)
    assert not any(p.requires_grad for p in model.parameters())
    assert not any(module.training for module in model.modules())


def test_an_adapter_of_zeros_changes_nothing(llama: Case, tmp_path: Path) -> None:
    folder = make_adapter(llama, tmp_path / "a", size=0.0)
    model = attach(llama.fresh_hf(), folder, sha_of(llama))
    assert torch.equal(logits(model, llama), logits(llama.hf, llama))


def test_what_acts_outside_the_adapted_layers_is_refused(llama: Case, tmp_path: Path) -> None:
    """An activated LoRA acts after its tokens, by PEFT's own forward pass: here it was left out."""
    folder = make_adapter(llama, tmp_path / "a")
    change_config(folder, alora_invocation_tokens=None, layer_replication=None, arrow_config=None)
    attach(llama.fresh_hf(), folder, sha_of(llama))
    change_config(
        folder,
        alora_invocation_tokens=[5, 6],
        layer_replication=[[0, 2], [1, 3]],
        use_kasa=False,
        swan_lake={"acts": 1},
    )
    with pytest.raises(ModelError) as caught:
        attach(llama.fresh_hf(), folder, sha_of(llama))
    message = str(caught.value)
    assert "alora_invocation_tokens, so it acts after certain tokens only" in message
    assert "layer_replication, which makes another model" in message
    assert "the installed PEFT passes over its swan_lake" in message
    assert "use_kasa" not in message


def cut_layer(weights: dict[str, torch.Tensor]) -> None:
    for key in [key for key in weights if ".layers.2." in key]:
        del weights[key]


def add_one(weights: dict[str, torch.Tensor]) -> None:
    weights["base_model.model.model.layers.1.mlp.up_proj.lora_A.weight"] = torch.zeros(4, 32)


def move_up(weights: dict[str, torch.Tensor]) -> None:
    for key in [key for key in weights if ".layers.2." in key]:
        weights[key.replace(".layers.2.", ".layers.7.")] = weights.pop(key)


def poison(weights: dict[str, torch.Tensor]) -> None:
    next(iter(weights.values()))[0, 0] = math.nan


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (cut_layer, "the weights of blocks 2 are missing"),
        (cut_one, r"weights are missing: .*layers.1.self_attn.q_proj.lora_B.weight"),
        (add_one, r"weights have no place in this model: .*mlp.up_proj"),
        (move_up, r"it has blocks 7, but the model has only 0-2"),
        (widen, r"another shape: .*q_proj.lora_A.weight \(4, 33\), not \(4, 32\)"),
        (poison, "NaN or Inf is in"),
    ],
)
def test_weights_that_are_not_those_that_were_trained_are_refused(
    change: Any, said: str, llama: Case, copy: Path
) -> None:
    change_weights(copy, change)
    model = llama.fresh_hf()
    with pytest.raises(ModelError, match=said):
        attach(model, copy, sha_of(llama))
    assert torch.equal(logits(model, llama), logits(llama.hf, llama))  # left as it was
    assert {type(m).__name__ for m in model.modules()} == {
        type(m).__name__ for m in llama.hf.modules()
    }


def test_another_base_is_refused(gpt2: Case, llama: Case, copy: Path) -> None:
    with pytest.raises(ModelError, match=r"trained on other weights \(\w{12}\) than those loaded"):
        attach(gpt2.fresh_hf(), copy, sha_of(gpt2))


def test_the_same_weights_under_another_config_are_another_base(
    llama: Case, tmp_path: Path
) -> None:
    """Another rope makes another model of the same weights; an older adapter does not say which."""
    adapter = make_adapter(llama, tmp_path / "adapter")
    other = tmp_path / "other"
    shutil.copytree(llama.folder, other)
    config = json.loads((other / "config.json").read_text())
    config["rope_parameters"] = {"rope_type": "default", "rope_theta": 77.0}
    (other / "config.json").write_text(json.dumps(config))
    about = {"model": dict(hashes(llama.folder))}
    (adapter / MANIFEST).write_text(json.dumps(about))
    assert load_quantized(f"{llama.folder}+{adapter}", 32, device="cpu")
    with pytest.raises(ModelError, match=r"trained on another config \(\w{12}\)"):
        load_quantized(f"{other}+{adapter}", 32, device="cpu")
    with pytest.raises(ModelError, match="trained on another config"):
        base_of(str(other), adapter)
    del about["model"]["config_sha256"]
    (adapter / MANIFEST).write_text(json.dumps(about))
    assert load_quantized(f"{other}+{adapter}", 32, device="cpu")


def test_everything_that_is_wrong_comes_at_once(llama: Case, copy: Path) -> None:
    change_weights(copy, move_up)
    change_config(copy, layers_to_transform=[1, 2, 9])
    with pytest.raises(ModelError) as caught:
        attach(llama.fresh_hf(), copy, "0" * 64)
    said = str(caught.value)
    assert "other weights" in said
    assert "it has blocks 7,9" in said
    assert "the weights of blocks 2,9 are missing" in said


def test_another_kind_of_adapter_is_refused(llama: Case, copy: Path) -> None:
    change_config(copy, peft_type="IA3")
    with pytest.raises(ModelError, match="it is of type IA3; only LORA"):
        attach(llama.fresh_hf(), copy, sha_of(llama))


def test_targets_that_match_nothing_are_refused(llama: Case, copy: Path) -> None:
    change_config(copy, target_modules=["nonsense"])
    with pytest.raises(ModelError, match="does not belong on this model"):
        attach(llama.fresh_hf(), copy, sha_of(llama))


def test_a_pickled_adapter_is_refused_unread(llama: Case, copy: Path) -> None:
    (copy / WEIGHTS).rename(copy / "adapter_model.bin")
    with pytest.raises(ModelError, match="a pickle, which can run code"):
        attach(llama.fresh_hf(), copy, sha_of(llama))


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda folder: (folder / CONFIG).unlink(), "holds no adapter"),
        (lambda folder: (folder / CONFIG).write_text("{"), "is damaged"),
        (lambda folder: (folder / MANIFEST).write_text("{"), "is damaged"),
        (lambda folder: (folder / WEIGHTS).unlink(), f"holds no {WEIGHTS}"),
        (
            lambda folder: (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-9]),
            "is cut off",
        ),
    ],
)
def test_damaged_folders_are_refused(spoil: Any, said: str, llama: Case, copy: Path) -> None:
    spoil(copy)
    with pytest.raises(ModelError, match=said):
        attach(llama.fresh_hf(), copy, sha_of(llama))


def test_without_a_manifest_a_warning_says_what_could_not_be_checked(
    llama: Case, copy: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (copy / MANIFEST).unlink()
    caplog.set_level(logging.WARNING, "lensbench")
    attach(llama.fresh_hf(), copy, sha_of(llama))
    assert re.search("no manifest, so nobody can say .* its base 'tiny'", caplog.text)
    caplog.clear()
    change_weights(copy, cut_one)
    with pytest.raises(ModelError, match="weights are missing"):
        attach(llama.fresh_hf(), copy, sha_of(llama))
    assert "no manifest" in caplog.text


def test_nothing_is_asked_of_a_hub(
    llama: Case, adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import socket

    def refuse(*_: Any) -> None:
        raise AssertionError("the network was used")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        attach(llama.fresh_hf(), adapter, sha_of(llama))


# --- the command line ---------------------------------------------------------------------------


def test_the_verbs_print_tables_and_json(
    lensbench: Program, llama: Case, adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    status, out, _ = lensbench("adapters", "show", adapter, "--model", llama.folder)
    assert status == 0
    assert "norm relative" in out
    assert "q_proj" in out  # the whole name is broken over lines where the terminal is narrow
    status, out, _ = lensbench("adapters", "show", adapter, "--json")
    assert status == 0
    assert {row["norm_relative"] for row in json.loads(out)} == {None}
    status, out, _ = lensbench("adapters", "diff", adapter, adapter, "--json")
    assert status == 0
    assert {row["in"] for row in json.loads(out)} == {"both"}
    status, out, err = lensbench("adapters", "merge", llama.folder, adapter, "-o", "merged")
    assert (status, out) == (0, "merged\n")
    assert "logits differ from the adapter's by" in err


@pytest.mark.parametrize(
    "arguments",
    [("adapters", "show", "nowhere"), ("adapters", "diff", "nowhere", "nowhere")],
)
def test_bad_folders_exit_with_2(lensbench: Program, arguments: tuple[str, ...]) -> None:
    status, out, err = lensbench(*arguments)
    assert (status, out) == (2, "")
    assert "nowhere holds no adapter" in err


def test_training_from_the_command_line(lensbench: Program, llama: Case, tmp_path: Path) -> None:
    rows = [{"id": str(i), "instruction": f"Say {i}.", "response": f"so {i}"} for i in range(6)]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\nno json\n")
    base = ("train", llama.folder, "pairs.jsonl", "--bits", 32, "--max-length", 40, "--epochs", 1)
    some = ("--blocks", "1-2", "--eval-share", 0, "--examples", 0, "--batch-size", 3)
    status, out, err = lensbench(*base, *some, "-o", "adapter", "--cache-prefix")
    assert status == 1  # a row was left out
    assert out.split()[0] == "adapter"
    assert "3,584 of" in err
    assert "prefix cache: " in err
    assert (tmp_path / "adapter" / "report.md").exists()
    status, _, err = lensbench(*base, "-o", "other", "--blocks", "5", "--targets", "z")
    assert status == 2
    assert "--blocks: the model has no block 5" in err
    assert "no module is called 'z'" in err
    status, _, err = lensbench(*base, "-o", "other", "--eval", "pairs.jsonl", "--eval-share", 0.2)
    assert status == 2
    assert "--eval-share: a file to evaluate on is given too" in " ".join(err.split())
