"""A plan of a lens study, held to the run that it is of."""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from transformers import AutoTokenizer

import lensbench as lb
from lensbench.cli.planned import show_plan
from lensbench.cluster.placement import BESIDE_BYTES
from lensbench.costs import planned
from lensbench.costs.machine import Speed
from lensbench.costs.plan import Plan
from lensbench.costs.planned import Planned
from lensbench.costs.range import Range
from lensbench.errors import InputProblems
from lensbench.progress import Progress
from lensbench.records import recording
from lensbench.records.manifest import as_planned
from lensbench.report.manifest import how_made
from lensbench.studies.lens import run
from lensbench.studies.specs.lens import RunSpec
from lensbench.studies.specs.placement import PlacementSpec
from lensbench.threads import threads
from tests.benchmarks import plan as bench
from tests.harness.facts import N_ROWS
from tests.harness.files import contents, manifest, table, table_bytes
from tests.harness.program import Program
from tests.harness.tiny import Case

Make = Callable[..., RunSpec]


def analysis(folder: Path, spec: RunSpec, **more: Any) -> Path:
    """The same as an analysis.toml."""
    said = {"models": list(spec.models), "prompts": str(spec.prompts), "limit": spec.limit or 0}
    said |= {name: getattr(spec, name) for name in ("batch_tokens", "heatmap_prompts", "top_k")}
    lines = [f"{key} = {json.dumps(value)}" for key, value in (said | more).items()]
    folder.mkdir(parents=True)
    (folder / "analysis.toml").write_text("\n".join(lines), encoding="utf-8")
    return folder


def stopped_after(n: int) -> Callable[[Progress], None]:
    """Interrupts a run when so many batches are on the disk."""

    def watch(now: Progress) -> None:
        if now.unit == "batches" and now.done == n:
            raise KeyboardInterrupt
        if now.unit == "batches" and now.done:
            time.sleep(0.3)

    return watch


def test_tokens_and_rows_are_those_of_the_record(spec: Make, done: Path) -> None:
    (record,) = lb.plan(spec(), done.parent / "elsewhere").records
    assert record.whole is not None
    assert record.whole == record.left
    assert record.n_prompts == N_ROWS
    for name in ("lens", "prompts", "milestones"):
        assert record.whole.rows[name] == len(table(done, name)), name
    n_tops = sum(len(row["top_ids"]) for row in table(done, "lens"))
    assert record.whole.rows["lens.top_ids"] == n_tops


def test_tokens_are_the_tokenizers_own(spec: Make, done: Path, llama: Case) -> None:
    (record,) = lb.plan(spec(), done.parent / "elsewhere").records
    tokenizer = llama.model.tokenizer
    rows = table(done, "lens")
    # Every prompt is read at its last position, some base prompts at all the others too.
    mapped = {row["prompt_id"] for row in rows if not row["is_last"]}
    texts = {row["prompt_id"]: row["text"] for row in table(done, "prompts")}
    lengths = {name: len(tokenizer(text).input_ids) for name, text in texts.items()}
    read = sum(lengths.values()) + sum(lengths[name] for name in mapped)
    assert record.whole is not None
    assert record.whole.n_tokens == read
    assert record.whole.n_padded >= read


def test_the_disk_that_a_record_takes_is_between_the_ends(spec: Make, done: Path) -> None:
    (record,) = lb.plan(spec(), done.parent / "elsewhere").records
    taken = sum(len(data) for data in contents(done).values())
    assert record.disk_bytes is not None
    assert record.disk_bytes.low <= taken <= record.disk_bytes.high


def test_nothing_is_written_and_what_is_there_costs_nothing(
    spec: Make, done: Path, tmp_path: Path
) -> None:
    before = contents(done.parent)
    there = lb.plan(spec(), done.parent)
    assert contents(done.parent) == before
    assert there.ok
    assert [one.finished for one in there.records] == [True]
    assert there.left.flops == there.seconds.high == 0
    lb.plan(spec(), tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()


def test_of_an_interrupted_run_the_batches_that_are_there_cost_nothing(
    spec: Make, tmp_path: Path
) -> None:
    (whole,) = lb.plan(spec(), tmp_path).records
    with pytest.raises(KeyboardInterrupt):
        run(spec(), tmp_path, stopped_after(2))
    (rest,) = lb.plan(spec(), tmp_path).records
    assert whole.n_jobs is not None and whole.left is not None
    assert rest.n_jobs == whole.n_jobs - 2
    assert rest.left is not None
    assert 0 < rest.left.flops < whole.left.flops
    assert rest.whole == whole.whole


@pytest.mark.slow
def test_what_is_left_is_timed_with_the_threads_that_the_record_was_begun_with(
    spec: Make, tmp_path: Path
) -> None:
    begun = torch.get_num_threads() + 1
    with threads(begun), pytest.raises(KeyboardInterrupt):
        run(spec(), tmp_path, stopped_after(1))
    (rest,) = lb.plan(spec(), tmp_path).records
    assert [one.n_threads for one in rest.speeds] == [begun]


def test_of_a_wider_record_only_what_is_added_is_planned(spec: Make, tmp_path: Path) -> None:
    run(spec(limit=3), tmp_path)
    (more,) = lb.plan(spec(limit=6), tmp_path).records
    run(spec(limit=6), tmp_path)
    assert more.left is not None and more.whole is not None
    n_rows = len(table(next(tmp_path.glob("*/lens.parquet")).parent, "lens"))
    assert more.whole.rows["lens"] == n_rows
    assert 0 < more.left.rows["lens"] < n_rows


def test_a_record_whose_files_are_gone_is_planned_as_it_will_be_made_again(
    spec: Make, done: Path, tmp_path: Path, lensbench: Program
) -> None:
    """As in a fresh clone: large files are not in git."""
    folder = shutil.copytree(done, tmp_path / done.name)
    (folder / "lens.parquet").unlink()
    (record,) = lb.plan(spec(), tmp_path).records
    assert record.left == record.whole and record.whole is not None
    assert "lens.parquet" in record.notes[0]
    home = analysis(tmp_path / "small", spec())
    told = lensbench("plan", home, "--out", tmp_path).out
    assert "a run makes all of it again" in " ".join(told.split())
    (again,) = run(spec(), tmp_path).folders
    assert table_bytes(again) == table_bytes(done)


# --- workers ------------------------------------------------------------------------------------


def test_workers_do_the_jobs_at_the_rate_of_so_many_at_once(
    spec: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Measured as 1.5 times one alone; what is done once, loading and starting are not shared."""

    def measured(d_model: int, dtype: torch.dtype, device: str, n: int = 1) -> Speed:
        rate = 1.5 if n == 2 else 1.0
        return Speed(d_model, 1, 1e5 * rate, 1e9 * rate, (1.0, 1.0), 0.1, n_workers=n)

    monkeypatch.setattr(planned, "speed", measured)
    monkeypatch.setattr(planned, "_loading", lambda *_: Range(3.0, 3.0))
    monkeypatch.setattr(planned, "STARTING_S", Range(2.0, 5.0))
    (alone,) = lb.plan(spec(), tmp_path).records
    (shared,) = lb.plan(spec(), tmp_path, workers=2).records
    assert alone.wall_s is not None and shared.wall_s is not None and shared.n_jobs is not None
    assert shared.wall_s.low - 2 - 3 == pytest.approx((alone.wall_s.low - 3) / 1.5)
    most = (alone.wall_s.high - 3) / 1.5 * 2 * math.ceil(shared.n_jobs / 2) / shared.n_jobs
    assert shared.wall_s.high - 5 - 3 == pytest.approx(most)
    assert (alone.n_workers, shared.n_workers) == (0, 2)
    assert "workers" not in alone.as_dict()
    assert shared.as_dict()["workers"] == 2
    assert shared.weight_bytes is not None and alone.peak_bytes == alone.memory_bytes
    held = 2 * (shared.weight_bytes + BESIDE_BYTES)  # each has the model, and its libraries
    assert (shared.memory_bytes, shared.workers_bytes) == (alone.memory_bytes, held)
    assert shared.peak_bytes == lb.plan(spec(), tmp_path, workers=2).memory_bytes
    (many,) = lb.plan(spec(), tmp_path, workers=500).records  # more than there are jobs
    assert many.n_workers == many.n_jobs
    assert f"{many.n_jobs} of 500 workers" in many.notes[0]


def test_workers_that_cannot_take_part_are_refused_as_a_run_does() -> None:
    with pytest.raises(InputProblems, match="no other process can take part"):
        lb.plan(PlacementSpec("smollm2-135m", "1"), workers=2)


# --- planned against real -----------------------------------------------------------------------


def test_the_manifest_holds_what_was_planned_and_what_it_took(spec: Make, tmp_path: Path) -> None:
    plan = lb.plan(spec(), tmp_path)
    with as_planned(plan.by_folder()):
        (folder,) = run(spec(), tmp_path).folders
    said = manifest(folder)
    assert said["planned"] == json.loads(json.dumps(plan.records[0].as_dict()))
    assert said["took"]["n_tokens"] == said["planned"]["n_tokens"]
    assert said["took"]["wall_s"] == pytest.approx(said["wall_s"], abs=0.2)
    tables = sum(map(len, table_bytes(folder).values()))
    assert said["took"]["disk_bytes"] == tables
    assert any(line.startswith("Planned ") for line in how_made(said))


def test_a_plan_decides_no_number_and_outlives_an_interruption(
    spec: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recording, "_NOTED_S", 0.0)
    plan = lb.plan(spec(), tmp_path / "one")
    with as_planned(plan.by_folder()), pytest.raises(KeyboardInterrupt):
        run(spec(), tmp_path / "one", stopped_after(2))
    (folder,) = run(spec(), tmp_path / "one").folders
    (plain,) = run(spec(), tmp_path / "two").folders
    assert table_bytes(folder) == table_bytes(plain)
    said = manifest(folder)
    assert said["planned"] == json.loads(json.dumps(plan.records[0].as_dict()))
    assert said["took"]["wall_s"] >= said["wall_s"] + 0.2  # of both sessions
    assert "planned" not in manifest(plain)
    assert not any(line.startswith("Planned ") for line in how_made(manifest(plain)))


@pytest.mark.slow
def test_planned_and_taken_are_of_the_same_work_where_an_unfinished_record_is_widened(
    spec: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Interrupted, widened, interrupted again, gone on with: the plan is of what was left."""
    monkeypatch.setattr(recording, "_NOTED_S", 0.0)

    def interrupted(limit: int, n_done: int) -> Planned:
        (record,) = lb.plan(spec(limit=limit), tmp_path).records
        plans = {record.folder.resolve(): record.as_dict()}
        with as_planned(plans), pytest.raises(KeyboardInterrupt):
            run(spec(limit=limit), tmp_path, stopped_after(n_done))
        return record

    interrupted(3, 2)
    wider = interrupted(6, 4)
    (folder,) = run(spec(limit=6), tmp_path).folders
    said = manifest(folder)
    before = said["planned"].pop("before")
    assert said["planned"] == json.loads(json.dumps(wider.as_dict()))
    assert said["took"]["n_tokens"] == said["planned"]["n_tokens"]
    assert wider.whole is not None
    assert before["n_tokens"] == wider.whole.n_tokens - said["took"]["n_tokens"] > 0
    assert before["wall_s"] >= 0.2
    assert said["took"]["wall_s"] >= said["wall_s"] + 0.2  # of both sessions since
    planned = {"planned": said["planned"] | {"before": before}}
    assert any("since it was widened; planned" in line for line in how_made(said | planned))
    # An older lensbench did not keep what was there before, and compared with all of it.
    assert not any(line.startswith("Planned ") for line in how_made(said))


def test_run_says_its_plan_and_keeps_it(spec: Make, tmp_path: Path, lensbench: Program) -> None:
    home = analysis(tmp_path / "small", spec(limit=3))
    done = lensbench("run", home, "--out", tmp_path / "out")
    assert done.status == 0
    assert "on this machine" in done.err
    (said,) = (manifest(path.parent) for path in (tmp_path / "out").glob("*/lens.parquet"))
    assert said["planned"]["n_tokens"] > 0
    reports = [path.read_text(encoding="utf-8") for path in tmp_path.rglob("report.md")]
    assert any("Planned " in text for text in reports)
    assert "Planned " in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


@pytest.mark.slow
def test_run_opens_the_tokenizer_once_for_its_plan_and_its_model(
    spec: Make, tmp_path: Path, lensbench: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    own = AutoTokenizer.from_pretrained
    monkeypatch.setattr(
        AutoTokenizer, "from_pretrained", lambda *a, **k: opened.append(str(a[0])) or own(*a, **k)
    )
    home = analysis(tmp_path / "small", spec(limit=3))
    assert lensbench("run", home, "--out", tmp_path / "out").status == 0
    assert opened == [str(spec().models[0])]
    plan = lb.plan(home, tmp_path / "elsewhere")
    assert list(plan.tokenizers) == [Path(spec().models[0])]


# --- on the terminal, and bad input -------------------------------------------------------------


def test_a_plan_fits_a_terminal(spec: Make, tmp_path: Path, lensbench: Program) -> None:
    home = analysis(tmp_path / "small", spec())
    done = lensbench("plan", home, "--out", tmp_path / "out")
    assert done.status == 0
    assert max(map(len, done.out.splitlines())) <= 80
    assert not (tmp_path / "out").exists()
    told = json.loads(lensbench("plan", home, "--out", tmp_path / "out", "--json").out)
    assert told["ok"]
    (record,) = told["records"]
    assert record["n_prompts"] == N_ROWS
    assert 0 < record["wall_s"][0] <= record["wall_s"][1]


def test_a_model_that_is_not_here_is_named_and_the_others_are_planned(
    spec: Make, tmp_path: Path
) -> None:
    both = spec(models=("llama3-8b", *spec().models))
    plan = lb.plan(both, tmp_path)
    absent, there = plan.records
    assert not plan.ok
    assert "lensbench pull llama3-8b" in absent.obstacles[0]
    assert absent.left is None
    assert absent.weight_bytes is not None
    assert 3.1e10 < absent.weight_bytes < 3.3e10  # 8.03e9 parameters in float32
    assert there.left is not None


def test_all_faults_of_an_analysis_are_said_at_once(tmp_path: Path, lensbench: Program) -> None:
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "analysis.toml").write_text("models = []\nlimits = 3\ntop_k = 0")
    done = lensbench("plan", tmp_path / "bad")
    assert done.status == 2
    for key in ("models", "limits", "top_k"):
        assert key in done.said


def test_prompts_that_are_missing_are_refused_as_a_run_refuses_them(
    spec: Make, tmp_path: Path
) -> None:
    with pytest.raises(InputProblems, match="no such file"):
        lb.plan(spec(prompts=str(tmp_path / "none.csv")), tmp_path)


def test_a_record_of_other_settings_stands_in_the_way(spec: Make, done: Path) -> None:
    plan = lb.plan(spec(top_k=4), done.parent)
    assert not plan.ok
    obstacle = plan.records[0].obstacles[0]
    assert "other settings" in obstacle
    terminal = StringIO()
    console = Console(file=terminal, width=80)
    show_plan(plan, console)
    said = terminal.getvalue()
    assert "⏎" not in said  # each difference has a line of its own
    for line in obstacle.split("\n")[1:]:
        assert f"    {line.strip()[:30]}" in said


@pytest.mark.parametrize(
    ("where", "word"),
    [
        ("lensbench.costs.planned.free_bytes", "too little disk"),
        ("lensbench.checkpoints.placement.memory_available", "too little memory"),
    ],
)
def test_a_machine_that_is_too_small_is_said_with_the_sums(
    where: str, word: str, spec: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(where, lambda _: 1000)
    plan: Plan = lb.plan(spec(), tmp_path)
    assert not plan.ok
    (said,) = plan.records[0].obstacles
    assert word in said


@pytest.mark.parametrize(
    ("tail", "changes", "word"),
    [
        ("", {"device": "cpu=0.01MB,disk=FOLDER"}, "do not fit"),
        ("@8", {"device": "cpu=0.065MB,disk=FOLDER"}, "packed for the device"),
        ("@8", {"dtype": "bfloat16"}, "given twice"),
    ],
)
def test_what_a_run_refuses_stands_in_the_way(
    spec: Make, llama: Case, tmp_path: Path, tail: str, changes: dict[str, str], word: str
) -> None:
    own = {name: value.replace("FOLDER", str(tmp_path)) for name, value in changes.items()}
    asked = spec(models=(f"{llama.folder}{tail}",), limit=2, **own)
    (planned,) = lb.plan(asked, tmp_path / "out").records
    assert any(word in said for said in planned.obstacles)
    (refused,) = lb.run(asked, tmp_path / "out").failed.values()
    assert word in str(refused)


@pytest.mark.slow
def test_a_real_run_takes_about_as_long_and_as_much_as_planned(tmp_path: Path) -> None:
    """One thread, for on a crowded machine several wait for each other. Twice either way is borne:
    other programs come and go between the measurement and the run."""
    bench.bench(("smollm2-135m",), lenses_alone=True, out=tmp_path)
    lines = (tmp_path / "plan.md").read_text(encoding="utf-8").splitlines()
    planned, took = (
        [cell.strip() for cell in line.split("|")[1:-1]] for line in lines if "smollm2" in line
    )
    assert planned[3] == took[3]  # tokens
    for column, factor in ((5, 1.0), (7, 2.0)):  # disk, time
        low, high = map(float, planned[column].split(" to "))
        assert low / factor <= float(took[column]) <= high * factor
    assert float(took[6]) == pytest.approx(float(planned[6]), rel=0.25)  # memory
