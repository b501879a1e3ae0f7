"""The report of a training run: its numbers by hand, its limitations, its answers."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from lensbench.report.build import build_report
from lensbench.report.training import section as training
from tests.harness import second_records as fixture
from tests.harness.reports import all_said, record_in


def test_how_it_was_made_is_written(built: Path) -> None:
    text = (built / "train" / "report.md").read_text(encoding="utf-8")
    assert "lensbench 0.1.0, commit 000000000000; python 3.11.9, torch 2.13.0." in text
    assert "a | b, 2 cores, 8 GiB, Linux; 2025-01-01, 12 s." in text


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


def test_limitations_of_training_follow_from_its_numbers(tmp_path: Path) -> None:
    overfitted = all_said(fixture.write_training(tmp_path / "a"))
    assert "lowest at step 20 (2.16 bits) and 2.52 bits at the end" in overfitted
    assert "8 bits" in overfitted
    assert "taught no end: 3" in overfitted
    rows = [row for row in fixture.training_rows() if "loss_nats" in row][:5]
    short = all_said(fixture.write_training(tmp_path / "b", rows, model=fixture.model(bits=32)))
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
