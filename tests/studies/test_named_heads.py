"""What an attention study makes of scores and model: nulls, names, ablations, weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import lensbench as lb
from lensbench.attention.causal.ablation import ablated, every_head, mean_outputs
from lensbench.attention.causal.direct import direct_effects
from lensbench.attention.compared.nulls import shuffled
from lensbench.attention.compared.similarity import head_similarity
from lensbench.attention.conditions import Text, seed_of
from lensbench.attention.settings import AttentionSettings
from lensbench.models.load import load_model
from lensbench.models.model import LensModel
from lensbench.models.untrained import untrained
from lensbench.progress import Progress
from lensbench.records.schema.attention import CONDITIONS, SCORES
from lensbench.studies.attention import run
from lensbench.studies.specs.attention import AttentionSpec
from tests.harness.files import table_bytes, tables, write_csv
from tests.harness.forks import Stop
from tests.harness.planted import CURRENT, FIRST, INDUCTION, N_TOKENS, PREVIOUS, save_planted

N_PROMPTS = 14
LETTERS = [chr(ord("a") + number) for number in range(1, N_TOKENS)]
PLACES = {
    PREVIOUS: "previous token",
    CURRENT: "current token",
    INDUCTION: "induction",
    FIRST: "first token",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The hand-made model on disk."""
    return save_planted(tmp_path_factory.mktemp("models") / "planted")


@pytest.fixture(scope="module")
def spec(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., AttentionSpec]:
    """Prompts of different letters; what comes next is the second letter, so that it is new."""
    rng = np.random.default_rng(0)
    words = [list(rng.permutation(LETTERS)) for _ in range(N_PROMPTS)]
    rows = [
        {"id": f"p{i}", "prompt": " ".join(own[:12]), "answer": own[12]}
        for i, own in enumerate(words)
    ]
    path = write_csv(tmp_path_factory.mktemp("prompts") / "letters.csv", rows)

    def make(**changes: Any) -> AttentionSpec:
        settings = {
            "models": (str(folder),),
            "prompts": str(path),
            "repeat_tokens": 9,
            "n_repeated": 14,
            "ablate": 12,
            "batch_tokens": 64,
        }
        return AttentionSpec(**(settings | changes))

    return make


@pytest.fixture(scope="module")
def record(spec: Callable[..., AttentionSpec], tmp_path_factory: pytest.TempPathFactory) -> Path:
    outcome = run(spec(), tmp_path_factory.mktemp("out"))
    assert outcome.ok, outcome
    return outcome.folder


@pytest.fixture(scope="module")
def model(folder: Path) -> LensModel:
    return load_model(folder, device="cpu")


def ids_of(record: Path) -> dict[str, list[int]]:
    prompts = tables(record)["prompts"]
    return dict(zip(prompts["prompt_id"], map(list, prompts["token_ids"]), strict=True))


def test_planted_heads_have_their_names_beside_an_untrained_model(record: Path) -> None:
    names = tables(record)["names"].set_index(["block", "head"])
    assert names["name"].to_dict() == PLACES
    assert (names["stability"] == 1).all()


def test_every_condition_is_read_and_each_by_whom_it_says(record: Path, model: LensModel) -> None:
    heads = tables(record)["heads"]
    assert list(heads["condition"].unique()) == list(CONDITIONS)
    ids = ids_of(record)["p3"]
    own = heads[(heads["prompt_id"] == "p3") & (heads["weighting"] == "plain")]
    by = {
        name: rows[list(SCORES)].reset_index(drop=True) for name, rows in own.groupby("condition")
    }
    settings = {"conditions": "text", "weightings": "plain"}
    again = shuffled(ids, seed_of(Text("p3", tuple(ids)), AttentionSettings()))
    expected = {
        "text": lb.attention(model, ids, **settings),
        "shuffled": lb.attention(model, again, **settings),
        "untrained": lb.attention(untrained(model, 0), ids, **settings),
    }
    for name, found in expected.items():
        frame = found.to_pandas()[list(SCORES)]
        pd.testing.assert_frame_equal(by[name], frame, atol=1e-5, check_exact=False)
    assert by["random"]["entropy_share"].to_numpy() == pytest.approx(
        by["text"]["entropy_share"], abs=1e-6
    )
    assert (by["random"]["previous_token"] != by["text"]["previous_token"]).any()


def test_without_nulls_nothing_is_named(spec: Callable[..., AttentionSpec], tmp_path: Path) -> None:
    found = tables(run(spec(nulls=False, ablate=0, limit=3), tmp_path).folder)
    assert set(found["heads"]["condition"]) == {"text", "repeated"}
    for name in ("names", "ablation", "redundancy"):
        assert found[name].empty
    assert len(found["circuits"]) == 4


def test_ablations_are_those_of_the_prompts_that_were_asked_for(
    record: Path, model: LensModel
) -> None:
    ablation = tables(record)["ablation"]
    chosen = list(ablation["prompt_id"].unique())
    assert len(chosen) == 12
    wide = ablation.pivot(index="prompt_id", columns=["block", "head"], values="loss_change_nats")
    ids = ids_of(record)
    prompts = [ids[name] for name in chosen]
    answers = [LETTERS.index(answer) + 1 for answer in answers_of(record, chosen)]
    means = mean_outputs(model, list(ids.values()))  # of all prompts
    heads = [[head] for head in every_head(model)]
    expected = ablated(model, prompts, heads, answers, means=means)
    np.testing.assert_allclose(wide.loc[chosen], expected.change, atol=1e-5)
    own = ablation[ablation["prompt_id"] == chosen[0]]
    np.testing.assert_allclose(own["answer_change_nats"], expected.answer_change[0], atol=1e-5)
    effects = direct_effects(model, prompts, answers).flatten(1)
    np.testing.assert_allclose(own["answer_effect"], effects[0], atol=1e-5)
    assert own["n_predicted"].tolist() == [len(prompts[0]) - 1] * 4


def answers_of(record: Path, names: list[str]) -> list[str]:
    prompts = tables(record)["prompts"].set_index("prompt_id")
    return [str(prompts["answer"][name]).strip() for name in names]


def test_similarity_is_of_all_pairs(record: Path, model: LensModel) -> None:
    found = tables(record)["head_similarity"]
    assert len(found) == 6
    assert (found["n_prompts"] == N_PROMPTS).all()
    expected = head_similarity(model, list(ids_of(record).values())).js_bits
    assert found["js_bits"].tolist() == pytest.approx(expected[np.triu_indices(4, 1)], abs=1e-6)


@pytest.mark.slow
def test_an_interrupted_run_ends_in_the_same_bytes(
    spec: Callable[..., AttentionSpec], record: Path, tmp_path: Path
) -> None:
    """Also between two batches of ablations, the last ones."""

    def stop(now: Progress) -> None:
        if now.unit == "batches" and now.done == now.total - 1:
            raise Stop

    with pytest.raises(Stop):
        run(spec(), tmp_path, stop)
    outcome = run(spec(), tmp_path)
    assert outcome.ok, outcome.failed
    assert table_bytes(outcome.folder) == table_bytes(record)


def test_the_report_says_names_shares_and_losses(record: Path, tmp_path: Path) -> None:
    lb.build_report([record], tmp_path)
    text = (tmp_path / "report.md").read_text()
    classes = pd.read_csv(tmp_path / "tables" / "classes.csv").set_index("class")
    assert classes["all_heads_share"].to_dict() == dict.fromkeys(PLACES.values(), 0.25)
    types = pd.read_csv(tmp_path / "tables" / "types.csv")
    own = types[types["threshold"] == 0.5].set_index("type")
    # Induction rests on the first token here, and the sink is one: half of the heads.
    assert own["share"].to_dict() == {
        "self": 0.25,
        "local": 0.25,
        "token-specific": 0.5,
        "global": 0,
    }
    assert own["published_share"]["global"] == pytest.approx(0.857, abs=1e-3)
    lost = pd.read_csv(tmp_path / "tables" / "ablation.csv").set_index(["block", "head"])
    assert lost.loc[CURRENT, "loss_change_nats"] == pytest.approx(0, abs=1e-6)
    for figure in ("types", "redundancy", "similarity"):
        assert (tmp_path / "figures" / f"{figure}.svg").exists()
    assert "go at no loss" in text
    assert "Random attention of equal entropy" in text
