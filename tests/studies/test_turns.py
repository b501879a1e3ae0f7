"""Several models in turn: one at a time, the next one's files ahead, and what fails is named."""

from __future__ import annotations

import gc
import json
import shutil
import signal
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file, save_file

from lensbench.checkpoints import identity
from lensbench.checkpoints.ref import ModelRef, model_refs
from lensbench.errors import ModelError
from lensbench.files import sha256_of
from lensbench.records.engine import Outcome
from lensbench.records.store import RecordStore, folder_name
from lensbench.studies.lens import run
from lensbench.studies.specs.lens import RunSpec
from lensbench.studies.stages.turns import Turns
from tests.harness.files import table_bytes
from tests.harness.forks import Forks, parts_done
from tests.harness.hub import Answers, apart, serving
from tests.harness.many_models import BYTES, profile, write_models
from tests.harness.tiny import Case


@pytest.fixture
def folders(llama: Case, tmp_path: Path) -> list[str]:
    """Three models that are the same but for their place."""
    return [str(shutil.copytree(llama.folder, tmp_path / f"model-{i}")) for i in range(3)]


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str, bool]]:
    """Of each weights file that is read for its hash its model, and whether that was ahead."""
    seen: list[tuple[str, str, bool]] = []

    def spied(path: Path) -> str:
        ahead = threading.current_thread() is not threading.main_thread()
        seen.append((path.parent.name, path.name, ahead))
        return sha256_of(path)

    monkeypatch.setattr(identity, "sha256_of", spied)
    monkeypatch.setattr(identity, "_known", {})
    return seen


def store(ref: ModelRef, folder: Path) -> RecordStore:
    return RecordStore(folder / Path(ref.name).name, str(ref))


class Model:
    """Holds itself, as a bridge and its hooks do."""

    def __init__(self) -> None:
        self.own = self


def _refused(model: Model, cause: Exception | None) -> None:
    held = model
    raise ModelError(f"{type(held).__name__} gives NaN") from cause


def _refused_by_library(model: Model) -> None:
    try:
        held = [model]
        raise RuntimeError(f"{len(held)} cannot run")
    except RuntimeError as error:
        _refused(model, error)


@pytest.mark.parametrize(
    "measured",
    [lambda model: None, lambda model: _refused(model, None), _refused_by_library],
    ids=["measured", "refused", "refused by a library"],
)
def test_what_one_turn_left_is_gone_when_the_next_begins(
    measured: Callable[[Model], None], folders: list[str], tmp_path: Path
) -> None:
    """Also of a model that failed: its error remembers where it came up, and all that was there."""
    turns = Turns(model_refs(folders), outcome := Outcome())
    left: list[weakref.ref[Model]] = []

    def measure() -> None:
        model = Model()
        left.append(weakref.ref(model))
        measured(model)

    gc.disable()
    try:
        for ref in turns:
            assert all(one() is None for one in left)
            with turns.attempt(store(ref, tmp_path / "out")):
                measure()
    finally:
        gc.enable()
    assert len(left) == len(outcome.folders) + len(outcome.failed) == 3


def test_the_next_models_files_are_read_while_one_is_measured(
    folders: list[str], tmp_path: Path, hashed: list[tuple[str, str, bool]]
) -> None:
    turns = Turns(model_refs(folders), Outcome())
    for number, ref in enumerate(turns, start=1):
        with turns.attempt(store(ref, tmp_path / "out")):
            weights, until = (f"model-{number}", "model.safetensors", True), time.monotonic() + 30
            while number < len(folders) and weights not in hashed and time.monotonic() < until:
                time.sleep(0.01)
    weights = [(model, ahead) for model, name, ahead in hashed if name == "model.safetensors"]
    assert weights == [("model-1", True), ("model-2", True)]


def test_a_model_that_does_not_fit_beside_the_present_one_waits_for_its_turn(
    folders: list[str],
    tmp_path: Path,
    hashed: list[tuple[str, str, bool]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    size = sum(file.stat().st_size for file in Path(folders[0]).iterdir())
    machine = psutil.virtual_memory()._replace(available=2 * size)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: machine)
    turns = Turns(model_refs(folders), outcome := Outcome())
    for ref in turns:
        with turns.attempt(store(ref, tmp_path / "out")):
            time.sleep(0.3)
    assert hashed == []
    assert len(outcome.folders) == 3


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried"), "ran out of memory"),
        (MemoryError(), "ran out of memory"),
        (ModelError("no room"), "no room"),
        (OSError(28, "No space left on device"), "No space left"),
    ],
)
def test_a_model_that_fails_is_named_and_the_others_go_on(
    error: Exception, said: str, folders: list[str], tmp_path: Path
) -> None:
    turns = Turns(model_refs(folders), outcome := Outcome())
    for number, ref in enumerate(turns):
        with turns.attempt(store(ref, tmp_path / "out")):
            if number == 1:
                raise error
    assert list(outcome.failed) == [folders[1]]
    assert said in str(outcome.failed[folders[1]])
    assert [folder.name for folder in outcome.folders] == ["model-0", "model-2"]


@pytest.mark.parametrize("error", [RuntimeError("a fault of ours"), KeyboardInterrupt()])
def test_a_fault_and_an_interruption_stop_the_run(
    error: BaseException, folders: list[str], tmp_path: Path
) -> None:
    turns = Turns(model_refs(folders), Outcome())
    with pytest.raises(type(error)):
        for ref in turns:
            with turns.attempt(store(ref, tmp_path / "out")):
                raise error


@pytest.mark.slow
def test_of_several_models_the_bad_ones_are_named_and_a_second_run_takes_them_up(
    folders: list[str], tmp_path: Path, spec: Callable[..., RunSpec], done: Path
) -> None:
    weights = Path(folders[1]) / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-100])
    many = spec(models=(folders[0], "org/not-here", folders[1], folders[2]))
    outcome = run(many, tmp_path / "out")
    assert list(outcome.failed) == ["org/not-here", folders[1]]
    assert "lensbench pull org/not-here" in str(outcome.failed["org/not-here"])
    assert "is cut off" in str(outcome.failed[folders[1]])
    assert not outcome.ok
    first = {folder.name: table_bytes(folder) for folder in outcome.folders}
    assert len(first) == 2
    weights.write_bytes(whole)
    again = run(many, tmp_path / "out")
    assert list(again.failed) == ["org/not-here"]
    assert {folder.name: table_bytes(folder) for folder in again.folders}.items() >= first.items()
    assert len(again.folders) == 3


@pytest.mark.slow
def test_memory_is_flat_over_many_models_and_what_fails_among_them(
    facts: Path, tmp_path: Path
) -> None:
    """Each takes 53 MB in float32; from the third on, no turn begins with half of that more."""
    models = write_models(tmp_path / "models", 8)
    nan = load_file(models[3] / "model.safetensors")
    nan["model.layers.2.mlp.up_proj.weight"][5, 5] = torch.nan
    save_file(nan, models[3] / "model.safetensors", {"format": "pt"})
    large = load_file(models[5] / "model.safetensors")  # loads, and is not finite when it is read
    large["model.layers.1.mlp.down_proj.weight"] *= 1e38
    save_file(large, models[5] / "model.safetensors", {"format": "pt"})
    given = [*models[:5], "org/not-here", *models[5:]]
    found = profile(given, facts, tmp_path / "out")
    assert list(found.failed) == ["model-03", "not-here", "model-05"]
    assert "NaN or Inf in the weights" in found.failed["model-03"]
    assert "NaN or Inf for every prompt" in found.failed["model-05"]
    names = [model.name for model in models] + ["not-here", "end"]
    assert found.resident.keys() == {*names}
    _, _, first, *others = found.resident.values()
    assert max(others) - first < BYTES / 2


def _many(folders: list[str], facts: Path) -> RunSpec:
    """One prompt a batch, so that there are many moments to be killed at."""
    prompts = {"prompts": str(facts), "limit": 4, "heatmap_prompts": 1}
    return RunSpec(models=tuple(folders), lenses=("final",), batch_tokens=1, **prompts)


@pytest.mark.slow
def test_a_run_killed_between_models_and_within_one_gives_the_same_bytes(
    folders: list[str], facts: Path, tmp_path: Path, forks: Forks
) -> None:
    spec, out = _many(folders, facts), tmp_path / "out"
    undisturbed = tmp_path / "undisturbed"
    assert forks.run(run, spec, undisturbed).status == 0
    records = sorted(path.parent.name for path in undisturbed.glob("*/manifest.json"))
    first, second, third = (out / name for name in records)

    def parts(record: Path, n: int) -> Callable[[], bool]:
        return lambda: record.exists() and parts_done(record) >= n

    moments = [parts(first, 3), parts(first, 10**6), second.exists, parts(second, 2)]
    for moment in [*moments, third.exists, parts(third, 5)]:
        assert forks.run(run, spec, out, kill=signal.SIGKILL, when=moment).status == -9
    assert forks.run(run, spec, out).status == 0
    for name in records:
        assert table_bytes(out / name) == table_bytes(undisturbed / name)


_PULLS = """
import sys
from lensbench.cli import main
sys.argv = ["lensbench", *sys.argv[1:]]
try:
    main()
except SystemExit as ended:
    print("status", ended.code)
"""


@pytest.mark.slow
def test_models_that_are_not_here_are_fetched_the_next_while_one_is_measured(
    llama: Case, facts: Path, tmp_path: Path
) -> None:
    files = {path.name: path.read_bytes() for path in llama.folder.iterdir() if path.is_file()}
    asked: dict[str, float] = {}

    class Two(Answers):
        def reply(self) -> None:
            name = next((one for one in ("org/one", "org/two") if one in self.path), "")
            if self.path.endswith("model.safetensors"):
                asked.setdefault(name, time.time())
            if not (name and self.give(name, files)):
                self.refuse(404, "RepoNotFound")

    study = tmp_path / "001_many"
    study.mkdir()
    names = json.dumps([str(llama.folder), "org/gone", "org/one", "org/two"])
    (study / "analysis.toml").write_text(f"models = {names}\nprompts = '{facts}'\nlimit = 4\n")
    with serving(Two) as address:
        place = {"HF_ENDPOINT": address, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "0"}
        options = ["run", str(study), "--out", str(tmp_path / "out"), "--device", "cpu"]
        said = apart(_PULLS, *options, "--pull", **place)
    assert "status 1" in said  # one of them is nowhere
    assert list(asked) == ["org/one", "org/two"]
    made = {path.parent.name: path for path in (tmp_path / "out").glob("*/manifest.json")}
    assert made.keys() == {"org-one", "org-two", folder_name(str(llama.folder))}
    own, fetched = (table_bytes(made[name].parent) for name in ("org-two", "org-one"))
    assert own.keys() == fetched.keys()
    assert asked["org/two"] < made["org-one"].stat().st_mtime


_TURNS = """
import sys
from pathlib import Path
from lensbench.checkpoints.ref import model_refs
from lensbench.records.engine import Outcome
from lensbench.records.store import RecordStore
from lensbench.studies.stages.turns import Turns, fetching
here, out = sys.argv[1:]
outcome = Outcome()
turns = Turns(model_refs([here, "org/one", "org/two"]), outcome)
with fetching(True):
    for ref in turns:
        with turns.attempt(RecordStore(Path(out) / "record", str(ref))):
            pass  # measured
for name, error in outcome.failed.items():
    print(name, "|", str(error).splitlines()[0])
print(len(outcome.folders), "made")
"""


@pytest.mark.slow
def test_a_download_that_breaks_is_named_in_its_turn(llama: Case, tmp_path: Path) -> None:
    class Broken(Answers):
        def reply(self) -> None:
            if "one" in self.path:
                self.refuse(401, "GatedRepo")
            else:
                self.refuse(404, "RepoNotFound")

    with serving(Broken) as address:
        place = {"HF_ENDPOINT": address, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "0"}
        said = apart(_TURNS, str(llama.folder), str(tmp_path / "out"), **place)
    one, two, made = said.strip().splitlines()
    assert one.startswith("org/one | org/one asks you to accept its licence")
    assert two.startswith("org/two | There is no model org/two on the hub")
    assert made == "1 made"


@pytest.mark.slow
def test_an_interruption_does_not_wait_for_a_download(llama: Case, tmp_path: Path) -> None:
    asked, over = threading.Event(), threading.Event()

    class Slow(Answers):
        def reply(self) -> None:
            asked.set()
            over.wait(60)
            self.refuse(404, "RepoNotFound")

    stopped = "import time; time.sleep(3); print('stopped', flush=True); sys.exit(0)"
    code = _TURNS.replace("pass  # measured", stopped)
    with serving(Slow) as address:
        place = {"HF_ENDPOINT": address, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "0"}
        said = apart(code, str(llama.folder), str(tmp_path / "out"), **place)
        waited = not over.is_set()
        over.set()
    assert said.strip() == "stopped"
    assert asked.is_set()
    assert waited
