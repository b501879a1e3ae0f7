"""A small model that is trained on repeated passages has an induction head, as no untrained one."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from lensbench.checkpoints.open import count_parameters
from lensbench.pico.analyse import analyse_pico
from lensbench.pico.model import config_of
from lensbench.pico.spec import PRESETS, AnalyseSpec
from lensbench.pico.train import train_pico
from lensbench.records.open import open_record
from tests.harness.pico import curve_of, pico_spec

RECORD = Path(__file__).parents[2] / "reports" / "008_pico_over_training" / "lineage"
_LETTERS = "abcdefghijklmnopqrstuvwxyz "


@pytest.mark.slow
def test_induction_leaves_the_untrained_band_and_held_out_text_is_not_foreseen(
    tmp_path: Path,
) -> None:
    """Letters at random: only what stood before foretells them, and held-out ones nothing."""
    corpus, run = tmp_path / "letters", tmp_path / "run"
    corpus.mkdir()
    chance = random.Random(0)
    for number in range(400):
        text = "".join(chance.choices(_LETTERS, k=750))
        (corpus / f"{number:03d}.txt").write_text(text, encoding="utf-8")
    spec = pico_spec(
        corpus,
        run,
        steps=700,
        context=32,
        batch_size=32,
        dropout=0.0,
        repeated_share=0.75,
        validation_tokens=2048,
        checkpoint_every=700,
    )
    train_pico(spec)
    losses = curve_of(run).dropna(subset=["eval_loss_nats"])["eval_loss_nats"]
    assert 0.99 < losses.min() / nats_per_token(run) < 1.1

    sizes = {"tokens": 400, "choose_tokens": 100, "test_tokens": 400, "window": 32}
    steps = (run / "step-000000", run / "step-000700")
    assert analyse_pico(AnalyseSpec(runs=steps, out=tmp_path / "a", untrained=5, **sizes)).ok
    lineage = open_record(tmp_path / "a").table("lineage")
    band = lineage.query("run == 'untrained'")["induction"]
    first, last = lineage.query("run != 'untrained'").sort_values("step").to_dict("records")
    assert first["induction"] == pytest.approx(band.mean(), rel=0.2)
    assert last["induction"] > 3 * band.max()
    assert first["repeat_loss_nats"] == pytest.approx(first["first_loss_nats"], abs=0.1)
    assert last["repeat_loss_nats"] < last["first_loss_nats"] - 1


def nats_per_token(run: Path) -> float:
    """The entropy of held-out text: each letter is one of 27, whatever stood before."""
    tokenizer = AutoTokenizer.from_pretrained(run / "step-000000")
    lines = (run / "held-out.jsonl").read_text(encoding="utf-8").splitlines()
    texts = [json.loads(line)["text"] for line in lines]
    n_tokens = sum(len(tokenizer(text).input_ids) + 1 for text in texts)
    return sum(map(len, texts)) * math.log(len(_LETTERS)) / n_tokens


def test_tiny_reached_the_stated_loss_and_induction_in_every_committed_run() -> None:
    """The shape is what the preset gives now, so that another preset needs another report."""
    record, plan = open_record(RECORD), PRESETS["tiny"]
    n_params = count_parameters(config_of(plan, plan.vocabulary, 0))
    assert record.model["n_params"] == n_params
    lineage = record.table("lineage")
    drawn, runs = (lineage.query(f"run {sign} 'untrained'") for sign in ("==", "!="))
    assert len(drawn) == 20
    last = runs[runs["step"] == plan.steps]
    assert [*last["n_tokens"]] == [plan.steps * plan.step_tokens] * 3
    assert (last["eval_loss_nats"] < 3).all()
    assert (last["induction"] > 15 * drawn["induction"].max()).all()
    assert {*runs["step"]} == {*plan.kept}
    shares = [run["repeated_share"] for run in record.model["runs"].values()]
    assert shares == [plan.repeated_share] * 3
