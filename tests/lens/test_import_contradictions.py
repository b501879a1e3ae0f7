"""Numbers of other tools that cannot all be true are refused; those of real distributions are not.

Every number here is of a distribution that is drawn, by scipy and sorting.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy import stats

import lensbench as lb
from lensbench.errors import InputProblems
from lensbench.records.schema.declare import Table
from lensbench.records.schema.lens import LENS, PROMPTS
from lensbench.report.build import build_report
from lensbench.report.kit.figures import token_map
from lensbench.report.kit.views import Tokens
from lensbench.report.lens.section import lens as lens_section
from lensbench.report.lens.shown import cells_of

N_LAYERS, D_VOCAB, TOP_K = 3, 50, 5
FINAL = {"norm": "final", "fitted": False, "kl": "model_lens", "output": True}
ABOUT: dict[str, Any] = {
    "model": {"name": "theirs", "n_layers": N_LAYERS, "d_vocab": D_VOCAB},
    "lenses": {"final": FINAL},
    "measured": {"tool": "their-tool"},
}
Frames = tuple[pd.DataFrame, pd.DataFrame]


def readings(prompts: int = 6, positions: int = 3, first_layer: int = 0) -> Frames:
    """The tables of a record whose every distribution was drawn."""
    rng = np.random.default_rng(0)
    asked, rows = [], []
    for p in range(prompts):
        tokens = rng.integers(0, D_VOCAB, positions).tolist()
        answer = int(rng.integers(D_VOCAB))
        asked.append(
            {"prompt_id": f"p{p}", "prompt": f"asks {p}", "relation": f"r{p % 2}"}
            | {"answer": f"word {answer}", "answer_id": answer, "token_ids": tokens}
            | {"category": "kind", "category_id": 7}
        )
        for layer in range(first_layer, N_LAYERS + 1):
            for position in range(positions):
                own = rng.dirichlet(np.full(D_VOCAB, 0.2))
                best = np.argsort(-own)
                rank = {int(token): place for place, token in enumerate(best, 1)}
                rows.append(
                    {"prompt_id": f"p{p}", "layer": layer, "position": position}
                    | {"entropy_bits": stats.entropy(own, base=2), "answer_id": answer}
                    | {"kl_bits": 0.0 if layer == N_LAYERS else 2.0}
                    | {"answer_prob": own[answer], "answer_rank": rank[answer]}
                    | {"category_rank": rank[7], "top_ids": best[:TOP_K].tolist()}
                    | {"top_probs": own[best[:TOP_K]].tolist()}
                    | {"top_tokens": [f"t{token}" for token in best[:TOP_K]]}
                )
    return pd.DataFrame(asked), pd.DataFrame(rows)


def written(folder: Path, frames: Frames) -> Path:
    folder.mkdir()
    for frame, table in zip(frames, (PROMPTS, LENS), strict=True):
        pq.write_table(as_table(frame, table), folder / f"{table.name}.parquet")
    return folder


def as_table(frame: pd.DataFrame, table: Table) -> pa.Table:
    fields = [pa.field(c.name, c.type) for c in table.columns if c.name in frame]
    columns = [pa.array(frame[f.name].tolist(), f.type, from_pandas=True) for f in fields]
    return pa.table(columns, schema=pa.schema(fields))


def imported(folder: Path, frames: Frames) -> lb.LensRecord:
    record = lb.import_records(written(folder / "theirs", frames), manifest=ABOUT, out=folder / "m")
    assert record
    return record


Change = Callable[[pd.DataFrame, pd.DataFrame], Frames]


def lens_cells(**values: Any) -> Change:
    """The first prompt's rows with other values."""

    def change(prompts: pd.DataFrame, lens: pd.DataFrame) -> Frames:
        own = lens["prompt_id"] == "p0"
        return prompts, lens.assign(
            **{
                name: [value if mine else old for mine, old in zip(own, lens[name], strict=True)]
                for name, value in values.items()
            }
        )

    return change


def prompt_cells(**values: Any) -> Change:
    def change(prompts: pd.DataFrame, lens: pd.DataFrame) -> Frames:
        prompts = prompts.astype(dict.fromkeys(values, object))
        for name, value in values.items():
            prompts.at[0, name] = value
        return prompts, lens

    return change


WRONG: dict[str, tuple[Change, str]] = {
    "nats": (
        lambda p, f: (p, f.assign(entropy_bits=f["entropy_bits"] * np.log(2))),
        "entropy_bits is not that of a distribution",
    ),
    "only of the best": (
        lambda p, f: (
            p,
            f.assign(entropy_bits=[stats.entropy(c, base=2) for c in f["top_probs"]]),
        ),
        "entropy_bits is not that of a distribution",
    ),
    "ranks from 0, the first left out": (
        lambda p, f: (p, f.assign(answer_rank=(f["answer_rank"] - 1).clip(lower=1))),
        "answer_rank is not the answer's place in top_ids",
    ),
    "worst first": (
        lambda p, f: (p, f.assign(top_ids=f["top_ids"].map(lambda c: c[::-1]))),
        "answer_rank is not the answer's place in top_ids",
    ),
    "another answer": (lens_cells(answer_id=3), "answer_id is another than the prompt's"),
    "no answer": (prompt_cells(answer=None, answer_id=None), "its prompt has none"),
    "an answer without letters": (prompt_cells(answer="", answer_id=None), "its prompt has none"),
    "no category": (prompt_cells(category=None, category_id=None), "its prompt has no category"),
    "no relation": (prompt_cells(relation=""), "relation is missing"),
    "an empty list": (lens_cells(top_ids=[]), "top_ids is no list"),
    "a hole in a list": (lens_cells(top_ids=[1, None, 3, 4, 5]), "top_ids is no list"),
}


@pytest.mark.parametrize("name", WRONG)
def test_numbers_that_cannot_all_be_true_are_refused(name: str, tmp_path: Path) -> None:
    change, said = WRONG[name]
    theirs = written(tmp_path / "theirs", change(*readings()))
    with pytest.raises(InputProblems) as caught:
        lb.import_records(theirs, manifest=ABOUT)
    assert said in str(caught.value)


def test_a_last_position_beside_an_unknown_one_is_refused(tmp_path: Path) -> None:
    prompts, lens = readings()
    again = lens[lens["position"] == 2].assign(position=None)
    theirs = written(tmp_path / "theirs", (prompts, pd.concat([lens, again])))
    with pytest.raises(InputProblems, match="is_last is true at more than one position"):
        lb.import_records(theirs, manifest=ABOUT)


def test_a_lens_named_twice_is_refused(tmp_path: Path) -> None:
    theirs = written(tmp_path / "theirs", readings())
    told = ABOUT | {"settings": {"lenses": ["final", "final"]}}
    with pytest.raises(InputProblems, match="names final more than once"):
        lb.import_records(theirs, manifest=told)


@pytest.mark.parametrize("decimals", [3, 16])
def test_true_numbers_are_taken_rounded_and_with_ties(tmp_path: Path, decimals: int) -> None:
    """Also with the answer among tokens of one probability, in whatever order these are listed."""
    prompts, lens = readings()
    lens["top_probs"] = lens["top_probs"].map(lambda c: np.round(c, decimals).tolist())
    lens["entropy_bits"] = lens["entropy_bits"].round(decimals)
    lens["answer_prob"] = lens["answer_prob"].round(decimals)
    best = lens["answer_rank"].eq(2)
    assert best.any()
    for row in lens.index[best]:  # the first two tie: the answer, listed second, has rank 1 too
        half = sum(lens.at[row, "top_probs"][:2]) / 2
        lens.at[row, "top_probs"] = [half, half, *lens.at[row, "top_probs"][2:]]
        lens.at[row, "answer_prob"] = half
        lens.at[row, "entropy_bits"] = np.nan
    lens.loc[best, "answer_rank"] = 1
    lens["answer_ties"] = np.where(best, 1, 0)
    imported(tmp_path, (prompts, lens))


# --- heat maps ----------------------------------------------------------------------------------


def test_a_layer_read_at_the_last_position_only_stays_there(tmp_path: Path) -> None:
    prompts, lens = readings()
    kept = lens[(lens["layer"] != 2) | (lens["position"] == 2)]
    record = imported(tmp_path, (prompts, kept))
    rows = record.table("lens")
    cells = cells_of(rows[rows["prompt_id"] == "p0"])
    assert [list(map(len, row)) for row in cells.top] == [[5, 5, 5]] * 2 + [[0, 0, 5], [5, 5, 5]]
    own = lens[(lens["prompt_id"] == "p0") & (lens["layer"] == 2) & (lens["position"] == 2)]
    assert list(cells.top[2][2]) == own["top_tokens"].iloc[0]
    assert build_report([record.folder], tmp_path / "report")


def test_rows_of_a_map_are_named_by_their_layers(tmp_path: Path) -> None:
    """Without the embedding the lowest row is layer 1."""
    record = imported(tmp_path, readings(first_layer=1))
    rows = record.table("lens")
    figure = token_map(Tokens(cells_of(rows[rows["prompt_id"] == "p0"]), {}))
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["1", "2", "3"]


def test_an_answer_behind_ties_has_no_frame(tmp_path: Path) -> None:
    prompts, lens = readings()
    first = lens["answer_rank"].eq(1)
    assert first.any()
    lens["answer_ties"] = np.where(first, 1, 0)
    rows = imported(tmp_path, (prompts, lens)).table("lens")
    for item, own in rows.groupby("prompt_id"):
        grid = lens[lens["prompt_id"] == item].set_index(["layer", "position"])["answer_rank"]
        wanted = [[2 if grid[k, at] == 1 else grid[k, at] for at in range(3)] for k in range(4)]
        assert cells_of(own).rank == wanted


def test_prompts_without_answers_or_top_tokens_have_a_report(tmp_path: Path) -> None:
    prompts, lens = readings()
    nothing = {"answer": None, "answer_id": None}
    none = {"answer_rank": None, "answer_prob": None, "answer_id": None}
    tops = {"top_ids": None, "top_probs": None, "top_tokens": None}
    record = imported(tmp_path, (prompts.assign(**nothing), lens.assign(**none, **tops)))
    build_report([record.folder], tmp_path / "report")
    text = (tmp_path / "report" / "theirs" / "report.md").read_text()
    assert "What the model says: not measured." in text


# --- a plain CSV --------------------------------------------------------------------------------

ROW = "p0,asks,1,0.5"
HEADER = "prompt_id,prompt,layer,kl_bits"


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "the column(s) prompt_id are missing"),
        (HEADER.encode(), "there are no rows"),
        (f"{HEADER}\n{ROW}\n".replace(",", ";").encode(), "separated by semicolons"),
        (f"{HEADER}\n{ROW}\n".replace(",", "\t").encode(), "separated by tabs"),
        (f"{HEADER},layer\n{ROW},2\n".encode(), "the column(s) layer stand twice"),
        (f"{HEADER}\n{ROW},2\n".encode(), "row 2: it has 5 cells, the header 4"),
        (f"{HEADER}\n{ROW}\n".encode("utf-16"), "it is UTF-16"),
        (f"{HEADER}\np0,caf\xe9,1,0.5\n".encode("latin-1"), "line 2 is not UTF-8"),
        (f'{HEADER}\np0,"asks,1,0.5\n'.encode(), "it is not CSV from here on"),
    ],
)
def test_a_plain_csv_is_read_as_every_other_is(data: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / "lens.csv").write_bytes(data)
    with pytest.raises(InputProblems) as caught:
        lb.import_records(tmp_path / "lens.csv", "csv", manifest=ABOUT)
    assert said in str(caught.value)


# --- relations ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("relation", "said"), [("prompt", ""), ("one", " in 1 relations")])
def test_prompts_without_relations_are_not_said_to_be_of_one(
    tmp_path: Path, relation: str, said: str
) -> None:
    """Each then stands for itself: an interval over six prompts, and none over one relation."""
    prompts, lens = readings()
    record = imported(tmp_path, (prompts.assign(relation=relation), lens))
    section = lens_section(record, "theirs")
    assert f"Over 6 base prompts{said} its top-1 accuracy" in section.text
    assert any("Few relations" in line for line in section.limitations) == bool(said)
    accuracy = section.tables["coverage"].row(prompts="base")["top1_accuracy"]
    assert (accuracy.low is None) == bool(said)
