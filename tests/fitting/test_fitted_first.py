"""An analysis that fits its lenses before it reads with them."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from lensbench import open_record
from lensbench.checkpoints.ref import ModelRef
from lensbench.fitting.spec import FitSpec
from lensbench.lens.fitted.artifact import FILE
from lensbench.models import load as loading
from lensbench.models.model import LensModel
from lensbench.studies.lens import run
from lensbench.studies.specs.lens import RunSpec
from tests.harness.facts import facts_rows
from tests.harness.files import manifest, table_bytes, write_csv
from tests.harness.program import Program
from tests.harness.tiny import Case

FIT = "tokens = 600\nchoose_tokens = 100\ntest_tokens = 500\nwindow = 32\nbatch_tokens = 128\n"


@pytest.fixture
def analysis(tiny_case: Callable[[str], Case], corpus: Path, tmp_path: Path) -> Path:
    """Two models, read by the head and by a lens that is fitted to each."""
    models = [str(tiny_case(name).folder) for name in ("llama", "gpt2")]
    write_csv(tmp_path / "small.csv", facts_rows())
    (tmp_path / "analysis.toml").write_text(
        f'models = {models}\nprompts = "small.csv"\nlimit = 4\nheatmap_prompts = 2\n'
        f'lenses = ["final", "next", "linear"]\n[fit.linear]\ncorpus = "{corpus}"\n{FIT}'
    )
    return tmp_path


@pytest.mark.slow
def test_the_lenses_are_fitted_and_read_and_reported(
    lensbench: Program, analysis: Path, llama: Case, fit_spec: Callable[..., FitSpec]
) -> None:
    out = analysis / "out"
    done = lensbench("run", analysis, "--out", out)
    assert done.status == 0, done.err
    records = {path.parent.name: path.parent for path in out.glob("*/manifest.json")}
    fits = [path.parent for path in out.glob("lenses/*/linear/manifest.json")]
    assert len(records) == len(fits) == 2
    for name, folder in records.items():
        told = open_record(folder).manifest["lenses"]["linear"]
        assert told["lens_sha256"] == manifest(out / "lenses" / name / "linear")["checksums"][FILE]
        assert str(out) not in (folder / "manifest.json").read_text()
    report = (out / "report.md").read_text()
    assert all(f"lenses/{name}/linear" in report for name in records)

    before = {folder: table_bytes(folder) for folder in [*records.values(), *fits]}
    assert lensbench("run", analysis, "--out", out).status == 0
    assert {folder: table_bytes(folder) for folder in before} == before


@pytest.mark.slow
def test_the_model_of_several_fits_is_loaded_once(
    llama: Case, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """... and no fit leaves a trace in it: what is read after them is as of a model loaded anew."""
    own = tomllib.loads(FIT) | {"corpus": str(corpus)}
    less = own | {"no_untrained": True, "directions": 0}
    fits = {"linear": own, "tuned": less, "jacobian": less | {"jacobian_tokens": 100}}
    prompts = str(write_csv(tmp_path / "small.csv", facts_rows()))
    asked = RunSpec((str(llama.folder),), prompts, limit=4, lenses=("final", *fits), fit=fits)
    loads, plain = list[str](), loading.load_model

    def counted(ref: ModelRef, **how: str | None) -> LensModel:
        loads.append(str(ref))
        return plain(ref, **how)

    monkeypatch.setattr(loading, "load_model", counted)
    first = run(asked, tmp_path / "once")
    assert first.ok and loads == [str(llama.folder)]
    *fitted, record = first.folders
    folders = tuple(map(str, fitted))
    anew = run(asked.changed(lenses=("final", *folders), fit={}), tmp_path / "anew")
    assert loads == [str(llama.folder)] * 2
    assert table_bytes(anew.folder) == table_bytes(record)


@pytest.mark.slow
def test_some_of_the_lenses_can_be_asked_for(lensbench: Program, analysis: Path) -> None:
    out = analysis / "out"
    done = lensbench("run", analysis, "--out", out, "--lens", "final", "--lens", "next")
    assert done.status == 0, done.err
    assert not (out / "lenses").exists()
    (one, _) = out.glob("*/manifest.json")
    assert open_record(one.parent).lenses == ["final", "next"]
    refused = lensbench("run", analysis, "--out", out, "--lens", "raw", "--lens", "tuned")
    assert refused.status != 0
    assert "no lens raw" in refused.err and "no lens tuned" in refused.err
