"""The report of an evaluation: values and paired differences against numpy, sacrebleu, Student."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest
import sacrebleu

from lensbench.quantized.evaluation.scores import bleu
from lensbench.report.build import build_report
from lensbench.report.evaluation import results as evaluation
from tests.harness import second_records as fixture
from tests.harness.files import write_manifest
from tests.harness.reports import all_said, record_in


def results(folder: Path) -> pd.DataFrame:
    return evaluation.tables(record_in(folder))["eval_results"].frame.set_index(
        ["metric", "condition"]
    )


def test_results_have_the_stated_columns_and_no_bare_mean(built: Path) -> None:
    csv = pd.read_csv(built / "eval" / "tables" / "eval_results.csv")
    assert csv.columns.tolist() == (
        "condition metric n groups value low high difference diff_low diff_high reason".split()  # noqa: SIM905
    )
    assert len(csv) == 4 * len(evaluation.METRICS)
    assert csv[["n", "value", "low", "high"]].notna().all().all()
    against = csv["condition"] != "base"
    assert csv.loc[against, ["difference", "diff_low", "diff_high"]].notna().all().all()
    assert csv.loc[~against, "difference"].isna().all()


def test_values_and_differences_by_numpy(tmp_path: Path) -> None:
    found = results(fixture.write_evaluation(tmp_path))
    rows = pq.read_table(tmp_path / "evaluation.parquet").to_pandas()
    rows = rows.set_index("prompt_id")
    base, own = (rows[rows["condition"] == c] for c in ("base", "rag"))
    for metric, column in (("rouge1", "rouge1"), ("format_kept", "format_ok")):
        expected = own[column].astype(float).mean()
        assert found.at[(metric, "rag"), "value"] == pytest.approx(expected)
        difference = (own[column].astype(float) - base[column].astype(float)).mean()
        assert found.at[(metric, "rag"), "difference"] == pytest.approx(difference)
    perplexity = 2 ** (own["reference_nll_bits"].sum() / own["n_reference_tokens"].sum())
    assert found.at[("perplexity", "rag"), "value"] == pytest.approx(perplexity)
    assert found.at[("rouge2", "base"), "n"] == 39
    assert found.at[("rouge2", "rag"), "value"] == pytest.approx(own["rouge2"].mean())


def test_the_paired_interval_is_that_of_the_differences(tmp_path: Path) -> None:
    """For a mean it must agree with Student's, and be narrower than unpaired examples allow."""
    found = results(fixture.write_evaluation(tmp_path, n=200)).loc[("rouge1", "adapter")]
    rows = pq.read_table(tmp_path / "evaluation.parquet").to_pandas().set_index("prompt_id")
    base, own = (rows[rows["condition"] == c]["rouge1"] for c in ("base", "adapter"))
    half = 1.96 * (own - base).std() / math.sqrt(200)
    assert found["diff_low"] == pytest.approx((own - base).mean() - half, abs=0.15 * half)
    assert found["diff_high"] == pytest.approx((own - base).mean() + half, abs=0.15 * half)
    unpaired = 1.96 * math.sqrt(2 * base.var() / 200)
    assert found["diff_high"] - found["diff_low"] < unpaired


def test_corpus_bleu_is_sacrebleus_over_the_same_texts(tmp_path: Path) -> None:
    texts = [
        ("the cat sat on the mat", "the cat lay on the mat today"),
        ("it is a dog", "it is a big dog"),
        ("no", "never in all those years"),
    ]
    rows = [
        {
            **fixture.evaluation_row(i, "base", 0.5),
            **bleu(own, reference),
            "response": own,
            "reference": reference,
        }
        for i, (own, reference) in enumerate(texts)
    ]
    found = results(fixture.write(tmp_path, "evaluation", {"evaluation": rows}))
    own, references = zip(*texts, strict=True)
    expected = sacrebleu.corpus_bleu(list(own), [list(references)]).score
    assert found.at[("corpus_bleu", "base"), "value"] == pytest.approx(expected)


def test_one_example_has_no_interval_and_says_so(tmp_path: Path) -> None:
    found = results(fixture.write_evaluation(tmp_path, n=1))
    assert found["low"].isna().all()
    assert found["diff_low"].isna().all()
    assert set(found["reason"]) == {"1 example: no interval"}
    build_report([tmp_path])
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "1 example: no interval" in text
    assert "Few examples: 1" in text
    assert "cut to fit in 1 examples, by 23 tokens" in text


def test_examples_that_one_condition_lacks_count_in_none(tmp_path: Path) -> None:
    fixture.write_evaluation(tmp_path, n=10)
    path = tmp_path / "evaluation.parquet"
    whole = pq.read_table(path)
    lost = ("rag", "p03")
    kept = [row for row in whole.to_pylist() if (row["condition"], row["prompt_id"]) != lost]
    pq.write_table(whole.from_pylist(kept, whole.schema), path)
    assert set(results(tmp_path).loc["rouge1", "n"]) == {9}


def test_a_condition_that_was_never_measured_leaves_nothing_to_compare(tmp_path: Path) -> None:
    rows = [fixture.evaluation_row(i, "base", 0.5) for i in range(5)]
    fixture.write(tmp_path, "evaluation", {"evaluation": rows})
    path = tmp_path / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["settings"]["conditions"] = ["base", "adapter"]
    write_manifest(tmp_path, manifest)
    found = results(tmp_path)
    assert set(found["n"]) == {0}
    assert set(found["reason"]) == {"no examples"}
    build_report([tmp_path])
    assert "n/a (no examples)" in (tmp_path / "report.md").read_text(encoding="utf-8")


def test_whole_groups_are_drawn(tmp_path: Path) -> None:
    """Four copies of each example in one group tell no more than one: the same interval."""
    alone = [fixture.evaluation_row(i, "base", (i % 7) / 8) for i in range(12)]
    copies = [
        row | {"prompt_id": f"{row['prompt_id']}-{k}", "group": row["prompt_id"]}
        for row in alone
        for k in range(4)
    ]
    one = results(fixture.write(tmp_path / "a", "evaluation", {"evaluation": alone}))
    four = results(fixture.write(tmp_path / "b", "evaluation", {"evaluation": copies}))
    assert set(four.loc["rouge1", "n"]) == {48}
    assert set(four.loc["rouge1", "groups"]) == {12}
    for name in ("corpus_bleu", "rouge1", "perplexity", "generated_tokens"):
        for part in ("value", "low", "high"):
            expected = one.at[(name, "base"), part]
            assert four.at[(name, "base"), part] == pytest.approx(expected), (name, part)
    assert "Few groups: the 48 examples are of 12" in all_said(tmp_path / "b")


def test_one_group_has_no_interval(tmp_path: Path) -> None:
    rows = [fixture.evaluation_row(i, "base", 0.5) | {"group": "g"} for i in range(5)]
    found = results(fixture.write(tmp_path, "evaluation", {"evaluation": rows}))
    assert set(found["reason"]) == {"1 group of examples: no interval"}
    assert found["low"].isna().all()


def test_verdicts_take_the_direction_of_the_metric(tmp_path: Path) -> None:
    """Everything is a little better with the adapter; lower perplexity is better."""
    table = evaluation.tables(record_in(fixture.write_evaluation(tmp_path)))["eval_results"]
    (name, better, worse, unknown), *_ = evaluation.verdicts(table)
    assert name == "adapter"
    assert "perplexity" in better
    assert "self-check" in better
    assert worse == "nothing"
    assert "format kept" in unknown
    assert "length" not in better + worse + unknown  # neither way is better


def test_a_worse_adapter_is_called_worse(tmp_path: Path) -> None:
    rows = [
        fixture.evaluation_row(i, condition, 0.9 - 0.4 * j + 0.01 * (i % 7))
        for i in range(30)
        for j, condition in enumerate(("base", "adapter"))
    ]
    folder = fixture.write(tmp_path, "evaluation", {"evaluation": rows})
    table = evaluation.tables(record_in(folder))["eval_results"]
    ((_, better, worse, _),) = evaluation.verdicts(table)
    assert "ROUGE-L" in worse
    assert "perplexity" in worse
    assert "ROUGE" not in better


def test_the_terminal_reads_the_same_numbers_from_the_csv(built: Path, run: Path) -> None:
    shown = evaluation.shown(evaluation.tables(record_in(run / "eval"))["eval_results"])
    again = evaluation.shown(evaluation.read_results(built / "eval"))
    for column in ("value", "difference to base"):
        for one, other in zip(shown[column], again[column], strict=True):
            assert (one is None) == (other is None)
            if one is not None:
                parts = ("value", "low", "high")
                expected = [getattr(one, part) for part in parts]
                assert [getattr(other, part) for part in parts] == pytest.approx(expected)
