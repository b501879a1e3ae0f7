"""A study of small models trains each seed once and measures all of them together."""

from __future__ import annotations

from pathlib import Path

import pytest

from lensbench.pico.spec import LineageSizes, PicoStudySpec, Pretraining
from lensbench.progress import Progress
from lensbench.records.open import open_record
from lensbench.studies.analysis import read_analysis, run_analysis
from tests.harness.pico import pico_spec, write_texts

ANALYSIS = Path(__file__).parents[2] / "analyses" / "008_pico_over_training"


def test_the_analysis_is_read_with_all_that_a_training_may_be_told() -> None:
    spec = read_analysis(ANALYSIS)
    assert isinstance(spec, PicoStudySpec)
    assert (spec.seeds, spec.preset, spec.corpus) == (3, "tiny", "python-docs")
    assert {*Pretraining.model_fields, *LineageSizes.model_fields} <= {*PicoStudySpec.model_fields}


@pytest.mark.slow
def test_seeds_are_trained_once_and_measured_together(tmp_path: Path) -> None:
    made = pico_spec(write_texts(tmp_path / "texts"), tmp_path, steps=40).shared(Pretraining)
    sizes = {"tokens": 400, "choose_tokens": 100, "test_tokens": 200, "window": 32}
    spec = PicoStudySpec(**made, **sizes, seeds=2, untrained=2, repeats=2)
    assert run_analysis(spec, tmp_path / "out").ok
    record = open_record(tmp_path / "out" / "lineage")
    assert {*record.table("lineage")["run"]} == {
        "pico-tiny-seed-0",
        "pico-tiny-seed-1",
        "untrained",
    }
    assert {*record.table("phases")["run"]} == {"pico-tiny-seed-0", "pico-tiny-seed-1"}
    stages: list[str] = []

    def watch(now: Progress) -> None:
        stages.append(now.stage)

    run_analysis(spec, tmp_path / "out", watch)
    assert stages
    assert not [stage for stage in stages if "training" in stage]
