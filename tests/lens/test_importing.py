"""Records of other tools: read as they are, held to the schema, and never called checked."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy import stats
from scipy.special import log_softmax

import lensbench as lb
from lensbench.compare.diff.record import run_diff
from lensbench.errors import InputProblems, LensbenchError, RecordsError
from lensbench.records.lens.record import LensRecord
from lensbench.records.schema.lens import LENS
from lensbench.records.validation.told import read_told, schema_json
from lensbench.report.build import record_files
from lensbench.report.lens.section import lens as lens_section
from lensbench.report.section import Reported
from tests.harness.families import distinct_families
from tests.harness.files import write_manifest
from tests.harness.lens_records import Settings, write_record
from tests.harness.tiny import Case

ROOT = Path(__file__).parents[2]
N_LAYERS, D_VOCAB, N_TOKENS = 3, 40, 5
READ = ("entropy_bits", "kl_bits", "answer_rank", "answer_prob", "top_ids")
FINAL = {"norm": "final", "fitted": False, "soft_cap": True, "kl": "model_lens", "output": True}


def about(**changes: Any) -> dict[str, Any]:
    """A manifest as somebody else writes it."""
    return {
        "model": {"name": "theirs", "n_layers": N_LAYERS, "d_vocab": D_VOCAB},
        "lenses": {"final": dict(FINAL)},
        "measured": {"tool": "their-tool", "version": "2.1", "by": "A. Person"},
    } | changes


# --- tuned-lens ---------------------------------------------------------------------------------


@pytest.fixture
def trajectories(tmp_path: Path) -> Path:
    """Three sequences as PredictionTrajectory has them, saved as plain arrays."""
    rng = np.random.default_rng(0)
    for i in range(3):
        logits = 3 * rng.normal(size=(N_LAYERS + 1, N_TOKENS, D_VOCAB))
        np.savez(
            tmp_path / f"p{i}.npz",
            log_probs=log_softmax(logits, -1).astype(np.float32),
            input_ids=rng.integers(0, D_VOCAB, N_TOKENS),
            targets=rng.integers(0, D_VOCAB, N_TOKENS),
        )
    return tmp_path


def test_a_trajectory_is_read_as_scipy_and_sorting_say(trajectories: Path, tmp_path: Path) -> None:
    told = about(lenses={"tuned": FINAL | {"fitted": True}})
    record = lb.import_records(
        trajectories, "tuned-lens", manifest=told, decode=lambda i: f" t{i}", out=tmp_path / "out"
    )
    assert record
    rows = record.at_last(list(READ)).set_index(["prompt_id", "layer"])
    assert len(rows) == 3 * (N_LAYERS + 1)
    for i in range(3):
        arrays = np.load(trajectories / f"p{i}.npz")
        answer = int(arrays["targets"][-1])
        probs = np.exp(arrays["log_probs"][:, -1].astype(float))
        for layer, own in enumerate(probs):
            row = rows.loc[(f"p{i}", layer)]
            assert row["entropy_bits"] == pytest.approx(stats.entropy(own, base=2), abs=1e-5)
            expected = stats.entropy(probs[-1], own, base=2)
            assert row["kl_bits"] == pytest.approx(expected, abs=1e-5)
            assert row["answer_rank"] == list(np.argsort(-own)).index(answer) + 1
            assert row["answer_prob"] == pytest.approx(own[answer], rel=1e-5)
            assert row["top_ids"].tolist() == np.argsort(-own)[:5].tolist()
        top1 = record.milestones.set_index("prompt_id").at[f"p{i}", "top1_correct"]
        assert top1 == (probs[-1].argmax() == answer)
    assert (record.prompts["token_ids"].map(len) == N_TOKENS).all()


def test_who_measured_and_who_imported_are_kept_apart(trajectories: Path, tmp_path: Path) -> None:
    told = about(lenses={"tuned": FINAL | {"fitted": True, "soft_cap": None}})
    decode: Callable[[int], str] = lambda i: f" t{i}"  # noqa: E731
    out = tmp_path / "run" / "out"
    record = lb.import_records(trajectories, "tuned-lens", manifest=told, decode=decode, out=out)
    assert record and record.imported
    assert record.manifest["measured"] == told["measured"]
    assert record.manifest["lensbench_version"] == lb.__version__
    assert not {"torch", "transformers"} & set(record.manifest["versions"])
    (check,) = record.manifest["gate"]
    assert (check["state"], check["passed"]) == ("imported", None)
    one = Reported(record, "theirs", "", lens_section(record, "theirs"))
    text = dict(record_files(one))["report.md"].decode()
    assert "measured with their-tool 2.1" in text.lower()
    assert "lensbench has not checked" in text
    assert "imported: not checked" in text
    assert "had to reproduce the model" not in text
    assert "a fitted map, then the model's own final norm" in text


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"log_probs": lambda a: a + 1}, "do not sum to 1"),
        ({"log_probs": lambda a: a[1:]}, "3 rows of log_probs, but n_layers is 3"),
        ({"input_ids": lambda a: a[1:]}, "do not fit"),
        ({"input_ids": None}, "no array input_ids"),
        ({"log_probs": lambda a: a.astype(object)}, "no .npz of plain arrays"),
    ],
)
def test_a_trajectory_that_is_none_is_named(
    trajectories: Path, change: dict[str, Any], said: str
) -> None:
    path = trajectories / "p1.npz"
    arrays = dict(np.load(path))
    for name, make in change.items():
        arrays = {k: make(v) if k == name and make else v for k, v in arrays.items()}
        arrays = {k: v for k, v in arrays.items() if make or k != name}
    np.savez(path, **arrays)
    with pytest.raises(InputProblems, match=said) as caught:
        lb.import_records(trajectories, "tuned-lens", manifest=about())
    assert "p1" in str(caught.value)
    assert "p0" not in str(caught.value)


# --- TransformerLens ----------------------------------------------------------------------------


@distinct_families
@pytest.mark.parametrize("how", ["whole", "targets", "top_k"])
def test_transformer_lens_own_logit_lens_is_what_hugging_face_says(
    family: Case, how: str, tmp_path: Path
) -> None:
    """Their result on a tiny model of each family: the last layer is Hugging Face's own output."""
    import torch
    from transformer_lens.tools.analysis import logit_lens

    ids = family.token_ids[0]
    with torch.no_grad():
        output = family.hf(torch.tensor([ids])).logits[0, -1].double().log_softmax(-1)
    answer = int(output.argsort(descending=True)[2])
    options: dict[str, Any] = {"return_type": "log_probs"}
    options |= {"whole": {}, "targets": {"targets": answer}, "top_k": {"top_k": 5}}[how]
    result = logit_lens(family.model.bridge, torch.tensor([ids]), **options)
    prompts = tmp_path / "prompts.csv"
    prompts.write_text(f"prompt_id,prompt,answer,answer_id\np,hello,x,{answer}\n")
    n = family.model.n_layers
    told = about(model={"name": "tl", "n_layers": n, "d_vocab": family.model.d_vocab})
    if how != "whole":  # without a distribution there is no KL
        told["lenses"] = {"final": FINAL | {"kl": None}}
    record = lb.import_records(
        {"p": result}, "transformer-lens", manifest=told, prompts=prompts, out=tmp_path / "out"
    )
    assert record
    rows = record.at_last(list(READ)).set_index("layer")
    assert list(rows.index) == list(range(n + 1))
    last = rows.loc[n]
    entropy = float(-(output.exp() * output).sum() / np.log(2))
    assert last["entropy_bits"] == pytest.approx(entropy, abs=1e-3)
    if how != "top_k":
        assert last["answer_rank"] == 3
        assert last["answer_prob"] == pytest.approx(float(output[answer].exp()), rel=1e-3)
        assert record.milestones["top1_correct"].tolist() == [False]
    else:
        assert rows["answer_rank"].isna().all()
        assert record.milestones["rank1_first_reason"].tolist() == ["not measured"]
    if how != "targets":
        assert last["top_ids"].tolist() == output.argsort(descending=True)[:5].tolist()
    assert rows["kl_bits"].isna().all() == (how != "whole")


# --- CSV and lensbench's own format -------------------------------------------------------------


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A record in lensbench's format, with the manifest of somebody else."""
    folder = tmp_path_factory.mktemp("own")
    settings = Settings(
        model="theirs", n_layers=N_LAYERS, relations=2, per_relation=3, lenses=("final",),
        heatmap_prompts=0,
    )  # fmt: skip
    write_record(folder, settings)
    (folder / "milestones.parquet").unlink()
    lens = pq.read_table(folder / "lens.parquet").to_pandas()
    lens["top_probs"] = None  # the harness draws them apart from the answer's probability
    pq.write_table(pa.Table.from_pandas(lens, preserve_index=False), folder / "lens.parquet")
    told = about(model={"name": "theirs", "n_layers": N_LAYERS, "d_vocab": 8000})
    (folder / "manifest.json").write_text(json.dumps(told))
    return folder


def copied(own: Path, to: Path) -> Path:
    to.mkdir(parents=True, exist_ok=True)
    for path in own.iterdir():
        if path.is_file():
            (to / path.name).write_bytes(path.read_bytes())
    return to


def same(a: LensRecord, folder: Path) -> None:
    theirs = pq.read_table(folder / "lens.parquet").to_pandas()
    numbers = ["layer", "depth", "entropy_bits", "kl_bits", "answer_prob", "answer_rank"]
    pd.testing.assert_frame_equal(
        a.table("lens")[["prompt_id", "site", *numbers]],
        theirs[["prompt_id", "site", *numbers]],
        check_dtype=False,
        rtol=1e-6,
    )


def test_a_record_written_straight_is_taken_and_gets_its_milestones(
    own: Path, tmp_path: Path
) -> None:
    record = lb.import_records(own, out=tmp_path / "out")
    assert record
    same(record, own)
    rows = record.at_last(list(READ)).sort_values("layer")
    for prompt, row in record.milestones.set_index("prompt_id").iterrows():
        ranks = rows.loc[rows["prompt_id"] == prompt, "answer_rank"].tolist()
        first = next((i for i, rank in enumerate(ranks) if rank == 1), None)
        assert (None if pd.isna(row["rank1_first_layer"]) else row["rank1_first_layer"]) == first
    with pytest.raises(RecordsError, match="holds a record already"):
        lb.import_records(own, out=tmp_path / "out")


def test_a_folder_in_use_is_left_alone(own: Path, tmp_path: Path) -> None:
    used = tmp_path / "used"
    used.mkdir()
    (used / "lens.parquet").write_bytes(b"mine")
    for source in (own, tmp_path / "nothing"):  # said before anything is read
        with pytest.raises(RecordsError, match=r"used holds lens\.parquet and no lens record"):
            lb.import_records(source, out=used)
    assert [path.name for path in used.iterdir()] == ["lens.parquet"]
    assert (used / "lens.parquet").read_bytes() == b"mine"


def test_a_plain_csv_says_the_same(own: Path, tmp_path: Path) -> None:
    """Layers, positions, depths and sites that are not written are filled in."""
    lens = pq.read_table(own / "lens.parquet").to_pandas()
    prompts = pq.read_table(own / "prompts.parquet").to_pandas()
    names = ["prompt_id", "layer", "entropy_bits", "kl_bits", "answer_prob", "answer_rank"]
    plain = lens[names].merge(prompts[["prompt_id", "prompt", "answer", "relation"]])
    plain.to_csv(tmp_path / "lens.csv", index=False)
    told = json.loads((own / "manifest.json").read_text())
    record = lb.import_records(tmp_path / "lens.csv", "csv", manifest=told, out=tmp_path / "out")
    assert record
    same(record, own)
    assert record.table("lens")["is_last"].all()
    assert record.prompts["token_ids"].isna().all()
    assert record.milestones["copy_first_reason"].eq("not measured").all()


# --- what is wrong ------------------------------------------------------------------------------


def cell(column: str, value: Any, row: int = 7) -> Callable[[pd.DataFrame], pd.DataFrame]:
    def change(frame: pd.DataFrame) -> pd.DataFrame:
        frame = frame.astype({column: object})
        frame.at[row, column] = value
        return frame

    return change


WRONG = {
    "probability": (cell("answer_prob", 1.7), "row 7: answer_prob is above 1"),
    "percent": (lambda f: f.assign(answer_prob=f["answer_prob"] * 100), "answer_prob is above 1"),
    "rank from 0": (cell("answer_rank", 0), "row 7: answer_rank is below 1"),
    "negative": (cell("entropy_bits", -1.0), "row 7: entropy_bits is below 0"),
    "infinite": (cell("kl_bits", float("inf")), "row 7: kl_bits is no finite number"),
    "text": (cell("layer", "three"), "row 7: layer is no whole number"),
    "layer": (cell("layer", 9), "layer is above n_layers"),
    "depth": (cell("depth", 0.9), "row 7: depth is not layer / n_layers"),
    "site": (cell("site", "mlp_out"), "row 7: no such site"),
    "lens": (cell("lens", "other"), "a lens that the manifest does not name"),
    "twice": (lambda f: pd.concat([f, f.iloc[[3]]], ignore_index=True), "stands above"),
    "missing": (lambda f: f.drop(index=[2]).reset_index(drop=True), "no row at layer 2"),
    "stranger": (cell("prompt_id", "nobody"), "no such prompt_id"),
    "vocabulary": (cell("answer_rank", 50000), "answer_rank is above d_vocab"),
    "guess": (cell("answer_guess_rank", 50000), "answer_guess_rank is above d_vocab"),
    "nats": (lambda f: f.assign(entropy_bits=13.5), "entropy_bits is above log2 of d_vocab"),
    "output": (lambda f: f.assign(kl_bits=2.0), "said to be the model's output"),
    "column": (lambda f: f.drop(columns=["layer"]), "no column layer"),
    "null": (cell("prompt_id", None), "row 7: prompt_id is missing"),
    "no rows": (lambda f: f.iloc[:0], "there are no rows"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_named_by_file_and_row(name: str, own: Path, tmp_path: Path) -> None:
    change, said = WRONG[name]
    folder = copied(own, tmp_path / "theirs")
    frame = change(pq.read_table(own / "lens.parquet").to_pandas())
    mixed = frame.map(lambda v: v if isinstance(v, str) else None) if name == "text" else frame
    del mixed
    if name == "text":  # a column of a file has one type
        frame = frame.astype({"layer": str})
    pq.write_table(pa.Table.from_pandas(frame, preserve_index=False), folder / "lens.parquet")
    with pytest.raises(InputProblems) as caught:
        lb.import_records(folder, out=tmp_path / "out")
    expected = said.replace("row 7: layer", "layer") if name == "text" else said
    assert expected in str(caught.value)
    assert "lens.parquet" in str(caught.value)
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_everything_that_is_wrong_is_said_at_once(own: Path, tmp_path: Path) -> None:
    folder = copied(own, tmp_path / "theirs")
    frame = pq.read_table(own / "lens.parquet").to_pandas()
    for column, value in (("answer_prob", 2.0), ("entropy_bits", -3.0), ("site", "x")):
        frame = cell(column, value)(frame)
    pq.write_table(pa.Table.from_pandas(frame, preserve_index=False), folder / "lens.parquet")
    prompts = pq.read_table(own / "prompts.parquet").to_pandas()
    prompts = pd.concat([prompts, prompts.iloc[[0]]])
    pq.write_table(pa.Table.from_pandas(prompts, preserve_index=False), folder / "prompts.parquet")
    with pytest.raises(InputProblems) as caught:
        lb.import_records(folder)
    for said in ("above 1", "below 0", "no such site", "the prompt_id stands twice"):
        assert said in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model": {"name": "x"}}, "model.n_layers"),
        ({"measured": {}}, "measured.tool"),
        ({"lenses": {}}, "lenses"),
        ({"lenses": {"final": {"norm": "own"}}}, "lenses.final.norm"),
        ({"lenses": {"final": {"kl": "lens_model"}}}, "lenses.final.kl"),
        ({"settings": {"lenses": ["raw"]}}, "names raw, which `lenses` does not describe"),
    ],
)
def test_a_manifest_that_does_not_say_enough_is_refused(
    changes: dict[str, Any], said: str, own: Path
) -> None:
    with pytest.raises(LensbenchError, match=said):
        lb.import_records(own, manifest=about(**changes))
    if "names raw" not in said:
        errors = list(
            jsonschema.Draft202012Validator(json.loads(schema_json())).iter_errors(about(**changes))
        )
        assert errors


def test_a_manifest_that_is_not_there_is_said_to_be_missing(tmp_path: Path) -> None:
    with pytest.raises(InputProblems, match=r"there is no such file.* --manifest") as caught:
        read_told(tmp_path / "manifest.json")
    assert "Errno" not in str(caught.value)


def test_a_kl_without_a_direction_is_refused(own: Path) -> None:
    told = about(
        model={"name": "theirs", "n_layers": N_LAYERS}, lenses={"final": FINAL | {"kl": None}}
    )
    with pytest.raises(InputProblems, match="has no direction"):
        lb.import_records(own, manifest=told)


def test_half_of_the_milestones_missing_is_noticed(own: Path, tmp_path: Path) -> None:
    """By the import of somebody's tables, and by the report of a finished record."""
    record = lb.import_records(own, out=tmp_path / "run" / "out")
    assert record
    rows = pq.read_table(record.folder / "milestones.parquet")
    half = rows.slice(0, len(rows) // 2)
    pq.write_table(half, record.folder / "milestones.parquet")
    write_manifest(record.folder, record.manifest)
    with pytest.raises(InputProblems, match="rows are missing"):
        lb.build_report([record.folder])
    folder = copied(own, tmp_path / "theirs")
    pq.write_table(half, folder / "milestones.parquet")
    with pytest.raises(InputProblems, match="rows are missing"):
        lb.import_records(folder)


def test_columns_that_are_not_of_the_schema_are_left_out_and_said(
    own: Path, tmp_path: Path
) -> None:
    folder = copied(own, tmp_path / "theirs")
    frame = pq.read_table(own / "lens.parquet").to_pandas().assign(entropy_nats=1.0)
    pq.write_table(pa.Table.from_pandas(frame, preserve_index=False), folder / "lens.parquet")
    record = lb.import_records(folder, out=tmp_path / "out")
    assert record
    assert ["entropy_nats" in problem.what for problem in record.problems] == [True]
    assert list(record.table("lens")) == LENS.names


def test_the_committed_json_schema_is_todays() -> None:
    committed = ROOT / "reports" / "import-manifest.schema.json"
    assert committed.read_text(encoding="utf-8") == schema_json()
    jsonschema.Draft202012Validator(json.loads(schema_json())).validate(about())


def test_a_diff_with_a_record_of_another_tool_is_refused(own: Path, tmp_path: Path) -> None:
    folders = [tmp_path / name for name in "ab"]
    for folder in folders:
        lb.import_records(own, out=folder)
    with pytest.raises(InputProblems, match="measured by another tool"):
        run_diff(*folders, tmp_path / "diff")


def test_the_verb_checks_imports_and_lists(lensbench: Any, own: Path, tmp_path: Path) -> None:
    done = lensbench("import", str(own))
    assert (done.status, "sound" in done.out) == (0, True)
    out = tmp_path / "run" / "theirs"
    done = lensbench("import", str(own), "-o", str(out))
    assert (done.status, "imported to" in done.out) == (0, True)
    done = lensbench("import", str(tmp_path / "nothing"))
    assert done.status == 2
    assert "no such file or folder" in done.err
