"""What is measured of the models that a training kept, against plain Hugging Face and by hand."""

from __future__ import annotations

import json
import math
import shutil
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from lensbench.errors import InputProblems, RecordsError
from lensbench.pico.analyse import analyse_pico
from lensbench.pico.repeats import sequences_of
from lensbench.pico.runs import find_runs
from lensbench.pico.spec import AnalyseSpec
from lensbench.pico.train import train_pico
from lensbench.records.open import open_record
from lensbench.records.record import Record
from tests.harness.pico import pico_spec, write_texts
from tests.harness.program import Program


def analyse_spec(*runs: Path, out: Path) -> AnalyseSpec:
    sizes = {"tokens": 400, "choose_tokens": 100, "test_tokens": 200, "window": 32}
    return AnalyseSpec(runs=runs, out=out, repeats=4, untrained=2, **sizes)


@pytest.fixture(scope="session")
def record(undisturbed: Path, tmp_path_factory: pytest.TempPathFactory) -> Record:
    out = tmp_path_factory.mktemp("analysis") / "a"
    ends = [undisturbed / "step-000000", undisturbed / "step-000012"]
    outcome = analyse_pico(analyse_spec(*ends, out=out))
    assert [problem.where for problem in outcome.problems] == ["pico-tiny-seed-0"]  # no phases
    return open_record(out)


def test_induction_is_attention_to_what_followed_and_the_loss_is_that_of_plain_torch(
    record: Record, undisturbed: Path
) -> None:
    """Four times nine random tokens, of which one may be drawn twice; scores by hand."""
    folder = undisturbed / "step-000012"
    rows = torch.tensor(sequences_of(tokens_read(folder), 4, 36))
    assert all(torch.equal(rows[:, :9], rows[:, start : start + 9]) for start in (9, 18, 27))
    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()
    with torch.no_grad():
        seen = model(rows, output_attentions=True)
    heads = record.table("lineage_heads").query("step == 12").set_index(["block", "head"])
    for block, pattern in enumerate(seen.attentions):
        for head in range(2):
            scores = [induction_by_hand(pattern[i, head], rows[i].tolist()) for i in range(4)]
            before = [pattern[i, head].diagonal(-1)[1:].mean().item() for i in range(4)]
            own = heads.loc[block, head]
            assert own.induction == pytest.approx(np.mean(scores), abs=1e-6)
            assert own.previous_token == pytest.approx(np.mean(before), abs=1e-6)
    log_p = seen.logits[:, :-1].log_softmax(-1)
    nats = -log_p.gather(-1, rows[:, 1:, None])[..., 0]
    (own,) = record.table("lineage").query("step == 12").itertuples()
    assert own.first_loss_nats == pytest.approx(nats[:, :8].mean().item(), rel=1e-5)
    assert own.repeat_loss_nats == pytest.approx(nats[:, 8:].mean().item(), rel=1e-5)
    assert own.induction == heads.induction.max()
    assert own.n_tokens == 12 * 4 * 36


def tokens_read(folder: Path) -> set[int]:
    """Those of the beginnings of held-out documents that the lenses are fitted to and tested on."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    lines = (folder.parent / "held-out.jsonl").read_text(encoding="utf-8").splitlines()
    texts = sorted(
        (json.loads(line)["text"] for line in lines),
        key=lambda text: sha256(text.encode()).hexdigest(),
    )
    read, n = set[int](), 0
    for text in texts:
        ids = tokenizer(text).input_ids[:32]
        read |= {*ids}
        n += len(ids)
        if n >= 700:
            return read
    raise AssertionError(n)


def induction_by_hand(pattern: torch.Tensor, ids: list[int]) -> float:
    """Attention to the token after the last one that is the same, where there is one."""
    found = []
    for query in range(2, len(ids)):
        same = [key for key in range(query) if ids[key] == ids[query]]
        if same and same[-1] + 1 < query:
            found.append(pattern[query, same[-1] + 1].item())
    return sum(found) / len(found)


def test_every_head_has_a_name_or_none_at_each_step(record: Record) -> None:
    """Of random words nothing but place and kind can be read, and at step 0 not that."""
    names = record.table("lineage_names").set_index(["step", "block", "head"])
    assert len(names) == len(names.index.unique()) == 2 * 2 * 2
    assert {*names.loc[0, "name"]} == {"undecided"}
    excess = (names["value"] - names["null_value"]) / (1 - names["null_value"])
    assert names["excess"].to_list() == pytest.approx(excess.to_list())
    assert {*names["null"]} <= {"random", "untrained", "repeated_random", "repeated_untrained"}


def test_lenses_are_of_each_step_and_exact_at_the_last_layer(record: Record) -> None:
    lenses = record.table("lineage_lenses")
    assert {*lenses["step"]} == {0, 12}
    assert {*lenses["reading"]} == {"fitted", "final"}
    assert lenses.query("layer == 2")["kl_bits"].max() < 1e-4
    below = lenses.query("layer < 2 and step == 12").pivot(
        index="layer", columns="reading", values="kl_bits"
    )
    assert (below["fitted"] < below["final"]).all()
    assert all(check["passed"] is not False for check in record.manifest["gate"])
    assert record.manifest["gate"]


def test_models_drawn_anew_are_the_band(record: Record) -> None:
    drawn = record.table("lineage").query("run == 'untrained'")
    assert drawn["seed"].to_list() == [0, 1]
    assert drawn["eval_loss_nats"].isna().all()
    assert drawn["first_loss_nats"].to_list() == pytest.approx([math.log(300)] * 2, abs=0.3)
    assert drawn["induction"].nunique() == 2


def test_the_report_is_made_of_the_record_alone(record: Record, lensbench: Program) -> None:
    assert lensbench("report", record.folder).status == 0
    text = (record.folder / "report.md").read_text(encoding="utf-8")
    assert "2 models of 1 training run" in text
    assert "never leaves the untrained band" in text or "is above the untrained band" in text
    assert "trained on texts." in text  # and on no curriculum
    for figure in ("loss", "induction", "heads", "names", "lenses", "depths"):
        assert (record.folder / "figures" / f"{figure}.svg").exists()


def test_a_training_has_a_report_too(undisturbed: Path, lensbench: Program, tmp_path: Path) -> None:
    assert lensbench("report", undisturbed, "-o", tmp_path / "r").status == 0
    text = (tmp_path / "r" / "report.md").read_text(encoding="utf-8")
    assert "A decoder of 2 blocks, 2 heads and width 32" in text
    assert "step-000012" in text


def test_runs_that_cannot_be_compared_are_refused(
    undisturbed: Path, texts: Path, tmp_path: Path
) -> None:
    narrow, other = tmp_path / "narrow", tmp_path / "other"
    train_pico(pico_spec(texts, narrow, width=16, steps=1, seed=1))
    train_pico(pico_spec(write_texts(tmp_path / "t", 20), other, steps=1, seed=2))
    with pytest.raises(InputProblems) as caught:
        find_runs([undisturbed, narrow, other, undisturbed / "step-000000"])
    said = str(caught.value)
    assert "pico-tiny-seed-1: d_model is 16, of pico-tiny-seed-0 32" in said
    assert "pico-tiny-seed-2: another text was held out than of pico-tiny-seed-0" in said


def test_a_folder_that_is_no_run_is_refused(texts: Path, tmp_path: Path) -> None:
    with pytest.raises(InputProblems, match="no record of a small model is here"):
        find_runs([texts, tmp_path])


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("model.safetensors", "weights"),
        ("tokenizer.json", "tokenizer"),
        ("config.json", "config"),
    ],
)
def test_a_model_that_was_altered_is_refused(
    texts: Path, tmp_path: Path, name: str, told: str
) -> None:
    """As after a folder was moved and put together again: another tokenizer is another model."""
    out = tmp_path / "a"
    train_pico(pico_spec(texts, out, steps=1))
    moved = shutil.move(out, tmp_path / "moved")
    file = Path(moved) / "step-000001" / name
    data = file.read_bytes()
    file.write_bytes(
        data.replace(b'"rope_theta": 10000.0', b'"rope_theta": 20000.0')
        if name == "config.json"
        else data[:-1] + bytes([data[-1] ^ 1])
    )
    assert file.read_bytes() != data
    with pytest.raises(RecordsError, match=f"its {told} are gone, or not what was trained"):
        find_runs([Path(moved)])
    assert [run.steps for run in find_runs([Path(moved) / "step-000000"])] == [(0,)]
