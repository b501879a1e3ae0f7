"""Adapters: put on their own base only, measured against the full matrices, merged exactly."""

from __future__ import annotations

import json
import math
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from lensbench.checkpoints.hashes import hashes
from lensbench.errors import ModelError
from lensbench.quantized.adapters.adapter import CONFIG, MANIFEST, WEIGHTS, attach
from lensbench.quantized.adapters.lora import Lora, match
from lensbench.quantized.adapters.update import (
    Update,
    base_of,
    diff,
    effective_rank,
    inner,
    read_updates,
    show,
    totals,
)
from lensbench.quantized.loading import merged
from lensbench.quantized.loading.merged import PROVENANCE, distance, merge
from tests.harness.adapters import LORA, make_adapter
from tests.harness.program import Program
from tests.harness.tiny import PROMPTS, Case


def sha_of(case: Case) -> str:
    return hashes(case.folder)["weights_sha256"]


def logits(model: Any, case: Case) -> torch.Tensor:
    with torch.no_grad():
        rows = [model(input_ids=torch.tensor([ids])).logits[0] for ids in case.token_ids]
    return torch.cat(rows)


@pytest.fixture(scope="module")
def adapter(llama: Case, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_adapter(llama, tmp_path_factory.mktemp("adapter") / "a")


@pytest.fixture
def copy(adapter: Path, tmp_path: Path) -> Path:
    """A copy that a test may spoil."""
    return shutil.copytree(adapter, tmp_path / "copy")


def change_config(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / CONFIG).read_text()) | changes
    (folder / CONFIG).write_text(json.dumps(config))


def change_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    weights = load_file(folder / WEIGHTS)
    change(weights)
    save_file(weights, folder / WEIGHTS)


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


def cut_layer(weights: dict[str, torch.Tensor]) -> None:
    for key in [key for key in weights if ".layers.2." in key]:
        del weights[key]


def cut_one(weights: dict[str, torch.Tensor]) -> None:
    del weights["base_model.model.model.layers.1.self_attn.q_proj.lora_B.weight"]


def add_one(weights: dict[str, torch.Tensor]) -> None:
    weights["base_model.model.model.layers.1.mlp.up_proj.lora_A.weight"] = torch.zeros(4, 32)


def move_up(weights: dict[str, torch.Tensor]) -> None:
    for key in [key for key in weights if ".layers.2." in key]:
        weights[key.replace(".layers.2.", ".layers.7.")] = weights.pop(key)


def widen(weights: dict[str, torch.Tensor]) -> None:
    key = "base_model.model.model.layers.1.self_attn.q_proj.lora_A.weight"
    weights[key] = torch.zeros(4, 33)


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
    llama: Case, copy: Path
) -> None:
    (copy / MANIFEST).unlink()
    with pytest.warns(UserWarning, match=r"no manifest, so nobody can say .* its base 'tiny'"):
        attach(llama.fresh_hf(), copy, sha_of(llama))
    change_weights(copy, cut_one)
    with pytest.warns(UserWarning), pytest.raises(ModelError, match="weights are missing"):
        attach(llama.fresh_hf(), copy, sha_of(llama))


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


# --- measuring ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spectrum", "expected"),
    [
        ([1.0, 1.0, 1.0, 1.0], 4.0),
        ([5.0, 0.0, 0.0], 1.0),
        ([3.0, 3.0, 0.0], 2.0),
        ([2.0, 1.0], 3 / 2 ** (2 / 3)),  # exp(-2/3 ln 2/3 - 1/3 ln 1/3)
        ([7.0], 1.0),
    ],
)
def test_the_effective_rank_of_known_spectra(spectrum: list[float], expected: float) -> None:
    assert effective_rank(torch.tensor(spectrum, dtype=torch.float64)) == pytest.approx(expected)


def test_an_update_of_zeros_has_no_effective_rank() -> None:
    assert effective_rank(torch.zeros(4)) is None


def update(seed: int, out: int, rank: int, into: int, scale: float) -> Update:
    generator = torch.Generator().manual_seed(seed)
    up = torch.randn(out, rank, generator=generator, dtype=torch.float64)
    down = torch.randn(rank, into, generator=generator, dtype=torch.float64)
    return Update("model.layers.3.x", up, down, scale)


def full(one: Update) -> torch.Tensor:
    return one.scale * one.up @ one.down


@given(
    st.integers(0, 99), st.integers(1, 9), st.integers(1, 6), st.integers(1, 9), st.floats(0.1, 9)
)
def test_small_factors_say_what_the_full_matrix_says(
    seed: int, out: int, rank: int, into: int, scale: float
) -> None:
    """Also where the rank exceeds the matrix."""
    one, other = update(seed, out, rank, into, scale), update(seed + 100, out, 2, into, 0.7)
    values = torch.linalg.svdvals(full(one))
    got = one.singular_values()
    got = torch.cat([got, got.new_zeros(max(0, len(values) - len(got)))])
    torch.testing.assert_close(got[: len(values)], values)
    assert float(got[len(values) :].sum()) == pytest.approx(0, abs=1e-9)
    assert one.norm() == pytest.approx(float(full(one).norm()))
    assert inner(one, other) == pytest.approx(float((full(one) * full(other)).sum()))


def test_rows_are_what_pefts_own_delta_says(family: Case, tmp_path: Path) -> None:
    from peft import PeftModel

    folder = make_adapter(family, tmp_path / "a")
    base = base_of(str(family.folder), folder, list(read_updates(folder).values()))
    rows = show(read_updates(folder), base)
    peft = PeftModel.from_pretrained(family.fresh_hf(), folder)
    assert len(rows) == 2 * len(match(family.hf, LORA).targets)
    for row in rows:
        layer = peft.base_model.model.get_submodule(row["module"])
        delta = layer.get_delta_weight("default").detach().double()
        values = torch.linalg.svdvals(delta)
        assert row["norm"] == pytest.approx(float(delta.norm()), rel=1e-5)
        weight = layer.base_layer.weight.detach().double()
        assert row["norm_relative"] == pytest.approx(float(delta.norm() / weight.norm()), rel=1e-5)
        shares = values / values.sum()
        entropy = -float((shares * shares.clamp_min(1e-30).log()).sum())
        assert row["effective_rank"] == pytest.approx(math.exp(entropy), rel=1e-4)
        assert row["block"] == int(row["module"].split(".")[2])


def test_a_rank_stabilised_scale_and_alphas_by_module_count(llama: Case, copy: Path) -> None:
    from peft import PeftModel

    change_config(copy, use_rslora=True, alpha_pattern={"q_proj": 40})
    updates = read_updates(copy)
    peft = PeftModel.from_pretrained(llama.fresh_hf(), copy)
    for name, one in updates.items():
        layer = peft.base_model.model.get_submodule(name)
        delta = layer.get_delta_weight("default").detach().double()
        torch.testing.assert_close(full(one), delta, rtol=1e-5, atol=1e-6)
    scales = {name.rpartition(".")[2]: one.scale for name, one in updates.items()}
    assert scales["q_proj"] == 40 / 2
    assert scales["k_proj"] == 6 / 2


def test_blocks_add_up_in_squares() -> None:
    rows = [{"block": 1, "norm": 3.0}, {"block": 1, "norm": 4.0}, {"block": 2, "norm": 2.0}]
    assert list(totals(rows)) == [{"block": 1, "norm": 5.0}, {"block": 2, "norm": 2.0}]


def test_the_difference_of_two_adapters_is_that_of_the_full_matrices(
    llama: Case, adapter: Path, tmp_path: Path
) -> None:
    lora = Lora(layers="2", targets="q,k,v,o,up", rank=2)
    a, b = (
        read_updates(adapter),
        read_updates(make_adapter(llama, tmp_path / "b", seed=7, lora=lora)),
    )
    rows = {row["module"]: row for row in diff(a, b)}
    assert list(rows) == sorted({*a, *b}, key=lambda name: name.split(".")[2:])
    for name, row in rows.items():
        one = full(a[name]) if name in a else torch.zeros_like(full(b[name]))
        other = full(b[name]) if name in b else torch.zeros_like(one)
        assert row["norm_difference"] == pytest.approx(float((one - other).norm()))
        if name in a and name in b:
            cosine = torch.cosine_similarity(one.flatten(), other.flatten(), dim=0)
            assert row["cosine"] == pytest.approx(float(cosine))
            assert row["in"] == "both"
        else:
            assert row["cosine"] is None
            assert row["in"] == ("first" if name in a else "second")
    same = diff(a, a)
    assert max(row["norm_difference"] for row in same) < 1e-6
    assert min(row["cosine"] for row in same) == pytest.approx(1.0)


def test_adapters_of_other_shapes_have_no_difference(
    llama: Case, adapter: Path, copy: Path
) -> None:
    change_weights(copy, widen)
    with pytest.raises(ModelError, match="other shapes"):
        diff(read_updates(adapter), read_updates(copy))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda folder: change_config(folder, use_dora=True),
        lambda folder: change_weights(folder, cut_one),
        lambda folder: change_weights(folder, lambda w: w.update(bias=torch.zeros(3))),
    ],
)
def test_what_is_no_product_of_two_factors_is_refused(spoil: Any, copy: Path) -> None:
    spoil(copy)
    with pytest.raises(ModelError, match="no plain LoRA adapter"):
        read_updates(copy)


def test_norms_are_relative_to_the_own_base_only(gpt2: Case, adapter: Path) -> None:
    with pytest.raises(ModelError, match="trained on other weights"):
        base_of(str(gpt2.folder), adapter, [])


# --- merging ------------------------------------------------------------------------------------


def test_a_merged_model_gives_the_adapters_logits(family: Case, tmp_path: Path) -> None:
    """Loaded by Hugging Face itself, against PEFT unmerged, on other texts than the probes."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = make_adapter(family, tmp_path / "a")
    done = merge(str(family.folder), folder, tmp_path / "merged")
    assert done.error <= done.bound < 1e-3 * done.changed
    plain = AutoModelForCausalLM.from_pretrained(done.folder, dtype=torch.float32).eval()
    peft = PeftModel.from_pretrained(family.fresh_hf(), folder).eval()
    assert distance(logits(plain, family), logits(peft, family)) < done.bound
    words = AutoTokenizer.from_pretrained(done.folder)
    assert [words(prompt).input_ids for prompt in PROMPTS] == family.token_ids


def test_the_lens_path_loads_a_merged_model(llama: Case, adapter: Path, tmp_path: Path) -> None:
    from peft import PeftModel

    from lensbench.lens.gate import check_identities, require
    from lensbench.models.load import load_model

    merge(str(llama.folder), adapter, tmp_path / "merged")
    model = load_model(tmp_path / "merged", device="cpu")
    require(check_identities(model, llama.token_ids[:2]))
    peft = PeftModel.from_pretrained(llama.fresh_hf(), adapter).eval()
    ids = torch.tensor([llama.token_ids[0]])
    with torch.no_grad():
        torch.testing.assert_close(
            model.bridge(ids), peft(input_ids=ids).logits, rtol=1e-4, atol=1e-4
        )


def test_where_a_merged_model_comes_from_is_beside_it(
    llama: Case, adapter: Path, tmp_path: Path
) -> None:
    done = merge(str(llama.folder), adapter, tmp_path / "merged")
    found = json.loads((tmp_path / "merged" / PROVENANCE).read_text())
    assert found["base"]["weights_sha256"] == sha_of(llama)
    assert found["logits"] == {"error": done.error, "bound": done.bound, "changed": done.changed}
    assert str(tmp_path) not in json.dumps(found)


def test_a_merge_that_changes_the_logits_is_not_kept(
    llama: Case, adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(merged, "BOUND", 0.0)
    with pytest.raises(ModelError, match=r"differ from the adapter's by .*, so it was not kept"):
        merge(str(llama.folder), adapter, tmp_path / "merged")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_there_is_not_written_over(
    llama: Case, adapter: Path, tmp_path: Path
) -> None:
    (tmp_path / "merged").mkdir()
    with pytest.raises(ModelError, match="is there already"):
        merge(str(llama.folder), adapter, tmp_path / "merged")


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
    some = ("--layers", "1-2", "--eval-share", 0, "--examples", 0, "--batch-size", 3)
    status, out, err = lensbench(*base, *some, "-o", "adapter", "--cache-prefix")
    assert status == 1  # a row was left out
    assert out.split()[0] == "adapter"
    assert "3,584 of" in err
    assert "prefix cache: " in err
    assert (tmp_path / "adapter" / "report.md").exists()
    status, _, err = lensbench(*base, "-o", "other", "--layers", "5", "--targets", "z")
    assert status == 2
    assert "the model has no block 5" in err
    assert "no module is called 'z'" in err
    status, _, err = lensbench(*base, "-o", "other", "--eval", "pairs.jsonl", "--eval-share", 0.2)
    assert status == 2
    assert "give --eval or --eval-share, not both" in " ".join(err.split())
