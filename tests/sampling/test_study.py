"""A study of sampling on a tiny model: its tables, resumption to the same bytes, its report."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from peft import PeftModel

import lensbench as lb
from lensbench.progress import Progress
from lensbench.report.build import build_report
from lensbench.report.sampling.settings import beside_own, first_tokens, texts
from lensbench.sampling.diversity import distinct, self_bleu, words
from lensbench.studies.sampling import run
from lensbench.studies.specs.sampling import SamplingSpec
from tests.harness.adapters import make_adapter
from tests.harness.files import table_bytes, write_csv
from tests.harness.forks import Stop
from tests.harness.program import Program
from tests.harness.tiny import CHAT_TEMPLATE, SENTENCES, TINY, Case, save, tokenizer

WRITTEN = ("greedy", "T=1", "T=0.5", "top-p=0.8")
NASTY = "\x1b[31mred\x07 [bold]x[/bold] | \u202e<script>alert(1)</script>"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with a long context and a chat template."""
    where = save(TINY["qwen3"], tmp_path_factory.mktemp("qwen3"), {"max_position_embeddings": 1024})
    words_ = tokenizer("bytes")
    words_.chat_template = CHAT_TEMPLATE
    words_.save_pretrained(where)
    return where


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = [
        {"id": f"p{n}", "relation": "ab"[n % 2], "prompt": " ".join(SENTENCES[n % 6].split()[:4])}
        for n in range(12)
    ]
    rows.append({"id": "nasty", "relation": "a", "prompt": NASTY})
    rows.append({"id": "long", "relation": "b", "prompt": "x" * 1030})
    return write_csv(tmp_path_factory.mktemp("prompts") / "mine.csv", rows)


def spec_of(folder: Path, prompts: Path, **more: Any) -> SamplingSpec:
    how = {"compared": ("T=1", "top-k=7", "T=0.5"), "written": WRITTEN, "texts": 3}
    how |= {"max_new_tokens": 8, "device": "cpu", "continued": 14, "shots": 2, "tasks": False}
    return SamplingSpec(models=(str(folder),), prompts=str(prompts), **(how | more))


@pytest.fixture(scope="module")
def record(folder: Path, prompts: Path, tmp_path_factory: pytest.TempPathFactory) -> lb.Record:
    outcome = run(spec_of(folder, prompts), tmp_path_factory.mktemp("runs"))
    assert not outcome.failed, outcome.failed
    assert [problem.prompt_id for problem in outcome.problems] == ["long"]
    return lb.open_record(outcome.folder)


def test_an_adapter_is_the_one_that_is_named_and_not_one_of_its_name_here(
    llama: Case, prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Printed, an adapter is its folder's name: that leads to another folder, or to none."""
    named = make_adapter(llama, tmp_path / "there" / "ad", seed=1, size=0.5)
    make_adapter(llama, tmp_path / "ad", seed=2, size=0.5)
    monkeypatch.chdir(tmp_path)
    how = {"compared": ("T=1",), "written": (), "continued": 0}
    model = Path(f"{llama.folder}@32+{named}")
    outcome = run(spec_of(model, prompts, **how), tmp_path / "out")
    assert not outcome.failed, outcome.failed
    found = lb.open_record(outcome.folder).table("first_tokens").set_index(["prompt_id", "setting"])
    right = PeftModel.from_pretrained(llama.fresh_hf(), named).eval()
    ids = llama.model.tokenizer(" ".join(SENTENCES[0].split()[:4]), return_tensors="pt").input_ids
    with torch.no_grad():
        bits = right(ids).logits[0, -1].double().log_softmax(-1) / math.log(2)
    entropy = -float((bits.exp2() * bits).sum())
    assert found.loc[("p0", "T=1"), "entropy_bits"] == pytest.approx(entropy, abs=1e-4)


def test_a_record_holds_every_prompt_setting_and_draw(record: lb.Record) -> None:
    first, sets = record.table("first_tokens"), record.table("sampled_sets")
    assert len(first) == 13 * 5  # three compared, and greedy and a nucleus that are written only
    assert len(sets) == 13 * 4
    rows = record.table("sampled_texts")
    assert len(rows) == 13 * (1 + 3 * 3)
    assert set(sets["n_texts"]) == {3}
    for _, own in sets.iterrows():
        mine = rows[(rows["prompt_id"] == own["prompt_id"]) & (rows["setting"] == own["setting"])]
        times = 3 // len(mine)
        every = list(mine["text"]) * times
        split = [words(text) for text in every]
        assert own["bits"] == pytest.approx(times * mine["bits"].sum())
        assert own["n_tokens"] == times * mine["n_tokens"].sum()
        expected = distinct(split, 2)
        assert own["distinct_2_share"] == pytest.approx(
            math.nan if expected is None else expected, nan_ok=True
        )
        bleu = self_bleu(every)
        assert own["self_bleu"] == pytest.approx(math.nan if bleu is None else bleu, nan_ok=True)
    settings = record.table("sampling_settings").set_index("setting")
    assert settings.loc["T=0.5", "temperature"] == 0.5
    assert not settings.loc["top-k=7", "is_written"]


def test_its_numbers_are_those_of_a_plain_pass(record: lb.Record, folder: Path) -> None:
    model = lb.load_quantized(str(folder), bits=32, device="cpu")
    asked = record.table("sampled_prompts").set_index("prompt_id")["prompt"]
    first = record.table("first_tokens").set_index(["prompt_id", "setting"])
    for name, prompt in list(asked.items())[:3]:
        with torch.no_grad():
            ids = torch.tensor([model.tokenizer(prompt).input_ids])
            shares = model.base(ids).logits[0, -1].double().softmax(-1).numpy()
        own = first.loc[(name, "T=1")]
        assert own["entropy_bits"] == pytest.approx(-(shares * np.log2(shares)).sum(), abs=1e-5)
        best = np.sort(shares)[::-1]
        assert first.loc[(name, "top-k=7"), "kept_prob"] == pytest.approx(best[:7].sum(), abs=1e-5)
        cold = shares**2 / (shares**2).sum()
        bits = -(cold * np.log2(cold)).sum()
        assert first.loc[(name, "T=0.5"), "entropy_bits"] == pytest.approx(bits, abs=1e-5)
    (gate,) = record.manifest["gate"]
    assert gate["passed"]
    assert gate["error"] < 1e-3


@pytest.mark.slow
def test_tasks_are_asked_as_generate_answers_them(
    folder: Path, prompts: Path, tmp_path: Path
) -> None:
    outcome = run(spec_of(folder, prompts, tasks=True, continued=0), tmp_path / "tasks")
    rows = lb.open_record(outcome.folder).table("shots")
    assert len(rows) == 6 * 20 * 7  # with a chat template
    model = lb.load_quantized(str(folder), bits=32, device="cpu")
    own = rows[(rows["task"] == "past") & (rows["condition"] == "input")].iloc[2]
    ids = torch.tensor([model.tokenizer(f"Input: {own['given']}\nOutput:").input_ids])
    out = model.base.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=10, do_sample=False
    )
    text = model.tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True)
    lines = [line.strip() for line in text.split("\n") if line.strip()]
    assert own["said"] == (lines[0] if lines else "")
    assert own["n_prompt_tokens"] == ids.shape[1]
    build_report([outcome.folder], tmp_path / "report")
    told = (tmp_path / "report" / "report.md").read_text(encoding="utf-8")
    assert "| chat+instruction+examples | 120 |" in told
    assert (tmp_path / "report" / "figures" / "shots.svg").exists()


def test_an_interrupted_run_goes_on_to_the_same_bytes(
    record: lb.Record, folder: Path, prompts: Path, tmp_path: Path
) -> None:
    def stop_at(number: int) -> Callable[[Progress], None]:
        def stop(now: Progress) -> None:
            if now.done == number:
                raise Stop

        return stop

    spec = spec_of(folder, prompts)
    for number in (1, 5, 9):
        with pytest.raises(Stop):
            run(spec, tmp_path, stop_at(number))
    outcome = run(spec, tmp_path)
    assert table_bytes(outcome.folder) == table_bytes(record.folder)


@pytest.mark.slow
def test_another_seed_is_another_record(
    record: lb.Record, folder: Path, prompts: Path, tmp_path: Path
) -> None:
    spec = spec_of(folder, prompts, seed=1)
    other = lb.open_record(run(spec, tmp_path).folder)
    rows = [one.table("sampled_texts").set_index("setting")["text"] for one in (record, other)]
    assert rows[0].loc["greedy"].tolist() == rows[1].loc["greedy"].tolist()
    assert rows[0].loc["T=1"].tolist() != rows[1].loc["T=1"].tolist()
    assert other.table("shots").empty
    again = run(spec_of(folder, prompts, seed=2), tmp_path)
    assert "seed: 1 there, 2 now" in str(next(iter(again.failed.values())))


def test_the_report_is_written_from_the_record_alone(record: lb.Record, tmp_path: Path) -> None:
    written = build_report([record.folder], tmp_path)
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "13 prompts of 2 kinds" in text
    assert "| greedy | no |" in text
    assert not {"\x1b", "\x07", "\u202e"} & set(text)
    assert "<script>" not in text
    assert {p.name for p in written if p.suffix == ".svg"} == {"grid.svg", "texts.svg"}


@pytest.mark.slow
def test_models_stand_side_by_side(record: lb.Record, tmp_path: Path) -> None:
    for name in ("a", "b"):
        shutil.copytree(record.folder, tmp_path / "runs" / name)
    build_report([tmp_path / "runs"], tmp_path / "report")
    text = (tmp_path / "report" / "report.md").read_text(encoding="utf-8")
    assert "## Models side by side" in text
    for title in ("the next token", "texts"):
        assert text.count(f"**Published settings on {title}.**") == 1
    assert text.count("| greedy | no |") == 4
    assert "has a chat template, as models that follow instructions have" in text


def test_perplexity_and_what_is_beside_the_models_own(record: lb.Record) -> None:
    tables = [record.table(n) for n in ("sampled_sets", "sampled_texts", "sampling_settings")]
    kinds = record.table("sampled_prompts").set_index("prompt_id")["relation"]
    found = texts(*tables, kinds).set_index("setting")
    sets = tables[0].set_index("setting")
    for name in WRITTEN:
        bits = sets.loc[name, "bits"].sum() / sets.loc[name, "n_tokens"].sum()
        told, own = found.loc[name, "perplexity"], found.loc[name, "bits_per_token"]
        assert told.value == pytest.approx(2**bits)
        assert own.value == pytest.approx(bits)
        assert (own.low is None) == (told.low is None)
        if own.low is not None:  # the two say the same of the same texts
            assert (told.low, told.high) == pytest.approx((2**own.low, 2**own.high))
    assert found.loc["greedy", "self_bleu"].value == pytest.approx(100)
    assert "yes" in set(found["unbeaten"])
    change = beside_own(tables[0], kinds).set_index("setting").loc["T=0.5", "bits_per_token_change"]
    each = sets["bits"] / sets["n_tokens"]
    by_hand = (each.loc["T=0.5"].to_numpy() - each.loc["T=1"].to_numpy()).mean()
    assert change.value == pytest.approx(by_hand)


SHOWN = pd.DataFrame({"setting": ["T=1", "T=2"], "is_published": False, "is_written": True})


def drawn(copies: int) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame, pd.Series]:
    """First tokens, sets and texts of twelve kinds of prompt, and the kind of each prompt.

    Prompts of a kind are alike to the last digit.
    """
    luck, first, sets, rows, kinds = np.random.default_rng(0), [], [], [], {}
    for kind in range(12):
        values = luck.uniform(0.1, 1, (2, 6))
        for copy in range(copies):
            kinds[name := f"{kind}.{copy}"] = str(kind)
            for setting, own in zip(("T=1", "T=2"), values.tolist(), strict=True):
                common = {"setting": setting, "prompt_id": name}
                numbers = dict(zip(("entropy_bits", "kept_prob", "top_prob"), own, strict=False))
                many = {"effective_tokens": 9 * own[3], "n_kept": 99 * own[4]}
                first.append({**common, **numbers, **many, "total_variation": own[5]})
                shares = dict(zip(("distinct_1_share", "distinct_2_share"), own, strict=False))
                shares |= {"self_bleu": own[2], "repeated_share": own[3]}
                sets.append({**common, **shares, "n_texts": 2, "n_tokens": 8, "bits": 9 * own[4]})
                rows += 2 * [{**common, "n_words": 9 * own[5], "finish_reason": "length"}]
    return pd.DataFrame(first), pd.DataFrame(sets), pd.DataFrame(rows), pd.Series(kinds)


def test_prompts_of_a_kind_that_say_the_same_tell_no_more_than_one() -> None:
    made = []
    for copies in (1, 5):
        first, sets, rows, kinds = drawn(copies)
        found = (first_tokens(first, SHOWN, kinds), texts(sets, rows, SHOWN, kinds))
        made.append([one.set_index("setting") for one in (*found, beside_own(sets, kinds))])
    for once, often in zip(*made, strict=True):
        assert list(once) == list(often)
        for column in set(once) - {"published", "unbeaten", "n_prompts", "n_texts"}:
            for a, b in zip(once[column], often[column], strict=True):
                assert a.low is not None
                assert (b.value, b.low, b.high) == pytest.approx((a.value, a.low, a.high)), column


def test_that_no_text_ended_is_not_known_for_sure() -> None:
    _, sets, rows, kinds = drawn(1)
    (ended, _) = texts(sets, rows, SHOWN, kinds)["ended_share"]
    assert (ended.value, ended.low) == (0, 0)
    assert ended.high >= 1 - 0.025 ** (1 / 24) - 1e-9  # Clopper & Pearson, had all been apart


def test_what_cannot_be_drawn_is_said_before_a_model_is_loaded(
    lensbench: Program, folder: Path, prompts: Path
) -> None:
    run_ = ("sample", folder, "--prompts", prompts, "-o", "out")
    done = lensbench(*run_, "--written", "T=-1", "top-p=0")
    assert done.status == 2
    assert "temperature: it is -1" in done.said
    assert "top_p: it is 0. Give more than 0 and at most 1" in done.said
    done = lensbench(*run_, "--settings", "top-k=9999", "--no-tasks")
    assert done.status == 1
    assert "vocabulary has 384 tokens" in done.said
    done = lensbench(*run_, "--temperature", "0.5")
    assert "--temperature: it has no effect with --prompts" in done.said


def test_more_examples_than_there_are_are_refused(
    folder: Path, prompts: Path, tmp_path: Path
) -> None:
    """A prompt of 19 would be said to have 20."""
    with pytest.raises(lb.InputProblems, match="shots: it is 20, and a task has 19 items besides"):
        run(spec_of(folder, prompts, tasks=True, shots=20), tmp_path)
    assert not list(tmp_path.iterdir())
