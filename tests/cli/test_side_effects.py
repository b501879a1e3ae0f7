"""No verb starts a package manager, another program, or a connection that nobody asked for."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lensbench.records.store import folder_name
from tests.harness.lens_records import Settings, write_record
from tests.harness.small_world import write_inputs
from tests.harness.tiny import TINY, Case, save

ROOT = Path(__file__).parents[2]
# Python's own look-up of a library's file name; and the database server, which was asked for with
# an index.
ALLOWED = ("['/sbin/ldconfig', '-p']", "'lensbench.quantized.rag.server'")
SERVER = ("/initdb', ", "/pg_ctl', ", "/postgres', ", "/psql', ", "/pg_config'")
PROMPTS = "id,relation,prompt,answer\n1,capital,The capital of Germany is,Berlin\n2,river,Rome,is\n"
QUICK = [
    "models",
    "pull MODEL",
    "check MODEL",
    "lens MODEL Rome",
    "infer MODEL prompts.csv -o one.csv --bits 32 --max-new-tokens 2",
]
REST = [
    "doctor MODEL",
    "lens MODEL MODEL@8 --prompts facts.csv --keep-residuals -o runs/bits",
    "report runs/bits",
    "diff runs/bits/RECORD runs/bits/RECORD-8 -o runs/diff",
    "cache MODEL --prompts facts.csv -o cache",
    "lens MODEL --cache cache -o runs/cached",
    "rag build faq.csv manual.md -o index --model EMBEDDER",
    "rag add index more.md",
    "rag info index",
    "rag query index heap",
    "rag check index labelled.csv",
    "infer MODEL prompts.csv -o plain.csv --max-new-tokens 2 --trace runs/plain",
    "infer MODEL prompts.csv -o rag.csv --max-new-tokens 2 --rag index --trace runs/rag",
    "correlate runs/plain runs/rag -o runs/moved",
    "import elsewhere -o runs/imported",
    "run analysis --out runs/analysis",
    "data to-jsonl pairs.csv -o pairs.jsonl",
    "data merge asked.csv one.csv -o merged.csv",
    "data docstrings -o docstrings.jsonl",
    "data shipped general -o general.csv",
    "data check pairs.jsonl",
    "data split pairs.jsonl -o data",
    "train MODEL pairs.jsonl -o adapter --bits 32 --epochs 1",
    "adapters show adapter",
    "adapters diff adapter adapter",
    "adapters merge MODEL adapter -o merged",
    "chat MODEL --adapter adapter --max-new-tokens 2",
    "eval MODEL --adapter adapter --data pairs.jsonl -o evaluation --max-new-tokens 2",
]


def events(place: Path, model: Path, commands: list[str]) -> list[tuple[str, str, str]]:
    """What the commands started and called; the hub is not told to be offline."""
    (place / "facts.csv").write_text(PROMPTS)
    known = {"MODEL": str(model), "RECORD": folder_name(str(model))}
    words = [[_put(word, known) for word in command.split()] for command in commands]
    done = subprocess.run(
        [sys.executable, "-m", "tests.harness.audited", str(place / "events.json")],
        cwd=place,
        env={
            **{k: v for k, v in os.environ.items() if not k.endswith("_OFFLINE")},
            "PYTHONPATH": str(ROOT),
            "LENSBENCH_CACHE": str(place / "cache-of-models"),
        },
        input=json.dumps(words),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found: list[Any] = json.loads((place / "events.json").read_text())
    failed = [event for event in found if event[1] == "exit"]
    assert failed == [], done.stderr[-4000:]
    return [tuple(event) for event in found if not any(a in event[2] for a in (*ALLOWED, *SERVER))]


def _put(word: str, known: dict[str, str]) -> str:
    """A word with the names of this run; the path of a model may hold spaces."""
    for name, value in known.items():
        word = word.replace(name, value)
    return word


def test_common_verbs_start_and_call_nothing(llama: Case, tmp_path: Path) -> None:
    write_inputs(tmp_path)
    assert events(tmp_path, llama.folder, QUICK) == []


def write_told(folder: Path) -> None:
    """A lens record as another tool writes one."""
    settings = Settings(model="theirs", n_layers=3, relations=2, per_relation=3, lenses=("final",))
    write_record(folder, replace(settings, heatmap_prompts=0))
    (folder / "milestones.parquet").unlink()
    lens = pq.read_table(folder / "lens.parquet").to_pandas().drop(columns="top_probs")
    pq.write_table(pa.Table.from_pandas(lens, preserve_index=False), folder / "lens.parquet")
    final = {"norm": "final", "fitted": False, "soft_cap": True, "kl": "model_lens", "output": True}
    told = {
        "model": {"name": "theirs", "n_layers": 3, "d_vocab": 8000},
        "lenses": {"final": final},
        "measured": {"tool": "their-tool", "version": "2.1", "by": "A. Person"},
    }
    (folder / "manifest.json").write_text(json.dumps(told))


@pytest.mark.slow
def test_no_verb_starts_or_calls_anything(bert: Any, open_folder: Path) -> None:
    write_inputs(open_folder)
    (open_folder / "more.md").write_text("# More\n\nAn ant is small.\n")
    model = save(TINY["llama3"], open_folder / "llama", {"max_position_embeddings": 2048})
    rows = [f"{i},Name the number {i},It is {i}." for i in range(30)]
    (open_folder / "pairs.csv").write_text("\n".join(["id,instruction,response", *rows]))
    asked = "".join(f"{i},Name the number {i}\n" for i in range(30))
    (open_folder / "asked.csv").write_text(f"id,prompt\n{asked}")
    (open_folder / "one.csv").write_text(
        "id,response\n" + "".join(f"{i},Yes.\n" for i in range(30))
    )
    write_told(open_folder / "elsewhere")
    (open_folder / "analysis").mkdir()
    told = f'models = "{model}"\nprompts = "{open_folder / "facts.csv"}"\n'
    (open_folder / "analysis" / "analysis.toml").write_text(told)
    (open_folder / "labelled.csv").write_text("id,question,document_id\nq,What is a heap?,f0\n")
    commands = [c.replace("EMBEDDER", bert.place) for c in REST]
    assert events(open_folder, model, commands) == []
