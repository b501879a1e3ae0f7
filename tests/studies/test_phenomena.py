"""Phenomena in a record: answers against Hugging Face's own attention, and the tables of them."""

from __future__ import annotations

import csv
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import lensbench as lb
from lensbench.prompts.gold import gold_pairs
from lensbench.prompts.prompt import choose
from lensbench.prompts.sets import load_prompts, prompt_file
from lensbench.prompts.words import align
from lensbench.records.open import open_record
from lensbench.records.schema import TABLES
from lensbench.report.attention.phenomena import phenomena_tables
from lensbench.stats.halves import halves
from lensbench.studies.attention import run
from lensbench.studies.specs.attention import AttentionSpec
from tests.harness.files import manifest, table_bytes, tables, write_csv
from tests.harness.forks import Stop
from tests.harness.program import Program
from tests.harness.tiny import Case

N_SENTENCES, N_HEADS = 30, 4
SMALL = {"batch_tokens": 512, "repeat_tokens": 8, "n_repeated": 1, "limit": 2, "phenomena": True}


@pytest.fixture(scope="module")
def sentences(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sentences") / "some.csv"
    with prompt_file("sentences").open(encoding="utf-8", newline="") as handle:
        write_csv(path, list(itertools.islice(csv.DictReader(handle), N_SENTENCES)))
    return path


@pytest.fixture(scope="module")
def asked(gpt2: Case, facts: Path, sentences: Path) -> Callable[..., AttentionSpec]:
    def make(**changes: Any) -> AttentionSpec:
        given = {"models": (str(gpt2.folder),), "prompts": str(facts), "sentences": str(sentences)}
        return AttentionSpec(**(given | SMALL | changes))

    return make


@pytest.fixture(scope="module")
def measured(asked: Callable[..., AttentionSpec], tmp_path_factory: pytest.TempPathFactory) -> Path:
    outcome = run(asked(), tmp_path_factory.mktemp("asked"))
    assert outcome.ok, (outcome.failed, outcome.problems)
    return outcome.folder


@pytest.mark.parametrize("name", ["answers", "phenomena", "depths"])
def test_the_tables_follow_their_schema(measured: Path, name: str) -> None:
    import pyarrow.parquet as pq

    table = pq.read_table(measured / f"{name}.parquet")
    assert table.schema.equals(TABLES[name].schema)
    assert table.num_rows > 0


def test_answers_are_those_of_hugging_faces_attention(
    measured: Path, gpt2: Case, sentences: Path
) -> None:
    """Word by word in plain loops, for both weightings' plain one and two sentences."""
    rows = tables(measured)["answers"]
    hf = gpt2.fresh_hf()
    hf.set_attn_implementation("eager")
    checked = 0
    for prompt in load_prompts(sentences).prompts[:4]:
        own = rows[(rows["prompt_id"] == prompt.id) & (rows["who"] == "trained")]
        plain = own[own["weighting"] == "plain"].set_index(["phenomenon", "query", "offset"])
        ids = gpt2.model.tokenizer(prompt.prompt).input_ids
        words = align(gpt2.model.tokenizer, prompt.prompt, ids, "here").positions
        with torch.no_grad():
            found = hf(input_ids=torch.tensor([ids]), output_attentions=True).attentions
        pairs, _ = gold_pairs(prompt, "here")
        for pair in pairs:
            place = (pair.phenomenon, pair.later, pair.earlier - pair.later)
            if place not in plain.index:  # its answer holds the first token, or is the only one
                assert pair.earlier == 0 or pair.later < 3
                continue
            expected = []
            for pattern in found:
                for head in pattern[0]:
                    given = {
                        word: float(head[list(words[pair.later])][:, list(words[word])].sum())
                        for word in range(1, pair.later)
                    }
                    expected.append(max(given, key=lambda word: given[word]) == pair.earlier)
            assert plain.loc[place, "right"].tolist() == expected
            checked += 1
    assert checked >= 10


def test_the_accuracy_is_that_of_the_other_half(measured: Path) -> None:
    found = tables(measured)
    answers, told = found["answers"], found["phenomena"]
    assert len(told) == 2 * 6  # weightings, phenomena
    for row in told[told["reason"].isna()].to_dict("records"):
        own = answers[
            (answers["phenomenon"] == row["phenomenon"])
            & (answers["weighting"] == row["weighting"])
            & (answers["who"] == "trained")
        ]
        first, second = halves(own["prompt_id"].tolist(), 0) or ([], [])
        right = np.stack(own["right"].to_list())
        best = right[first].mean(0).max()
        column = int(N_HEADS * row["block"] + row["head"])
        assert row["first_half_accuracy"] == right[first, column].mean() == best
        assert row["accuracy"] == pytest.approx(right[second, column].mean())
        offsets = own["offset"].to_numpy()
        assert row["offset_accuracy"] == pytest.approx((offsets[second] == row["offset"]).mean())
        assert row["over_offset"] == pytest.approx(row["accuracy"] - row["offset_accuracy"])
        assert row["untrained_accuracy"] is not None
        assert row["n_questions"] == len(second)


def test_the_report_counts_the_sentences_of_the_half_that_tests(measured: Path) -> None:
    answers = tables(measured)["answers"]
    trained = answers[answers["who"] == "trained"]
    frame = phenomena_tables(open_record(measured))["phenomena"].frame
    for row in frame[frame["head"] != ""].to_dict("records"):
        own = trained[trained["weighting"] == row["weighting"]]
        own = own[own["phenomenon"] == row["phenomenon"]]
        n = own["prompt_id"].nunique()
        for name in ("accuracy", "offset_accuracy", "above_offset_pp", "above_untrained_pp"):
            assert row[name].n_clusters == n - n // 2
        _, second = halves(own["prompt_id"].tolist(), 0) or ([], [])
        asked = [own.iloc[i] for i in second if own.iloc[i]["above_distractor"] is not None]
        distractor = row["above_distractor_share"]
        assert distractor.n == len(asked)
        assert distractor.n_clusters == len({one["prompt_id"] for one in asked})


def test_the_untrained_model_is_asked_the_same(measured: Path) -> None:
    rows = tables(measured)["answers"]
    keys = ["prompt_id", "weighting", "phenomenon", "query", "offset"]
    own, other = (rows[rows["who"] == who] for who in ("trained", "untrained"))
    assert own[keys].to_numpy().tolist() == other[keys].to_numpy().tolist()
    assert not np.array_equal(np.stack(own["right"].to_list()), np.stack(other["right"].to_list()))


def test_depths_are_of_three_blocks(measured: Path) -> None:
    found = tables(measured)
    depths = found["depths"].set_index(["weighting", "claim"])
    text = found["heads"][found["heads"]["condition"] == "text"]
    for weighting in ("plain", "moved"):
        own = text[text["weighting"] == weighting]
        means = own.groupby("block")["entropy_share"].mean()
        row = depths.loc[(weighting, "broad")]
        assert [row["early"], row["middle"], row["deep"]] == pytest.approx(means.tolist(), abs=1e-6)
        assert row["above_middle"] == pytest.approx(means[0] - means[1], abs=1e-6)
        assert row["above_deep"] == pytest.approx(means[0] - means[2], abs=1e-6)
        assert pd.isna(row["above_early"])
    assert set(found["depths"]["claim"]) >= {"broad", "syntactic"}


@pytest.mark.slow
def test_an_interrupted_run_ends_in_the_same_bytes(
    asked: Callable[..., AttentionSpec], measured: Path, tmp_path: Path
) -> None:
    def stop(now: Any) -> None:
        if now.unit == "batches" and now.done == 3:
            raise Stop

    with pytest.raises(Stop):
        run(asked(), tmp_path, stop)
    outcome = run(asked(), tmp_path)
    assert outcome.ok
    assert manifest(outcome.folder)["resumed_batches"] == 3
    assert table_bytes(outcome.folder) == table_bytes(measured)


@pytest.mark.slow
def test_what_is_lost_without_the_best_heads_is_in_the_record_and_the_report(
    asked: Callable[..., AttentionSpec], measured: Path, sentences: Path, tmp_path: Path
) -> None:
    outcome = run(asked(ablate=20, limit=2, nulls=False, conditions=("text",)), tmp_path / "run")
    assert outcome.ok, outcome.failed
    found, without = tables(outcome.folder), tables(measured)
    assert found["phenomena"].equals(without["phenomena"])
    losses, told = found["word_losses"], found["phenomenon_ablation"]
    assert len(told) == 2 * len(found["phenomena"])
    plain = found["answers"][found["answers"]["weighting"] == "plain"]
    keys = ["prompt_id", "phenomenon", "query", "offset"]
    words = losses[losses["predicted"] == "word"]
    trained = plain[plain["who"] == "trained"]
    ids = [prompt.id for prompt in load_prompts(sentences).prompts]
    chosen = {prompt.id for prompt in choose(load_prompts(sentences).prompts, 20)}
    assert set(losses["prompt_id"]) == chosen < set(ids)
    due = trained[trained["prompt_id"].isin(chosen)]
    assert sorted(words[keys].to_numpy().tolist()) == sorted(due[keys].to_numpy().tolist())
    assert all(len(one) == 12 for one in losses["change_bits"])
    row = told[(told["phenomenon"] == "determiner-noun") & (told["predicted"] == "word")].iloc[0]
    own = trained[trained["phenomenon"] == "determiner-noun"]
    held = own.iloc[(halves(own["prompt_id"].tolist(), 0) or ([], []))[1]]
    bits = held[keys].merge(words, on=keys)["change_bits"]
    column = int(N_HEADS * row["block"] + row["head"])
    assert row["change_bits"] == pytest.approx(np.mean([one[column] for one in bits]))
    lb.build_report([outcome.folder], tmp_path / "report")
    text = (tmp_path / "report" / "report.md").read_text(encoding="utf-8")
    assert "**What is lost without the head that finds a word best.**" in text
    assert "Surely more is lost than without another head of the block" in text
    assert {"word_losses", "phenomenon_ablation"}.isdisjoint(without)


@pytest.mark.slow
def test_ablations_that_were_interrupted_end_in_the_same_bytes(
    asked: Callable[..., AttentionSpec], tmp_path: Path
) -> None:
    """Stopped in its last job but one: a batch of sentences without each head in turn."""
    spec = asked(ablate=20, nulls=False, conditions=("text",))
    whole = run(spec, tmp_path / "whole")
    assert whole.ok

    def stop(now: Any) -> None:
        if now.unit == "batches" and now.total and now.done == now.total - 1:
            raise Stop

    with pytest.raises(Stop):
        run(spec, tmp_path / "again", stop)
    again = run(spec, tmp_path / "again")
    assert again.ok
    assert manifest(again.folder)["resumed_batches"] > 0
    assert table_bytes(again.folder) == table_bytes(whole.folder)


def test_sentences_that_say_nothing_of_their_words_are_a_problem(
    asked: Callable[..., AttentionSpec], facts: Path, tmp_path: Path
) -> None:
    outcome = run(asked(sentences=str(facts)), tmp_path)
    assert [problem.where for problem in outcome.problems] == ["sentences"]
    assert "none of them says in a column 'pairs'" in outcome.problems[0].what
    assert tables(outcome.folder)["phenomena"].empty


def test_a_pair_that_is_none_is_a_problem_and_the_others_are_asked(
    asked: Callable[..., AttentionSpec], tmp_path: Path
) -> None:
    rows = [
        {"id": f"s{i}", "prompt": f"Now the cat sees {i} of the dogs.", "pairs": pairs}
        for i, pairs in enumerate(["subject-verb: cat > sees", "subject-verb: cow > sees", ""])
    ]
    write_csv(tmp_path / "mine.csv", rows)
    outcome = run(asked(sentences=str(tmp_path / "mine.csv")), tmp_path / "out")
    (problem,) = outcome.problems
    assert "'cow' is no word of the sentence" in problem.what
    found = tables(outcome.folder)
    assert set(found["answers"]["prompt_id"]) == {"s0"}
    assert found["phenomena"]["reason"].tolist() == ["1 sentences: 4 or more make two halves"] * 2
    assert pd.isna(found["phenomena"]["accuracy"]).all()


def test_sentences_without_phenomena_have_no_effect(
    lensbench: Program, gpt2: Case, facts: Path
) -> None:
    refused = lensbench("attention", gpt2.folder, "--prompts", facts, "--sentences", facts)
    assert refused.status == 2
    assert "--sentences: it has no effect without phenomena" in refused.said


def test_the_report_tells_what_was_asked(measured: Path, tmp_path: Path) -> None:
    lb.build_report([measured], tmp_path)
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "### Which word belongs to which" in text
    assert "Surely above both the best offset and the untrained model" in text
    rows = tables(measured)["phenomena"]
    told = pd.read_csv(tmp_path / "tables" / "phenomena.csv", dtype={"head": str})
    assert told["accuracy"].to_numpy() == pytest.approx(rows["accuracy"].to_numpy(), nan_ok=True)
    heads = [f"{one.block:.0f}.{one.head:.0f}" for one in rows.dropna(subset="block").itertuples()]
    assert told["head"].dropna().tolist() == heads
    assert len(pd.read_csv(tmp_path / "tables" / "depths.csv")) == len(tables(measured)["depths"])
