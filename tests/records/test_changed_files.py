"""Files of a model that are changed while a record is made of it: nothing of both is kept.

Weights in the number format of the run are read where they lie, so whoever writes into their file
changes the numbers of the run.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from lensbench.errors import RecordsError
from lensbench.progress import Progress, Watch
from lensbench.quantized.generation.infer import run_inference
from lensbench.quantized.generation.spec import Decoding, InferenceSpec
from lensbench.studies.lens import run
from lensbench.studies.specs.cache import CacheSpec
from lensbench.studies.specs.lens import RunSpec
from lensbench.studies.stages.cache import run_cache
from tests.harness.files import contents, manifest
from tests.harness.tiny import Case

_ROWS = ["a,The capital of Germany is,Berlin", "b,Rome,Paris", "c,The river Rhine flows,Au"]


def _run(model: Path, prompts: Path, out: Path, watch: Watch) -> object:
    spec = RunSpec((str(model),), str(prompts), lenses=("final",), batch_tokens=8, device="cpu")
    return run(spec, out, progress=watch)


def _cache(model: Path, prompts: Path, out: Path, watch: Watch) -> object:
    return run_cache(CacheSpec(str(model), str(prompts), batch_tokens=8, device="cpu"), out, watch)


def _infer(model: Path, prompts: Path, out: Path, watch: Watch) -> object:
    few = Decoding(max_new_tokens=2)
    spec = InferenceSpec(prompts, out / "a.csv", decoding=few, batch_size=1, device="cpu")
    return run_inference(f"{model}@32", spec, watch)


Make = Callable[[Path, Path, Path, Watch], object]


@pytest.mark.parametrize("make", [_run, _cache, _infer])
def test_a_record_is_of_one_models_files_or_of_none(
    make: Make, llama: Case, tmp_path: Path
) -> None:
    model, prompts = tmp_path / "model", tmp_path / "p.csv"
    shutil.copytree(llama.folder, model)
    prompts.write_text("\n".join(["id,prompt,answer", *_ROWS]) + "\n", encoding="utf-8")
    weights = model / "model.safetensors"
    before = weights.read_bytes()

    def rewrites(progress: Progress) -> None:
        if progress.done and weights.read_bytes() == before:
            with weights.open("r+b") as file:  # into the file that the model is read from
                file.seek(-400, 2)
                file.write(bytes(400))

    found = _refusal(make, model, prompts, tmp_path / "out", rewrites)
    assert "weights_sha256" in found and "changed while" in found
    (record,) = {path.parent for path in (tmp_path / "out").rglob("manifest.json")}
    assert manifest(record)["status"] != "complete"

    weights.write_bytes(before)
    make(model, prompts, tmp_path / "out", _nothing)
    make(model, prompts, tmp_path / "plain", _nothing)
    (plain,) = {path.parent for path in (tmp_path / "plain").rglob("manifest.json")}
    assert _tables(record) == _tables(plain)


def _nothing(_: Progress) -> None: ...


def _tables(record: Path) -> dict[str, bytes]:
    return {path: data for path, data in contents(record).items() if path.endswith(".parquet")}


def _refusal(make: Make, model: Path, prompts: Path, out: Path, watch: Watch) -> str:
    """What is said, by whichever way a kind of run says it."""
    try:
        outcome = make(model, prompts, out, watch)
    except RecordsError as error:
        return str(error)
    return "".join(map(str, getattr(outcome, "failed", {}).values()))
