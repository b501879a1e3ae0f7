"""Several seeds: each is the training that it is alone, and one that fails leaves the others."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

from lensbench.cluster.spec import WorkersSpec
from lensbench.cluster.whole import makers_of
from lensbench.cluster.workers import workers
from lensbench.errors import InputProblems, MissingExtraError, RecordsError
from lensbench.pico.seeds import train_seeds
from lensbench.pico.spec import PicoStudySpec, Pretraining
from lensbench.pico.train import train_pico
from lensbench.progress import Progress
from lensbench.records.engine import done_by, one_by_one
from lensbench.studies import pico
from lensbench.threads import threads
from tests.harness.files import manifest
from tests.harness.forks import Stop
from tests.harness.pico import pico_spec, require_same, seeds_spec, stop_at, write_texts
from tests.harness.program import Program
from tests.harness.workers import ray_processes

SLOW = pytest.mark.slow


def test_each_of_several_seeds_is_trained_as_alone(
    undisturbed: Path, texts: Path, tmp_path: Path
) -> None:
    seen: list[str] = []
    said: list[str] = []

    def watch(now: Progress) -> None:
        seen.append(now.stage)

    outcome = train_seeds(seeds_spec(texts, tmp_path / "a", seed="0,3"), watch, said.append)
    assert outcome.ok
    assert outcome.folders == [tmp_path / "a" / name for name in ("seed-0", "seed-3")]
    require_same(tmp_path / "a" / "seed-0", undisturbed)
    assert manifest(tmp_path / "a" / "seed-3")["settings"]["seed"] == 3
    assert {"pico-tiny-seed-0: training", "pico-tiny-seed-3: training"} < {*seen}
    assert len(said) == len({*said})  # what they have in common is said once


def test_one_seed_has_the_folder_itself_and_several_are_kept_out_of_it(
    texts: Path, tmp_path: Path
) -> None:
    one = seeds_spec(texts, tmp_path / "a", seed=5, steps=1)
    assert train_seeds(one).folder == tmp_path / "a"
    with pytest.raises(RecordsError, match="holds the training of one seed, and several have"):
        train_seeds(one.changed(seed=(5, 6)))
    with pytest.raises(RecordsError, match=r"settings.seed: 5 there, 6 now"):
        train_seeds(one.changed(seed=6))


def test_a_seed_that_fails_is_said_and_noted_and_the_others_are_trained(
    lensbench: Program, texts: Path, tmp_path: Path
) -> None:
    """Its folder holds something else. Once that is mended the same command trains it alone."""
    taken = tmp_path / "a" / "seed-1"
    taken.mkdir(parents=True)
    (taken / "mine.txt").touch()
    small = ("--width", "32", "--heads", "2", "--context", "36", "--vocabulary", "300")
    small += ("--steps", "1", "--validation-tokens", "128")
    verb = ("pico", "train", "--corpus", texts, "-o", tmp_path / "a", "--seed", "0-2", *small)
    done = lensbench(*verb)
    assert done.status == 1
    assert "error: pico-tiny-seed-1: " in done.err
    assert "seed-1 holds mine.txt and no pretraining record" in done.said
    assert [line.rpartition("/")[2] for line in done.out.split()] == ["seed-0", "seed-2"]
    noted = json.loads((tmp_path / "a" / "failed.json").read_text())
    assert [*noted] == ["pico-tiny-seed-1"]
    (taken / "mine.txt").unlink()
    again = lensbench(*verb)
    assert again.status == 0
    assert "seed-1: training" in again.err
    assert "seed-0: training" not in again.err
    assert not (tmp_path / "a" / "failed.json").exists()


def test_what_is_wrong_with_all_seeds_is_said_once(tmp_path: Path) -> None:
    with pytest.raises(InputProblems) as caught:
        train_seeds(seeds_spec(tmp_path / "nowhere", tmp_path / "a", seed="0-4"))
    assert len(caught.value.problems) == 1
    with pytest.raises(MissingExtraError) as missing, pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "accelerate", None)  # as if it were not installed
        train_seeds(seeds_spec(tmp_path / "nowhere", tmp_path / "a", seed="0-4"))
    assert "accelerate is not installed" in str(missing.value)
    with pytest.raises(InputProblems, match="seed: there is none"):
        seeds_spec(tmp_path, tmp_path / "a", seed=())


def test_a_text_that_changes_between_two_seeds_is_a_problem(tmp_path: Path) -> None:
    """So it is where the same name is another text on a worker's machine."""
    corpus = write_texts(tmp_path / "texts")
    spec = seeds_spec(corpus, tmp_path / "a", seed="0,1", steps=1)

    def change(now: Progress) -> None:
        if now.stage == "pico-tiny-seed-1: reading the corpus":
            (corpus / "000.txt").write_text("Another text.\n")

    outcome = train_seeds(spec, change)
    assert [problem.where for problem in outcome.problems] == ["pico-tiny-seed-1"]
    assert "another text than pico-tiny-seed-0" in outcome.problems[0].what
    assert not outcome.ok


@SLOW
def test_a_training_keeps_to_the_threads_that_it_was_begun_with(
    texts: Path, tmp_path: Path
) -> None:
    """Whoever goes on with it; another number that is asked for is refused."""
    spec, seen = pico_spec(texts, tmp_path / "a"), set[int]()
    with threads(2), pytest.raises(Stop):
        train_pico(spec, stop_at(7))
    assert torch.get_num_threads() != 2
    with done_by(one_by_one, threads=3), pytest.raises(RecordsError, match="begun with 2 thread"):
        train_pico(spec)

    def watch(now: Progress) -> None:
        if now.stage == "training":
            seen.add(torch.get_num_threads())

    train_pico(spec, watch)
    assert seen == {2}
    assert manifest(spec.out)["machine"]["threads"] == 2


def test_workers_are_not_started_for_what_is_finished_nor_for_a_folder_that_they_cannot_use(
    texts: Path, tmp_path: Path
) -> None:
    pytest.importorskip("ray")
    spec = seeds_spec(texts, tmp_path / "a", seed="0,1", steps=1)
    train_seeds(spec)
    with workers(2):
        assert train_seeds(spec).ok
        assert not ray_processes()
    asked = WorkersSpec(ray="auto", shared_folder=str(tmp_path / "shared"))
    refused = pytest.raises(InputProblems, match="shared_folder: a training writes more than")
    with done_by(one_by_one, makers=makers_of(pytest.fail, asked)), refused:
        train_seeds(spec.changed(seed=(0, 2)))


@SLOW
def test_a_study_measures_nothing_where_a_seed_could_not_be_trained(
    texts: Path, tmp_path: Path
) -> None:
    own = seeds_spec(texts, tmp_path, steps=1).shared(Pretraining)
    spec = PicoStudySpec(seeds=2, **own)
    taken = tmp_path / ".runs" / "seed-1"
    taken.mkdir(parents=True)
    (taken / "mine.txt").touch()
    outcome = pico.run(spec, tmp_path)
    assert [*outcome.failed] == ["pico-tiny-seed-1"]
    assert not outcome.folders
    assert not (tmp_path / "lineage").exists()
