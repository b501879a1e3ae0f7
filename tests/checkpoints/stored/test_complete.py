"""Every tensor of a checkpoint is in its place and every place is filled, or nothing is loaded.

What transformers says of the same file when it is asked (`output_loading_info`) is the other side.
"""

from __future__ import annotations

import json
import logging
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from lensbench import load_model
from lensbench.checkpoints.open import quiet
from lensbench.checkpoints.weights import open_weights
from lensbench.errors import LensbenchError
from lensbench.quantized.loading.load import load_quantized
from tests.harness.damage import Tensors, damaged, renamed, without
from tests.harness.families import distinct_families
from tests.harness.program import Program
from tests.harness.tiny import TINY, Case, random_model


def head_missing(tensors: Tensors) -> Tensors:
    """Where head and embedding are one, both go by the embedding's name."""
    heads = [name for name in tensors if name in ("lm_head.weight", "embed_out.weight")]
    gone = heads or [name for name in tensors if re.search(r"embed_tokens|wte", name)]
    return {name: tensor for name, tensor in tensors.items() if name not in gone}


def one_missing(tensors: Tensors) -> Tensors:
    gone = sorted(name for name in tensors if re.search(r"\.1\..*norm|\.1\.ln", name))[0]
    return {name: tensor for name, tensor in tensors.items() if name != gone}


def one_added(tensors: Tensors) -> Tensors:
    """A projection of a fourth block, which the config does not count."""
    name = next(name for name in tensors if ".2." in name and tensors[name].ndim == 2)
    return tensors | {name.replace(".2.", ".3."): tensors[name].clone()}


def bias_added(tensors: Tensors) -> Tensors:
    """A norm or projection, or the embedding where all of them have one."""
    free = [n for n in tensors if n.endswith(".weight") and n[:-6] + "bias" not in tensors]
    name = ([name for name in free if ".1." in name or "norm" in name] or free)[0]
    return tensors | {name[:-6] + "bias": torch.ones(tensors[name].shape[0])}


def other_shape(tensors: Tensors) -> Tensors:
    name = next(name for name, tensor in tensors.items() if ".1." in name and tensor.ndim == 2)
    return tensors | {name: tensors[name][:-1].clone()}


def stored_twice(tensors: Tensors) -> Tensors:
    """With and without the decoder's name, the second one other numbers."""
    name = next(name for name in tensors if ".1." in name)
    return tensors | {name.split(".", 1)[1]: tensors[name] + 1}


def whole_numbers(tensors: Tensors) -> Tensors:
    name = next(name for name, tensor in tensors.items() if ".1." in name and tensor.ndim == 2)
    return tensors | {name: (tensors[name] * 40).to(torch.int8)}


DAMAGE: dict[str, tuple[Callable[[Tensors], Tensors], str]] = {
    "a weight is missing": (one_missing, "missing, and would be random"),
    "a block is missing": (without(".1."), "missing, and would be random"),
    "the head is missing": (head_missing, "missing, and would be random"),
    "a block too many": (one_added, r"in the file but not in the model.*there are 3 blocks"),
    "a bias that is not declared": (bias_added, "in the file but not in the model"),
    "another shape": (other_shape, r"in the file, and \[.*\] in the model"),
    "torch.compile": (renamed(lambda name: f"_orig_mod.{name}"), "hold '_orig_mod.'"),
    "compiled blocks": (
        renamed(lambda name: re.sub(r"\.(\d+)\.", r".\1._orig_mod.", name)),
        "hold '_orig_mod.'",
    ),
    "parallel": (renamed(lambda name: f"module.{name}"), "hold 'module.'"),
    "some prefix": (renamed(lambda name: f"student.net.{name}"), r"begin with 'student\.net\."),
    "whole numbers": (whole_numbers, "no weights without their scales"),
    "twice": (stored_twice, "stored twice, with and without"),
}


def opened(folder: Path) -> Any:
    with quiet():
        return open_weights(folder, torch.float32)


SAMPLE = ("llama", "gpt2")  # a head of its own, and the embedding; other names, joint q/k/v
SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in TINY if name not in SAMPLE]


@pytest.mark.parametrize("kind", DAMAGE)
@pytest.mark.parametrize("name", [*SAMPLE, *SLOW])
def test_damaged_weights_are_refused(
    tiny_case: Callable[[str], Case], tmp_path: Path, name: str, kind: str
) -> None:
    change, said = DAMAGE[kind]
    folder = damaged(tmp_path / "model", tiny_case(name).folder, change)
    with pytest.raises(LensbenchError, match=f"(?s){said}"):
        opened(folder)


QUICK = ("the head is missing", "a bias that is not declared", "another shape")


@pytest.mark.parametrize(
    "kind", [*QUICK, *(pytest.param(k, marks=pytest.mark.slow) for k in DAMAGE if k not in QUICK)]
)
@pytest.mark.parametrize(
    "bits", [None, 8, *(pytest.param(n, marks=pytest.mark.slow) for n in (4, 16))]
)
def test_every_path_refuses_them(llama: Case, tmp_path: Path, kind: str, bits: Any) -> None:
    change, said = DAMAGE[kind]
    folder = damaged(tmp_path / "model", llama.folder, change)
    with pytest.raises(LensbenchError, match=f"(?s){said}"):
        load_quantized(folder, bits, device="cpu") if bits else load_model(folder, device="cpu")


def test_every_verb_refuses_them(llama: Case, tmp_path: Path, lensbench: Program) -> None:
    folder = damaged(tmp_path / "model", llama.folder, head_missing)
    Path("prompts.csv").write_text(
        "id,relation,prompt,answer\n1,capital,The capital of Germany is,Berlin\n"
    )
    rows = [
        json.dumps({"id": f"r{i}", "instruction": f"Say {i}", "response": f"It is {i}."})
        for i in range(40)
    ]
    Path("pairs.jsonl").write_text("\n".join(rows) + "\n")
    for words in (
        ["lens", folder, "The capital of"],
        ["lens", f"{folder}@8", "The capital of"],
        ["check", folder],
        ["infer", folder, "--prompts", "prompts.csv", "--out", "infer"],
        ["cache", folder, "--prompts", "prompts.csv", "--out", "cache"],
        ["train", folder, "--data", "pairs.jsonl", "--out", "train"],
    ):
        done = lensbench(*words)
        assert done.status == 2
        assert "lm_head.weight" in done.said, words


@distinct_families
def test_the_same_file_in_shards_and_with_harmless_extras(family: Case, tmp_path: Path) -> None:
    """Rotary frequencies as old files hold them, and a head that is the embedding once more."""
    family.fresh_hf().save_pretrained(tmp_path, max_shard_size="20KB")
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    shard = sorted(set(index["weight_map"].values()))[0]
    tensors = load_file(tmp_path / shard)
    extras = {
        f"{family.row.backbone}.{family.row.blocks}.0.self_attn.{name}": buffer.clone()
        for name, buffer in family.hf.named_buffers()
        for name in [f"rotary_emb.{name.rpartition('.')[2]}"]
        if name.endswith("rotary_emb.inv_freq")
    }
    if family.hf.config.tie_word_embeddings:
        extras["lm_head.weight"] = family.hf.get_input_embeddings().weight.detach().clone()
    save_file(tensors | extras, tmp_path / shard, metadata={"format": "pt"})
    index["weight_map"] |= dict.fromkeys(extras, shard)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    ids = torch.tensor([family.token_ids[2]])
    with torch.inference_mode():
        assert torch.equal(opened(tmp_path)(ids).logits, family.fresh_hf()(ids).logits)


def test_published_files_of_gpt2_and_pythia_are_read(
    tiny_case: Callable[[str], Case], tmp_path: Path
) -> None:
    """GPT-2's has no name of the decoder, both have masks, Pythia's frequencies in float16."""
    mask = torch.ones(1, 1, 64, 64).tril()
    gpt2, pythia = tiny_case("gpt2"), tiny_case("gpt_neox")
    frequencies = pythia.hf.gpt_neox.rotary_emb.inv_freq.clone().half()
    part = "gpt_neox.layers.{}.attention"
    files = [
        (
            gpt2,
            lambda tensors: (
                {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}
                | {f"h.{i}.attn.bias": mask.clone() for i in range(3)}
            ),
        ),
        (
            pythia,
            lambda tensors: (
                tensors
                | {f"{part.format(i)}.bias": mask.bool() for i in range(3)}
                | {f"{part.format(i)}.masked_bias": torch.tensor(-1e9) for i in range(3)}
                | {f"{part.format(i)}.rotary_emb.inv_freq": frequencies.clone() for i in range(3)}
            ),
        ),
    ]
    for case, change in files:
        folder = damaged(tmp_path / case.name, case.folder, change)
        ids = torch.tensor([case.token_ids[2]])
        with torch.inference_mode():
            assert torch.equal(opened(folder)(ids).logits, case.hf(ids).logits)


def test_a_model_with_biases_of_q_k_and_v_alone_is_read(
    llama: Case, tmp_path: Path, caplog: pytest.LogCaptureFixture, lensbench: Program
) -> None:
    """As models of the Qwen kind are exported as Llama: no block has a bias at the output."""
    with torch.no_grad():
        model = random_model(llama.row, {"attention_bias": True})
        for name, weight in model.named_parameters():
            if name.endswith("o_proj.bias"):
                weight.zero_()
    model.save_pretrained(tmp_path / "all")
    qkv = damaged(tmp_path / "qkv", tmp_path / "all", without("o_proj.bias"))
    ids = torch.tensor([llama.token_ids[2]])
    caplog.set_level(logging.WARNING, "lensbench")
    with torch.inference_mode(), quiet():  # the libraries are; this is lensbench's own
        assert torch.equal(opened(qkv)(ids).logits, model(ids).logits)
    assert re.search("o_proj.bias.*read as 0", caplog.text)
    llama.model.tokenizer.save_pretrained(qkv)
    done = lensbench("lens", qkv, "Rome")
    assert done.status == 0
    assert "read as 0" in done.said
    assert "UserWarning" not in done.said and ".py:" not in done.said
    for part in (".1.self_attn.o_proj.bias", "q_proj.bias"):
        lost = damaged(tmp_path / part, tmp_path / "all", without(part))
        with pytest.raises(LensbenchError, match="missing, and would be random"):
            opened(lost)


def test_a_head_that_is_not_the_embedding_is_refused(family: Case, tmp_path: Path) -> None:
    """transformers takes the stored head and keeps saying that the two are one."""
    if not family.hf.config.tie_word_embeddings:
        pytest.skip("head and embedding are two in this family")
    embedding = family.hf.get_input_embeddings().weight.detach().clone()
    for error, refused in ((0.0, False), (1e-3, True)):
        folder = damaged(
            tmp_path / str(refused),
            family.folder,
            lambda tensors, error=error: tensors | {"lm_head.weight": embedding + error},
        )
        if not refused:
            opened(folder)
            continue
        with pytest.raises(LensbenchError, match=r"tie_word_embeddings: if they are not"):
            opened(folder)


def test_frequencies_that_the_config_does_not_give_are_refused(llama: Case, tmp_path: Path) -> None:
    own = llama.hf.model.rotary_emb.inv_freq.clone()
    name = "model.layers.0.self_attn.rotary_emb.inv_freq"
    folder = damaged(tmp_path / "same", llama.folder, lambda t: t | {name: own.bfloat16()})
    opened(folder)
    folder = damaged(tmp_path / "other", llama.folder, lambda t: t | {name: own / 4})
    with pytest.raises(LensbenchError, match=r"rotary frequencies.*layers\.0\.self_attn"):
        opened(folder)


def sharded(family: Case, folder: Path) -> tuple[Path, dict[str, Any], list[str]]:
    family.fresh_hf().save_pretrained(folder, max_shard_size="20KB")
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    return path, index, sorted(set(index["weight_map"].values()))


def test_shards_and_index_agree(llama: Case, tmp_path: Path) -> None:
    path, index, shards = sharded(llama, tmp_path)
    opened(tmp_path)
    two = next(s for s in shards if list(index["weight_map"].values()).count(s) > 1)
    gone = next(name for name, shard in index["weight_map"].items() if shard == two)
    rest = index["weight_map"].keys() - {gone}
    path.write_text(json.dumps(index | {"weight_map": {n: index["weight_map"][n] for n in rest}}))
    with pytest.raises(LensbenchError, match=rf"in the shards but not named in it: {gone}"):
        opened(tmp_path)
    more = index["weight_map"] | {"model.extra.weight": shards[0]}
    path.write_text(json.dumps(index | {"weight_map": more}))
    with pytest.raises(LensbenchError, match=r"not in their shards: model\.extra\.weight"):
        opened(tmp_path)
    path.write_text(json.dumps(index))
    tensors = load_file(tmp_path / shards[0])
    other = load_file(tmp_path / shards[1])
    name = next(iter(other))
    save_file(tensors | {name: other[name] + 1}, tmp_path / shards[0], metadata={"format": "pt"})
    with pytest.raises(LensbenchError, match=rf"in more than one shard: {name}"):
        opened(tmp_path)


def test_one_set_of_weights_in_a_folder(llama: Case, tmp_path: Path) -> None:
    """transformers would take model.safetensors, and pass over the shards beside it."""
    _, _, shards = sharded(llama, tmp_path)
    shutil.copy(tmp_path / shards[0], tmp_path / "model-00099-of-00099.safetensors")
    with pytest.raises(LensbenchError, match=r"model-00099-of-00099.*would not be read"):
        opened(tmp_path)
    (tmp_path / "model-00099-of-00099.safetensors").unlink()
    shutil.copy(llama.folder / "model.safetensors", tmp_path)
    with pytest.raises(LensbenchError, match=r"in model\.safetensors and in the shards"):
        opened(tmp_path)
    alone = shutil.copytree(llama.folder, tmp_path / "alone")
    (alone / "model.safetensors").rename(alone / "weights.safetensors")
    with pytest.raises(LensbenchError, match=r"only weights\.safetensors. Rename the file"):
        opened(alone)


def test_transformers_says_the_same_of_a_damaged_file(family: Case, tmp_path: Path) -> None:
    """The names in the error are those that transformers reports and loads all the same."""
    folder = damaged(tmp_path / "model", family.folder, lambda t: one_added(one_missing(t)))
    with quiet():
        _, found = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    with pytest.raises(LensbenchError) as caught:
        opened(folder)
    named = {*found["missing_keys"], *found["unexpected_keys"]}
    assert len(named) == 2
    assert all(name in str(caught.value) for name in named)
