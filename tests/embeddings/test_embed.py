"""`lensbench embed`: cosines against the library's own, records gone on with, and bad input."""

from __future__ import annotations

import importlib.util
import json
import math
import shutil
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sentence_transformers import SentenceTransformer, util
from sentence_transformers.models import Pooling

import lensbench as lb
from lensbench.checkpoints.hashes import modules_sha256
from lensbench.embeddings.encoder import load_sentence_encoder, vectors
from lensbench.embeddings.pairs import load_pairs
from lensbench.embeddings.rated import load_rated
from lensbench.errors import InputProblems, MissingExtraError, ModelError
from lensbench.progress import Progress
from lensbench.quantized.rag.embedding import Embedder
from lensbench.report.build import build_report
from lensbench.report.embeddings.section import judged_pairs
from lensbench.report.senses.layers import by_layer
from lensbench.studies.embeddings import plan, run
from lensbench.studies.specs.embeddings import EmbeddingsSpec
from tests.harness.encoders import save_encoder
from tests.harness.files import table_bytes, write_csv
from tests.harness.forks import Stop
from tests.harness.program import Program
from tests.harness.tiny import Case

TEXTS = ["river", "the mountain and the city", "gold"]
PAIRS = [
    {"id": "near", "a": "river", "b": "ocean water", "published": "0.5"},
    {"id": "far", "a": "gold", "b": "silver", "published": ""},
]


@pytest.fixture(scope="module")
def folder(bert: Embedder) -> str:
    return bert.place


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Pairs, ratings and sentences of words that the tiny tokenizers know."""
    home = tmp_path_factory.mktemp("files")
    rated = home / "rated.tsv"
    words = "river ocean gold silver city garden house bread stone paper engine planet"
    lines = [f"{a}\t{b}\t{n % 7}" for n, (a, b) in enumerate(pairwise(words.split()))]
    rated.write_text("\n".join(["# mine", *lines, "river\triver\t10"]), encoding="utf-8")
    rows = [
        {"word": word, "kind": kind, "group": group, "sentence": f"{about} {n} {word}"}
        for word, kind in (("river", "senses"), ("gold", "senses"), ("house", "subjects"))
        for group, about in (("a", "summer music"), ("b", "winter science"))
        for n in ("city", "stone")
    ]
    senses = write_csv(home / "senses.csv", rows)
    return {
        "pairs": str(write_csv(home / "pairs.csv", PAIRS)),
        "rated": (str(rated),),
        "senses": str(senses),
    }


@pytest.fixture(scope="module")
def measured(
    folder: str,
    files: dict[str, Any],
    llama: Case,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    both = save_encoder("bert", tmp_path_factory.mktemp("bert") / "both")
    spec = EmbeddingsSpec(
        encoders=(folder,), contextual=(str(llama.folder), str(both)), device="cpu", **files
    )
    out = tmp_path_factory.mktemp("embeddings")
    outcome = run(spec, out)
    assert outcome.ok, (outcome.failed, outcome.problems)
    return out


def records(out: Path, kind: str) -> list[lb.Record]:
    found = [lb.open_record(path.parent) for path in sorted(out.rglob("manifest.json"))]
    return [record for record in found if record.kind == kind]


def test_vectors_and_cosines_are_the_librarys(folder: str) -> None:
    found = lb.embed(TEXTS, folder, "cpu")
    own = SentenceTransformer(folder, device="cpu").encode(TEXTS)
    assert np.allclose(found.vectors, own, atol=1e-6)
    assert np.allclose(found.cosines, util.cos_sim(own, own), atol=1e-6)
    closest = found.pairs.iloc[0]
    assert closest["cosine"] == pytest.approx(float(np.sort(found.cosines.to_numpy().ravel())[-4]))


@pytest.mark.parametrize(
    ("texts", "told"),
    [
        (["river"], "nothing to compare"),
        ([], "nothing to compare"),
        (["river", " "], "text 2: the text is empty"),
        (["river", "gold", "river"], "stands twice"),
        (["river", "\ud800gold"], "text 2: there is half a character"),
        (["a\0b", "river", "", "river"], r"(?s)3 problems.*text 1: .*NUL.*text 3: .*empty.*twice"),
        (["river", "gold " * 31], "31 tokens long, and .* reads 30"),
    ],
)
def test_texts_that_cannot_be_compared(bert: Embedder, texts: list[str], told: str) -> None:
    with pytest.raises(InputProblems, match=told):
        lb.embed(texts, bert)


def test_the_longest_text_that_is_read_is_not_cut(bert: Embedder) -> None:
    """One more token would change nothing: the library cuts it off."""
    longest = "gold " * bert.limit
    own = bert.model.encode([longest + "river", longest])
    assert np.allclose(own[0], own[1], atol=1e-6)
    shorter = bert.model.encode(["gold " * (bert.limit - 1) + "river"])
    assert not np.allclose(shorter, own[1], atol=1e-3)
    assert np.allclose(vectors(bert, [longest])[0], own[1], atol=1e-6)


def test_a_model_that_is_no_sentence_encoder_is_refused(llama: Case) -> None:
    with pytest.raises(ModelError, match="is no sentence encoder"):
        lb.embed(TEXTS, str(llama.folder))
    with pytest.raises(ModelError, match="but a causal language model"):
        lb.embed(TEXTS, "smollm2-135m")
    with pytest.raises(ModelError, match="There is no embedding model 'nothing'"):
        lb.embed(TEXTS, "nothing")


def test_vectors_with_nan_are_an_error(bert: Embedder) -> None:
    class Broken:
        def __getattr__(self, name: str) -> Any:
            return getattr(bert.model, name)

        def encode(self, texts: list[str], **_: Any) -> np.ndarray:
            return np.full((len(texts), 32), np.nan)

    with pytest.raises(InputProblems, match=r"'gold'.*NaN or Inf"):
        vectors(replace(bert, model=Broken()), ["gold"])


def test_pairs_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    rows = [
        PAIRS[0],
        {"id": "same", "a": "gold", "b": "gold ", "published": ""},
        {"id": "again", "a": "ocean water", "b": "river", "published": ""},
        {"id": "big", "a": "gold", "b": "stone", "published": "1.2"},
        {"id": "nan", "a": "gold", "b": "bread", "published": "nan"},
        {"id": "none", "a": "", "b": "bread", "published": ""},
    ]
    found = load_pairs(str(write_csv(tmp_path / "mine.csv", rows)))
    assert [pair.id for pair in found.pairs] == ["near"]
    told = " ".join(map(str, found.problems))
    for what in ("both texts are the same", "stands in row 2", "'1.2'", "'nan'", "the a is empty"):
        assert what in told
    with pytest.raises(InputProblems, match="no such file"):
        load_pairs("nowhere.csv")


def test_ratings_are_read_in_place_and_bad_lines_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "mine.tsv"
    path.write_text("# a comment\na\tb\t1\nc d\t2\ne\tf\tgood\ng\th\tnan\n", encoding="utf-8")
    with pytest.raises(InputProblems) as caught:
        load_rated(str(path))
    assert [problem.where for problem in caught.value.problems] == [
        f"mine.tsv, row {n}" for n in (3, 4, 5)
    ]
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(MissingExtraError, match=r"gensim is not installed.*lensbench\[embed\]"):
        load_rated("simlex999")


def test_the_rated_sets_of_gensim_are_whole() -> None:
    pytest.importorskip("gensim", exc_type=ImportError)
    sizes = {name: len(load_rated(name).pairs) for name in ("wordsim353", "simlex999")}
    assert sizes == {"wordsim353": 353, "simlex999": 999}
    assert (load_rated("wordsim353").n_same, load_rated("simlex999").n_same) == (1, 0)


def test_a_record_holds_the_librarys_cosines(measured: Path, folder: str) -> None:
    (record,) = records(measured, "embeddings")
    pairs = record.table("embedding_pairs").set_index("pair_id")
    model = SentenceTransformer(folder, device="cpu")
    for row in PAIRS:
        own = model.encode([row["a"], row["b"]])
        assert pairs.loc[row["id"], "cosine"] == pytest.approx(float(util.cos_sim(*own)), abs=1e-6)
    assert math.isnan(pairs.loc["far", "published"])
    grid = record.table("embedding_grid")
    assert len(grid) == 16
    assert grid[grid["a"] == grid["b"]]["cosine"].to_numpy() == pytest.approx(np.ones(4))
    rated = record.table("rated")
    assert rated["n_pairs"].tolist() == [12, 12, 12]
    assert rated["n_same"].tolist() == [1, 1, 1]
    assert record.table("embedding_map")["umap_1"].isna().all()


def test_the_embedding_of_a_causal_model_is_the_same_in_every_sentence(measured: Path) -> None:
    """Before any attention a word cannot know its context: a tie each time."""
    causal, both = sorted(
        records(measured, "senses"), key=lambda one: one.manifest["read"]["both_ways"]
    )
    rows = causal.table("senses")
    bottom = rows[(rows["layer"] == 0) & (rows["condition"] == "trained")]
    assert bottom["accuracy"].tolist() == [0.5] * len(bottom)
    assert np.allclose(bottom["separation"], 0, atol=1e-9)
    assert set(rows["split"]) == {"senses", "subjects", "halves"}
    assert both.manifest["read"] == {"sentences": 12, "words": 3, "both_ways": True}


def test_an_interrupted_run_goes_on_to_the_same_bytes(
    measured: Path, folder: str, files: dict[str, Any], llama: Case, tmp_path: Path
) -> None:
    spec = EmbeddingsSpec(
        encoders=(folder,), contextual=(str(llama.folder),), device="cpu", **files
    )

    def stop(now: Progress) -> None:
        if now.done:
            raise Stop

    for _ in range(2):
        with pytest.raises(Stop):
            run(spec, tmp_path, stop)
    assert run(spec, tmp_path).ok
    for kind in ("embeddings", "senses"):
        (own,) = records(tmp_path, kind)
        whole = next(one for one in records(measured, kind) if one.name == own.name)
        assert table_bytes(own.folder) == table_bytes(whole.folder)


def test_an_encoder_of_the_same_weights_that_pools_otherwise_is_another(
    folder: str, files: dict[str, Any], tmp_path: Path
) -> None:
    """Its vectors are others, and the finished record would stand for them."""
    place = Path(shutil.copytree(folder, tmp_path / "encoder"))
    spec = EmbeddingsSpec(encoders=(str(place),), device="cpu", **files)
    assert run(spec, tmp_path / "out").ok
    assert modules_sha256(place) == modules_sha256(Path(folder))
    (pooling,) = place.glob("*_Pooling/config.json")
    before = pooling.read_bytes()
    Pooling(load_sentence_encoder(str(place)).dimension, "cls").save(str(pooling.parent))
    assert pooling.read_bytes() != before
    (error,) = run(spec, tmp_path / "out").failed.values()
    assert "model.modules_sha256" in str(error)


def test_a_name_that_leads_nowhere_is_said_at_once_and_the_others_are_measured(
    files: dict[str, Any], llama: Case, tmp_path: Path
) -> None:
    own, said = str(llama.folder), list[str]()
    spec = EmbeddingsSpec(encoders=(), contextual=(own, "./nowhere"), device="cpu", **files)
    assert [one.name for one in plan(spec, tmp_path)] == ["./nowhere", f"{own}, senses"]
    outcome = run(spec, tmp_path, notify=said.append)
    assert said[0].startswith("./nowhere cannot be measured, the others are: ")
    assert ({*outcome.failed}, len(outcome.folders)) == ({"./nowhere"}, 1)


def test_the_report_is_written_from_the_records_alone(measured: Path, tmp_path: Path) -> None:
    written = build_report([measured], tmp_path / "report")
    told = "\n".join(p.read_text() for p in written if p.name == "report.md")
    assert "Of 1 cosines that were published" in told
    assert "reads both ways" in told
    assert "reads one way" in told


def test_what_was_published_is_judged_by_what_is() -> None:
    rows = pd.DataFrame(
        {
            "model": "m",
            "pair_id": list("abcd"),
            "a": "x",
            "b": "y",
            "published": [0.85, 0.18, 0.9, None],
            "cosine": [0.80, 0.48, 0.6, 0.2],
        }
    )
    found = judged_pairs(rows)
    assert found["verdict"].tolist() == ["holds", "too low", "too high", "nothing published"]


def test_the_verb_shows_pairs_and_texts(
    lensbench: Program, folder: str, files: dict[str, Any]
) -> None:
    done = lensbench("embed", "--encoder", folder, "--pairs", files["pairs"])
    assert done.status == 0
    assert "published" in done.out
    done = lensbench("embed", "river", "gold", "ocean", "--encoder", folder, "--json")
    rows = json.loads(done.out)
    assert [row["cosine"] for row in rows] == sorted((r["cosine"] for r in rows), reverse=True)
    assert len(rows) == 3
    done = lensbench("embed", "river", "--encoder", folder)
    assert done.status == 2
    assert "nothing to compare" in done.said
    done = lensbench("embed", "river", "gold", "--umap")
    assert done.status == 2
    assert "--umap: it has no effect without --out" in done.said


def test_twenty_words_that_are_all_told_are_no_certainty() -> None:
    """Clopper and Pearson's interval, and none of a difference that is the same each time."""
    rows = pd.DataFrame(
        {"condition": "trained", "correction": "none", "split": "senses", "layer": layer}
        | {"depth": float(layer), "word": f"w{n}", "accuracy": accuracy, "separation": 0.1 * n}
        for layer, accuracy in ((0, 0.5), (1, 1.0))
        for n in range(20)
    )
    found = by_layer(rows).set_index("layer")
    told = found.loc[1, "accuracy"]
    assert (told.value, told.high) == (1.0, 1.0)
    assert told.low == pytest.approx(0.025 ** (1 / 20))
    above = found.loc[1, "above_embedding_pp"]
    assert (above.value, above.low, above.high) == (0.5, None, None)
    assert found.loc[1, "above_untrained_pp"].value is None


def test_senses_in_one_call_are_those_of_the_record(
    measured: Path, files: dict[str, Any], llama: Case
) -> None:
    (record,) = [r for r in records(measured, "senses") if not r.manifest["read"]["both_ways"]]
    found = lb.senses(llama.model, files["senses"])
    expected = record.table("senses").drop(columns="model")
    pd.testing.assert_frame_equal(found.to_pandas().drop(columns="model"), expected)
    assert not found.problems
    own = expected.query("split == 'senses' and layer == 2 and correction == 'centred'")
    (told,) = found.layers.query(
        "condition == 'trained' and split == 'senses' and layer == 2 and correction == 'centred'"
    ).to_dict("records")
    trained = own[own["condition"] == "trained"]["accuracy"]
    assert (told["accuracy"], told["n_words"]) == (pytest.approx(trained.mean()), 2)
    assert len(found.plot().data) == 6  # three kinds of words, trained and not
    assert "senses: told apart" in repr(found)
    alone = lb.senses(llama.model, files["senses"], untrained=False)
    assert set(alone.table["condition"]) == {"trained"}


def test_few_words_that_say_the_same_have_no_interval_and_are_called_words() -> None:
    rows = pd.DataFrame(
        {"condition": "trained", "correction": "none", "split": "senses", "layer": 0}
        | {"depth": 0.0, "word": f"w{n}", "accuracy": 0.5 if n else 1.0, "separation": 0.0}
        for n in range(20)
    )
    told = by_layer(rows)["accuracy"][0]
    assert told.low is None
    assert told.reason == "20 words, most of them equal or far apart: no interval holds"
