"""The lens over int8, nf4 and live LoRA models: exactly what Hugging Face's own forward gives."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

import lensbench as lb
from lensbench.checkpoints.hashes import hashes
from lensbench.checkpoints.ref import ModelRef
from lensbench.cli.console import loaded
from lensbench.errors import GateError, InputProblems, ModelError, RecordsError
from lensbench.lens.gate import check_identities
from lensbench.models.adapted import facts_of
from lensbench.models.load import load_model
from lensbench.models.model import LensModel
from lensbench.models.spec import LoadSpec
from lensbench.quantized.adapters.spec import Lora
from lensbench.quantized.adapters.update import read_updates
from lensbench.quantized.loading.load import load_quantized
from lensbench.records.open import open_record
from lensbench.report.build import build_report
from lensbench.residuals.capture import residual_stream
from lensbench.studies.lens import run
from lensbench.studies.specs.lens import RunSpec
from tests.harness.adapters import make_adapter
from tests.harness.facts import facts_rows
from tests.harness.files import manifest, write_csv
from tests.harness.tiny import Case

FAMILIES = ("llama", "gemma2", "qwen3", "stablelm")
each_family = pytest.mark.parametrize("name", FAMILIES)
PADDED = 1  # the gate's identity about batches


@pytest.fixture(scope="module")
def adapter(llama: Case, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_adapter(llama, tmp_path_factory.mktemp("adapters") / "moved")


def require_equal(model: LensModel, hf: Any, case: Case) -> None:
    """Logits and every residual of `model` are those of Hugging Face's own forward, bit by bit."""
    for ids in case.token_ids:
        with torch.inference_mode():
            own = hf(torch.tensor([ids]), output_hidden_states=True)
        found = residual_stream(model, ids)
        assert torch.equal(found.logits, own.logits)
        # The last one comes out of Hugging Face with the final norm applied.
        expected = torch.stack([h[0].float() for h in own.hidden_states[:-1]])
        assert torch.equal(found.stream[:-1], expected)


def reference(case: Case, bits: Any, adapter: Path | None = None) -> Any:
    """Another instance, never bridged, its attention computed as the bridge computes it."""
    ref = ModelRef.of(case.folder, bits=bits, adapter=adapter)  # as the lens has it
    model = load_quantized(ref, device="cpu")
    model.base.set_attn_implementation("eager")
    return model.hf


@each_family
@pytest.mark.parametrize("bits", [pytest.param(32, marks=pytest.mark.slow), 16, 8, 4])
def test_every_precision_is_hugging_face_s_own(
    name: str, bits: int, tiny_case: Callable[[str], Case]
) -> None:
    case = tiny_case(name)
    model = load_model(f"{case.folder}@{bits}", device="cpu")
    require_equal(model, reference(case, bits), case)
    assert model.name == f"{case.folder}@{bits}"
    *others, heads = check_identities(model, case.token_ids[:2])
    assert all(identity.passed for identity in others)
    assert heads.passed is (True if bits in (32, 16) else None)  # packed weights have no heads


@pytest.mark.parametrize("tail", ["", "@32", "@8", "@4"])
def test_a_live_adapter_is_hugging_face_s_own(llama: Case, adapter: Path, tail: str) -> None:
    model = load_model(f"{llama.folder}{tail}+{adapter}", device="cpu")
    bits = int(tail[1:] or 32)
    require_equal(model, reference(llama, bits, adapter), llama)
    base = load_model(f"{llama.folder}@{bits}", device="cpu")
    ids = llama.token_ids[0]
    moved = residual_stream(model, ids).stream - residual_stream(base, ids).stream
    assert [bool(site.any()) for site in moved] == [False, False, True, True]  # blocks 1 and 2


def test_a_name_alone_is_what_load_model_makes_of_it(llama: Case) -> None:
    ids = llama.token_ids[0]
    model, plain = load_model(str(llama.folder), device="cpu"), load_model(llama.folder)
    assert (model.name, model.source, model.ref) == (plain.name, plain.source, plain.ref)
    assert torch.equal(residual_stream(model, ids).logits, residual_stream(plain, ids).logits)


def test_the_public_function_takes_every_name(llama: Case, adapter: Path) -> None:
    model = lb.load_model(f"{llama.folder}@8:2+{adapter}", device="cpu")
    assert repr(model) == (
        f"LensModel({llama.folder}@8:2+moved: 3 layers x 32, {model.d_vocab} tokens, RMS norm, "
        "no soft cap, 8 bits (LLM.int8, outlier threshold 2), adapter moved, bfloat16 on cpu)"
    )
    same = lb.load_model(
        ModelRef.of(llama.folder, bits=8, int8_threshold=2, adapter=adapter), device="cpu"
    )
    assert same.ref == model.ref == ModelRef.of(model)
    ids = llama.token_ids[0]
    assert torch.equal(residual_stream(same, ids).logits, residual_stream(model, ids).logits)


@pytest.mark.parametrize("wrong", [8, None, ["smollm2-135m"]])
def test_another_type_is_one_clear_sentence(wrong: Any) -> None:
    for load_it in (lb.load_model, lb.load_quantized):
        with pytest.raises(InputProblems, match="is no model's name"):
            load_it(wrong)


def test_without_outlier_columns_batches_change_nothing_and_with_them_they_do(llama: Case) -> None:
    prompts = llama.token_ids[:3]
    safe = load_model(f"{llama.folder}@8", device="cpu")
    usual = load_model(f"{llama.folder}@8:1", device="cpu")
    assert check_identities(safe, prompts)[PADDED].error == 0.0
    assert (check_identities(usual, prompts)[PADDED].error or 0.0) > 1e-3
    reasons = [check_identities(model, prompts)[PADDED].reason for model in (safe, usual)]
    assert ["over a whole batch" in reason for reason in reasons] == [False, True]


@each_family
def test_quantised_models_read_through_the_head_and_norm_of_their_base(
    name: str, tiny_case: Callable[[str], Case]
) -> None:
    """What `diff` relies on when it reads residuals of a variant through its base's readout."""
    case = tiny_case(name)
    base = load_model(case.folder, dtype="bfloat16", device="cpu").readout
    x = torch.randn(5, 32, generator=torch.Generator().manual_seed(0))
    for bits in (8, 4):
        own = load_model(f"{case.folder}@{bits}", device="cpu").readout
        assert torch.equal(own(x), base(x))


# --- what TransformerLens would get wrong is refused


@pytest.mark.parametrize("name", ["gpt2", "gpt_neox"])
def test_an_adapter_that_the_bridge_would_drop_stops_the_run(
    name: str, tiny_case: Callable[[str], Case], tmp_path: Path
) -> None:
    """Joint q/k/v are taken apart from the bare weight, so an adapter on them goes missing."""
    case = tiny_case(name)
    folder = make_adapter(case, tmp_path / "a")
    with pytest.raises(GateError, match="gives another output than the model itself"):
        load_model(f"{case.folder}+{folder}", device="cpu")


def test_an_adapter_on_other_modules_of_such_a_model_is_read(gpt2: Case, tmp_path: Path) -> None:
    folder = make_adapter(gpt2, tmp_path / "a", lora=Lora(blocks="1-2", targets="up,down", rank=2))
    model = load_model(f"{gpt2.folder}+{folder}", device="cpu")
    hf, ids = reference(gpt2, 32, folder), gpt2.token_ids[0]
    with torch.inference_mode():
        own, base = (m(torch.tensor([ids])).logits for m in (hf, gpt2.hf))
    found = residual_stream(model, ids).logits
    assert torch.dist(found, own) < 1e-4 * own.norm()  # q, k and v apart: other sums
    assert torch.dist(base, own) > 1e-2 * own.norm()


@pytest.mark.parametrize("name", ["gpt2", "gpt_neox"])
@pytest.mark.parametrize("bits", [8, 4])
def test_joint_matrices_cannot_be_taken_apart_when_packed(
    name: str, bits: int, tiny_case: Callable[[str], Case]
) -> None:
    with pytest.raises(ModelError, match="TransformerLens cannot"):
        load_model(f"{tiny_case(name).folder}@{bits}", device="cpu")


def test_an_adapter_of_another_base_is_refused(
    tiny_case: Callable[[str], Case], adapter: Path
) -> None:
    with pytest.raises(ModelError, match="trained on other weights"):
        load_model(f"{tiny_case('qwen3').folder}+{adapter}", device="cpu")


def test_options_that_bits_leave_without_effect_are_refused(llama: Case, adapter: Path) -> None:
    with pytest.raises(InputProblems) as caught:
        load_model(f"{llama.folder}@8", dtype="float32", allow_fields=["x"])
    assert len(caught.value.problems) == 2
    with pytest.raises(InputProblems, match="Write @16, @8 or @4"):
        load_model(f"{llama.folder}+{adapter}", dtype="float16")


def test_an_adapter_alone_follows_the_dtype(llama: Case, adapter: Path) -> None:
    text = f"{llama.folder}+{adapter}"
    assert load_model(text, device="cpu").dtype == torch.float32
    assert load_model(text, device="cpu", dtype="bfloat16").dtype == torch.bfloat16


# --- facts for the manifest


def test_facts_of_a_name_alone_are_its_hashes(llama: Case) -> None:
    assert facts_of(ModelRef.of(str(llama.folder))) == hashes(llama.folder)


def test_facts_of_a_variant_say_what_decides_its_weights(llama: Case, adapter: Path) -> None:
    facts = facts_of(ModelRef.of(f"{llama.folder}@8+{adapter}"))
    assert facts["bits"] == 8
    assert facts["int8_threshold"] == 0.0
    assert facts["n_params"] == llama.hf.num_parameters()
    assert facts["adapter"] == "moved"
    updates = read_updates(adapter).values()
    by_hand = [
        sum(float((u.scale * u.up @ u.down).square().sum()) for u in updates if u.block == block)
        for block in range(3)
    ]
    assert facts["adapter_update_norms"] == pytest.approx([v**0.5 for v in by_hand])
    assert facts["adapter_update_norms"][0] == 0.0
    json.dumps(facts)


# --- runs


@pytest.fixture(scope="module")
def done(llama: Case, adapter: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Record folders by variant: "", "@8" and "+" (the adapter)."""
    folder = tmp_path_factory.mktemp("run")
    facts = write_csv(folder / "small.csv", facts_rows())
    models = {"": "", "@8": "@8", "+": f"+{adapter}"}
    spec = RunSpec(
        tuple(f"{llama.folder}{tail}" for tail in models.values()),
        str(facts),
        limit=None,
        batch_tokens=64,
        heatmap_prompts=2,
        keep_residuals=True,
    )
    outcome = run(spec, folder / "run")
    assert outcome.ok, outcome
    return dict(zip(models, outcome.folders, strict=True))


def test_records_are_named_by_their_variant(llama: Case, done: dict[str, Path]) -> None:
    names = {tail: manifest(folder)["model"]["name"] for tail, folder in done.items()}
    path = str(llama.folder)
    assert names == {"": path, "@8": f"{path}@8", "+": f"{path}+moved"}
    assert done["@8"].name.endswith("llama-8")
    assert done["+"].name.endswith("llama-moved")
    for tail, folder in done.items():
        for table in ("prompts", "lens", "milestones"):
            assert set(pd.read_parquet(folder / f"{table}.parquet").model) == {names[tail]}


def test_a_plain_record_says_no_more_than_before(done: dict[str, Path]) -> None:
    plain = manifest(done[""])
    assert set(plain["model"]) == {
        *("name", "source", "model_type", "n_layers", "d_model", "d_vocab", "n_params", "norm"),
        *("soft_cap", "parallel", "dtype", "device", "weights_sha256", "tokenizer_sha256"),
        *("config_sha256", "chat_template_sha256", "added_tokens_sha256"),
        *("head_product", "model_logits"),
    }
    assert "peft" not in plain["versions"]
    assert "keep_residuals" not in RunSpec(("m",)).settings()


def test_variants_record_precision_and_adapter(done: dict[str, Path], adapter: Path) -> None:
    eight, tuned = manifest(done["@8"])["model"], manifest(done["+"])["model"]
    assert (eight["bits"], eight["int8_threshold"], eight["adapter"]) == (8, 0.0, None)
    assert (eight["dtype"], tuned["dtype"]) == ("bfloat16", "float32")
    assert eight["precisions"].keys() == {"bfloat16", "int8"}
    assert tuned["precisions"].keys() == {"float32"}
    assert (tuned["bits"], tuned["adapter"]) == (32, "moved")
    assert len(tuned["adapter_sha256"]) == 64
    assert str(adapter.parent) not in json.dumps(manifest(done["+"]))
    assert {"bitsandbytes", "peft"} <= set(manifest(done["@8"])["versions"])


def test_a_finished_variant_is_not_run_again_and_another_adapter_is_told_apart(
    llama: Case, done: dict[str, Path], adapter: Path, tmp_path: Path
) -> None:
    folder = done["+"].parent
    other = make_adapter(llama, tmp_path / "moved", seed=2)
    facts = folder.parent / "small.csv"
    same = {"limit": None, "batch_tokens": 64, "heatmap_prompts": 2, "keep_residuals": True}
    before = {p: p.stat().st_mtime_ns for p in done["+"].iterdir()}
    again = RunSpec((f"{llama.folder}+{adapter}",), str(facts), **same)  # type: ignore[arg-type]
    assert run(again, folder).ok
    assert before == {p: p.stat().st_mtime_ns for p in done["+"].iterdir()}
    changed = RunSpec((f"{llama.folder}+{other}",), str(facts), **same)  # type: ignore[arg-type]
    (error,) = run(changed, folder).failed.values()
    assert isinstance(error, RecordsError)
    assert "adapter_sha256" in str(error)


def test_a_model_named_twice_is_one_problem(llama: Case, tmp_path: Path) -> None:
    with pytest.raises(InputProblems) as caught:
        run(RunSpec((str(llama.folder), str(llama.folder))), tmp_path / "out")
    (problem,) = caught.value.problems
    assert "stands twice" in problem.what


def test_two_adapters_of_one_name_are_refused_before_any_work(
    llama: Case, adapter: Path, tmp_path: Path
) -> None:
    other = make_adapter(llama, tmp_path / "moved", seed=2)
    models = (f"{llama.folder}+{adapter}", f"{llama.folder}+{other}", f"{llama.folder}@3")
    with pytest.raises(InputProblems) as caught:
        run(RunSpec(models), tmp_path / "out")
    assert "two models of that name" in str(caught.value)
    assert "'3' after the @" in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_model_that_cannot_be_wrapped_leaves_the_others_alone(
    llama: Case, gpt2: Case, tmp_path: Path
) -> None:
    facts = write_csv(tmp_path / "small.csv", facts_rows()[:3])
    models = (f"{gpt2.folder}@8", f"{llama.folder}@4")
    outcome = run(RunSpec(models, str(facts), limit=None), tmp_path / "out")
    assert list(outcome.failed) == [f"{gpt2.folder}@8"]
    assert len(outcome.folders) == 1


@pytest.mark.slow
def test_the_cross_model_report_compares_variants(done: dict[str, Path], tmp_path: Path) -> None:
    build_report(list(done.values()), tmp_path)
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "llama@8" in text
    assert "llama+moved" in text


# --- kept residuals


@pytest.mark.parametrize("tail", ["", "@8", "+"])
def test_kept_residuals_are_hugging_face_s_at_the_last_position(
    llama: Case, adapter: Path, done: dict[str, Path], tail: str
) -> None:
    hf = reference(llama, 8 if tail == "@8" else 32, adapter if tail == "+" else None)
    kept = open_record(done[tail]).residuals
    assert kept is not None
    prompts = pd.read_parquet(done[tail] / "prompts.parquet").set_index("prompt_id")
    assert sorted(kept.cells.prompt_id) == sorted(prompts.index)  # base and linked, each once
    assert (kept.cells.position.to_numpy() == prompts.n_tokens[kept.cells.prompt_id] - 1).all()
    layers = {layer: kept.layer("embed" if layer == 0 else "resid_post", layer) for layer in (0, 2)}
    for row, item in enumerate(kept.cells.prompt_id):
        ids = torch.tensor([prompts.token_ids[item].tolist()])
        with torch.inference_mode():
            own = hf(ids, output_hidden_states=True).hidden_states
        for layer, vectors in layers.items():
            error = 0.04 if tail == "@8" else 1e-5  # in a batch, bfloat16 sums in another order
            expected = own[layer][0, -1].float()
            assert torch.dist(torch.from_numpy(vectors[row]), expected) <= error * expected.norm()


def test_kept_residuals_of_a_half_precision_model_take_half_the_room(
    done: dict[str, Path],
) -> None:
    sizes = {
        tail: sum(p.stat().st_size for p in (folder / "residuals").iterdir())
        for tail, folder in done.items()
    }
    assert sizes["@8"] < 0.7 * sizes[""]


def test_a_run_that_kept_nothing_has_none(llama: Case, tmp_path: Path) -> None:
    facts = write_csv(tmp_path / "small.csv", facts_rows()[:3])
    (folder,) = run(RunSpec((str(llama.folder),), str(facts)), tmp_path / "out").folders
    assert open_record(folder).residuals is None
    assert not (folder / "residuals").exists()


def test_the_command_line_takes_variants(llama: Case) -> None:
    model = loaded(LoadSpec(model=f"{llama.folder}@8", device="cpu"))
    assert model.dtype == torch.bfloat16
