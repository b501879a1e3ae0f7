"""`infer` interrupted at any moment gives the files of an undisturbed run."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from lensbench.errors import RecordsError
from lensbench.progress import Progress
from lensbench.quantized.generation.infer import run_inference
from lensbench.quantized.generation.spec import InferenceSpec
from lensbench.quantized.loading.load import AdaptedModel
from lensbench.records.schema import KINDS
from tests.harness.files import UNEQUAL, contents, manifest
from tests.harness.forks import (
    ONE_THREAD,
    Ended,
    Forks,
    interruptions,
    is_complete,
    parts,
    parts_done,
    wait_until,
)
from tests.harness.inference import PROMPTS, WARM, responses, rows_of
from tests.harness.tiny import Case

N_PARTS = len(PROMPTS)


@pytest.fixture(scope="module")
def infer(llama: Case, prompts: Path, forks: Forks) -> Callable[..., Ended]:
    """A sampled and traced run into this folder, one prompt a batch."""
    model = f"{llama.folder}@32"

    def run(out: Path, pause_s: float = 0.0, **how: Any) -> Ended:
        spec = InferenceSpec(prompts, out / "out.csv", decoding=WARM, style="none", batch_size=1)
        traced = spec.changed(trace=out / "trace", trace_layers=(1, 3))
        return forks.run(run_inference, model, traced.changed(pause_s=pause_s), **how)

    return run


@pytest.fixture(scope="module")
def undisturbed(
    infer: Callable[..., Ended], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("undisturbed")
    assert infer(out).status == 0
    return contents(out, UNEQUAL)


def check_in_step(out: Path) -> None:
    """After an interruption: no row twice, and a part's trace is there with its responses."""
    record = out / "trace"
    whole = [] if is_complete(record) else parts(record)
    ids = [row["prompt_id"] for path in whole for row in pq.read_table(path).to_pylist()]
    assert len(ids) == len(set(ids))
    for path in whole:
        (item,) = pq.read_table(path, columns=["prompt_id"]).to_pydict()["prompt_id"]
        traced = pq.read_table(path.with_name(f"{path.stem}.activations.parquet")).to_pylist()
        assert {row["prompt_id"] for row in traced} == {item}
        assert (record / "residuals" / f"{path.stem}.safetensors").exists()
    if whole and (out / "out.csv").exists():
        written = [line.partition(",")[0] for line in (out / "out.csv").read_text().splitlines()]
        assert len(written) == len(set(written))


def test_the_undisturbed_run_has_everything(undisturbed: dict[str, bytes]) -> None:
    shards = {f"trace/residuals/{number:06d}.safetensors" for number in range(N_PARTS)}
    tables = {f"trace/{name}.parquet" for name in KINDS["trace"].names}
    assert set(undisturbed) == shards | tables | {"out.csv"}


def test_a_run_interrupted_again_and_again_gives_the_same_bytes(
    infer: Callable[..., Ended], undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    """Pauses, so that a slow test still kills it in time."""
    record = tmp_path / "trace"
    kills = {1: signal.SIGKILL, 4: signal.SIGTERM, 7: signal.SIGINT, 9: signal.SIGKILL}
    for number, kill in kills.items():
        enough = partial(lambda number: parts_done(record) >= number, number)
        ended = infer(tmp_path, pause_s=0.2, kill=kill, when=enough)
        assert ended.status == (130 if kill == signal.SIGINT else -kill)
        assert not is_complete(record)
        check_in_step(tmp_path)
    there = len(parts(record))
    assert infer(tmp_path).status == 0
    assert manifest(record)["resumed_batches"] == there >= 9
    assert contents(tmp_path, UNEQUAL) == undisturbed


def interrupt_at_random(infer: Callable[..., Ended], out: Path, seed: int, times: int) -> None:
    n_done = partial(parts_done, out / "trace")
    for moment in interruptions(n_done, seed, times, [signal.SIGKILL]):
        infer(out, **moment)
        check_in_step(out)


def test_kills_at_random_moments_change_nothing(
    infer: Callable[..., Ended], undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    interrupt_at_random(infer, tmp_path, seed=0, times=8)
    assert infer(tmp_path).status == 0
    assert contents(tmp_path, UNEQUAL) == undisturbed


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 9))
def test_many_kills_at_random_moments_change_nothing(
    seed: int, infer: Callable[..., Ended], undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    interrupt_at_random(infer, tmp_path, seed, times=15)
    assert infer(tmp_path).status == 0
    assert contents(tmp_path, UNEQUAL) == undisturbed


def test_a_disk_that_fills_up_loses_nothing(
    infer: Callable[..., Ended], undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    """Every batch can be written and is kept; there is no room for a whole table."""
    largest = len(undisturbed["trace/activations.parquet"]) - 1
    ended = infer(tmp_path, largest_file=largest)
    assert ended.status == 2
    assert "File too large" in ended.said
    assert "run the same command again" in ended.said
    assert len(parts(tmp_path / "trace")) == N_PARTS
    assert infer(tmp_path).status == 0
    assert manifest(tmp_path / "trace")["resumed_batches"] == N_PARTS
    assert contents(tmp_path, UNEQUAL) == undisturbed


def test_a_torn_line_at_the_end_of_the_csv_is_mended(
    model: AdaptedModel, spec: Callable[..., InferenceSpec]
) -> None:
    def stop(now: Progress) -> None:
        if now.done >= 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_inference(model, spec(), progress=stop)
    path = spec().out
    assert len(rows_of(path)) == 6, "each batch is in the CSV when it is done"
    path.write_text(path.read_text() + 'q99,"half a')
    assert run_inference(model, spec()).ok
    assert [row["id"] for row in rows_of(path)] == list(PROMPTS)


def test_a_smaller_batch_size_may_go_on_with_a_run(
    model: AdaptedModel, spec: Callable[..., InferenceSpec]
) -> None:
    """What a machine that ran out of memory, and was killed for it, needs."""

    def stop(now: Progress) -> None:
        if now.done >= 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_inference(model, spec(batch_size=6), progress=stop)
    with pytest.raises(RecordsError, match=r"settings\.batch_size"):
        run_inference(model, spec(batch_size=7))
    found = responses(run_inference(model, spec(batch_size=2)).folder)
    assert {len(row["batch_ids"]) for row in found.values() if row["batch"] == 0} == {6}
    assert {len(row["batch_ids"]) for row in found.values() if row["batch"] > 0} == {2}


@pytest.mark.slow
def test_the_command_line_is_interrupted_and_goes_on(
    llama: Case, prompts: Path, tmp_path: Path
) -> None:
    words = [sys.executable, "-m", "lensbench.cli", "infer", str(llama.folder), str(prompts)]
    words += ["-o", str(tmp_path / "o.csv"), "--bits", "32", "--device", "cpu", "--batch-size", "1"]
    words += ["--max-new-tokens", "4", "--limit", "6", "--pause", "2"]
    record = tmp_path / "o.records"
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True, env=ONE_THREAD) as first:
        wait_until(lambda: len(list(record.glob("parts/0*.parquet"))) >= 2, seconds=400)
        first.send_signal(signal.SIGINT)
        _, message = first.communicate()
    assert first.returncode == 130
    assert "Run the same command again" in message
    assert "Traceback" not in message
    assert rows_of(tmp_path / "o.csv"), "at least all batches but the last one"
    second = subprocess.run(words, capture_output=True, text=True, env=ONE_THREAD, check=False)
    assert second.returncode == 0, second.stderr
    assert manifest(record)["resumed_batches"] >= 2
    assert [row["id"] for row in rows_of(tmp_path / "o.csv")] == list(PROMPTS)[:6]
