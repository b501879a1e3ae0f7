"""A pilot of `infer` is widened: what was answered stays, the rest is asked."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from lensbench.errors import RecordsError
from lensbench.progress import Progress
from lensbench.quantized.generation.infer import run_inference
from lensbench.quantized.generation.spec import InferenceSpec
from lensbench.quantized.loading.load import AdaptedModel
from tests.harness.files import manifest, table
from tests.harness.inference import PROMPTS, WARM, responses, rows_of

MEASURED = ("response", "token_ids", "token_logprob_bits", "entropy_bits", "seed")


@pytest.fixture
def traced(spec: Callable[..., InferenceSpec], tmp_path: Path) -> InferenceSpec:
    return spec(trace=tmp_path / "trace", trace_layers=(1, 3), decoding=WARM, limit=5)


def rows(folder: Path, name: str) -> list[str]:
    """Rows of a table, each as text, null and all."""
    return [repr(row) for row in table(folder, name)]


def test_a_pilot_keeps_its_rows_and_the_rest_is_answered(
    model: AdaptedModel, traced: InferenceSpec, spec: Callable[..., InferenceSpec], tmp_path: Path
) -> None:
    run_inference(model, traced)
    folder = traced.folder
    names = ("responses", "activations", "residual_index")
    pilot = {name: rows(folder, name) for name in names}
    told: list[Progress] = []
    wide = traced.changed(limit=12)
    assert run_inference(model, wide, told.append).ok
    counted = [(step.done, step.total) for step in told if step.unit == "prompts"]
    assert counted == [(5, 12), (8, 12), (11, 12), (12, 12)]
    for name, before in pilot.items():
        now = rows(folder, name)
        assert now[: len(before)] == before
        assert len(now) * 5 == len(before) * 12
    whole = responses(run_inference(model, spec(out=tmp_path / "w.csv", decoding=WARM)).folder)
    found = responses(folder)
    assert list(found) == list(PROMPTS)[:12]
    for item, row in found.items():
        assert [row[name] for name in MEASURED[:2]] == [whole[item][name] for name in MEASURED[:2]]
    assert [row["id"] for row in rows_of(wide.out)] == list(PROMPTS)[:12]
    made = manifest(folder)
    assert made["settings"]["limit"] == 12
    assert [each["settings"] for each in made["widened"]] == [{"limit": 5}]
    files = {row["file"] for row in table(folder, "residual_index")}
    assert {f"residuals/{path.name}" for path in (folder / "residuals").iterdir()} == files


def test_a_widening_that_was_stopped_goes_on_to_the_same_files(
    model: AdaptedModel, traced: InferenceSpec, tmp_path: Path
) -> None:
    def stop(now: Progress) -> None:
        if now.unit == "prompts" and now.done == 8:
            raise KeyboardInterrupt

    other = traced.changed(out=tmp_path / "b.csv", trace=tmp_path / "b")
    for one in (traced, other):
        run_inference(model, one)
    run_inference(model, traced.changed(limit=None))
    with pytest.raises(KeyboardInterrupt):
        run_inference(model, other.changed(limit=None), stop)
    assert len(rows_of(other.out)) == 8
    run_inference(model, other.changed(limit=None))
    for path in traced.folder.rglob("*.*"):
        if path.is_file() and path.name not in ("manifest.json", ".lock"):
            twin = other.folder / path.relative_to(traced.folder)
            assert twin.read_bytes() == path.read_bytes()
    assert other.out.read_bytes() == traced.out.read_bytes()


def test_what_depends_on_all_prompts_together_is_not_widened(
    model: AdaptedModel, spec: Callable[..., InferenceSpec]
) -> None:
    """Other prompts would have other neighbours."""
    few = spec(limit=6, rebatch=1)
    run_inference(model, few)
    with pytest.raises(RecordsError, match=r"settings\.limit: 6 there, 12 now"):
        run_inference(model, few.changed(limit=12))


def test_fewer_prompts_than_before_are_refused(
    model: AdaptedModel, spec: Callable[..., InferenceSpec]
) -> None:
    run_inference(model, spec(limit=6))
    with pytest.raises(RecordsError, match="can be widened, but not narrowed"):
        run_inference(model, spec(limit=4))
