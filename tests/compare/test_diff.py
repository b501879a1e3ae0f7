"""Diffs: hand-worked numbers, exact zeros, planted effects, and Hugging Face as the reference."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from lensbench.compare.diff import changes as maths
from lensbench.compare.diff.record import run_diff
from lensbench.compare.diff.spec import DiffSpec
from lensbench.compare.diff.tables import layers_table
from lensbench.errors import GateError, InputProblems, RecordsError
from lensbench.quantized.adapters.spec import Lora
from lensbench.quantized.loading.load import load_quantized
from lensbench.records.engine import Executor, done_by
from lensbench.records.schema import KINDS, TABLES
from lensbench.studies.lens import run
from lensbench.studies.specs.lens import RunSpec
from tests.harness.adapters import make_adapter
from tests.harness.executors import backwards, in_threads
from tests.harness.facts import facts_rows
from tests.harness.files import UNEQUAL, contents, manifest, write_csv, write_manifest
from tests.harness.program import Program, words
from tests.harness.tiny import Case

# --- the maths


def test_ranks_change_by_powers_of_two() -> None:
    a, b = np.array([8.0, 1.0, 3.0, np.nan]), np.array([2.0, 32.0, 3.0, 1.0])
    assert maths.rank_change(a, b)[:3].tolist() == [-2.0, 5.0, 0.0]
    assert np.isnan(maths.rank_change(a, b)[3])


def test_cosine_and_relative_change_by_hand() -> None:
    a = np.array([[3.0, 4.0], [1.0, 0.0], [2.0, 0.0], [0.0, 0.0]], dtype=np.float32)
    b = np.array([[4.0, 3.0], [0.0, 2.0], [-4.0, 0.0], [1.0, 0.0]], dtype=np.float32)
    assert maths.cosine(a, b)[:3] == pytest.approx([24 / 25, 0.0, -1.0])
    change = maths.relative_change(a, b)
    assert change[:3] == pytest.approx([2**0.5 / 5, 5**0.5, 3.0])
    assert np.isnan(maths.cosine(a, b)[3])
    assert np.isnan(change[3])


@given(arrays.arrays(np.float32, (3, 5), elements=st.floats(-1e4, 1e4, width=32)))
def test_equal_vectors_have_exactly_no_change(x: np.ndarray) -> None:
    there = np.abs(x).sum(-1) > 1e-3
    assert (maths.cosine(x, x)[there] == 1.0).all()
    assert (maths.relative_change(x, x)[there] == 0.0).all()


def test_curves_are_linear_between_layers() -> None:
    values = np.array([[0.0, 1.0, 4.0], [2.0, 2.0, 2.0]])
    found = maths.at_depths(values, np.array([0.0, 0.5, 1.0]), np.array([0.0, 0.25, 0.75, 1.0]))
    assert found.tolist() == [[0.0, 0.5, 2.5, 4.0], [2.0] * 4]


def test_adjusted_p_by_hand() -> None:
    """Three relations, eight draws of signs. Layer 0: only all signs alike reach |1+2+3|."""
    changes = np.array([[1.0, 1.0, 0.0], [2.0, -1.0, 0.0], [3.0, 1.0, 0.0]])
    p = maths.adjusted_p(changes, ["x", "y", "z"])
    # Layer 0: t = 2 / sqrt((14/3 - 4) / 2) = 3.46. Layer 1: sums of +-1 reach 3 in the draws
    # (+-+) and (-+-), and then |t| is huge: these two draws beat layer 0 as well, so 4 of 8.
    assert p[0] == 4 / 8
    assert p[1] == 1.0  # |1| is the least that three signs give
    assert np.isnan(p[2])  # nothing changes


def test_prompts_of_a_relation_are_swapped_together() -> None:
    changes = np.ones((12, 1))
    assert maths.adjusted_p(changes, list("aabbccddeeff"))[0] == 2 / 2**6
    assert maths.adjusted_p(changes, list("aaaaaabbbbbb"))[0] == 2 / 2**2
    assert np.isnan(maths.adjusted_p(changes, ["a"] * 12)[0])


@pytest.mark.parametrize(("relation", "p"), [("prompt", 2 / 2**6), ("one", None)])
def test_prompts_without_relations_are_swapped_one_by_one(relation: str, p: float | None) -> None:
    """All six change alike: of 64 draws of signs two reach that. One relation has two draws."""
    cells = pd.DataFrame(
        {"prompt_id": list("abcdef"), "relation": relation, "layer": 0, "depth": 0.0}
    )
    for name in ("entropy_bits", "kl_bits", "answer_prob"):
        cells[f"{name}_a"], cells[f"{name}_b"] = 0.0, np.arange(1.0, 7.0)
    cells["answer_rank_log2_change"] = 1.0
    tested = layers_table(cells).to_pandas().set_index("measure")
    assert tested["n_prompts"].tolist() == [6] * 4
    found = tested.at["entropy_bits", "p_adjusted"]
    assert found == p if p else np.isnan(found)


def test_a_prompt_with_a_gap_is_left_out() -> None:
    changes = np.array([[1.0], [1.0], [np.nan], [1.0]])
    with_gap = maths.adjusted_p(changes, list("abcd"))
    assert with_gap == maths.adjusted_p(changes[[0, 1, 3]], list("abd"))


def planted(rng: np.random.Generator, effect: float) -> tuple[np.ndarray, list[int]]:
    """48 prompts in 12 relations, 12 layers, all layers and prompts correlated; 5-7 may move."""
    relations = [i // 4 for i in range(48)]
    changes = rng.normal(size=(48, 12)) + rng.normal(size=(48, 1))
    changes += rng.normal(size=(12, 12))[relations]
    changes[:, 5:8] += effect
    return changes, relations


def test_a_planted_change_is_found_where_it_is() -> None:
    p = maths.adjusted_p(*planted(np.random.default_rng(1), 4.0))
    assert np.flatnonzero(p < 0.05).tolist() == [5, 6, 7]


def test_nothing_is_found_where_nothing_changes_more_often_than_stated() -> None:
    rng = np.random.default_rng(0)
    found = [bool((maths.adjusted_p(*planted(rng, 0.0)) < 0.05).any()) for _ in range(200)]
    # 200 draws at 5 %: more than 18 happen once in 50 times.
    assert sum(found) <= 18


# --- runs on tiny models


def spec_of(models: tuple[str, ...], facts: Path, **changes: Any) -> RunSpec:
    small = {"limit": None, "batch_tokens": 64, "heatmap_prompts": 0, "keep_residuals": True}
    return RunSpec(models, str(facts), **(small | changes))


@pytest.fixture(scope="module")
def facts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_csv(tmp_path_factory.mktemp("prompts") / "small.csv", facts_rows())


@pytest.fixture(scope="module")
def adapter(llama: Case, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_adapter(llama, tmp_path_factory.mktemp("adapters") / "moved", size=0.05)


@pytest.fixture(scope="module")
def zero(llama: Case, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter as it is before training: A is random, B is zero."""
    folder = tmp_path_factory.mktemp("adapters") / "zero"
    return make_adapter(llama, folder, size=0.0, lora=Lora(rank=4))


@pytest.fixture(scope="module")
def records(
    llama: Case, facts: Path, adapter: Path, zero: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    tails = {"plain": "", "zero": f"+{zero}", "moved": f"+{adapter}", "eight": "@8"}
    models = tuple(f"{llama.folder}{tail}" for tail in tails.values())
    outcome = run(spec_of(models, facts), tmp_path_factory.mktemp("run"))
    assert outcome.ok, outcome
    return dict(zip(tails, outcome.folders, strict=True))


def frames(folder: Path) -> dict[str, pd.DataFrame]:
    return {
        name: pq.read_table(folder / f"{name}.parquet").to_pandas() for name in KINDS["diff"].names
    }


def require_zero(folder: Path) -> None:
    """Not one number of the diff is anything but exactly zero (a cosine: one)."""
    found = frames(folder)
    cells, prompts, layers = (found[f"diff_{name}"] for name in ("cells", "prompts", "layers"))
    assert len(cells) == 9 * 4
    for name in ("entropy_bits", "kl_bits", "answer_rank", "answer_prob"):
        assert (cells[f"{name}_a"] == cells[f"{name}_b"]).all()
    for name in ("answer_rank_log2_change", "resid_change", "lens_kl_bits"):
        assert (cells[name] == 0.0).all(), name
    assert (cells["resid_cosine"] == 1.0).all()
    assert cells["top1_same"].all()
    assert (layers["mean_change"] == 0.0).all()
    assert (layers["reason"] == "nothing changes").all()
    sides = [prompts.filter(regex=f"_{side}$").to_numpy() for side in "ab"]
    assert ((sides[0] == sides[1]) | pd.isna(sides[0]) & pd.isna(sides[1])).all()


def test_a_run_against_itself_is_exactly_zero(records: dict[str, Path], tmp_path: Path) -> None:
    for name in ("plain", "eight"):
        assert run_diff(records[name], records[name], tmp_path / name) == []
        require_zero(tmp_path / name)


def test_an_adapter_whose_b_is_zero_moves_nothing(records: dict[str, Path], tmp_path: Path) -> None:
    run_diff(records["plain"], records["zero"], tmp_path)
    require_zero(tmp_path)
    assert manifest(tmp_path)["model"]["b"]["adapter_update_norms"] == [0.0, 0.0, 0.0]


@pytest.fixture(scope="module")
def moved(records: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("diff") / "moved"
    assert run_diff(records["plain"], records["moved"], folder) == []
    return folder


def test_the_record_follows_its_schema(moved: Path) -> None:
    for name in KINDS["diff"].names:
        assert pq.read_table(moved / f"{name}.parquet").schema.equals(TABLES[name].schema)
    assert manifest(moved)["status"] == "complete"
    assert manifest(moved)["kind"] == "diff"


def test_changes_are_those_of_the_two_records(records: dict[str, Path], moved: Path) -> None:
    cells = frames(moved)["diff_cells"]
    for side, name in (("a", "plain"), ("b", "moved")):
        lens = pd.read_parquet(records[name] / "lens.parquet")
        lens = lens[lens.is_last & (lens["lens"] == "final")].set_index(["prompt_id", "layer"])
        keys = list(zip(cells.prompt_id, cells.layer, strict=True))
        for column in ("entropy_bits", "kl_bits", "answer_rank", "answer_prob"):
            expected = lens.loc[keys, column].to_numpy(dtype=float)
            assert (cells[f"{column}_{side}"].to_numpy() == expected).all()
    layers = frames(moved)["diff_layers"]
    row = layers[(layers.measure == "entropy_bits") & (layers.layer == 3)].iloc[0]
    last = cells[cells.layer == 3]
    assert row.mean_change == pytest.approx((last.entropy_bits_b - last.entropy_bits_a).mean())
    assert (row.n_prompts, row.n_relations) == (9, 4)


def test_only_what_lies_above_the_adapter_moves(moved: Path) -> None:
    """It is in blocks 1 and 2, whose outputs are layers 2 and 3."""
    cells = frames(moved)["diff_cells"].groupby("layer")
    assert (cells["resid_change"].max()[[0, 1]] == 0.0).all()
    assert (cells["lens_kl_bits"].max()[[0, 1]] == 0.0).all()
    assert (cells["resid_change"].min()[[2, 3]] > 1e-3).all()
    assert (cells["lens_kl_bits"].min()[[2, 3]] > 0).all()


def test_residuals_and_lenses_against_hugging_face(
    llama: Case, adapter: Path, records: dict[str, Path], moved: Path
) -> None:
    """Each prompt alone through transformers' own modules, in float64 after the hidden states."""
    cells = frames(moved)["diff_cells"].set_index(["prompt_id", "layer"])
    prompts = pd.read_parquet(records["plain"] / "prompts.parquet").set_index("prompt_id")
    base, tuned = llama.hf, load_quantized(llama.folder, 32, adapter, device="cpu").hf
    norm, head = base.model.norm, base.lm_head
    for item in cells.index.get_level_values(0).unique():
        ids = torch.tensor([prompts.token_ids[item].tolist()])
        with torch.inference_mode():
            a, b = (
                m(ids, output_hidden_states=True).hidden_states[2][0, -1] for m in (base, tuned)
            )
            p, q = (head(norm(x)).double().log_softmax(-1) for x in (a, b))
        kl = float((p.exp() * (p - q)).sum() / np.log(2))
        row = cells.loc[(item, 2)]
        assert row.top1_same == bool(p.argmax() == q.argmax())
        assert row.lens_kl_bits == pytest.approx(kl, rel=1e-3, abs=1e-6)
        assert row.resid_cosine == pytest.approx(
            float(torch.nn.functional.cosine_similarity(a, b, dim=0)), abs=1e-5
        )
        assert row.resid_change == pytest.approx(float((b - a).norm() / a.norm()), rel=1e-3)


def test_another_top_token_is_seen_at_its_place(records: dict[str, Path], tmp_path: Path) -> None:
    def exchanged(folder: Path) -> None:
        lens = pd.read_parquet(folder / "lens.parquet")
        place = (lens["lens"] == "final") & lens["is_last"] & (lens["layer"] == 2)
        row = lens.index[place][0]
        first, second, third, *rest = lens.at[row, "top_ids"]
        lens.at[row, "top_ids"] = [third, second, first, *rest]
        lens.to_parquet(folder / "lens.parquet")
        found.append((lens.at[row, "prompt_id"], 2))

    found: list[tuple[str, int]] = []
    run_diff(records["plain"], edited(records["plain"], tmp_path / "b", exchanged), tmp_path / "d")
    cells = frames(tmp_path / "d")["diff_cells"].set_index(["prompt_id", "layer"])
    assert cells.index[~cells["top1_same"].astype(bool)].tolist() == found


def test_milestones_stand_side_by_side(records: dict[str, Path], moved: Path) -> None:
    prompts = frames(moved)["diff_prompts"].set_index("prompt_id")
    assert len(prompts) == 9
    for side, name in (("a", "plain"), ("b", "moved")):
        own = pd.read_parquet(records[name] / "milestones.parquet")
        own = own[own["lens"] == "final"].set_index("prompt_id").loc[prompts.index]
        for milestone in ("rank1_first", "kl_1bit"):
            expected = own[f"{milestone}_layer"].astype(float)
            found = prompts[f"{milestone}_layer_{side}"].astype(float)
            pd.testing.assert_series_equal(found, expected, check_names=False)
            pd.testing.assert_series_equal(
                prompts[f"{milestone}_depth_{side}"], expected / 3, check_names=False
            )


def test_residuals_read_again_are_the_record_s(moved: Path) -> None:
    gate = manifest(moved)["gate"]
    assert [identity["passed"] for identity in gate] == [True, True]
    assert max(identity["error"] for identity in gate) < 1e-5


# --- what does not match


def edited(record: Path, folder: Path, change: Callable[[Path], None]) -> Path:
    shutil.copytree(record, folder)
    change(folder)
    write_manifest(folder, manifest(folder))
    return folder


def rewrite(name: str, **columns: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        frame = pd.read_parquet(folder / f"{name}.parquet").assign(**columns)
        frame.to_parquet(folder / f"{name}.parquet")

    return change


def set_model(folder: Path, **facts: Any) -> None:
    whole = manifest(folder)
    whole["model"] |= facts
    write_manifest(folder, whole)


def test_other_texts_and_answers_are_named_at_once(
    records: dict[str, Path], tmp_path: Path
) -> None:
    plain = records["plain"]
    other = edited(plain, tmp_path / "b", rewrite("prompts", text="x", answer="y"))
    with pytest.raises(InputProblems) as caught:
        run_diff(plain, other, tmp_path / "d")
    first, second = caught.value.problems
    assert first.what.startswith("9 prompts of one id expect other answers: capital-Germany")
    assert second.what.startswith("9 prompts of one id have other texts")
    assert "--context" in second.remedy
    assert not (tmp_path / "d").exists()


def test_other_contexts_are_paired_by_id_on_request(
    records: dict[str, Path], tmp_path: Path
) -> None:
    other = edited(records["plain"], tmp_path / "b", rewrite("prompts", text="In context: x"))
    run_diff(records["plain"], other, tmp_path / "d", DiffSpec(context=True))
    assert manifest(tmp_path / "d")["settings"]["context"] is True


def test_no_prompt_in_common_is_said(records: dict[str, Path], tmp_path: Path) -> None:
    def rename(folder: Path) -> None:
        for name in ("prompts", "lens", "milestones"):
            frame = pd.read_parquet(folder / f"{name}.parquet")
            frame["prompt_id"] = "other-" + frame["prompt_id"]
            frame.to_parquet(folder / f"{name}.parquet")

    other = edited(records["plain"], tmp_path / "b", rename)
    with pytest.raises(InputProblems, match="they share no base prompt"):
        run_diff(records["plain"], other, tmp_path / "d")


def test_prompts_of_one_record_only_are_left_out_and_told(
    llama: Case, facts: Path, records: dict[str, Path], tmp_path: Path
) -> None:
    fewer = run(spec_of((str(llama.folder),), facts, limit=5), tmp_path / "run").folders[0]
    (problem,) = run_diff(records["plain"], fewer, tmp_path / "d")
    assert problem.what.startswith("4 prompts are not in")
    found = frames(tmp_path / "d")
    assert len(found["diff_prompts"]) == 5
    assert len(found["problems"]) == 1


def test_models_of_other_depth_and_tokenizer_are_refused_with_both_reasons(
    gpt2: Case, facts: Path, records: dict[str, Path], tmp_path: Path
) -> None:
    other = run(spec_of((str(gpt2.folder),), facts), tmp_path / "run").folders[0]
    set_model(other, n_layers=2)
    with pytest.raises(InputProblems) as caught:
        run_diff(records["plain"], other, tmp_path / "d")
    whats = [problem.what for problem in caught.value.problems]
    assert any("3 and 2 layers" in what for what in whats)
    assert any("vocabularies have 384 and 390 tokens" in what for what in whats)


def test_one_vocabulary_size_does_not_make_one_tokenizer(
    llama: Case,
    tiny_case: Callable[[str], Case],
    facts: Path,
    records: dict[str, Path],
    tmp_path: Path,
) -> None:
    qwen = tiny_case("qwen3")  # 384 tokens too, by another tokenizer
    other = run(spec_of((str(qwen.folder),), facts), tmp_path / "run").folders[0]
    with pytest.raises(InputProblems, match="different tokenizers"):
        run_diff(records["plain"], other, tmp_path / "d")


def test_a_tokenizer_saved_again_is_the_same_tokenizer(
    records: dict[str, Path], tmp_path: Path
) -> None:
    other = edited(records["plain"], tmp_path / "b", lambda f: set_model(f, tokenizer_sha256="0"))
    with pytest.raises(RecordsError, match="another record"):  # the shards are of the other facts
        run_diff(records["plain"], other, tmp_path / "d")


def test_other_depths_are_compared_at_relative_depth_only_on_request(
    tiny_case: Callable[[str], Case],
    llama: Case,
    facts: Path,
    records: dict[str, Path],
    tmp_path: Path,
) -> None:
    from tests.harness.tiny import save

    folder = save(llama.row, tmp_path / "deep", {"num_hidden_layers": 4})
    deep = run(spec_of((str(folder),), facts), tmp_path / "run").folders[0]
    with pytest.raises(InputProblems, match="--relative-depth"):
        run_diff(records["plain"], deep, tmp_path / "no")
    with pytest.raises(InputProblems, match="needs no scale"):
        run_diff(records["plain"], records["moved"], tmp_path / "no", DiffSpec(relative_depth=True))
    run_diff(records["plain"], deep, tmp_path / "d", DiffSpec(relative_depth=True))
    cells = frames(tmp_path / "d")["diff_cells"]
    assert cells.layer.isna().all()
    assert cells.depth.unique().tolist() == pytest.approx(np.linspace(0, 1, 21).tolist())
    assert cells[["resid_cosine", "lens_kl_bits", "top1_same"]].isna().all(axis=None)
    assert manifest(tmp_path / "d")["residuals_reason"] == "the models have 3 and 4 layers"
    lens = pd.read_parquet(deep / "lens.parquet")
    lens = lens[lens.is_last & (lens["lens"] == "final") & (lens.prompt_id == "symbol-gold")]
    by_layer = lens.sort_values("layer").entropy_bits.to_numpy(dtype=float)
    at = cells[(cells.prompt_id == "symbol-gold") & (cells.depth.round(2) == 0.3)].iloc[0]
    assert at.entropy_bits_b == pytest.approx(0.8 * by_layer[1] + 0.2 * by_layer[2])


def test_a_record_without_residuals_is_compared_without_them(
    llama: Case, facts: Path, records: dict[str, Path], tmp_path: Path
) -> None:
    spec = spec_of((str(llama.folder),), facts, keep_residuals=False)
    bare = run(spec, tmp_path / "run").folders[0]
    run_diff(bare, records["moved"], tmp_path / "d")
    cells = frames(tmp_path / "d")["diff_cells"]
    assert cells[["resid_cosine", "resid_change", "lens_kl_bits"]].isna().all(axis=None)
    reason = manifest(tmp_path / "d")["residuals_reason"]
    assert reason == f"{llama.folder} was run without --keep-residuals"
    assert cells.entropy_bits_b.notna().all()


def test_an_altered_shard_is_named(records: dict[str, Path], tmp_path: Path) -> None:
    def alter(folder: Path) -> None:
        shard = sorted((folder / "residuals").iterdir())[0]
        data = bytearray(shard.read_bytes())
        data[-1] ^= 0xFF
        shard.write_bytes(bytes(data))

    other = edited(records["moved"], tmp_path / "b", alter)
    with pytest.raises(RecordsError, match=r"000000.safetensors: .*altered"):
        run_diff(records["plain"], other, tmp_path / "d")


def test_a_base_that_changed_or_went_leaves_the_lenses_uncompared(
    llama: Case, facts: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(llama.folder, tmp_path / "model")
    record = run(spec_of((str(folder),), facts), tmp_path / "run").folders[0]
    shutil.rmtree(folder)
    run_diff(record, record, tmp_path / "d")
    assert "There is no folder" in manifest(tmp_path / "d")["lenses_reason"]
    cells = frames(tmp_path / "d")["diff_cells"]
    assert cells.lens_kl_bits.isna().all()
    assert (cells.resid_cosine == 1.0).all()


def test_a_finished_diff_is_left_alone_until_a_record_changes(
    records: dict[str, Path], tmp_path: Path
) -> None:
    def other(folder: Path) -> None:
        lens = pd.read_parquet(folder / "lens.parquet")
        lens["answer_prob"] /= 2
        lens.to_parquet(folder / "lens.parquet")

    steps: list[str] = []

    def compare(b: Path) -> int:
        steps.clear()
        run_diff(records["plain"], b, tmp_path / "d", progress=lambda now: steps.append(now.stage))
        return len(steps)

    assert compare(records["moved"]) > 0
    assert compare(records["moved"]) == 0
    with pytest.raises(RecordsError, match="lens_sha256"):
        compare(edited(records["moved"], tmp_path / "b", other))


@pytest.mark.parametrize("execute", [pytest.param(backwards, marks=pytest.mark.slow), in_threads])
def test_a_diff_is_the_same_whoever_compares(
    records: dict[str, Path], tmp_path: Path, execute: Executor
) -> None:
    both = records["plain"], records["moved"]
    run_diff(*both, tmp_path / "one")
    with done_by(execute):
        run_diff(*both, tmp_path / "other")
    assert contents(tmp_path / "other", UNEQUAL) == contents(tmp_path / "one", UNEQUAL)


@pytest.mark.slow
def test_a_diff_of_records_that_were_widened_is_made_again(
    llama: Case, facts: Path, adapter: Path, tmp_path: Path
) -> None:
    """Wider records of other settings are other records, and narrower ones too."""
    models = (str(llama.folder), f"{llama.folder}+{adapter}")
    for limit in (2, 5):
        both = run(spec_of(models, facts, limit=limit), tmp_path / "runs").folders
        run_diff(*both, tmp_path / "d")
        assert len(frames(tmp_path / "d")["diff_prompts"]) == limit
    small = run(spec_of(models, facts, limit=2), tmp_path / "small").folders
    with pytest.raises(RecordsError, match=r"model\.a\.limit: 5 there, 2 now"):
        run_diff(*small, tmp_path / "d")
    half = run(spec_of(models[:1], facts, limit=7, dtype="bfloat16"), tmp_path / "half").folder
    with pytest.raises(RecordsError, match=r"model\.a\.dtype"):
        run_diff(half, half, tmp_path / "d")


def test_a_record_that_its_residuals_do_not_give_stops_the_diff(
    records: dict[str, Path], tmp_path: Path
) -> None:
    def wrong(folder: Path) -> None:
        lens = pd.read_parquet(folder / "lens.parquet")
        lens["entropy_bits"] += 0.01
        lens.to_parquet(folder / "lens.parquet")

    other = edited(records["moved"], tmp_path / "b", wrong)
    with pytest.raises(GateError, match="read again"):
        run_diff(records["plain"], other, tmp_path / "d")


@pytest.mark.parametrize("what", ["nothing", "two", "running", "other"])
def test_what_is_no_record_is_refused(
    what: str, records: dict[str, Path], moved: Path, tmp_path: Path
) -> None:
    plain = records["plain"]

    def running(folder: Path) -> None:
        whole = manifest(folder) | {"status": "running"}
        write_manifest(folder, whole)

    given = {
        "nothing": lambda: tmp_path,
        "two": lambda: plain.parent,
        "running": lambda: edited(plain, tmp_path / "b", running),
        "other": lambda: moved,
    }
    words = {"nothing": "no record", "two": "4 records", "running": "not complete"}
    with pytest.raises(RecordsError, match=words.get(what, "of kind diff")):
        run_diff(plain, given[what](), tmp_path / "d")


# --- the command line


def test_the_command_writes_a_report_and_says_the_answer(
    lensbench: Program, records: dict[str, Path], tmp_path: Path
) -> None:
    done = lensbench("diff", records["plain"], records["eight"], "-o", tmp_path / "d")
    assert done.status == 0
    assert "change the verdict of this lens study?" in words(done.out)
    assert (tmp_path / "d" / "report.md").is_file()


def test_the_command_refuses_bad_input_in_one_message(
    lensbench: Program, records: dict[str, Path], tmp_path: Path
) -> None:
    plain = records["plain"]
    for how, said in (
        (("--relative-depth",), "needs no scale"),
        (("--diverge-bits", "-1", "--context"), "it is -1"),
    ):
        done = lensbench("diff", plain, plain, "-o", tmp_path / "d", *how)
        assert done.status == 2
        assert "1 problem with" in done.err
        assert said in done.said
