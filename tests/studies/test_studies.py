"""Studies of activations, diffs and placement, from their declaration to their reports."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from lensbench.checkpoints.ref import model_refs
from lensbench.errors import InputProblems
from lensbench.prompts.sets import load_prompts
from lensbench.report.placement.section import differences, verdicts
from lensbench.report.placement.section import tables as placement_tables
from lensbench.studies.analysis import read_analysis
from lensbench.studies.correlation import comparisons, conditions
from lensbench.studies.placement import Study
from lensbench.studies.specs.correlation import CorrelationStudySpec
from lensbench.studies.specs.lens import RunSpec
from lensbench.studies.specs.placement import PlacementSpec
from lensbench.studies.stages.placements import (
    ALL,
    COMPLEMENT,
    PLACEMENTS,
    RANDOM,
    SUGGESTED,
    placements,
    random_block,
)
from tests.harness.facts import facts_rows
from tests.harness.files import write_csv
from tests.harness.program import Program
from tests.harness.tiny import TINY, save

ANALYSES = Path(__file__).parents[2] / "analyses"
CITIES = ("Berlin", "Paris", "Rome", "Oslo", "Madrid", "Vienna", "Prague", "Lisbon")


@pytest.fixture(scope="module")
def home(open_folder: Path) -> Path:
    """A tiny model, and prompts, documents and pairs about cities."""
    save(TINY["llama"], open_folder / "model", {"max_position_embeddings": 512})

    def write(name: str, rows: list[dict[str, str]]) -> None:
        (open_folder / name).write_text("\n".join(map(json.dumps, rows)))

    write("cities.jsonl", [{"id": c, "prompt": f"Tell me about {c}, please."} for c in CITIES])
    write("rivers.jsonl", [{"id": c, "prompt": f"Which river is near {c}?"} for c in CITIES])
    text = "{0} is a large town, and people in {0} like the river that flows through it."
    write(
        "texts.jsonl",
        [{"id": f"d-{c}", "instruction": c, "response": text.format(c)} for c in CITIES],
    )
    pairs = [
        {
            "id": f"{c}-{n}",
            "instruction": f"Street {n} of {c}?",
            "response": f"{c} {n}",
            "group": f"{c}-{n // 2}",
        }
        for c in CITIES
        for n in range(8)
    ]
    write("pairs.jsonl", pairs)
    return open_folder


def run(lensbench: Program, home: Path, name: str, text: str) -> tuple[Path, str]:
    """Run an analysis of this text; its folder of results, and what was said."""
    folder = home / name
    folder.mkdir(exist_ok=True)
    (folder / "analysis.toml").write_text(text.replace("MODEL", str(home / "model")))
    done = lensbench("run", folder, "-o", folder / "out")
    assert done.status == 0, done.err
    return folder / "out", done.out + done.err


def files(folder: Path, pattern: str = "*.parquet") -> dict[Path, tuple[bytes, int]]:
    return {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in folder.rglob(pattern)}


# --- correlation --------------------------------------------------------------------------------

CORRELATION = """
kind = "correlation"
models = ["MODEL@32", "MODEL@8"]
prompts = "../cities.jsonl"
other_prompts = "../rivers.jsonl"
documents = "../texts.jsonl"
max_new_tokens = 2
batch_size = 2
suggest_blocks = 1
resamples = 100
style = "none"
"""


@pytest.mark.slow
def test_a_correlation_study_from_its_file_to_its_reports_and_again(
    lensbench: Program, home: Path
) -> None:
    out, _ = run(lensbench, home, "002", CORRELATION)
    names = ["rivers", "cities", "cities+rag", "irrelevant", "shuffled", "rebatched"]
    for bits in (32, 8):
        traces = next((out / ".runs").glob(f"*-{bits}"))
        manifests = {
            path.parent.name: json.loads(path.read_text())
            for path in traces.glob("*/manifest.json")
        }
        assert sorted(manifests) == sorted(names)
        assert {m["model"]["bits"] for m in manifests.values()} == {bits}
        for made in manifests.values():  # `run` says its plan, and a record keeps it
            planned, took = made["planned"], made["took"]
            assert planned["least"]["n_tokens"] <= took["n_tokens"] <= planned["n_tokens"]
        lengths = {name: tokens(traces / name) for name in names}
        assert lengths["irrelevant"] == lengths["shuffled"] == lengths["cities+rag"]
        assert lengths["rebatched"] == lengths["cities"]
        assert all(lengths["cities+rag"][c] > lengths["cities"][c] for c in CITIES)
    records = sorted(path.parent.name for path in out.glob("*/manifest.json"))
    assert len(records) == 2 * 2 + 3  # two of each model, and the precision of each condition
    assert all((out / name / "report.md").exists() for name in records)
    context = next(out.glob("context-*-32"))
    assert json.loads(next(context.glob("layers-*-prompt.json")).read_text())["layers"]
    before = files(out)
    run(lensbench, home, "002", CORRELATION)
    assert files(out) == before  # nothing was traced or compared again


def tokens(trace: Path) -> dict[str, int]:
    rows = pq.read_table(trace / "responses.parquet").to_pylist()
    return {row["prompt_id"]: row["n_prompt_tokens"] for row in rows}


def test_every_condition_and_comparison_is_declared_once(home: Path, tmp_path: Path) -> None:
    model = str(home / "model")
    spec = CorrelationStudySpec((f"{model}@32", f"{model}@8", f"{model}@4"))
    assert list(conditions(spec, tmp_path)) == [
        "general",
        "python",
        "python+rag",
        "irrelevant",
        "shuffled",
        "rebatched",
    ]
    found = list(comparisons(spec, model_refs(spec.models, use="generation"), tmp_path))
    assert len(found) == len({one.out for one in found}) == 2 * 3 + 2 * 3
    context, topics, alone = found[0], found[1], found[7]
    assert topics.unpaired
    assert [run.split("=")[0] for run in topics.runs] == ["general", "python", "python+rag"]
    assert [run.split("=")[0] for run in (*context.runs, *context.controls)] == [
        "python",
        "python+rag",
        "irrelevant",
        "shuffled",
        "rebatched",
    ]
    assert context.n_blocks == 6
    # 8 bits against 32, and as control against itself in other batches
    assert "-8/" in alone.runs[0]
    assert "-32/" in alone.runs[1]
    assert [control.rpartition("/")[2] for control in alone.controls] == ["rebatched"]
    assert "-8/" in alone.controls[0]


def test_conditions_of_one_name_are_refused(home: Path, tmp_path: Path) -> None:
    (tmp_path / "shuffled.jsonl").write_text((home / "cities.jsonl").read_text())
    spec = CorrelationStudySpec(("m",), prompts=str(tmp_path / "shuffled.jsonl"))
    with pytest.raises(InputProblems, match="share a name"):
        conditions(spec, tmp_path)


# --- diff ---------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_diff_study_compares_every_variant_with_the_first(lensbench: Program, home: Path) -> None:
    text = 'kind = "diff"\nmodels = ["MODEL"]\nvariants = ["@32", "@16", "@8"]\nlimit = 6\n'
    text += f'prompts = "{write_csv(home / "facts.csv", facts_rows())}"\n'
    out, _ = run(lensbench, home, "004", text)
    assert len(list((out / ".runs").glob("*/manifest.json"))) == 3
    records = [path.parent for path in out.glob("*/manifest.json")]
    assert sorted(folder.name.rpartition("-")[2] for folder in records) == ["16", "8"]
    for folder in records:
        made = json.loads((folder / "manifest.json").read_text())
        facts, planned = made["model"], made["planned"]
        for name, n in planned["rows"].items():  # `run` says its plan, and a record keeps it
            assert len(pd.read_parquet(folder / f"{name}.parquet")) == n, name
        assert planned["wall_s"] is None
        assert planned["untimed"]
        assert "Planned no time, took " in (folder / "report.md").read_text()
        assert facts["a"]["bits"] == 32
        assert facts["b"]["bits"] in (16, 8)
        assert (folder / "report.md").exists()
    before = files(out / ".runs")
    run(lensbench, home, "004", text)
    assert files(out / ".runs") == before
    run(lensbench, home, "004", text.replace("limit = 6", "limit = 8"))  # the pilot is widened
    for folder in records:
        assert len(pd.read_parquet(folder / "diff_prompts.parquet")) == 8
    for record in (out / ".runs").glob("*/manifest.json"):
        assert len(json.loads(record.read_text())["widened"]) == 1


# --- placement ----------------------------------------------------------------------------------

PLACEMENT = """
kind = "placement"
model = "MODEL"
blocks = "1"
data = ["../pairs.jsonl"]
test_limit = 12
repetitions = 2
rank = 6
max_steps = 3
peak_learning_rate = 1e-3
"""


@pytest.mark.slow
def test_a_placement_study_trains_as_much_everywhere_and_goes_on(
    lensbench: Program, home: Path
) -> None:
    out, _ = run(lensbench, home, "005", PLACEMENT)
    rows = pd.read_parquet(out / "placement" / "placement.parquet")
    assert set(rows["placement"]) == {"base", *PLACEMENTS}
    planned = json.loads((out / "placement" / "manifest.json").read_text())["planned"]
    assert planned["rows"] == {"placement": len(rows)}
    counts = rows.groupby(["placement", "repetition"], dropna=False).size()
    assert set(counts) == {rows["prompt_id"].nunique()}
    assert len(counts) == 1 + 4 * 2
    trained = [
        json.loads(path.read_text())["adapter"]["trainable"]
        for path in (out / ".runs").glob("*/adapter/manifest.json")
    ]
    assert len(trained) == 8
    assert len(set(trained)) == 1
    held_out = {json.loads(line)["group"] for line in lines(out / ".runs" / "data" / "test.jsonl")}
    assert not held_out & {
        json.loads(line)["group"] for line in lines(out / ".runs" / "data" / "train.jsonl")
    }
    report = (out / "placement" / "report.md").read_text()
    assert len(re.findall("The suggested block is \\*\\*", report)) == 3
    before = files(out / ".runs")
    (out / ".runs" / "complement-1" / "evaluation" / "manifest.json").unlink()
    run(lensbench, home, "005", PLACEMENT)
    changed = {path for path, told in files(out / ".runs").items() if before.get(path) != told}
    assert {path.parent.parent.name for path in changed} <= {"complement-1"}


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines()


def spec_of(home: Path, **changes: Any) -> PlacementSpec:
    return PlacementSpec(**{"model": str(home / "model"), "blocks": "1", **changes})


def test_every_placement_trains_as_many_parameters(lensbench: Program, home: Path) -> None:
    """By hand: r (in + out) for q, k, v, o of the tiny Llama, 32 wide with two of four heads."""
    found = {placement.name: placement for placement in placements(spec_of(home, rank=6), 0)}
    assert {name: (placement.blocks, placement.lora.rank) for name, placement in found.items()} == {
        SUGGESTED: ((1,), 6),
        RANDOM: (found[RANDOM].blocks, 6),
        COMPLEMENT: ((0, 2), 3),
        ALL: ((0, 1, 2), 2),
    }
    assert found[RANDOM].blocks in ((0,), (2,))
    by_hand = 6 * ((32 + 32) + (32 + 16) + (32 + 16) + (32 + 32))
    assert {placement.n_trainable for placement in found.values()} == {by_hand}
    assert {placement.lora.alpha / placement.lora.rank for placement in found.values()} == {2}


@pytest.mark.parametrize(
    ("name", "train_bits", "bits"), [("@8", None, 8), ("", None, 32), ("", 4, 4), ("@8", 8, 8)]
)
def test_the_bits_of_the_base_are_what_its_name_says(
    home: Path, name: str, train_bits: int | None, bits: int
) -> None:
    spec = spec_of(home, model=f"{home / 'model'}{name}", train_bits=train_bits)
    assert Study(spec, home, home).base.bits == bits


def test_bits_said_twice_and_differently_are_refused(home: Path) -> None:
    spec = spec_of(home, model=f"{home / 'model'}@8", train_bits=32)
    with pytest.raises(InputProblems, match="bits is said twice: 8 in the name, and 32"):
        _ = Study(spec, home, home).base


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rank": 4}, "no whole rank to: all blocks. Give 6, or another multiple of 6"),
        ({"rank": 9}, "complement. Give 12, or another multiple of 6"),
        ({"blocks": "0-2"}, "nothing to compare it with"),
        ({"blocks": "7"}, "no block 7"),
    ],
)
def test_an_unequal_budget_is_refused(home: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputProblems, match=message):
        placements(spec_of(home, **changes), 0)


def test_random_blocks_are_other_ones_and_repeat_late() -> None:
    blocks = tuple(range(12, 18))
    drawn = [random_block(blocks, 30, 7, repetition) for repetition in range(24)]
    assert blocks not in drawn
    assert len(set(drawn)) == 24  # 25 places less the suggested one
    assert all(block == tuple(range(block[0], block[0] + 6)) for block in drawn)
    assert all(block[0] >= 0 and block[-1] < 30 for block in drawn)
    assert drawn[:3] != [random_block(blocks, 30, 8, repetition) for repetition in range(3)]


def made_up(shift: Callable[[int], float]) -> pd.DataFrame:
    """40 examples of 10 tokens; every placement's bits are 20 plus its shift, by repetition."""
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 1, 40)
    rows = [
        {
            "placement": name,
            "repetition": repetition,
            "blocks": [1, 2, 3],
            "rank": 4,
            "prompt_id": f"p{i}",
            "group": None,
            "reference_nll_bits": 20 + noise[i] + (shift(repetition) if name == SUGGESTED else 0),
            "n_reference_tokens": 10,
        }
        for name in PLACEMENTS
        for repetition in range(3)
        for i in range(40)
    ]
    return pd.DataFrame(rows)


def test_a_planted_difference_is_found_and_none_is_not() -> None:
    better = placement_tables(made_up(lambda repetition: -5.0))
    frame = better["differences"].frame
    assert [e.value for e in frame["difference_bits"]] == pytest.approx([-0.5] * len(frame))
    assert {word for _, word, _ in verdicts(better["differences"])} == {"better than"}
    mixed = placement_tables(made_up(lambda repetition: -5.0 if repetition else 1.0))
    assert {word for _, word, _ in verdicts(mixed["differences"])} == {"cannot be told from"}
    worse = placement_tables(made_up(lambda repetition: 2.0))
    assert {word for _, word, _ in verdicts(worse["differences"])} == {"worse than"}
    same = differences(made_up(lambda repetition: 0.0))
    assert all(e.value == e.low == e.high == 0 for e in same["difference_bits"])


# --- declarations -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "folder",
    sorted(path.parent for path in ANALYSES.glob("*/analysis.toml")),
    ids=lambda path: path.name,
)
def test_every_analysis_can_be_read_and_says_what_it_claims(folder: Path) -> None:
    spec = read_analysis(folder)
    if isinstance(spec, RunSpec):
        assert load_prompts(spec.prompts, spec.relations).prompts
    readme = (folder / "README.md").read_text(encoding="utf-8")
    for word in ("**Claim", "**Method", "**Result"):
        assert word in readme


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (
            'kind = "correlation"\nmodels = []\nlimit = 1\nspans = ["x"]',
            ["limit", "spans", "model"],
        ),
        ('kind = "diff"\nmodels = ["m"]\nvariants = ["8"]', ["variants: it is '8'", "Write @BITS"]),
        ('kind = "placement"\nmodel = "m"\nblocks = "1"\nrank = 0\nstyle = "x"', ["rank", "style"]),
        ('kind = "placement"\nmodel = "m"', ["blocks: it is missing"]),
        ('kind = "other"', ["adapter, correlation, diff, placement"]),
    ],
)
def test_everything_wrong_with_a_declaration_is_said_at_once(
    tmp_path: Path, text: str, found: list[str]
) -> None:
    (tmp_path / "analysis.toml").write_text(text)
    with pytest.raises(InputProblems) as caught:
        read_analysis(tmp_path)
    assert all(word in str(caught.value) for word in found)


def test_dtype_is_refused_where_the_file_has_bits(lensbench: Program, tmp_path: Path) -> None:
    (tmp_path / "analysis.toml").write_text('kind = "diff"\nmodels = ["m"]\n')
    done = lensbench("run", tmp_path, "--dtype", "float32")
    assert done.status == 2
    assert "bits" in done.err
