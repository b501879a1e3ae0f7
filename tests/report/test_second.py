"""Reports of the second path: reproducible, linked, escaped, and right about their numbers."""

from __future__ import annotations

import csv
import io
import json
import math
import re
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import sacrebleu

from lensbench.errors import RecordsError
from lensbench.quantized.evaluation.scores import bleu
from lensbench.records.open import find_records, open_record
from lensbench.report import manifest
from lensbench.report.build import build_report
from lensbench.report.evaluation import results as evaluation
from lensbench.report.inference import section as inference
from lensbench.report.inference.conditions import condition, conditions_table
from lensbench.report.kit.markdown import line_cell
from lensbench.report.kit.table import Table, to_csv
from lensbench.report.sections import SECTIONS
from lensbench.report.training import section as training
from lensbench.stats.bootstrap import summed_bootstrap
from tests.harness import second_records as fixture
from tests.harness.lens_records import Settings
from tests.harness.lens_records import write_run as write_lens_run
from tests.harness.reports import record_in, section_of


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fixture.write_run(tmp_path_factory.mktemp("runs") / "study")


@pytest.fixture(scope="module")
def built(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("report")
    build_report([run], out)
    return out


def contents(folder: Path) -> dict[str, bytes]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


# --- the reports as files


def test_the_same_records_give_the_same_bytes_without_torch(
    run: Path, built: Path, tmp_path: Path
) -> None:
    code = (
        "import sys; from pathlib import Path; from lensbench.report.build import build_report;"
        "build_report([Path(sys.argv[1])], Path(sys.argv[2]));"
        "found = {'torch', 'transformers', 'sacrebleu', 'rouge_score'} & set(sys.modules);"
        "sys.exit(f'imported: {found}' if found else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(run), str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        env={"PYTHONHASHSEED": "7", "HOME": str(tmp_path.parent)},
    )
    assert done.returncode == 0, done.stderr
    first, second = contents(built), contents(tmp_path)
    assert list(first) == list(second)
    assert [name for name in first if first[name] != second[name]] == []


def test_every_link_and_figure_exists(built: Path) -> None:
    reports = list(built.rglob("*.md"))
    assert len(reports) == 9  # seven records, the index, the examples
    for report in reports:
        links = re.findall(r"(?<!\\)\]\(([^)]+)\)", report.read_text(encoding="utf-8"))
        assert links
        assert [link for link in links if not (report.parent / link).is_file()] == []


def test_the_index_names_every_record(built: Path) -> None:
    text = (built / "report.md").read_text(encoding="utf-8")
    for name in ("train", "eval", "base", "rag", "adapter", "adapter-rag", "trace"):
        assert f"[{name}]({name}/report.md)" in text
    assert "adapter+rag" in text


def test_figures_are_svg_with_text_that_stays_text(built: Path) -> None:
    figures = list(built.rglob("*.svg"))
    assert {figure.name for figure in figures} == {
        "loss_curve.svg",
        "lora_flow.svg",
        "along.svg",
        "norms.svg",
        "differences.svg",
    }
    for figure in figures:
        ElementTree.fromstring(figure.read_bytes())
    flow = (built / "train" / "figures" / "lora_flow.svg").read_text(encoding="utf-8")
    assert "2.25 M of 1.10 B (0.20 %)" in flow
    assert flow.count(">q<") == fixture.N_LAYERS
    norms = (built / "trace" / "figures" / "norms.svg").read_text(encoding="utf-8")
    assert "mathdefault" not in norms


def test_texts_cannot_break_out_of_their_cells(built: Path) -> None:
    for name in ("eval/examples.md", "eval/report.md"):
        text = (built / name).read_text(encoding="utf-8")
        assert "<script" not in re.sub(r"\\<", "", text)
        assert "\u202e" not in text
        rows = [line for line in text.split("\n") if line.startswith(("| base |", "| prompt |"))]
        assert rows
        for row in rows:
            assert len(re.findall(r"(?<!\\)\|", row)) == 3, row


@pytest.mark.parametrize("text", ["a\rb", "a\r\nb", 'say "\r\n"', ",", "\n", ""])
def test_any_text_comes_back_out_of_a_csv(text: str) -> None:
    frame = pd.DataFrame({"token": [text, "z"], "count": [1, 2]})
    written = to_csv(Table("t", "T", frame)).decode()
    assert list(csv.reader(io.StringIO(written, newline="")))[1:] == [[text, "1"], ["z", "2"]]
    assert written.startswith("token,count\n")
    assert written.endswith("\nz,2\n")


def test_texts_in_csv_are_no_formulas(tmp_path: Path) -> None:
    asked = fixture.responses()
    asked[0]["prompt_id"] = "=1+1"
    build_report([fixture.write(tmp_path, "inference", {"responses": asked})])
    table = pd.read_csv(tmp_path / "tables" / "responses.csv")
    assert table["prompt_id"][0] == "'=1+1"


def test_lines_keep_their_indentation_and_long_texts_say_that_they_are_cut() -> None:
    assert line_cell("if a:\n    b | c") == "if a:<br>&nbsp;&nbsp;&nbsp;&nbsp;b \\| c"
    assert line_cell("x" * 2000).endswith("<br>(500 more characters)")


@pytest.mark.parametrize("name", ["train", "eval", "rag", "trace"])
def test_a_record_alone_is_reported_in_its_own_folder(name: str, run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "alone"
    folder.mkdir()
    for path in (run / name).iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    written = build_report([folder])
    assert folder / "report.md" in written
    assert all(path.is_relative_to(folder) for path in written)


# A diff and a placement always have rows: without a prompt to compare they are refused.
@pytest.mark.parametrize(
    "kind", [k for k in SECTIONS if k != "lens" and k not in ("diff", "placement")]
)
def test_a_record_without_rows_has_a_report(kind: Any, tmp_path: Path) -> None:
    if kind == "training":
        fixture.write_training(tmp_path, [])
    else:
        fixture.write(tmp_path, kind, {})
    assert tmp_path / "report.md" in build_report([tmp_path])


def test_lens_records_and_others_share_a_folder(tmp_path: Path) -> None:
    lens = Settings(model="m", n_layers=4, relations=1, per_relation=2)
    alone = write_lens_run(tmp_path / "alone", lens)
    mixed = write_lens_run(tmp_path / "mixed", lens)
    fixture.write_training(mixed / "train")
    build_report([alone])
    build_report([mixed])
    before, after = contents(alone), contents(mixed)
    assert "(m/report.md): lens" in before.pop("report.md").decode()  # the index names both
    assert {name: after[name] for name in before} == before
    index = after["report.md"].decode()
    assert "(m/report.md): lens" in index
    assert "(train/report.md)" in index


def test_two_reports_for_one_place_are_refused(tmp_path: Path) -> None:
    lens = Settings(model="m", n_layers=4, relations=1, per_relation=2)
    write_lens_run(tmp_path / "run" / "inner", lens)
    fixture.write_training(tmp_path / "run" / "m")
    with pytest.raises(RecordsError, match="both go to m/"):
        build_report([tmp_path / "run"])


def test_runs_together_keep_their_names_apart(tmp_path: Path) -> None:
    folders = [fixture.write_training(tmp_path / name / "train") for name in ("a", "b")]
    build_report([folder.parent for folder in folders], tmp_path / "out")
    assert (tmp_path / "out" / "a" / "train" / "report.md").is_file()
    assert (tmp_path / "out" / "b" / "train" / "report.md").is_file()


def test_an_index_for_retrieval_is_no_record(tmp_path: Path) -> None:
    fixture.write_training(tmp_path / "train")
    (tmp_path / "index").mkdir()
    text = json.dumps({"format": "lensbench index", "schema_version": 1})
    (tmp_path / "index" / "manifest.json").write_text(text)
    assert [found.name for found in find_records([tmp_path])] == ["train"]


def edited_manifest(folder: Path, edit: Any) -> None:
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    edit(manifest)
    path.write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda m: m.update(kind="dream"), "'dream' are not known"),
        (lambda m: m.update(status="running"), "not complete"),
        (lambda m: m.pop("adapter"), "no adapter"),
        (lambda m: m.update(schema_version=99), "newer"),
    ],
)
def test_manifests_that_cannot_be_used(edit: Any, said: str, tmp_path: Path) -> None:
    fixture.write_training(tmp_path)
    edited_manifest(tmp_path, edit)
    with pytest.raises(RecordsError, match=said):
        build_report([tmp_path])


def test_a_missing_table_is_named(tmp_path: Path) -> None:
    fixture.write_training(tmp_path)
    (tmp_path / "training.parquet").unlink()
    with pytest.raises(RecordsError, match=r"training\.parquet"):
        build_report([tmp_path])


def test_how_it_was_made_is_written(built: Path) -> None:
    text = (built / "train" / "report.md").read_text(encoding="utf-8")
    assert "lensbench 0.1.0, commit 000000000000; python 3.11.9, torch 2.13.0." in text
    assert "a | b, 2 cores, 8 GiB, Linux; 2025-01-01, 12 s." in text


# --- training


def test_the_course_of_training_by_hand(tmp_path: Path) -> None:
    made = training.tables(record_in(fixture.write_training(tmp_path)))["training_summary"]
    expected = {
        "training loss, first logged": (1, 3.0),
        "training loss, last logged": (30, 1 + 2 / 30),
        "evaluation loss, first": (10, 2.0),
        "evaluation loss, lowest": (20, 1.5),
        "evaluation loss, last": (30, 1.75),
        "gradient norm, highest": (1, 5.0),
        "learning rate, peak": (30, 3e-3),
    }
    for measure, (step, value) in expected.items():
        row = made.row(measure=measure)
        assert (row["step"], row["value"]) == (step, pytest.approx(value)), measure
    assert made.row(measure="tokens per second, median")["value"] == 115.5


def test_modules_by_block(tmp_path: Path) -> None:
    adapter = {
        "trainable": 10,
        "total": 1000,
        "modules": ["lm_head", "transformer.h.11.attn.c_attn", "transformer.h.2.attn.c_attn"],
    }
    frame = training.modules(record_in(fixture.write_training(tmp_path, adapter=adapter)))
    assert frame["block"].tolist()[:2] == [2, 11]
    assert pd.isna(frame["block"][2])
    assert frame["target"].tolist() == ["c_attn", "c_attn", "lm_head"]


@pytest.mark.parametrize(
    ("trainable", "total", "text"),
    [
        (2_252_800, 1_102_301_184, "2.25 M of 1.10 B (0.20 %)"),
        (921_600, 135_436_608, "922 k of 135 M (0.68 %)"),
        (12, 345, "12 of 345 (3.48 %)"),
    ],
)
def test_the_trainable_share(trainable: int, total: int, text: str, tmp_path: Path) -> None:
    adapter = {"trainable": trainable, "total": total, "modules": ["m.0.q"]}
    assert (
        training.trainable_share(record_in(fixture.write_training(tmp_path, adapter=adapter)))
        == text
    )


def said(folder: Path) -> str:
    one = record_in(folder)
    return "\n".join([*section_of(one).limitations, *manifest.limitations(one)])


def test_limitations_of_training_follow_from_its_numbers(tmp_path: Path) -> None:
    overfitted = said(fixture.write_training(tmp_path / "a"))
    assert "lowest at step 20 (2.16 bits) and 2.52 bits at the end" in overfitted
    assert "8 bits" in overfitted
    assert "taught no end: 3" in overfitted
    rows = [row for row in fixture.training_rows() if "loss_nats" in row][:5]
    short = said(fixture.write_training(tmp_path / "b", rows, model=fixture.model(bits=32)))
    assert "No evaluation split" in short
    assert "Few logged losses: 5" in short
    assert "bits" not in short


def test_answers_before_and_after_stand_side_by_side(tmp_path: Path) -> None:
    build_report([fixture.write_training(tmp_path)])
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "**e|1 (held out)**" in text
    assert "| prompt | say \\*it\\* |" in text
    assert "| before | \\</td\\>a<br>\\| b |" in text
    (tmp_path / "examples.jsonl").unlink()
    build_report([tmp_path])
    assert "Before and after" not in (tmp_path / "report.md").read_text(encoding="utf-8")


# --- responses and activations


def test_measures_by_hand(tmp_path: Path) -> None:
    asked = fixture.responses(2, retrieved=True)
    asked[0] |= {"entropy_bits": [1.0, 3.0], "token_logprob_bits": [-1.0, -2.0]}
    asked[1] |= {"entropy_bits": [5.0], "token_logprob_bits": [-0.5]}
    asked[0] |= {"n_prompt_tokens": 10, "n_generated_tokens": 2}
    asked[1] |= {"n_prompt_tokens": 20, "n_generated_tokens": 1}
    made = inference.tables(record_in(fixture.write(tmp_path, "inference", {"responses": asked})))
    names = inference.MEASURES
    means = {
        column: made["measures"].row(measure=name)["mean"].value for column, name in names.items()
    }
    assert means == pytest.approx(
        {
            "prompt_tokens": 15,
            "generated_tokens": 1.5,
            "entropy_bits": 3.5,
            "logprob_bits": -1.0,
            "retrieval_score": 0.505,
            "context_tokens_cut": 3.5,
        }
    )
    assert made["finish"].frame["n_prompts"].tolist() == [1, 1]
    positions = made["positions"].frame  # one response has a second token: no mean of one
    assert positions["n_prompts"].tolist() == [2]
    assert positions["entropy_bits"][0].value == 3.0


def test_no_retrieval_no_retrieval_measures(tmp_path: Path) -> None:
    rows = {"responses": fixture.responses()}
    made = inference.tables(record_in(fixture.write(tmp_path, "inference", rows)))
    assert len(made["measures"].frame) == 4


def test_limitations_of_responses_follow_from_them(tmp_path: Path) -> None:
    rows = {"responses": fixture.responses(12, retrieved=True)}
    rows["responses"][3]["seed"] = 7
    text = said(fixture.write(tmp_path / "a", "inference", rows))
    assert "Few responses: 12" in text
    assert "cut at the token limit" in text
    assert "cut to fit in 1 of 12 prompts" in text
    assert "Sampled, once per prompt: 1 responses" in text
    calm = fixture.responses(40)
    for row in calm:
        row["finish_reason"] = "stop"
    plain = fixture.model(bits=32, int8_threshold=None)
    assert said(fixture.write(tmp_path / "b", "inference", {"responses": calm}, model=plain)) == ""


def test_norms_by_hand(tmp_path: Path) -> None:
    """The fixture's means are (3, 4, 0, 0) x (layer + 1); token norms 6 (layer + 1) + i."""
    frame = section_of(record_in(fixture.write_trace(tmp_path))).tables["norms"].frame
    assert frame["layer"].tolist() == list(range(fixture.N_LAYERS + 1))
    for row in frame.to_dict("records"):
        for span, n in (("prompt", 8), ("generated", 7)):
            mean, token = row[f"{span}_norm_of_mean"], row[f"{span}_token_norm"]
            assert (mean.n, token.n) == (n, n)
            assert mean.value == pytest.approx(5 * (row["layer"] + 1))
            expected = 6 * (row["layer"] + 1) + (n - 1) / 2
            assert token.value == pytest.approx(expected)
            assert token.low < expected < token.high
    assert "in 1 responses" in said(tmp_path)


def test_conditions_are_paired_with_their_base(run: Path) -> None:
    every = map(open_record, find_records([run]))
    records = [(one.folder.name, one) for one in every if one.kind in ("inference", "trace")]
    found = [condition(one) for _, one in records]
    assert found == ["adapter", "adapter+rag", "base", "rag", "base"]
    frame = conditions_table(records).frame.set_index("record")
    own, base = (
        dict(records)[name].table("responses").set_index("prompt_id") for name in ("rag", "base")
    )
    difference = (own["n_generated_tokens"] - base["n_generated_tokens"]).mean()
    found = frame.at["rag", "generated_difference_tokens"]
    assert found.value == pytest.approx(difference)
    assert found.n == 12
    assert frame.at["base", "entropy_difference_bits"] is None
    doubled = [*records, ("again", dict(records)["base"])]
    again = conditions_table(doubled).frame
    assert "2 base records" in again["entropy_difference_bits"][0].reason


# --- evaluation


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
    edited_manifest(tmp_path, lambda m: m["settings"].update(conditions=["base", "adapter"]))
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
    assert "Few groups: the 48 examples are of 12" in said(tmp_path / "b")


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


def test_summed_bootstrap_of_a_mean_is_near_students_interval() -> None:
    values = np.random.default_rng(3).normal(5, 2, size=400)
    terms = np.column_stack([values, np.ones(400)])
    found = summed_bootstrap(terms, lambda sums: sums[..., 0] / sums[..., 1])
    half = 1.96 * values.std(ddof=1) / 20
    assert found.value == pytest.approx(values.mean())
    assert found.low == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert found.high == pytest.approx(values.mean() + half, abs=0.1 * half)


def test_summed_bootstrap_leaves_out_what_was_not_measured() -> None:
    terms = np.array([[1.0, 1.0], [np.nan, 1.0], [3.0, 1.0]])
    found = summed_bootstrap(terms, lambda sums: sums[..., 0] / sums[..., 1])
    assert (found.value, found.n) == (2.0, 2)
    nothing = summed_bootstrap(terms[1:2], lambda sums: sums[..., 0])
    assert (nothing.value, nothing.reason) == (None, "no examples")
