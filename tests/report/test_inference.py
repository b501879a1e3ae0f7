"""The reports of responses, of traces and of conditions: their numbers by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from lensbench.records.open import find_records, open_record
from lensbench.report.build import build_report
from lensbench.report.inference import section as inference
from lensbench.report.inference.conditions import condition, conditions_table
from tests.harness import second_records as fixture
from tests.harness.reports import all_said, record_in, section_of


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
    text = all_said(fixture.write(tmp_path / "a", "inference", rows))
    assert "Few responses: 12" in text
    assert "cut at the token limit" in text
    assert "cut to fit in 1 of 12 prompts" in text
    assert "Sampled, once per prompt: 1 responses" in text
    calm = fixture.responses(40)
    for row in calm:
        row["finish_reason"] = "stop"
    plain = fixture.model(bits=32, int8_threshold=None)
    assert (
        all_said(fixture.write(tmp_path / "b", "inference", {"responses": calm}, model=plain)) == ""
    )


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
            assert token.low is None
            assert token.reason == f"{n} prompts: no interval of a mean covers 90 %"
    assert "in 1 responses" in all_said(tmp_path)


def test_conditions_are_paired_with_their_base(run: Path) -> None:
    every = map(open_record, find_records([run]))
    records = [(one.folder.name, one) for one in every if one.kind in ("inference", "trace")]
    found = [condition(one) for _, one in records]
    assert found == ["adapter", "adapter+rag", "base", "rag", "base"]
    rag = dict(records)["rag"]
    other = replace(rag, manifest=rag.manifest | {"settings": {"control": "shuffled"}})
    assert condition(other) == "rag (shuffled)"
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


@pytest.mark.parametrize(
    "changes",
    [{"style": "alpaca"}, {"max_new_tokens": 7}, {"temperature": 0.5}, {"repetition_penalty": 1.3}],
)
def test_a_base_that_was_asked_otherwise_gives_no_difference(
    run: Path, changes: dict[str, Any]
) -> None:
    """What it would show is of the settings, not of the condition."""
    every = [open_record(run / name) for name in ("rag", "base")]
    own = replace(every[0], manifest=every[0].manifest | {"settings": every[0].settings | changes})
    frame = conditions_table([("rag", own), ("base", every[1])]).frame.set_index("record")
    found = frame.at["rag", "generated_difference_tokens"]
    assert (found.value, found.reason) == (None, f"the base has another {next(iter(changes))}")


def test_prompts_of_one_id_and_other_words_are_not_paired(tmp_path: Path) -> None:
    asked = fixture.responses()
    other = [row | {"prompt": "Something else?"} if i < 3 else row for i, row in enumerate(asked)]
    base = fixture.write(tmp_path / "base", "inference", {"responses": asked})
    own = fixture.write(
        tmp_path / "own", "inference", {"responses": other}, model=fixture.model(adapter="a")
    )
    frame = conditions_table([("own", open_record(own)), ("base", open_record(base))]).frame
    assert frame["generated_difference_tokens"][0].n == len(asked) - 3


def test_texts_in_csv_are_no_formulas(tmp_path: Path) -> None:
    asked = fixture.responses()
    asked[0]["prompt_id"] = "=1+1"
    build_report([fixture.write(tmp_path, "inference", {"responses": asked})])
    table = pd.read_csv(tmp_path / "tables" / "responses.csv")
    assert table["prompt_id"][0] == "'=1+1"
