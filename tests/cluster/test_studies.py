"""Every kind of run by two workers: the tables of one process, byte for byte."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from lensbench.pico.spec import PicoStudySpec, Pretraining
from lensbench.quantized.generation.infer import run_inference
from lensbench.quantized.generation.spec import Decoding, InferenceSpec
from lensbench.records.engine import done_by, one_by_one
from lensbench.studies import attention, lens, pico
from lensbench.studies.specs.attention import AttentionSpec
from lensbench.studies.specs.cache import CacheSpec
from lensbench.studies.specs.lens import RunSpec
from lensbench.studies.stages.cache import run_cache
from lensbench.studies.stages.fit import fit_lens
from tests.harness.facts import facts_rows
from tests.harness.files import UNEQUAL, contents, manifest, write_csv
from tests.harness.fits import small_fit, write_corpus
from tests.harness.inference import PROMPTS
from tests.harness.pico import pico_spec, require_same, write_texts
from tests.harness.tiny import Case
from tests.harness.workers import workers_alone

pytestmark = pytest.mark.slow
pytest.importorskip("ray")


@pytest.fixture(scope="module", autouse=True)
def two() -> Iterator[None]:
    """Two workers for all runs of this file."""
    with workers_alone(2):
        yield


@pytest.fixture(scope="module")
def facts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_csv(tmp_path_factory.mktemp("prompts") / "small.csv", facts_rows())


def compared(make: Callable[[Path], Path], folder: Path) -> Path:
    """The record that `make` gives, by one process and by two workers: they are the same."""
    with done_by(one_by_one):
        one = make(folder / "one")
    two = make(folder / "two")
    assert contents(two, UNEQUAL) == contents(one, UNEQUAL)
    assert manifest(two)["gate"] == manifest(one)["gate"]
    assert manifest(two)["machine"]["threads"] == torch.get_num_threads()
    assert "workers" not in manifest(one)  # who did the jobs stands with the times
    assert 1 <= manifest(two)["workers"] <= 2  # as many as had a job
    return two


def test_a_lens_run(llama: Case, facts: Path, tmp_path: Path) -> None:
    spec = RunSpec(models=(str(llama.folder),), prompts=str(facts), batch_tokens=1, limit=None)
    compared(lambda out: lens.run(spec, out).folder, tmp_path)


def test_a_cache_in_shards(llama: Case, facts: Path, tmp_path: Path) -> None:
    spec = CacheSpec(str(llama.folder), str(facts), positions="all", batch_tokens=64)

    def make(out: Path) -> Path:
        run_cache(spec, out)
        return out

    compared(make, tmp_path)


def test_heads_with_ablations(llama: Case, facts: Path, tmp_path: Path) -> None:
    small = {"batch_tokens": 64, "repeat_tokens": 8, "n_repeated": 3, "ablate": 3}
    spec = AttentionSpec(models=(str(llama.folder),), prompts=str(facts), limit=4, **small)

    def make(out: Path) -> Path:
        outcome = attention.run(spec, out)
        assert not outcome.failed
        return outcome.folder

    compared(make, tmp_path)


@pytest.mark.parametrize("temperature", [0.0, 0.9])
def test_answers_with_traces(llama: Case, tmp_path: Path, temperature: float) -> None:
    rows = [{"id": name, "prompt": text} for name, text in PROMPTS.items()]
    file = write_csv(tmp_path / "prompts.csv", rows)

    def make(out: Path) -> Path:
        out.mkdir()
        how = Decoding(max_new_tokens=6, temperature=temperature)
        csv, trace = out / "responses.csv", out / "trace"
        spec = InferenceSpec(file, csv, decoding=how, batch_size=2, style="none", trace=trace)
        run_inference(f"{llama.folder}@32", spec)
        return trace

    compared(make, tmp_path)
    answers = [(tmp_path / who / "responses.csv").read_bytes() for who in ("one", "two")]
    assert answers[0] == answers[1]


@pytest.mark.parametrize("method", ["linear", "tuned", "jacobian"])
def test_a_fit_whose_sums_are_merged(llama: Case, tmp_path: Path, method: str) -> None:
    (tmp_path / "texts").mkdir()
    corpus = write_corpus(tmp_path / "texts")
    spec = small_fit(corpus, llama, method=method)
    compared(lambda out: fit_lens(spec, out).folder, tmp_path)


def test_small_models_of_several_seeds(tmp_path: Path) -> None:
    """Each trained by a worker, and what they kept measured by all."""
    made = pico_spec(write_texts(tmp_path / "texts"), tmp_path, steps=40).shared(Pretraining)
    sizes = {"tokens": 400, "choose_tokens": 100, "test_tokens": 200, "window": 32}
    spec = PicoStudySpec(**made, **sizes, seeds=2, untrained=2, repeats=2)
    two = compared(lambda out: pico.run(spec, out).folder, tmp_path)
    for name in ("seed-0", "seed-1"):
        require_same(two.parent / ".runs" / name, tmp_path / "one" / ".runs" / name)
