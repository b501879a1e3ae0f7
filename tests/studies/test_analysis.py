"""analysis.toml: what it may say, and one message with all that is wrong."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lensbench.checkpoints.ref import model_refs
from lensbench.errors import InputProblems
from lensbench.progress import Progress
from lensbench.records.engine import done_by
from lensbench.records.failures import FAILED
from lensbench.studies.analysis import KINDS, plan, read_analysis, run_analysis
from lensbench.studies.specs.keys import keys
from lensbench.studies.specs.lens import RunSpec
from tests.harness.executors import backwards
from tests.harness.program import Program

ANALYSES = Path(__file__).parents[2] / "analyses"


def analysis(folder: Path, content: str) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "analysis.toml").write_text(content)
    return folder


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('models = ["a"]\nlimt = 3', ["toml, limt: it is not known here", "Did you mean limit?"]),
        ("models = 3", ["models: it is 3", "a list, each item a string"]),
        ('models = ["a"]\nlimit = "some"', ["limit: it is 'some'", "a whole number"]),
        ('models = ["a"]\nlimit = true', ["limit: it is True", "a whole number"]),
        ('models = ["a"]\nlenses = ["final", 3]', ["lenses: it is 3", "a string"]),
        ('models = ["a"]\nlenses = ["best"]', ["lenses: it is 'best'", "final, next, raw"]),
        ('models = ["a"]\nlimit = -1', ["limit: it is -1", "at least 1"]),
        ('models = ["a", "a"]', ["a stands twice"]),
        ("models = []", ["models: it is empty"]),
        ("", ["models: it is missing"]),
        ('name = "x"\nmodels = ["a"]', ["name: it is not known here"]),
        ("models = [", ["it is not TOML"]),
        ('kind = "guess"', ["kind: it is 'guess'", "lens, adapter"]),
        ('kind = "adapter"', ["model: it is missing"]),
        ('kind = "adapter"\nmodel = "a"\nmodels = ["a"]', ["models: it is not known here"]),
        ('kind = "adapter"\nmodel = "a"\ndropout = "high"', ["dropout: it is 'high'", "a number"]),
        ('kind = "adapter"\nmodel = "a"\ncache_prefix = 1', ["true or false"]),
        (
            'models = ["a"]\nlenses = ["final"]\n[fit.linear]',
            ["fit.linear: no lens to fit is called so"],
        ),
        (
            'models = ["a"]\nlenses = ["final", "next"]\n[fit.next]',
            ["fit.next: no lens to fit is called so"],
        ),
        (
            'models = ["a"]\nlenses = ["final", "linear"]\n[fit.linear]\ntokens = 0',
            ["fit.linear.tokens: it is 0"],
        ),
        (
            'models = ["a"]\nlenses = ["final", "linear"]\n[fit.linear]\nepochs = 3',
            ["fit.linear.epochs: it is an"],
        ),
        (
            'models = ["a"]\nlenses = ["final", "linear"]\n[fit.linear]\ntoken = 9',
            ["Did you mean tokens?"],
        ),
        ('kind = "transfer"\nmodels = ["a"]', ["models: it is"]),
        ('kind = "transfer"\nmodels = ["smollm2-135m", "smollm2-135m"]', ["stands twice"]),
        ('kind = "transfer"\nmodels = ["a", "a@8"]\nlenses = ["raw"]', ["lenses: it is 'raw'"]),
        (
            'kind = "transfer"\nmodels = ["a", "a@8"]\n[fit.tuned]',
            ["fit.tuned: no lens to fit is called so"],
        ),
        (
            'kind = "transfer"\nmodels = ["a", "a@8"]\n[fit.linear]\ncorpus = "model:3"',
            ["fit.linear.corpus: each variant would write", "Give one text for all"],
        ),
        (
            'kind = "adapter"\nmodel = "a"\nbits = 7\nrank = 0\ndropout = 1\ndata = []',
            [
                "bits: it is 7",
                "4, 8, 16, 32",
                "rank: it is 0",
                "dropout: it is 1",
                "data: it is em",
            ],
        ),
    ],
)
def test_a_problem_of_an_analysis_names_file_key_and_remedy(
    tmp_path: Path, content: str, words: list[str]
) -> None:
    with pytest.raises(InputProblems) as caught:
        read_analysis(analysis(tmp_path / "001_question", content))
    message = str(caught.value)
    assert "analysis.toml" in message
    assert [word for word in words if word not in message] == []


def test_all_problems_of_an_analysis_come_in_one_message(tmp_path: Path) -> None:
    content = 'limt = 3\ntop_k = "many"\nlenses = 3\n'
    with pytest.raises(InputProblems) as caught:
        read_analysis(analysis(tmp_path / "a", content))
    assert len(caught.value.problems) == 4
    assert all(problem.remedy for problem in caught.value.problems)


def test_an_analysis_that_is_not_there_names_what_it_looked_for(tmp_path: Path) -> None:
    with pytest.raises(InputProblems, match=r"analysis\.toml: there is no such file"):
        read_analysis(tmp_path)


def test_a_limit_of_0_asks_all_and_the_file_may_be_named_itself(tmp_path: Path) -> None:
    folder = analysis(tmp_path / "007_why", 'models = ["a"]\nlimit = 0\nlenses = ["final"]')
    spec = read_analysis(folder)
    assert spec == RunSpec(("a",), limit=None, lenses=("final",))
    assert read_analysis(folder / "analysis.toml") == spec


ROOT = Path(__file__).parents[2]


def test_the_keys_are_written_down_as_the_specs_have_them() -> None:
    path = Path(__file__).parents[2] / "analyses" / "README.md"
    again = "write it again: python -m lensbench.studies.specs.keys analyses/README.md"
    assert path.read_text(encoding="utf-8") == keys(), again
    assert "None" not in keys()


@pytest.mark.parametrize(
    ("name", "use", "threshold"),
    [
        ("002_layer_correlation", "generation", 6.0),
        ("003_small_machine_lora", "generation", 6.0),
        ("004_what_quantisation_moves", "lens", 0.0),
    ],
)
def test_analyses_name_the_8_bits_that_their_committed_records_have(
    name: str, use: Any, threshold: float
) -> None:
    """`@8` is another model on either path, so an analysis says the threshold."""
    spec: Any = read_analysis(ROOT / "analyses" / name)
    named = [spec.model] if hasattr(spec, "model") else spec.models
    texts = [f"{one}{more}" for one in named for more in getattr(spec, "variants", ("",))]
    refs = [ref for ref in model_refs(texts, use=use) if ref.bits == 8]
    assert refs
    assert all(f":{threshold:g}" in text for text in texts if "@8" in text)
    assert {ref.int8_threshold for ref in refs} == {threshold}
    found = set(thresholds_of(ROOT / "reports" / name))
    assert found == {threshold}


def thresholds_of(folder: Path) -> Iterator[float]:
    """The outlier threshold of every committed record of a model in 8 bits."""
    for path in folder.glob("*/manifest.json"):
        model = json.loads(path.read_text())["model"]
        sides = (model, model.get("a", {}), model.get("b", {}))
        yield from (side["int8_threshold"] for side in sides if side.get("bits") == 8)


@pytest.mark.parametrize("kind", [kind for kind, spec in KINDS.items() if spec.alone])
def test_an_analysis_that_workers_cannot_share_says_so_before_it_is_planned(
    kind: str, lensbench: Program, tmp_path: Path
) -> None:
    (shipped,) = [
        path
        for path in ANALYSES.glob("*/analysis.toml")
        if type(read_analysis(path)) is KINDS[kind]
    ][:1]
    done = lensbench("run", shipped, "--workers", 2)
    assert done.status == 2
    why = f"--workers: no other process can take part: {KINDS[kind].alone}"
    assert f"{why}. Leave it and --ray out" in done.said
    assert "planning" not in done.said
    anyone = done_by(backwards)  # who is no process of one's own, and asks for the same
    with anyone, pytest.raises(InputProblems, match=re.escape(KINDS[kind].alone)):
        run_analysis(read_analysis(shipped), tmp_path)
    assert not [*tmp_path.rglob("*.json")]


def test_an_analysis_notes_what_fails_until_it_does_not(
    spec: Callable[..., RunSpec], tmp_path: Path
) -> None:
    own = spec().models[0]
    failed = run_analysis(spec(models=("org/not-here", own), limit=2), tmp_path / "out")
    assert not failed.ok
    (name,) = json.loads((tmp_path / "out" / FAILED).read_text())
    assert name == "org/not-here"
    assert run_analysis(spec(limit=2), tmp_path / "out").ok
    assert not (tmp_path / "out" / FAILED).exists()


@pytest.mark.parametrize("missing", ["./nowhere", "org/not-here", "smolm2", "./nowhere+./none"])
def test_a_model_that_is_not_there_is_said_at_once_and_the_others_are_measured(
    spec: Callable[..., RunSpec], tmp_path: Path, missing: str
) -> None:
    """However it is missing: a path that leads nowhere, not fetched, no name, no adapter."""
    own, said = spec().models[0], list[str]()
    asked = spec(models=(own, missing), limit=2)

    def begin(now: Progress) -> None:
        said.append("begun")

    done = run_analysis(asked, tmp_path / "out", begin, said.append)
    assert said[0].startswith(f"{missing} cannot be measured, the others are: ")
    assert "begun" in said
    assert (len(done.folders), {*done.failed}) == (1, {missing})
    assert json.loads((tmp_path / "out" / FAILED).read_text()).keys() == {missing}
    assert len(plan(asked, tmp_path / "new").records) == 2


def test_models_that_are_all_unknown_are_refused_at_once(
    spec: Callable[..., RunSpec], tmp_path: Path
) -> None:
    with pytest.raises(InputProblems) as refused:
        run_analysis(spec(models=("./nowhere", "smolm2")), tmp_path / "out")
    assert len(refused.value.problems) == 2
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("foreign", [False, True])
def test_a_model_that_is_measured_after_all_is_no_failure_of_a_run_that_is_interrupted(
    spec: Callable[..., RunSpec], tmp_path: Path, foreign: bool
) -> None:
    """Nor does a list that no run wrote stand in its way."""
    last, out, mended = spec().models[0], tmp_path / "out", tmp_path / "mended"
    shutil.copytree(last, mended)
    tokenizer = (mended / "tokenizer.json").read_bytes()
    (mended / "tokenizer.json").unlink()
    failed = run_analysis(spec(models=(str(mended), "org/not-here"), limit=2), out)
    assert set(failed.failed) == {str(mended), "org/not-here"}
    (mended / "tokenizer.json").write_bytes(tokenizer)
    if foreign:
        (out / FAILED).write_text("[]")

    def stop(now: Progress) -> None:
        if now.unit == "batches" and Path(now.stage).name == Path(last).name:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_analysis(spec(models=(str(mended), "org/not-here", last), limit=2), out, stop)
    if foreign:
        assert (out / FAILED).read_text() == "[]"
        assert not run_analysis(spec(models=(str(mended), "org/not-here"), limit=2), out).ok
    assert json.loads((out / FAILED).read_text()).keys() == {"org/not-here"}
