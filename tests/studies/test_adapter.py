"""An adapter study from its declaration to its reports, on a tiny model."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from lensbench.quantized.data.pairs import Pair
from lensbench.quantized.data.shipped import general_pairs
from lensbench.quantized.rag.index import open_index
from lensbench.studies.adapter import run
from lensbench.studies.specs.adapter import AdapterSpec
from lensbench.studies.stages.pairs import shuffled
from tests.harness.program import Program
from tests.harness.tiny import TINY, save

CITIES = ("Berlin", "Paris", "Rome", "Oslo", "Madrid", "Vienna", "Prague", "Lisbon")


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny model, 64 pairs in 32 groups and the analysis that names both."""
    folder = tmp_path_factory.mktemp("study") / "tiny"
    save(TINY["llama"], folder / "model", {"max_position_embeddings": 512})
    rows = [
        {
            "id": f"{city}-{number}-{kind}",
            "instruction": f"{kind} of {city} street {number}?",
            "response": f"{city} {number * 7}",
            "group": f"{city}-{number}",
        }
        for city in CITIES
        for number in range(4)
        for kind in ("length", "colour")
    ]
    (folder / "data.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    (folder / "analysis.toml").write_text(
        'kind = "adapter"\n'
        f'model = "{folder / "model"}"\n'
        'data = ["data.jsonl"]\ntest_limit = 4\nbits = 32\nblocks = "1-2"\ncache_prefix = true\n'
        "epochs = 1\nmax_new_tokens = 4\n"
    )
    return folder


def ids_of(path: Path) -> dict[str, str]:
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return {row["id"]: row["group"] for row in rows}


@pytest.mark.slow
def test_a_study_runs_from_one_command_and_again_at_no_cost(
    lensbench: Program, study: Path, open_folder: Path
) -> None:
    out = open_folder / "out"
    done = lensbench("run", study, "--out", out)
    assert done.status == 0, done.err
    train, asked = ids_of(out / "data" / "train.jsonl"), ids_of(out / "data" / "test.jsonl")
    assert len(asked) == 4
    assert not set(train.values()) & set(asked.values())  # whole groups are held out

    table = pq.read_table(out / "evaluation" / "evaluation.parquet").to_pandas()
    conditions = ["base", "adapter", "rag", "adapter+rag"]
    assert list(dict.fromkeys(table["condition"])) == conditions
    assert all(set(part["prompt_id"]) == set(asked) for _, part in table.groupby("condition"))

    with open_index(out / "index") as index:
        known = index.known([*train, *asked])
    assert set(train) <= known
    assert not set(asked) & known  # no asked pair can be retrieved

    report = (out / "report.md").read_text()
    assert "adapter" in report
    before = {path: path.read_bytes() for path in out.rglob("*.parquet")}
    again = lensbench("run", study, "--out", out)
    assert again.status == 0, again.err
    assert {path: path.read_bytes() for path in out.rglob("*.parquet")} == before


def test_bits_are_in_the_file_and_dtype_is_refused(
    lensbench: Program, study: Path, tmp_path: Path
) -> None:
    done = lensbench("run", study, "-o", tmp_path, "--dtype", "float32")
    assert done.status == 2
    assert "bits" in done.err


def test_an_unknown_source_stops_before_any_model_is_loaded(tmp_path: Path) -> None:
    spec = AdapterSpec("no-such-model", data=("generl",))
    with pytest.raises(Exception, match="generl"):
        run(spec, tmp_path)


def test_more_pairs_leave_the_order_of_the_others_alone() -> None:
    pairs = general_pairs()
    some = shuffled(pairs[:50], seed=1)
    every = [pair for pair in shuffled(pairs, seed=1) if pair in some]
    assert every == some
    assert some != shuffled(pairs[:50], seed=2)
    assert [pair.id for pair in shuffled([Pair("b", "q", "r")], 0)] == ["b"]
