"""Runs: four tables by contract, the same bytes whatever interrupts them, and nothing else lost."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest

from lensbench.errors import InputProblems, RecordsError
from lensbench.files import sha256_of
from lensbench.prompts.sets import load_prompts
from lensbench.records.schema import KINDS, MILESTONES, TABLES
from lensbench.studies.analysis import read_analysis
from lensbench.studies.lens import Outcome, run
from lensbench.studies.lens_spec import RunSpec
from tests.harness.tiny import TINY, Case, save

REPO = Path(__file__).parents[2]
TABLE_FILES = [f"{name}.parquet" for name in KINDS["lens"]]
COLUMNS = ("id", "relation", "prompt", "answer", "category", "control_of", "paraphrase_of")
FACTS = {
    "capital": ("The capital of {} is", "city", {"Germany": "Berlin", "France": "Paris"}),
    "river": ("The river that flows through {} is the", "", {"Germany": "Rhine", "Italy": "Po"}),
    "opposite": ("The opposite of {} is", "word", {"hot": "cold", "big": "small", "up": "down"}),
    "symbol": ("The chemical symbol of {} is", "letters", {"gold": "Au", "iron": "Fe"}),
}
N_BASE = 9
N_ROWS = 3 * N_BASE


def facts_rows() -> list[dict[str, str]]:
    """Every base row with a paraphrase and a control."""
    rows = []
    for relation, (template, category, pairs) in FACTS.items():
        subjects = list(pairs)
        for i, (subject, answer) in enumerate(pairs.items()):
            item = f"{relation}-{subject}"
            common = {"relation": relation, "answer": answer, "category": category}
            prompt = template.format(subject)
            other = template.format(subjects[i - 1])
            rows += [
                common | {"id": item, "prompt": prompt},
                common | {"id": f"{item}-p", "prompt": f"Well: {prompt}", "paraphrase_of": item},
                common | {"id": f"{item}-c", "prompt": other, "control_of": item},
            ]
    return rows


def write_csv(path: Path, rows: list[dict[str, str]]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as handle:
        writer = csv.DictWriter(handle, COLUMNS, restval="")
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.fixture(scope="module")
def facts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_csv(tmp_path_factory.mktemp("prompts") / "small.csv", facts_rows())


@pytest.fixture
def spec(llama: Case, facts: Path) -> Callable[..., RunSpec]:
    """A RunSpec on the tiny model, with changes."""

    def make(**changes: Any) -> RunSpec:
        settings = {"models": (str(llama.folder),), "prompts": str(facts), "limit": None}
        small = {"batch_tokens": 64, "heatmap_prompts": 2, "top_k": 3}
        return RunSpec("test", **(settings | small | changes))

    return make


def tables(folder: Path) -> dict[str, pd.DataFrame]:
    return {name: pq.read_table(folder / f"{name}.parquet").to_pandas() for name in KINDS["lens"]}


def table_bytes(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in TABLE_FILES}


def manifest(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "manifest.json").read_text())


# --- one undisturbed run ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def done(llama: Case, facts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The record folder of a finished run over all rows."""
    settings = {"batch_tokens": 64, "heatmap_prompts": 2, "top_k": 3, "limit": None}
    whole = RunSpec("test", (str(llama.folder),), str(facts), **settings)  # type: ignore[arg-type]
    outcome = run(whole, tmp_path_factory.mktemp("run"))
    assert outcome.ok
    return outcome.folders[0]


@pytest.mark.parametrize("name", KINDS["lens"])
def test_each_table_follows_its_schema(done: Path, name: str) -> None:
    table = pq.read_table(done / f"{name}.parquet")
    assert table.schema.equals(TABLES[name])
    assert table.schema.metadata is None
    assert (table.num_rows == 0) == (name == "problems")


def test_every_prompt_is_there_in_the_order_of_the_file(done: Path) -> None:
    prompts = tables(done)["prompts"]
    assert prompts.prompt_id.tolist() == [row["id"] for row in facts_rows()]
    assert (prompts.n_tokens == prompts.tokens.map(len)).all()
    assert prompts.category.isna().sum() == 6  # the rivers


def test_every_base_prompt_is_read_under_every_lens_at_every_layer(done: Path, llama: Case) -> None:
    lens = tables(done)["lens"]
    last = lens[lens.is_last]
    counts = last.groupby(["prompt_id", "lens"]).layer.apply(sorted)
    layers = list(range(llama.model.n_layers + 1))
    assert all(found == layers for found in counts)
    base = [row["id"] for row in facts_rows() if set(row) == {*COLUMNS[:5]}]
    assert len(base) == N_BASE
    assert {(i, name) for i in base for name in ("final", "next", "raw")} <= set(counts.index)
    assert set(last.prompt_id) == {row["id"] for row in facts_rows()}


def test_some_base_prompts_are_read_at_every_position(done: Path) -> None:
    found = tables(done)
    earlier = found["lens"][~found["lens"].is_last]
    assert set(earlier.lens) == {"final"}
    assert list(dict.fromkeys(earlier.prompt_id)) == ["capital-Germany", "river-Germany"]
    lengths = found["prompts"].set_index("prompt_id").n_tokens
    for item, part in earlier.groupby("prompt_id"):
        assert set(part.position) == set(range(lengths[item] - 1))


def test_values_stay_within_their_ranges(done: Path) -> None:
    lens = tables(done)["lens"]
    assert lens.entropy_bits.between(0, 9).all()  # log2(384) = 8.6
    assert (lens.kl_bits > -1e-4).all()
    assert lens.answer_prob.between(0, 1).all()
    assert (lens.answer_rank >= 1).all()
    assert (lens.depth == lens.layer / 3).all()
    assert lens.next_surprisal_bits.isna().equals(lens.is_last)
    assert (lens.top_ids.map(len) == 3).all()
    model_itself = lens[(lens.layer == 3) & (lens.lens == "final")]
    assert (model_itself.kl_bits < 1e-4).all()


def test_each_prompt_has_its_milestones(done: Path) -> None:
    found = tables(done)
    milestones = found["milestones"].set_index(["prompt_id", "lens"])
    last = found["lens"][found["lens"].is_last]
    assert set(milestones.index) == set(zip(last.prompt_id, last.lens, strict=True))
    for name in MILESTONES:
        layer, reason = milestones[f"{name}_layer"], milestones[f"{name}_reason"]
        assert (layer.isna() == reason.notna()).all()
    assert (milestones.solved.notna()).all()


def test_the_manifest_says_how_to_make_the_record_again(
    done: Path, llama: Case, facts: Path
) -> None:
    found = manifest(done)
    assert found["status"] == "complete"
    assert found["problems"] == found["resumed_batches"] == 0
    assert found["model"]["name"] == str(llama.folder)
    assert found["model"]["source"] == llama.folder.name
    assert (found["model"]["dtype"], found["model"]["device"]) == ("float32", "cpu")
    for key in ("weights_sha256", "tokenizer_sha256"):
        assert len(found["model"][key]) == 64
    assert found["settings"]["prompts"] == facts.name  # not where it lies on this machine
    assert found["settings"]["prompts_sha256"] == sha256_of(facts)
    assert found["settings"]["n_prompts"] == N_ROWS
    assert [check["passed"] for check in found["gate"]] == [True] * 4
    assert found["gate"][0]["error"] < found["gate"][0]["bound"] == 1e-4
    assert found["wall_s"] > 0
    assert found["peak_memory_bytes"] > 1e8


def test_the_parts_are_gone_when_the_tables_are_there(done: Path) -> None:
    shown = [path.name for path in done.iterdir() if path.name != ".lock"]
    assert sorted(shown) == sorted([*TABLE_FILES, "manifest.json"])


# --- again, and other settings ------------------------------------------------------------------


def copied(done: Path, tmp_path: Path) -> Path:
    """The finished record in a run folder of this test's own."""
    shutil.copytree(done, tmp_path / "run" / done.name)
    return tmp_path / "run"


def contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
    return {str(path): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


def test_a_second_run_does_nothing(
    done: Path, tmp_path: Path, spec: Callable[..., RunSpec], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = copied(done, tmp_path)
    before = contents(out)

    def unwanted(*_: Any, **__: Any) -> None:
        raise AssertionError("the model was loaded")

    monkeypatch.setattr("lensbench.studies.lens.open_variant", unwanted)
    outcome = run(spec(), out)
    assert outcome.ok
    assert [folder.name for folder in outcome.folders] == [done.name]
    assert contents(out) == before


def test_another_path_to_the_same_prompt_file_is_the_same_run(
    done: Path,
    tmp_path: Path,
    spec: Callable[..., RunSpec],
    facts: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = copied(done, tmp_path)
    before = contents(out)
    monkeypatch.chdir(facts.parent)
    assert run(spec(prompts=facts.name), out).ok
    assert contents(out) == before


@pytest.mark.parametrize("name", TABLE_FILES)
def test_a_finished_record_that_lost_a_table_is_made_again(
    done: Path, tmp_path: Path, spec: Callable[..., RunSpec], name: str
) -> None:
    out = copied(done, tmp_path)
    (out / done.name / name).unlink()
    assert run(spec(), out).ok
    assert table_bytes(out / done.name) == table_bytes(done)


def test_a_folder_made_by_other_settings_is_refused_and_kept(
    done: Path, tmp_path: Path, spec: Callable[..., RunSpec]
) -> None:
    out = copied(done, tmp_path)
    before = contents(out)
    outcome = run(spec(top_k=4, limit=2), out)
    (error,) = outcome.failed.values()
    assert isinstance(error, RecordsError)
    assert "settings.top_k: 3 there, 4 now" in str(error)
    assert "settings.limit: None there, 2 now" in str(error)
    assert contents(out) == before


def test_a_folder_made_from_another_prompt_file_is_refused(
    done: Path, tmp_path: Path, spec: Callable[..., RunSpec], facts: Path
) -> None:
    out = copied(done, tmp_path)
    changed = write_csv(tmp_path / facts.name, facts_rows()[:-3])
    (error,) = run(spec(prompts=str(changed)), out).failed.values()
    assert "settings.prompts_sha256" in str(error)


def test_a_folder_made_by_a_newer_schema_is_refused(
    done: Path, tmp_path: Path, spec: Callable[..., RunSpec]
) -> None:
    out = copied(done, tmp_path)
    newer = manifest(done) | {"schema_version": 99}
    (out / done.name / "manifest.json").write_text(json.dumps(newer))
    (error,) = run(spec(), out).failed.values()
    assert "schema 99" in str(error)


def test_two_runs_give_the_same_bytes(
    done: Path, tmp_path: Path, spec: Callable[..., RunSpec]
) -> None:
    outcome = run(spec(), tmp_path)
    assert table_bytes(outcome.folders[0]) == table_bytes(done)


def test_a_larger_limit_only_adds_prompts(tmp_path: Path, spec: Callable[..., RunSpec]) -> None:
    asked = {}
    for limit in (4, 6):
        outcome = run(spec(limit=limit, heatmap_prompts=0), tmp_path / str(limit))
        prompts = tables(outcome.folders[0])["prompts"]
        asked[limit] = set(prompts.prompt_id)
        base = prompts[prompts.control_of.isna() & prompts.paraphrase_of.isna()]
        assert len(base) == limit
        assert len(prompts) == 3 * limit
        assert set(base.relation) == set(FACTS)  # every relation keeps its share
    assert asked[4] < asked[6]


def test_only_some_relations(tmp_path: Path, spec: Callable[..., RunSpec]) -> None:
    outcome = run(spec(relations=("river",), heatmap_prompts=0), tmp_path)
    assert set(tables(outcome.folders[0])["prompts"].relation) == {"river"}


def test_an_unknown_relation_stops_the_run_before_anything_is_written(
    tmp_path: Path, spec: Callable[..., RunSpec]
) -> None:
    with pytest.raises(InputProblems, match="no relation 'colour'"):
        run(spec(relations=("colour",)), tmp_path / "out")
    assert not (tmp_path / "out").exists()


# --- what fails, and what goes on ---------------------------------------------------------------

BAD_ROWS = [
    {"id": "long", "relation": "capital", "prompt": "The capital " * 60, "answer": "Berlin"},
    {"id": "empty", "relation": "capital", "prompt": "", "answer": "Berlin"},
    {"id": "blank", "relation": "capital", "prompt": "The capital of Italy is", "answer": "  "},
    {"id": "joined", "relation": "capital", "prompt": "The capital of Italy is ", "answer": "Rome"},
]


def test_bad_rows_are_left_out_and_the_rest_is_there(
    tmp_path: Path, spec: Callable[..., RunSpec], done: Path
) -> None:
    path = write_csv(tmp_path / "bad.csv", BAD_ROWS + facts_rows())
    outcome = run(spec(prompts=str(path)), tmp_path / "out")
    assert not outcome.ok
    assert not outcome.failed
    found = tables(outcome.folders[0])
    left_out = {problem.prompt_id: str(problem) for problem in outcome.problems}
    assert set(left_out) == {row["id"] for row in BAD_ROWS}
    assert "bad.csv, row 2, id long" in left_out["long"]
    assert "context holds 64" in left_out["long"]
    assert "row 3, id empty" in left_out["empty"]
    assert set(found["problems"].prompt_id) == set(left_out)
    measured = set(found["prompts"].prompt_id)
    assert measured == {row["id"] for row in facts_rows()}
    assert manifest(outcome.folders[0])["problems"] == len(left_out)


def test_a_second_run_still_says_what_was_left_out(
    tmp_path: Path, spec: Callable[..., RunSpec]
) -> None:
    path = write_csv(tmp_path / "bad.csv", BAD_ROWS[:2] + facts_rows()[:6])
    first = run(spec(prompts=str(path)), tmp_path / "out")
    second = run(spec(prompts=str(path)), tmp_path / "out")
    assert not second.ok
    assert [str(p) for p in second.problems] == [str(p) for p in first.problems]


def test_a_duplicate_id_does_not_take_the_good_row_with_it(
    tmp_path: Path, spec: Callable[..., RunSpec]
) -> None:
    rows = facts_rows()[:3]
    path = write_csv(tmp_path / "twice.csv", [*rows, rows[0] | {"prompt": "Rome is"}])
    outcome = run(spec(prompts=str(path)), tmp_path / "out")
    assert [problem.prompt_id for problem in outcome.problems] == [rows[0]["id"]]
    found = tables(outcome.folders[0])
    assert found["prompts"].prompt_id.tolist() == [row["id"] for row in rows]
    assert set(found["milestones"].prompt_id) == {row["id"] for row in rows}


@pytest.fixture(scope="module")
def broken_folders(llama: Case, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Models that cannot be measured, each with a word of its message."""
    import torch
    from safetensors.torch import load_file, save_file

    folder = tmp_path_factory.mktemp("broken")
    made = {}
    for name in ("no-tokenizer", "cut-off", "nan"):
        made[name] = folder / name
        shutil.copytree(llama.folder, made[name])
    (made["no-tokenizer"] / "tokenizer.json").unlink()
    weights = made["cut-off"] / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    weights = made["nan"] / "model.safetensors"
    tensors = load_file(weights)
    tensors["model.layers.1.mlp.down_proj.weight"][0, 0] = torch.nan
    save_file(tensors, weights, metadata={"format": "pt"})
    return made


@pytest.mark.parametrize(
    ("broken", "word"),
    [("no-tokenizer", "no tokenizer"), ("cut-off", "is cut off"), ("nan", "NaN or Inf")],
)
def test_a_model_that_fails_does_not_stop_the_next_one(
    broken: str,
    word: str,
    broken_folders: dict[str, Path],
    spec: Callable[..., RunSpec],
    llama: Case,
    tmp_path: Path,
) -> None:
    bad = str(broken_folders[broken])
    outcome = run(spec(models=(bad, str(llama.folder)), limit=1, heatmap_prompts=0), tmp_path)
    assert not outcome.ok
    assert list(outcome.failed) == [bad]
    assert word in str(outcome.failed[bad])
    (folder,) = outcome.folders
    assert manifest(folder)["status"] == "complete"


@pytest.fixture(scope="module")
def overflowing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with finite weights that gives NaN for every prompt that says "Rome"."""
    import torch
    from safetensors.torch import load_file, save_file
    from transformers import AutoTokenizer

    folder = save(TINY["stablelm"], tmp_path_factory.mktemp("overflow") / "stablelm")
    (rome,) = AutoTokenizer.from_pretrained(folder)(" Rome").input_ids
    weights = load_file(folder / "model.safetensors")
    row = weights["model.embed_tokens.weight"][rome]
    row.copy_(torch.where(row > 0, 3e38, -3e38))
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_prompts_that_overflow_are_left_out_and_the_rest_of_their_batch_is_there(
    overflowing: Path, spec: Callable[..., RunSpec], tmp_path: Path
) -> None:
    rome = {"id": "rome", "relation": "capital", "prompt": "The city of Rome is", "answer": "old"}
    rows = [rome, *facts_rows()[:6]]
    path = write_csv(tmp_path / "rome.csv", rows)
    outcome = run(spec(models=(str(overflowing),), prompts=str(path)), tmp_path / "out")
    assert not outcome.failed
    (problem,) = outcome.problems  # once, although a heat map reads it again
    assert problem.prompt_id == "rome"
    assert "gives NaN or Inf" in problem.what
    found = tables(outcome.folders[0])
    measured = {row["id"] for row in facts_rows()[:6]}
    for name in ("prompts", "lens", "milestones"):
        assert set(found[name].prompt_id) == measured
    assert found["problems"].prompt_id.tolist() == ["rome"]


def test_everything_wrong_with_a_spec_is_said_before_any_work(
    tmp_path: Path, spec: Callable[..., RunSpec]
) -> None:
    wrong = spec(models=("smollm", "/no/such/folder"), top_k=0, lenses=("final", "tuned"))
    with pytest.raises(InputProblems) as caught:
        run(wrong, tmp_path / "out")
    message = str(caught.value)
    for part in ("smollm2-135m", "/no/such/folder", "top_k = 0", "'tuned'"):
        assert part in message
    assert len(caught.value.problems) == 4
    assert not (tmp_path / "out").exists()


# --- analysis.toml ------------------------------------------------------------------------------


def analysis(folder: Path, content: str) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "analysis.toml").write_text(content)
    return folder


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('models = ["a"]\nlimt = 3', ["the key 'limt' is not known", "Known keys: ", "limit"]),
        ('models = "a"', ["'models' is 'a'", "a list of strings"]),
        ('models = ["a"]\nlimit = "3"', ["'limit' is '3'", "a whole number"]),
        ('models = ["a"]\nlimit = true', ["'limit' is True", "a whole number"]),
        ('models = ["a"]\nlenses = ["final", 3]', ["a list of strings"]),
        ('models = ["a"]\nlenses = ["best"]', ["lenses = 'best' is not known", "final, next, raw"]),
        ('models = ["a"]\nlimit = -1', ["limit = -1", "at least 1"]),
        ('models = ["a", "a"]', ["a stands twice"]),
        ("models = []", ["no model is named"]),
        ("", ["the key 'models' is missing"]),
        ('name = "x"\nmodels = ["a"]', ["the key 'name' is not known"]),
        ("models = [", ["it is not TOML"]),
        ('kind = "guess"', ["kind = 'guess' is not known", "lens, adapter"]),
        ('kind = "adapter"', ["the key 'model' is missing"]),
        ('kind = "adapter"\nmodel = "a"\nmodels = ["a"]', ["the key 'models' is not known"]),
        ('kind = "adapter"\nmodel = "a"\ndropout = "high"', ["'dropout' is 'high'", "a number"]),
        ('kind = "adapter"\nmodel = "a"\ncache_prefix = 1', ["true or false"]),
        (
            'kind = "adapter"\nmodel = "a"\nbits = 7\nrank = 0\ndropout = 1\ndata = []',
            ["bits = 7", "4, 8, 16, 32", "rank = 0", "dropout = 1", "data is empty"],
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
    content = 'limt = 3\ntop_k = "many"\nlenses = "raw"\n'
    with pytest.raises(InputProblems) as caught:
        read_analysis(analysis(tmp_path / "a", content))
    assert len(caught.value.problems) == 4
    assert all(problem.remedy for problem in caught.value.problems)


def test_an_analysis_that_is_not_there_names_what_it_looked_for(tmp_path: Path) -> None:
    with pytest.raises(InputProblems, match=r"analysis\.toml: there is no such file"):
        read_analysis(tmp_path)


def test_the_name_of_an_analysis_is_its_folder_and_limit_0_asks_all(tmp_path: Path) -> None:
    folder = analysis(tmp_path / "007_why", 'models = ["a"]\nlimit = 0\nlenses = ["final"]')
    spec = read_analysis(folder)
    assert spec == RunSpec("007_why", ("a",), limit=None, lenses=("final",))
    assert read_analysis(folder / "analysis.toml") == spec


ANALYSES = sorted((REPO / "analyses").glob("*/analysis.toml"))


@pytest.mark.parametrize("path", ANALYSES, ids=lambda path: path.parent.name)
def test_every_analysis_in_the_repository_can_be_read(path: Path) -> None:
    spec = read_analysis(path.parent)
    assert spec.problems(str(path)) == []
    if isinstance(spec, RunSpec):
        assert load_prompts(spec.prompts).only(spec.relations or ()).prompts or not spec.relations


# --- interruptions ------------------------------------------------------------------------------

# A process that has imported everything and forks for each run: an interruption costs no imports.
FORKING = """
import json, os, resource, sys
from pathlib import Path
import lensbench.studies.lens as runs
from lensbench.studies.analysis import read_analysis
for model in read_analysis(Path(sys.argv[1])).models:
    runs.open_variant(model)  # transformers imports half of itself only now
for line in sys.stdin:
    order = json.loads(line)
    child = os.fork()
    if child == 0:
        if order["largest_file"]:
            resource.setrlimit(resource.RLIMIT_FSIZE, (order["largest_file"],) * 2)
        try:
            outcome = runs.run(read_analysis(Path(order["analysis"])), Path(order["out"]))
            Path(order["out"], "failed.txt").write_text("".join(map(str, outcome.failed.values())))
            os._exit(0 if outcome.ok else 1)
        except KeyboardInterrupt:
            os._exit(130)
        finally:
            os._exit(99)
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""
ONE_THREAD = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


class Runner:
    """Starts runs of an analysis in processes that can be killed."""

    def __init__(self, analysis: Path) -> None:
        self.analysis = analysis
        pipe = subprocess.PIPE
        command = [sys.executable, "-c", FORKING, str(analysis)]
        self.server = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=ONE_THREAD)

    def run(
        self,
        out: Path,
        kill: signal.Signals | None = None,
        when: Callable[[], bool] = lambda: True,
        largest_file: int = 0,
    ) -> int:
        """One run; `kill` is sent as soon as `when()` holds. Returns the exit status."""
        assert self.server.stdin is not None
        assert self.server.stdout is not None
        order = {"analysis": str(self.analysis), "out": str(out), "largest_file": largest_file}
        self.server.stdin.write(json.dumps(order) + "\n")
        self.server.stdin.flush()
        child = int(self.server.stdout.readline())
        if kill is not None:
            wait_until(when)
            with contextlib.suppress(ProcessLookupError):  # it was faster
                os.kill(child, kill)
        return int(self.server.stdout.readline())


def wait_until(condition: Callable[[], bool], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.001)


@pytest.fixture(scope="module")
def small_analysis(llama: Case, facts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One prompt a batch, so that there are many moments to be interrupted at."""
    content = f"""
        models = ["{llama.folder}"]
        prompts = "{facts}"
        limit = 0
        batch_tokens = 1
        heatmap_prompts = 2
    """
    return analysis(tmp_path_factory.mktemp("analysis") / "001_interrupted", content)


N_PARTS = N_ROWS + 2


@pytest.fixture(scope="module")
def runner(small_analysis: Path) -> Iterator[Runner]:
    found = Runner(small_analysis)
    yield found
    assert found.server.stdin is not None
    found.server.stdin.close()
    found.server.wait()


@pytest.fixture(scope="module")
def undisturbed(runner: Runner, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("undisturbed")
    assert runner.run(out) == 0
    return record_in(out)


def record_in(out: Path) -> Path:
    (path,) = out.glob("*/manifest.json")
    return path.parent


def n_parts(out: Path) -> int:
    return len(list(out.glob("*/parts/[0-9]*.parquet")))


def is_complete(out: Path) -> bool:
    return any(
        manifest(path.parent)["status"] == "complete" for path in out.glob("*/manifest.json")
    )


def has_parts(out: Path, number: int) -> Callable[[], bool]:
    return lambda: n_parts(out) >= number or is_complete(out)


def has_file(out: Path, name: str) -> Callable[[], bool]:
    return lambda: bool(list(out.glob(f"*/{name}"))) or is_complete(out)


def test_the_undisturbed_run_has_many_parts(undisturbed: Path) -> None:
    assert sorted(table_bytes(undisturbed)) == sorted(TABLE_FILES)
    assert manifest(undisturbed)["resumed_batches"] == 0
    lens = tables(undisturbed)["lens"]
    assert lens.groupby(["prompt_id", "is_last"]).ngroups == N_PARTS


def test_a_run_interrupted_again_and_again_gives_the_same_bytes(
    runner: Runner, undisturbed: Path, tmp_path: Path
) -> None:
    kills = {1: signal.SIGKILL, 9: signal.SIGTERM, 17: signal.SIGINT}
    for parts, kill in kills.items():
        status = runner.run(tmp_path, kill, has_parts(tmp_path, parts))
        assert status == (130 if kill == signal.SIGINT else -kill)
        assert manifest(record_in(tmp_path))["status"] == "running"
    there = n_parts(tmp_path)
    assert runner.run(tmp_path) == 0
    assert manifest(record_in(tmp_path))["resumed_batches"] == there >= 17
    assert table_bytes(record_in(tmp_path)) == table_bytes(undisturbed)


def test_a_run_killed_while_its_tables_are_written_gives_the_same_bytes(
    runner: Runner, undisturbed: Path, tmp_path: Path
) -> None:
    for name in (".lens.parquet.*.part", *TABLE_FILES):
        runner.run(tmp_path, signal.SIGKILL, has_file(tmp_path, name))
    assert runner.run(tmp_path) == 0
    record = record_in(tmp_path)
    assert table_bytes(record) == table_bytes(undisturbed)
    names = {path.name for path in record.iterdir()} - {".lock"}
    assert names == {*TABLE_FILES, "manifest.json"}


def interrupt_at_random(runner: Runner, out: Path, seed: int, times: int) -> None:
    """Signals at random moments: at the start, after some parts, a little later than that."""
    chance = random.Random(seed)
    for _ in range(times):
        kill = chance.choice([signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
        more = n_parts(out) + chance.randrange(6)
        pause = chance.choice([0, 0.01, 0.1, 1]) * chance.random()

        def moment(more: int = more, pause: float = pause) -> bool:
            return has_parts(out, more)() and time.sleep(pause) is None

        runner.run(out, kill, moment)


def test_interruptions_at_random_moments_change_nothing(
    runner: Runner, undisturbed: Path, tmp_path: Path
) -> None:
    interrupt_at_random(runner, tmp_path, seed=0, times=6)
    assert runner.run(tmp_path) == 0
    assert table_bytes(record_in(tmp_path)) == table_bytes(undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 11))
def test_many_interruptions_at_random_moments_change_nothing(
    seed: int, runner: Runner, undisturbed: Path, tmp_path: Path
) -> None:
    interrupt_at_random(runner, tmp_path, seed, times=12)
    assert runner.run(tmp_path) == 0
    assert table_bytes(record_in(tmp_path)) == table_bytes(undisturbed)


def test_a_disk_that_fills_up_loses_nothing(
    runner: Runner, undisturbed: Path, tmp_path: Path
) -> None:
    """Every batch can be written and is kept; there is no room for the whole table."""
    largest = (undisturbed / "lens.parquet").stat().st_size - 1
    assert runner.run(tmp_path, largest_file=largest) == 1
    message = (tmp_path / "failed.txt").read_text()
    assert "File too large" in message
    assert "kept" in message
    assert n_parts(tmp_path) == N_PARTS
    assert not list(tmp_path.glob("*/.*.part"))
    assert runner.run(tmp_path) == 0
    record = record_in(tmp_path)
    assert manifest(record)["resumed_batches"] == N_PARTS
    assert table_bytes(record) == table_bytes(undisturbed)


def test_two_processes_on_one_run_folder(
    runner: Runner, undisturbed: Path, tmp_path: Path, small_analysis: Path
) -> None:
    """The second one is refused at once; the first one is not disturbed."""
    second: list[Outcome] = []

    def meanwhile() -> bool:
        if has_parts(tmp_path, 1)():
            assert not is_complete(tmp_path)
            second.append(run(read_analysis(small_analysis), tmp_path))
        return bool(second)

    runner.run(tmp_path, signal.SIGCONT, meanwhile)  # a signal that does nothing to a process
    (error,) = second[0].failed.values()
    assert isinstance(error, RecordsError)
    assert "another process" in str(error)
    assert "--out" in str(error)
    assert table_bytes(record_in(tmp_path)) == table_bytes(undisturbed)


@pytest.mark.slow
def test_the_command_line_is_interrupted_and_goes_on(
    small_analysis: Path, undisturbed: Path, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "lensbench.cli", "run", str(small_analysis)]
    command += ["--out", str(tmp_path)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=ONE_THREAD) as first:
        wait_until(has_parts(tmp_path, 2))
        first.send_signal(signal.SIGINT)
        _, message = first.communicate()
    assert first.returncode == 130
    assert "Run the same command again" in message
    assert "Traceback" not in message
    assert manifest(record_in(tmp_path))["status"] == "running"
    second = subprocess.run(command, capture_output=True, text=True, env=ONE_THREAD, check=False)
    assert second.returncode == 0, second.stderr
    assert manifest(record_in(tmp_path))["resumed_batches"] >= 2
    assert table_bytes(record_in(tmp_path)) == table_bytes(undisturbed)
    assert "report.html" in second.stdout
