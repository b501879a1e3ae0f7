"""An attention study: its tables by contract, gone on with, widened; the verb and the report."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

import lensbench as lb
from lensbench.cli import console
from lensbench.errors import InputProblems
from lensbench.progress import Progress
from lensbench.records.schema import KINDS, TABLES
from lensbench.records.schema.attention import SCORES
from lensbench.report.build import build_report
from lensbench.studies.attention import run
from lensbench.studies.specs.attention import AttentionSpec
from tests.harness.facts import N_ROWS
from tests.harness.files import manifest, table_bytes, tables, write_csv
from tests.harness.forks import Stop
from tests.harness.program import Program
from tests.harness.tiny import Case

LATER = {"names", "phenomena", "ablation", "redundancy"}  # without nulls and ablations
SMALL = {"batch_tokens": 64, "repeat_tokens": 8, "n_repeated": 3, "keep": ("capital-France",)}
SMALL |= {"nulls": False}


@pytest.fixture(scope="module")
def heads(llama: Case, facts: Path) -> Callable[..., AttentionSpec]:
    def make(**changes: Any) -> AttentionSpec:
        settings = {"models": (str(llama.folder),), "prompts": str(facts)}
        return AttentionSpec(**(settings | SMALL | changes))

    return make


@pytest.fixture(scope="module")
def measured(heads: Callable[..., AttentionSpec], tmp_path_factory: pytest.TempPathFactory) -> Path:
    outcome = run(heads(), tmp_path_factory.mktemp("heads"))
    assert outcome.ok
    return outcome.folder


@pytest.mark.parametrize("name", [*KINDS["attention"].names, "patterns"])
def test_each_table_follows_its_schema(measured: Path, name: str) -> None:
    table = pq.read_table(measured / f"{name}.parquet")
    assert table.schema.equals(TABLES[name].schema)
    assert (table.num_rows == 0) == (name in LATER | {"problems"})


def test_every_head_is_scored_on_every_prompt(measured: Path, llama: Case, facts: Path) -> None:
    found = tables(measured)
    rows = found["heads"]
    each = rows.groupby(["condition", "prompt_id", "weighting"], sort=False).size()
    assert (each == 12).all()
    assert len(each) == 2 * (N_ROWS + 3)
    assert rows[rows["condition"] == "text"]["prompt_id"].drop_duplicates().tolist() == (
        found["prompts"]["prompt_id"].tolist()
    )
    assert (
        (rows[list(SCORES)] >= 0) & (rows[list(SCORES)] <= 1 + 1e-6) | rows[list(SCORES)].isna()
    ).all(None)
    assert rows["depth"].tolist() == ((rows["block"] + 0.5) / 3).tolist()
    # The call in Python gives the same numbers, in batches of other prompts.
    row = found["prompts"].set_index("prompt_id").loc["capital-France"]
    alone = lb.attention(llama.model, list(row["token_ids"]), conditions="text").to_pandas()
    own = rows[rows["prompt_id"] == "capital-France"]
    for score in SCORES:
        assert own[score].to_numpy() == pytest.approx(
            alone[score].to_numpy(), abs=1e-5, nan_ok=True
        )
    assert len(found["patterns"]) == 12
    assert set(found["patterns"]["prompt_id"]) == {"capital-France"}


def test_a_plan_counts_the_rows_of_the_record(
    heads: Callable[..., AttentionSpec], measured: Path
) -> None:
    (record,) = lb.plan(heads(), measured.parent / "elsewhere").records
    assert record.whole is not None
    assert record.n_prompts == N_ROWS
    found = tables(measured)
    assert record.whole.rows["heads"] == len(found["heads"])
    assert record.whole.rows["patterns"] == len(found["patterns"])
    assert record.whole.rows["patterns.weights"] == sum(map(len, found["patterns"]["weights"]))
    assert lb.plan(heads(), measured.parent).records[0].finished


def test_the_gate_is_in_the_manifest(measured: Path) -> None:
    gate = manifest(measured)["gate"]
    assert len(gate) == 3
    assert all(one["passed"] for one in gate)
    assert "rows sum to 1" in gate[0]["identity"]
    assert manifest(measured)["model"]["n_heads"] == 4


def test_a_run_in_which_nothing_has_room_says_so(
    heads: Callable[..., AttentionSpec], tmp_path: Path
) -> None:
    """101 random tokens, a context of 64, and no prompts are read beside them."""
    outcome = run(heads(conditions=("repeated",), repeat_tokens=25, keep=()), tmp_path)
    (error,) = outcome.failed.values()
    assert "--repeat-tokens, 15 at most" in str(error)
    assert not outcome.folders


def test_an_interrupted_run_ends_in_the_same_bytes(
    heads: Callable[..., AttentionSpec], measured: Path, tmp_path: Path
) -> None:
    def stop(now: Progress) -> None:
        if now.unit == "batches" and now.done == 4:
            raise Stop

    with pytest.raises(Stop):
        run(heads(), tmp_path, stop)
    assert run(heads(), tmp_path).ok
    (record,) = (path.parent for path in tmp_path.glob("*/manifest.json"))
    assert manifest(record)["resumed_batches"] == 4
    assert table_bytes(record) == table_bytes(measured)
    before = (record / "manifest.json").read_bytes()
    assert run(heads(), tmp_path).ok  # again: nothing to do
    assert (record / "manifest.json").read_bytes() == before


@pytest.mark.slow
def test_a_narrow_record_is_widened(
    heads: Callable[..., AttentionSpec], measured: Path, tmp_path: Path
) -> None:
    germany = ("capital-Germany",)
    narrow = run(heads(limit=4, keep=germany), tmp_path)
    assert narrow.ok
    first = tables(narrow.folder)["heads"]
    assert run(heads(keep=germany), tmp_path).ok
    assert len(tables(narrow.folder)["patterns"]) == 12
    wide, whole = tables(narrow.folder)["heads"], tables(measured)["heads"]
    keys = ["condition", "prompt_id", "weighting", "block", "head"]
    assert wide[keys].equals(whole[keys])
    both = first.merge(wide, on=keys)
    assert len(both) == len(first)
    assert (both["first_token_x"] == both["first_token_y"]).all()  # what was there stays
    assert wide["first_token"].to_numpy() == pytest.approx(whole["first_token"], abs=1e-5)


def test_unknown_prompts_to_keep_are_refused_before_anything_is_loaded(
    heads: Callable[..., AttentionSpec], tmp_path: Path
) -> None:
    with pytest.raises(InputProblems, match="there is no prompt 'capital-Frnce'"):
        run(heads(keep=("capital-Frnce",)), tmp_path)


def test_a_prompt_to_keep_that_is_not_read_is_a_problem(
    heads: Callable[..., AttentionSpec], tmp_path: Path
) -> None:
    outcome = run(heads(limit=1, keep=("capital-France", "capital-Germany")), tmp_path)
    assert [problem.prompt_id for problem in outcome.problems] == ["capital-France"]
    assert set(tables(outcome.folder)["patterns"]["prompt_id"]) == {"capital-Germany"}


@pytest.mark.slow
def test_a_model_without_patterns_fails_and_the_others_go_on(
    lensbench: Program, llama: Case, facts: Path, tmp_path: Path
) -> None:
    """And into the report; of the one that fails there is no record to stand in the way."""
    from tests.harness.causal_lms import save_tiny

    folder, out = save_tiny("mamba", tmp_path / "mamba"), tmp_path / "out"
    given = (folder, llama.folder, "--prompts", facts, "--limit", 2, "--repeat-tokens", 8)
    done = lensbench("attention", *given, "--no-nulls", "-o", out)
    assert done.status == 1
    assert "the attention of blocks 0-2 (linear_attention) cannot be read" in done.err
    (made,) = out.glob("*/manifest.json")
    assert "Every one of 12 heads" in made.with_name("report.md").read_text(encoding="utf-8")
    said = (out / "report.md").read_text(encoding="utf-8")
    assert "could not measure these" in said and str(folder) in said


@pytest.mark.slow
def test_the_report_is_of_the_record_alone(measured: Path, tmp_path: Path) -> None:
    lb.build_report([measured], tmp_path)
    text = (tmp_path / "report.md").read_text()
    assert "Every one of 12 heads" in text
    assert f"over {N_ROWS} prompts" in text
    names = {path.stem for path in (tmp_path / "figures").iterdir()}
    assert {"heads", "depth", "patterns", "similarity"} <= names
    assert "Head view" in (tmp_path / "report.html").read_text()  # of the kept pattern
    best = (tmp_path / "tables" / "best.csv").read_text()
    assert "repeated,moved,induction" in best


def test_the_verb_shows_one_prompt_and_runs_many(
    lensbench: Program,
    llama: Case,
    facts: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sizes = ("--repeat-tokens", 8, "--n-repeated", 2)
    done = lensbench("attention", llama.folder, "The capital of Germany is", *sizes)
    assert done.status == 0, done.err
    for part in ("induction", "repeated", "rows sum to 1"):
        assert part in done.out
    rows = json.loads(
        lensbench("attention", llama.folder, "The capital is Rome", *sizes, "--json").out
    )
    frame = pd.DataFrame(rows)
    assert set(frame["condition"]) == {"text", "repeated"}
    monkeypatch.setattr(console.results, "_width", 200)  # it was made when first imported
    shown = lensbench("attention", llama.folder, "The capital is Rome", *sizes).out
    line = next(line for line in shown.splitlines() if "repeated" in line and "induction" in line)
    named = re.findall(r"\d+\.\d+ \(\d\.\d\d\)", line)  # three of plain, then three of moved
    own = frame[frame["condition"] == "repeated"]
    for place, weighting in ((0, "plain"), (3, "moved")):
        mean = own[own["weighting"] == weighting].groupby(["block", "head"])["induction"].mean()
        block, head = mean.index[mean.argmax()]
        assert named[place] == f"{block}.{head} ({mean.max():.2f})"
    html = tmp_path / "attention_head_view.html"
    written = lensbench("attention", llama.folder, "The capital is Rome", *sizes, "--html", html)
    assert written.status == 0, written.err
    assert "Head view" in html.read_text()
    many = lensbench(
        "attention", llama.folder, "--prompts", facts, "--limit", 2, *sizes, "-o", tmp_path / "o"
    )
    assert many.status == 0, many.err
    assert "report.md" in many.out
    for option in ("--limit", "--workers"):
        refused = lensbench("attention", llama.folder, "A text", option, 3)
        assert refused.status == 2
        assert f"{option}: it has no effect without --prompts" in refused.said
    assert "give a model and a prompt" in lensbench("attention", llama.folder).said


def test_prompts_that_give_nan_are_skipped_everywhere(overflowing: Path, tmp_path: Path) -> None:
    """The gate's own among them, means of heads, ablations, sentences and all that follows."""
    texts = [
        ("a", "The city of Rome is"),
        ("b", "The capital of Germany is"),
        ("c", "The Rome is"),
        ("d", "The city on the Rhine is"),
        ("e", "The river that flows through the old city of Rome is the"),
        ("f", "The opposite of hot is"),
    ]
    pairs = "subject-verb: cats > see ! dogs"
    words = ("big", "Rome", "small", "old", "new")
    said = [f"The {word} cats by the dogs see it." for word in words]
    facts = [{"id": i, "prompt": text, "answer": "old", "relation": "x"} for i, text in texts]
    asked = [{"id": f"s{i}", "prompt": text, "pairs": pairs} for i, text in enumerate(said)]
    outcome = run(
        AttentionSpec(
            models=(str(overflowing),),
            prompts=str(write_csv(tmp_path / "facts.csv", facts)),
            sentences=str(write_csv(tmp_path / "sentences.csv", asked)),
            phenomena=True,
            nulls=False,
            conditions=("text",),
            ablate=6,
        ),
        tmp_path / "out",
    )
    assert not outcome.failed
    skipped = {(p.where.split(",")[0], p.prompt_id) for p in outcome.problems}
    assert skipped >= {(what, i) for what in ("text", "ablation") for i in "ace"}
    assert ("sentences", "s1") in skipped
    found = tables(outcome.folder)
    for name in ("prompts", "heads", "ablation"):
        assert set(found[name]["prompt_id"]) == set("bdf")
    assert set(found["redundancy"]["prompt_id"]) == {"d"}
    assert set(found["word_losses"]["prompt_id"]) == {"s0", "s2", "s3", "s4"}
    assert found["ablation"]["loss_change_nats"].notna().all()
    assert found["redundancy"]["loss_change_nats"].notna().all()
    assert found["phenomenon_ablation"]["change_bits"].notna().all()
    assert found["head_similarity"]["js_bits"].notna().all()


def test_ablations_are_not_widened(heads: Callable[..., AttentionSpec], tmp_path: Path) -> None:
    """Heads' means are over all of a record's prompts: other prompts, other numbers."""
    small = {"nulls": False, "conditions": ("text",), "keep": (), "ablate": 1}
    narrow = run(heads(limit=1, **small), tmp_path / "one")
    before = tables(narrow.folder)["ablation"]
    refused = run(heads(limit=3, **small), tmp_path / "one")
    (problem,) = refused.failed.values()
    assert "settings.limit: 1 there, 3 now" in str(problem)
    assert tables(narrow.folder)["ablation"].equals(before)
    whole = tables(run(heads(limit=3, **small), tmp_path / "all").folder)["ablation"]
    same = whole[whole["prompt_id"].isin(before["prompt_id"])]
    assert not np.allclose(same["loss_change_nats"], before["loss_change_nats"], atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"nulls": True}, "### Names"),  # of induction alone
        ({"nulls": False}, "Heads have no names here: nothing was read under a null"),
    ],
)
def test_random_tokens_alone_are_reported_with_their_names_or_why_there_are_none(
    heads: Callable[..., AttentionSpec], changes: dict[str, bool], told: str, tmp_path: Path
) -> None:
    spec = heads(conditions=("repeated",), keep=(), weightings=("plain",), **changes)
    folder = run(spec, tmp_path / "run").folder
    written = build_report([folder], tmp_path / "report")
    (text,) = [path.read_text() for path in written if path.name == "report.md"]
    assert told in text
    assert "published types" not in text
    names = tables(folder)["names"]
    assert set(names["claim"]) == ({"induction"} if changes["nulls"] else set())
