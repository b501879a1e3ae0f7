"""`lensbench correlate`: from traces to a record, and what it says of runs that do not match."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from lensbench.compare.correlation.conditions import align
from lensbench.compare.correlation.record import correlate
from lensbench.compare.correlation.runs import open_runs, require_comparable
from lensbench.compare.correlation.spec import CorrelationSpec
from lensbench.compare.correlation.suggest import suggested
from lensbench.compare.similarity import MEASURES
from lensbench.errors import InputProblems, RecordsError
from lensbench.records.engine import Executor, done_by, one_by_one
from lensbench.records.schema import KINDS
from lensbench.records.schema.correlation import VARIANTS
from lensbench.records.schema.generation import SPANS
from lensbench.report.build import build_report
from tests.harness.correlation_records import (
    N_LAYERS,
    N_PROMPTS,
    PLANTED,
    WIDTH,
    base,
    manifest,
    noisy,
    planted,
    write_trace,
)
from tests.harness.executors import EXECUTORS
from tests.harness.files import UNEQUAL, contents, write_manifest
from tests.harness.program import Program
from tests.harness.similarity import similarity
from tests.harness.tiny import PROMPTS, Case

FAST = {"spans": ("prompt",), "measures": ("cosine",), "resamples": 200}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """plain, rag (layers 5-7 change), irrelevant (nothing in particular)."""
    folder, reference = tmp_path_factory.mktemp("runs"), base()
    write_trace(folder / "plain", reference)
    write_trace(folder / "rag", planted(reference, 1))
    write_trace(folder / "irrelevant", noisy(reference, 2))
    return folder


def spec(folder: Path, *names: str, **how: Any) -> CorrelationSpec:
    settings: dict[str, Any] = {"out": folder / "out", **FAST, **how}
    settings["controls"] = tuple(str(folder / name) for name in settings.get("controls", ()))
    return CorrelationSpec(tuple(str(folder / name) for name in names), **settings)


def frame(folder: Path, table: str) -> pd.DataFrame:
    return pq.read_table(folder / f"{table}.parquet").to_pandas()


# --- the record


def test_the_planted_layers_are_found_in_every_variant(runs: Path, tmp_path: Path) -> None:
    how = {"controls": ("irrelevant",), "out": tmp_path / "out", "n_blocks": 3}
    outcome = correlate(spec(runs, "plain", "rag", **how))
    assert outcome.problems == []
    ranking = frame(outcome.folder, "layer_ranking")
    for variant in VARIANTS:
        own = ranking[ranking["variant"] == variant]
        assert sorted(own.loc[own["p_adjusted"] < 0.05, "layer"]) == list(PLANTED)
        assert sorted(own.loc[own["rank"] <= 3, "layer"]) == list(PLANTED)
        assert (own["block"] == own["layer"] - 1).all()
    assert sorted(ranking["layer"].unique()) == list(range(1, N_LAYERS + 1))
    choice = frame(outcome.folder, "layer_choice")
    assert set(choice["first_block"]) == {4}


def test_the_record_holds_the_tables_of_its_kind_and_names_its_inputs(
    runs: Path, tmp_path: Path
) -> None:
    how = {"controls": ("irrelevant",), "out": tmp_path / "out", "seed": 7}
    outcome = correlate(spec(runs, "plain", "rag", **how))
    for name in KINDS["correlation"].names:
        assert (outcome.folder / f"{name}.parquet").exists()
    made = json.loads((outcome.folder / "manifest.json").read_text(encoding="utf-8"))
    assert (made["kind"], made["status"]) == ("correlation", "complete")
    inputs = made["settings"]["inputs"]
    assert {name: facts["role"] for name, facts in inputs.items()} == {
        "plain": "reference",
        "rag": "condition",
        "irrelevant": "control",
    }
    assert inputs["rag"]["prompts_sha256"] == "d" * 64
    assert (made["settings"]["seed"], made["settings"]["resamples"]) == (7, 200)
    assert made["spans"]["prompt"]["prompts"] == {
        "plain": N_PROMPTS,
        "rag": N_PROMPTS,
        "irrelevant": N_PROMPTS,
    }


def test_the_same_runs_and_seed_give_the_same_bytes(runs: Path, tmp_path: Path) -> None:
    tables = []
    for name in ("a", "b"):
        correlate(spec(runs, "plain", "rag", out=tmp_path / name))
        tables.append(
            [(tmp_path / name / f"{t}.parquet").read_bytes() for t in KINDS["correlation"].names]
        )
    assert tables[0] == tables[1]


def test_values_are_those_of_the_measures(runs: Path, tmp_path: Path) -> None:
    """Every measure as it is, taken by itself from the vectors in the trace."""
    outcome = correlate(spec(runs, "plain", "rag", measures=tuple(MEASURES), out=tmp_path / "out"))
    found = frame(outcome.folder, "similarity").query("variant == 'as_is'")
    x, y = (a.astype(np.float32).astype(float) for a in (base(), planted(base(), 1)))
    for row in found.to_dict("records"):
        expected = similarity(MEASURES[row["measure"]], x[row["layer"]], y[row["layer"]]).value
        assert row["value"] == pytest.approx(expected, abs=1e-9)
        assert row["low"] <= row["high"]
    maps = frame(outcome.folder, "layer_map").query("variant == 'as_is' and condition == 'plain'")
    for row in maps.to_dict("records")[::17]:
        expected = similarity(MEASURES[row["measure"]], x[row["layer_a"]], x[row["layer_b"]]).value
        assert row["value"] == pytest.approx(expected, abs=1e-9)


def test_a_run_against_itself_changes_nowhere(runs: Path, tmp_path: Path) -> None:
    both = (f"a={runs / 'plain'}", f"b={runs / 'plain'}")
    how: dict[str, Any] = FAST | {"measures": tuple(MEASURES)}
    outcome = correlate(CorrelationSpec(both, tmp_path / "out", **how))
    found = frame(outcome.folder, "similarity").query("variant == 'as_is'")
    same = np.where(found["measure"] == "procrustes", 0.0, 1.0)
    np.testing.assert_allclose(found["value"], same, atol=1e-9)
    ranking = frame(outcome.folder, "layer_ranking")
    assert ranking["p"].isna().all()
    cosine = ranking.query("measure == 'cosine'")
    assert set(cosine["p_reason"]) == {"no difference beyond rounding"}


def test_of_several_controls_the_strictest_counts(runs: Path, tmp_path: Path) -> None:
    """A control with the same change at layers 5-7 as the condition leaves nothing to choose."""
    write_trace(tmp_path / "also", planted(base(), 5))
    controls = (str(runs / "irrelevant"), str(tmp_path / "also"))
    how: dict[str, Any] = {"controls": controls, "n_blocks": 3, **FAST}
    outcome = correlate(
        CorrelationSpec((str(runs / "plain"), str(runs / "rag")), tmp_path / "out", **how)
    )
    text = suggested(outcome.folder)["prompt", "rag"].read_text(encoding="utf-8")
    assert "0 of 3 layers" in json.loads(text)["why"]
    change = frame(outcome.folder, "layer_choice").query("variant == 'as_is'")["change"].item()
    assert abs(change) < 0.1


def test_a_condition_that_changes_less_than_its_control_is_found_too(
    runs: Path, tmp_path: Path
) -> None:
    how = {"controls": ("rag",), "n_blocks": 3, "out": tmp_path / "out"}
    outcome = correlate(spec(runs, "plain", "irrelevant", **how))
    ranking = frame(outcome.folder, "layer_ranking")
    firm = ranking[ranking["p_adjusted"] < 0.05]
    assert set(firm["layer"]) == set(PLANTED)
    assert (firm["change"] < 0).all()
    assert (firm["statistic"] < 0).all()
    data = json.loads(suggested(outcome.folder)["prompt", "irrelevant"].read_text(encoding="utf-8"))
    assert "0 of 3 layers changed by more than chance" in data["why"]
    assert not set(data["record_layers"]) & set(PLANTED)


def test_blocks_that_changed_less_than_the_control_are_not_sold_as_changed(
    runs: Path, tmp_path: Path
) -> None:
    write_trace(tmp_path / "all", planted(base(), 9, layers=range(1, N_LAYERS + 1)))
    how: dict[str, Any] = {"controls": (str(tmp_path / "all"),), "n_blocks": 3, **FAST}
    both = (str(runs / "plain"), str(runs / "irrelevant"))
    outcome = correlate(CorrelationSpec(both, tmp_path / "out", **how))
    data = json.loads(suggested(outcome.folder)["prompt", "irrelevant"].read_text(encoding="utf-8"))
    assert data["why"].startswith("no 3 contiguous blocks changed more than under every control")
    assert "; 0 of 3 layers changed by more than chance" in data["why"]


def test_linked_prompts_widen_the_interval(runs: Path, tmp_path: Path) -> None:
    """Each prompt four times over is no more data, once the copies are one group."""
    copies = [f"p{i}-{k}" for i in range(N_PROMPTS) for k in range(4)]
    for name, values in (("a", base()), ("b", planted(base(), 1))):
        write_trace(tmp_path / name, np.repeat(values, 4, axis=1), copies)
    groups = tmp_path / "groups.csv"
    lines = [f"{item},{item.split('-')[0]}" for item in copies]
    groups.write_text("\n".join(["id,group", *lines]), encoding="utf-8")
    widths = []
    for name, how in (("apart", {}), ("linked", {"groups": groups})):
        outcome = correlate(spec(tmp_path, "a", "b", out=tmp_path / name, **how))
        rows = frame(outcome.folder, "similarity").query("variant == 'as_is' and layer == 6")
        widths.append((rows["high"] - rows["low"]).item())
    assert widths[1] == pytest.approx(2 * widths[0], rel=0.2)


# --- pairing


def test_prompts_are_paired_by_id_whatever_their_order(tmp_path: Path) -> None:
    values, ids = base(), [f"q{i}" for i in range(N_PROMPTS)]
    order = np.random.default_rng(0).permutation(N_PROMPTS)
    write_trace(tmp_path / "a", values, ids)
    write_trace(tmp_path / "b", values[:, order], [ids[i] for i in order])
    outcome = correlate(spec(tmp_path, "a", "b"))
    cosine = frame(outcome.folder, "similarity").query("variant == 'as_is'")["value"]
    np.testing.assert_allclose(cosine, 1, atol=1e-9)


def test_prompts_that_a_run_lacks_are_left_out_and_told(tmp_path: Path) -> None:
    values = base()
    ids = [f"p{i:02d}" for i in range(N_PROMPTS)]
    write_trace(tmp_path / "a", values, ids)
    write_trace(tmp_path / "b", values[:, 3:], ids[3:])
    outcome = correlate(spec(tmp_path, "a", "b"))
    assert [problem.prompt_id for problem in outcome.problems] == ids[:3]
    assert "b has no 'p00'" in str(outcome.problems[0])
    assert set(frame(outcome.folder, "similarity")["n_prompts"]) == {N_PROMPTS - 3}


@pytest.mark.parametrize(("bad", "what"), [(np.nan, "no prompt tokens"), (np.inf, "layer 4")])
def test_a_prompt_with_bad_activations_is_left_out(tmp_path: Path, bad: float, what: str) -> None:
    values = noisy(base(), 3)
    values[slice(None) if np.isnan(bad) else 4, 2] = bad
    write_trace(tmp_path / "a", base())
    write_trace(tmp_path / "b", values)
    outcome = correlate(spec(tmp_path, "a", "b"))
    (problem,) = outcome.problems
    assert problem.prompt_id == "p02"
    assert what in str(problem)
    assert set(frame(outcome.folder, "similarity")["n_prompts"]) == {N_PROMPTS - 1}


def test_one_prompt_has_no_interval_and_says_so(tmp_path: Path) -> None:
    write_trace(tmp_path / "a", base(n_prompts=1))
    write_trace(tmp_path / "b", base(1, n_prompts=1))
    outcome = correlate(spec(tmp_path, "a", "b", measures=tuple(MEASURES), n_blocks=2))
    rows = frame(outcome.folder, "similarity").query("variant == 'as_is'").set_index("measure")
    assert rows.loc["cosine", "value"].notna().all()
    assert rows["low"].isna().all()
    assert rows.loc["cosine", "reason"].str.contains("no interval").all()
    assert rows.loc["cka", "reason"].str.contains("needs 4").all()
    ranking = frame(outcome.folder, "layer_ranking")
    assert ranking["p"].isna().all()
    assert ranking["p_reason"].notna().all()


def test_constant_activations_are_null_with_a_reason(tmp_path: Path) -> None:
    values = base()
    values[4] = 0.5
    write_trace(tmp_path / "a", base())
    write_trace(tmp_path / "b", values)
    outcome = correlate(spec(tmp_path, "a", "b", measures=("cka", "pearson", "rsa", "procrustes")))
    rows = frame(outcome.folder, "similarity").query("variant == 'as_is' and layer == 4")
    assert rows["value"].isna().all()
    assert rows["reason"].str.contains("constant").all()


# --- a residual cache as a condition


def test_prompt_tokens_against_generated_ones(tmp_path: Path) -> None:
    values = base()
    write_trace(tmp_path / "one", values, generated=planted(values, 1))
    write_trace(tmp_path / "two", values, generated=noisy(values, 2))
    asked = [
        f"{tmp_path / name}:{span}" for name, span in (("one", "prompt"), ("one", "generated"))
    ]
    how: dict[str, Any] = FAST | {"spans": ()}
    control = (f"other={tmp_path / 'two'}:generated",)
    outcome = correlate(CorrelationSpec(tuple(asked), tmp_path / "out", controls=control, **how))
    ranking = frame(outcome.folder, "layer_ranking")
    assert set(ranking["span"]) == {"mixed"}
    assert set(ranking["condition"]) == {"one:generated"}
    assert set(ranking["control"]) == {"other"}
    assert set(ranking.loc[ranking["p_adjusted"] < 0.05, "layer"]) == set(PLANTED)
    similar = frame(outcome.folder, "similarity").query("condition == 'one:generated'")
    x, y = (a.astype(np.float32).astype(float) for a in (values, planted(values, 1)))
    for row in similar.query("variant == 'as_is'").to_dict("records"):
        expected = similarity(MEASURES["cosine"], x[row["layer"]], y[row["layer"]]).value
        assert row["value"] == pytest.approx(expected, abs=1e-9)
    build_report([outcome.folder])
    assert "one:generated, mixed tokens" in (outcome.folder / "report.md").read_text("utf-8")


def test_runs_name_their_tokens_all_or_none(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_trace(tmp_path / name, base())
    some = (f"{tmp_path / 'a'}:prompt", str(tmp_path / "b"))
    with pytest.raises(InputProblems, match="Add :prompt or :generated to every run"):
        correlate(CorrelationSpec(some, tmp_path / "out"))
    every = tuple(f"{tmp_path / name}:prompt" for name in ("a", "b"))
    with pytest.raises(InputProblems, match="spans: the runs name their own tokens"):
        correlate(CorrelationSpec(every, tmp_path / "out", spans=("prompt",)))
    with pytest.raises(InputProblems, match="no record here"):
        correlate(CorrelationSpec((f"{tmp_path / 'a'}:other", every[1]), tmp_path / "out"))


def test_a_cache_and_a_trace_of_the_same_prompts_agree(llama: Case, tmp_path: Path) -> None:
    """Two paths to the same vectors: through TransformerLens, and through generation."""
    from lensbench.quantized.generation.generate import Decoding
    from lensbench.quantized.generation.infer import InferenceSpec, run_inference
    from lensbench.studies.stages.cache import CacheSpec, run_cache

    rows = pd.DataFrame({"id": [f"q{i}" for i in range(len(PROMPTS))], "prompt": PROMPTS})
    rows.to_csv(tmp_path / "q.csv", index=False)
    rows.assign(relation="r", answer="Rome").to_csv(tmp_path / "facts.csv", index=False)
    asked = InferenceSpec(
        prompts=tmp_path / "q.csv",
        out=tmp_path / "out.csv",
        decoding=Decoding(2),
        style="none",
        trace=tmp_path / "trace",
    )
    run_inference(f"{llama.folder}@32", asked)
    cached = CacheSpec(str(llama.folder), str(tmp_path / "facts.csv"), positions="all")
    assert run_cache(cached, tmp_path / "cache") == []
    outcome = correlate(spec(tmp_path, "trace", "cache"))
    found = frame(outcome.folder, "similarity").query("variant == 'as_is'")
    assert len(found) == 4
    np.testing.assert_allclose(found["value"], 1, atol=1e-6)
    assert (found["n_prompts"] == len(PROMPTS)).all()
    both = align(open_runs([str(tmp_path / "trace"), str(tmp_path / "cache")]), "prompt")
    np.testing.assert_allclose(both.values["trace"], both.values["cache"], rtol=1e-3, atol=1e-4)
    assert (both.n_tokens["trace"] == both.n_tokens["cache"]).all()


def test_vectors_of_other_tokens_are_no_condition(llama: Case, tmp_path: Path) -> None:
    """The last token's state differs from the mean over all of them, whatever the model does."""
    from lensbench.studies.stages.cache import CacheSpec, run_cache

    rows = {"id": ["a", "b"], "prompt": PROMPTS[:2], "relation": ["r", "r"]}
    pd.DataFrame(rows | {"answer": ["Berlin", "Rome"]}).to_csv(tmp_path / "f.csv", index=False)
    for kept in ("last", "answer", "all"):
        made = CacheSpec(str(llama.folder), str(tmp_path / "f.csv"), positions=kept)
        assert run_cache(made, tmp_path / kept) == []
    text = problems_of(lambda: correlate(spec(tmp_path, "all", "last", "answer")))
    assert text.count("it holds the last token of each prompt, all all tokens") == 2
    assert "--positions all" in text
    named = (f"{tmp_path / 'all'}:prompt", f"{tmp_path / 'last'}:prompt")
    how: dict[str, Any] = FAST | {"spans": ()}
    assert "the last token" in problems_of(
        lambda: correlate(CorrelationSpec(named, tmp_path / "out", **how))
    )
    for names, span in ((("last", "answer"), "prompt"), (("all", "answer"), "generated")):
        require_comparable(open_runs([str(tmp_path / name) for name in names]), span)


@pytest.mark.parametrize("changes", [{"residual_dtype": "bfloat16"}, {"dtype": "bfloat16"}])
def test_a_cache_that_was_made_otherwise_since_is_another_input(
    llama: Case, tmp_path: Path, changes: dict[str, Any]
) -> None:
    """Its table of what stands where has the same bytes: the finished study would stand for it."""
    from lensbench.studies.stages.cache import CacheSpec, run_cache

    rows = {"id": ["a", "b"], "prompt": PROMPTS[:2], "relation": ["r", "r"]}
    pd.DataFrame(rows | {"answer": ["Berlin", "Rome"]}).to_csv(tmp_path / "f.csv", index=False)
    for name, how in (("a", {}), ("b", {}), ("c", changes)):
        made = CacheSpec(str(llama.folder), str(tmp_path / "f.csv"), **how)
        assert run_cache(made, tmp_path / name) == []
    correlate(spec(tmp_path, "a", "b"))
    correlate(spec(tmp_path, "a", "b"))  # finished, and left alone
    shutil.rmtree(tmp_path / "b")
    (tmp_path / "c").rename(tmp_path / "b")
    with pytest.raises(RecordsError, match=r"inputs\.b\.residuals_sha256"):
        correlate(spec(tmp_path, "a", "b"))


def test_a_cache_of_some_layers_is_no_condition(llama: Case, tmp_path: Path) -> None:
    from lensbench.studies.stages.cache import CacheSpec, run_cache

    rows = {"id": ["a"], "prompt": ["Rome"], "relation": ["r"], "answer": ["Rome"]}
    pd.DataFrame(rows).to_csv(tmp_path / "facts.csv", index=False)
    made = CacheSpec(str(llama.folder), str(tmp_path / "facts.csv"), layers=(0, 3))
    assert run_cache(made, tmp_path / "some") == []
    runs = [f"a={tmp_path / 'some'}", f"b={tmp_path / 'some'}"]
    how: dict[str, Any] = dict(FAST)
    text = problems_of(lambda: correlate(CorrelationSpec(tuple(runs), tmp_path / "out", **how)))
    assert "the cache holds no layer 1, 2" in text


# --- runs that do not match


def problems_of(call: Any) -> str:
    with pytest.raises(InputProblems) as raised:
        call()
    return str(raised.value)


def test_every_mismatch_is_named_at_once(tmp_path: Path) -> None:
    write_trace(tmp_path / "a", base())
    write_trace(tmp_path / "b", base(n_layers=6))
    write_trace(tmp_path / "c", base(), tokenizer_sha256="9" * 64)
    text = problems_of(lambda: correlate(spec(tmp_path, "a", "b", "c")))
    assert "6 layers, a has 12" in text
    assert "tokenizer 999999999999, a has bbbbbbbbbbbb" in text
    assert text.count("--relative-depth") == 2


def test_runs_of_other_added_tokens_are_refused_and_of_unknown_ones_are_not(
    tmp_path: Path,
) -> None:
    """Records of before `added_tokens_sha256` say nothing of them."""
    write_trace(tmp_path / "a", base(), added_tokens_sha256=None)
    write_trace(tmp_path / "b", base(), added_tokens_sha256="9" * 64)
    write_trace(tmp_path / "old", base())
    text = problems_of(lambda: correlate(spec(tmp_path, "a", "b", "old")))
    assert "tokenizer bbbbbbbbbbbb and 999999999999, a has bbbbbbbbbbbb" in text
    assert text.count("--relative-depth") == 1
    for pair in (("a", "old"), ("old", "b")):
        runs = open_runs([str(tmp_path / name) for name in pair])
        require_comparable(runs, "prompt")
        assert ["added_tokens_sha256" in run.facts() for run in runs] == [
            name != "old" for name in pair
        ]


def test_runs_without_a_common_prompt_are_refused(tmp_path: Path) -> None:
    write_trace(tmp_path / "a", base())
    write_trace(tmp_path / "b", base(), [f"other{i}" for i in range(N_PROMPTS)])
    text = problems_of(lambda: correlate(spec(tmp_path, "a", "b")))
    assert "share no prompt id" in text
    assert "'other0'" in text


def test_an_empty_condition_is_refused(tmp_path: Path) -> None:
    write_trace(tmp_path / "a", base())
    write_trace(tmp_path / "b", base(), generated=np.full_like(base(), np.nan))
    assert correlate(spec(tmp_path, "a", "b")).problems == []
    how = {"spans": ("generated",), "out": tmp_path / "generated"}
    text = problems_of(lambda: correlate(spec(tmp_path, "a", "b", **how)))
    assert "no prompt with generated activations" in text


def test_other_depths_are_compared_at_relative_depth_when_asked(tmp_path: Path) -> None:
    values = base()
    write_trace(tmp_path / "a", values)
    write_trace(tmp_path / "b", values[::2], tokenizer_sha256="9" * 64)  # 6 blocks
    runs = open_runs([str(tmp_path / "a"), str(tmp_path / "b")])
    aligned = align(runs, "prompt", relative_depth=True)
    assert aligned.layers["b"] == (0, 0, 1, 2, 2, 2, 3, 4, 4, 4, 5, 6, 6)  # halves to even
    outcome = correlate(spec(tmp_path, "a", "b", relative_depth=True))
    cosine = frame(outcome.folder, "similarity").query("variant == 'as_is'").set_index("layer")
    np.testing.assert_allclose(cosine.loc[[0, 4, 8, 12], "value"], 1, atol=1e-6)
    assert cosine.loc[1, "value"] < 0.9
    made = json.loads((outcome.folder / "manifest.json").read_text(encoding="utf-8"))
    assert made["settings"]["relative_depth"] is True
    assert made["spans"]["prompt"]["layers"]["b"] == list(aligned.layers["b"])


def test_models_of_another_width_have_no_cosine_but_a_cka(tmp_path: Path) -> None:
    write_trace(tmp_path / "a", base())
    write_trace(tmp_path / "b", base()[..., : WIDTH - 4])
    outcome = correlate(spec(tmp_path, "a", "b", measures=("cosine", "cka"), n_blocks=2))
    rows = frame(outcome.folder, "similarity").query("variant == 'as_is'").set_index("measure")
    assert rows.loc["cosine", "value"].isna().all()
    assert rows.loc["cosine", "reason"].str.contains("12 on the other").all()
    assert rows.loc["cka", "value"].notna().all()
    assert suggested(outcome.folder) == {}


def test_folders_that_hold_no_traces_are_named_at_once(tmp_path: Path) -> None:
    write_trace(tmp_path / "a", base())
    (tmp_path / "empty").mkdir()
    for name, changes in (("lens", {"kind": "lens"}), ("half", {"status": "running"})):
        (tmp_path / name).mkdir()
        write_manifest(tmp_path / name, manifest(N_LAYERS) | changes)
    text = problems_of(lambda: correlate(spec(tmp_path, "a", "empty", "lens", "half", "a")))
    assert "no record here" in text
    assert "kind 'lens' holds no activations" in text
    assert "not complete (status 'running')" in text
    assert "two runs have this name" in text


def test_a_torn_or_shortened_table_is_named(tmp_path: Path) -> None:
    write_trace(tmp_path / "a", base())
    path = write_trace(tmp_path / "b", base()) / "activations.parquet"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(RecordsError, match=r"b/activations\.parquet: cannot be read"):
        correlate(spec(tmp_path, "a", "b"))
    path.write_bytes(whole)
    pq.write_table(pq.read_table(path).slice(0, 100), path)
    with pytest.raises(RecordsError, match="100 rows of activations where"):
        correlate(spec(tmp_path, "a", "b"))


def test_settings_out_of_range_are_named_at_once(tmp_path: Path) -> None:
    wrong = {"spans": ("x",), "measures": ("y",), "resamples": 10}
    text = problems_of(lambda: CorrelationSpec(("a",), tmp_path, **wrong))
    for part in ("runs: ", "at least 2", "spans: it is 'x'", "measures: it is 'y'", "it is 10"):
        assert part in text
    some = {"measures": ("cka",), "n_blocks": 2}
    text = problems_of(lambda: CorrelationSpec(("a", "b"), tmp_path, **some))
    assert "chosen by cosine" in text


def test_groups_must_name_every_prompt(runs: Path, tmp_path: Path) -> None:
    path = tmp_path / "groups.csv"
    path.write_text("id,group\np00,a\n", encoding="utf-8")
    how = {"groups": path, "out": tmp_path / "out"}
    text = problems_of(lambda: correlate(spec(runs, "plain", "rag", **how)))
    assert "no group for 19 prompts, 'p01' first" in text
    path.write_text("name\np00\n", encoding="utf-8")
    assert "no column id, group" in problems_of(
        lambda: correlate(spec(runs, "plain", "rag", **how))
    )


def test_a_finished_study_is_left_alone_until_a_run_or_a_file_changes(tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 1)):
        write_trace(tmp_path / name, base(seed))
    asked = spec(tmp_path, "a", "b", n_blocks=3)
    steps: list[str] = []

    def run() -> int:
        steps.clear()
        first = correlate(asked, lambda now: steps.append(now.stage))
        assert list(suggested(first.folder)) == [("prompt", "b")]
        tables = {path.stem for path in first.folder.glob("*.parquet")}
        assert tables == set(KINDS["correlation"].names)
        return len(steps)

    assert run() > 0
    assert run() == 0
    (tmp_path / "out" / "layers-b-prompt.json").unlink()
    assert run() > 0
    assert run() == 0
    write_trace(tmp_path / "b", base(2))
    with pytest.raises(RecordsError, match="activations_sha256"):
        run()


@pytest.mark.parametrize("execute", EXECUTORS)
def test_the_study_is_the_same_whoever_compares(
    runs: Path, tmp_path: Path, execute: Executor
) -> None:
    """Three measures of two spans, their blocks suggested."""
    how = {"controls": ("irrelevant",), "n_blocks": 3, "measures": ("cosine", "cka", "pearson")}
    for name, who in (("one", one_by_one), ("other", execute)):
        asked = spec(runs, "plain", "rag", out=tmp_path / name, spans=SPANS, **how)
        with done_by(who):
            correlate(asked)
    assert contents(tmp_path / "other", UNEQUAL) == contents(tmp_path / "one", UNEQUAL)


# --- the command line


def test_the_spec_names_every_measure_and_span(tmp_path: Path) -> None:
    every = CorrelationSpec(("a", "b"), tmp_path, measures=tuple(MEASURES), spans=SPANS)
    assert every.measured == CorrelationSpec(("a", "b"), tmp_path).measured


def test_the_command_from_traces_to_report(lensbench: Program, runs: Path, tmp_path: Path) -> None:
    how = ["--span", "prompt", "--measure", "cosine", "--resamples", "200"]
    how += ["--control", f"other text={runs / 'irrelevant'}", "--suggest-blocks", "3"]
    done = lensbench("correlate", runs / "plain", runs / "rag", "-o", tmp_path / "out", *how)
    assert (done.status, done.err.count("error")) == (0, 0)
    assert "rag, prompt tokens, above other text" in done.out
    rows = re.findall(r"^ +(\d+) +(\d+) +-?0\.", done.out, re.MULTILINE)
    assert sorted(int(layer) for layer, _ in rows[:3]) == list(PLANTED)
    assert "blocks 4-6 (layers 5-7 of a record)" in " ".join(done.out.split())
    for name in ("layers-rag-prompt.json", "report.md"):
        assert str(tmp_path / "out" / name) in done.out
        assert (tmp_path / "out" / name).exists()


def test_the_command_says_what_was_left_out_and_ends_with_1(
    lensbench: Program, tmp_path: Path
) -> None:
    ids = [f"p[bold]{i}" for i in range(N_PROMPTS)]
    write_trace(tmp_path / "a", base(), ids)
    write_trace(tmp_path / "b", base(1)[:, 1:], ids[1:])
    how = ["--span", "prompt", "--measure", "cosine", "--resamples", "100"]
    done = lensbench("correlate", tmp_path / "a", tmp_path / "b", "-o", tmp_path / "out", *how)
    assert done.status == 1
    assert "b has no 'p[bold]0'" in done.said


def test_the_command_refuses_with_2(lensbench: Program, tmp_path: Path) -> None:
    done = lensbench("correlate", tmp_path / "x", tmp_path / "y", "-o", tmp_path / "out")
    assert done.status == 2
    assert done.err.count("no record here") == 2
    assert not (tmp_path / "out").exists()
