"""Attention of text encoders as a record: against the class's own attention; gone on with; told."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from transformers import AutoModel

import lensbench as lb
from lensbench.errors import InputProblems
from lensbench.models.text_encoder import load_encoder
from lensbench.progress import Progress
from lensbench.records.schema import KINDS, TABLES
from lensbench.records.schema.encoders import ENCODER_SCORES
from lensbench.report.attention.encoders.blocks import by_block
from lensbench.stats.halves import halves
from lensbench.studies.attention import run
from lensbench.studies.specs.attention import AttentionSpec
from tests.harness.encoders import save_encoder
from tests.harness.files import manifest, table_bytes, tables, write_csv
from tests.harness.forks import Stop
from tests.harness.program import Program
from tests.harness.tiny import Case

NOUNS = ("river", "mountain", "city", "desert", "forest", "garden", "house", "planet")
TEXT = "gold a {} silver music"  # every word is one token


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_encoder("bert", tmp_path_factory.mktemp("bert") / "tiny")


@pytest.fixture(scope="module")
def sentences(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Asked at the noun and at its article."""
    rows = [
        {"id": noun, "prompt": TEXT.format(noun), "pairs": f"determiner-noun: a > {noun}"}
        | {"relation": "land" if i % 2 else "water", "answer": "gold"}
        for i, noun in enumerate(NOUNS)
    ]
    return write_csv(tmp_path_factory.mktemp("prompts") / "mine.csv", rows)


@pytest.fixture(scope="module")
def spec(folder: Path, sentences: Path) -> Callable[..., AttentionSpec]:
    def make(**changes: Any) -> AttentionSpec:
        given = {"models": (str(folder),), "prompts": str(sentences), "sentences": str(sentences)}
        small = {"batch_tokens": 30, "phenomena": True, "keep": ("river",)}
        return AttentionSpec(**(given | small | changes))

    return make


@pytest.fixture(scope="module")
def measured(spec: Callable[..., AttentionSpec], tmp_path_factory: pytest.TempPathFactory) -> Path:
    outcome = run(spec(), tmp_path_factory.mktemp("encoder"))
    assert outcome.ok, (outcome.failed, outcome.problems)
    return outcome.folder


def own_attention(folder: Path, text: str) -> list[np.ndarray]:
    """The class's own, [head, query, key] a block."""
    hf = AutoModel.from_pretrained(folder, attn_implementation="eager").eval()
    ids = load_encoder(folder, "cpu").tokenizer(text).input_ids
    assert len(ids) == 7
    with torch.no_grad():
        found = hf(input_ids=torch.tensor([ids]), output_attentions=True).attentions
    return [pattern[0].numpy() for pattern in found]


@pytest.mark.parametrize(
    "name", [*KINDS["encoder_attention"].names, "patterns", "answers", "depths"]
)
def test_each_table_follows_its_schema(measured: Path, name: str) -> None:
    table = pq.read_table(measured / f"{name}.parquet")
    assert table.schema.equals(TABLES[name].schema)
    assert (table.num_rows == 0) == (name == "problems")


def test_heads_are_the_classes_own_in_their_order(measured: Path, folder: Path) -> None:
    found = tables(measured)
    rows = found["encoder_heads"]
    assert len(rows) == 2 * len(NOUNS) * 2 * 3 * 4
    own = rows[(rows["condition"] == "text") & (rows["weighting"] == "plain")]
    assert own["prompt_id"].drop_duplicates().tolist() == list(NOUNS)
    assert own["depth"].tolist() == ((own["block"] + 0.5) / 3).tolist()
    for noun in NOUNS[:2]:
        one = own[own["prompt_id"] == noun].set_index(["block", "head"])
        for block, pattern in enumerate(own_attention(folder, TEXT.format(noun))):
            for head, weights in enumerate(pattern):
                assert one.at[(block, head), "sep"] == pytest.approx(
                    weights[1:6, 6].mean(), abs=1e-5
                )
                kept = found["patterns"].set_index(["block", "head"]).at[(block, head), "weights"]
                if noun == "river":
                    assert np.reshape(kept, (7, 7)) == pytest.approx(weights, abs=1e-5)
    prompts = found["prompts"]
    assert prompts["answer"].isna().all()  # nothing is to follow a text
    assert next(iter(prompts["tokens"][0])).strip() == "[CLS]"
    gate = manifest(measured)["gate"]
    assert [one["passed"] for one in gate] == [True] * 3
    assert {"ablate", "conditions", "n_repeated"}.isdisjoint(manifest(measured)["settings"])


def test_the_best_head_is_found_from_the_classes_own_attention(
    measured: Path, folder: Path
) -> None:
    right: dict[str, list[list[bool]]] = {"to_head": [], "to_dependent": []}
    for noun in NOUNS:
        heads = np.concatenate(own_attention(folder, TEXT.format(noun)))
        for direction, query, gold in (("to_head", 2, 3), ("to_dependent", 3, 2)):
            others = [key for key in range(1, 6) if key != query]
            right[direction].append(
                [max(others, key=lambda key: float(head[query, key])) == gold for head in heads]
            )
    first, second = halves(sorted(NOUNS), 0) or ([], [])
    order = [NOUNS.index(noun) for noun in sorted(NOUNS)]  # as the record's rows are
    found = tables(measured)
    plain = found["phenomena"][found["phenomena"]["weighting"] == "plain"]
    for row in plain.to_dict("records"):
        hits = np.array(right[row["direction"]])[order]
        assert row["offset"] == (1 if row["direction"] == "to_head" else -1)
        assert row["offset_accuracy"] == 1.0
        best = int(4 * row["block"] + row["head"])
        assert row["first_half_accuracy"] == hits[first].mean(0).max() == hits[first, best].mean()
        assert row["accuracy"] == hits[second, best].mean()
    assert len(plain) == 2
    assert {*found["depths"]["claim"]} == {"broad", "syntactic"}


def test_an_interrupted_run_ends_in_the_same_bytes_and_is_widened(
    spec: Callable[..., AttentionSpec], measured: Path, tmp_path: Path
) -> None:
    def stop(now: Progress) -> None:
        if now.unit == "batches" and now.done == 3:
            raise Stop

    with pytest.raises(Stop):
        run(spec(), tmp_path / "a", stop)
    resumed = run(spec(), tmp_path / "a")
    assert manifest(resumed.folder)["resumed_batches"] == 3
    assert table_bytes(resumed.folder) == table_bytes(measured)
    narrow = run(spec(limit=3, keep=()), tmp_path / "b").folder
    assert {*tables(narrow)["encoder_heads"]["prompt_id"]} == {"river", "mountain", "city"}
    assert run(spec(keep=()), tmp_path / "b").ok
    wide, whole = (tables(one)["encoder_heads"] for one in (narrow, measured))
    keys = ["condition", "prompt_id", "weighting", "block", "head"]
    assert wide[keys].equals(whole[keys])
    assert wide["cls"].to_numpy() == pytest.approx(whole["cls"].to_numpy(), abs=1e-5)


@pytest.mark.slow
def test_a_causal_model_and_an_encoder_are_read_together(
    spec: Callable[..., AttentionSpec], folder: Path, gpt2: Case, tmp_path: Path
) -> None:
    """What only one of them has is read of that one, and said of the other."""
    said: list[str] = []
    small = {"nulls": False, "keep": (), "n_repeated": 2, "repeat_tokens": 5}
    both = spec(models=(str(folder), str(gpt2.folder)), limit=2, **small)
    outcome = run(both, tmp_path, notify=said.append)
    assert not outcome.failed
    kinds = [lb.open_record(one).kind for one in outcome.folders]
    assert kinds == ["encoder_attention", "attention"]
    assert [line.split(": ")[1].split(" has")[0] for line in said] == [
        "n_repeated",
        "repeat_tokens",
    ]
    assert {*tables(outcome.folders[0])["encoder_heads"]["condition"]} == {"text"}
    lb.build_report([tmp_path], tmp_path / "report")
    index = (tmp_path / "report" / "report.md").read_text()
    assert "encoder attention of" in index
    assert "Most attention, mean of a block's heads: cls in block" in index


def test_what_has_no_effect_on_an_encoder_is_refused(
    spec: Callable[..., AttentionSpec], folder: Path, tmp_path: Path
) -> None:
    idle = {"ablate": 2, "conditions": ("repeated",), "template": "chat", "dtype": "bfloat16"}
    with pytest.raises(InputProblems) as caught:
        run(spec(**idle), tmp_path)
    assert {problem.where for problem in caught.value.problems} == {*idle}
    failed = run(spec(models=(f"{folder}@8",)), tmp_path).failed
    assert "read in float32, without an adapter (8 bits" in str(*failed.values())


def test_sentences_without_pairs_and_bad_texts_are_problems(
    spec: Callable[..., AttentionSpec], tmp_path: Path
) -> None:
    rows = [{"id": "one", "prompt": "river"}, {"id": "two", "prompt": "a river"}]
    rows += [{"id": "long", "prompt": "gold " * 60}]
    texts = str(write_csv(tmp_path / "mine.csv", rows))
    outcome = run(spec(prompts=texts, sentences=texts, keep=(), nulls=False), tmp_path / "o")
    said = "\n".join(map(str, outcome.problems))
    assert "which words belong together" in said
    assert "fewer than two tokens of its own" in said
    assert "62 tokens, the model's context holds 40" in said
    found = tables(outcome.folder)
    assert {*found["encoder_heads"]["prompt_id"]} == {"two"}
    assert len(found["phenomena"]) == 0


def test_the_report_says_what_the_record_holds(measured: Path, tmp_path: Path) -> None:
    lb.build_report([measured], tmp_path)
    text = (tmp_path / "report.md").read_text()
    assert "Every one of 12 heads" in text and f"over {len(NOUNS)} texts" in text
    for part in (
        "Which word belongs to which",
        "asked at the head, for its dependent",
        "Published claims about depth",
    ):
        assert part in text, part
    assert {path.stem for path in (tmp_path / "figures").iterdir()} >= {
        "blocks",
        "grid",
        "heads",
        "patterns",
    }
    page = (tmp_path / "report.html").read_text()
    assert "Head view" in page and "weights drawn anew" in page
    assert "Over depth" in page


def test_means_of_blocks_are_over_heads_and_then_over_texts(measured: Path) -> None:
    found = tables(measured)
    rows = found["encoder_heads"]
    relation = found["prompts"].set_index("prompt_id")["relation"]
    blocks = by_block(rows, relation)
    assert len(blocks) == 2 * len(ENCODER_SCORES) * 3
    keys = ["condition", "weighting", "block"]
    means = rows.groupby(keys)[list(ENCODER_SCORES)].mean()
    for row in blocks.to_dict("records"):
        own, base = (
            means.at[(condition, row["weighting"], row["block"]), row["score"]]
            for condition in ("text", "untrained")
        )
        assert row["mean_share"].value == pytest.approx(own, abs=1e-6)
        assert row["untrained_share"].value == pytest.approx(base, abs=1e-6)
        assert row["above_untrained_pp"].value == pytest.approx(own - base, abs=1e-6)
        assert row["mean_share"].n == len(NOUNS)
        assert row["mean_share"].n_clusters == 2
    alone = by_block(rows[rows["condition"] == "text"], relation)
    assert {one.reason for one in alone["untrained_share"]} == {"no untrained encoder was read"}


def test_the_verb_shows_an_encoder(lensbench: Program, folder: Path, tmp_path: Path) -> None:
    html = tmp_path / "page.html"
    done = lensbench("attention", folder, "the river", "--html", html)
    assert done.status == 0, done.err
    for part in ("next_token", "cls", "rows sum to 1", "output_attentions"):
        assert part in done.out, part
    assert "Head view" in html.read_text()
    rows = pd.DataFrame(json.loads(lensbench("attention", folder, "the river", "--json").out))
    assert {*rows["condition"]} == {"text"}
    assert {*ENCODER_SCORES} <= {*rows}
    refused = lensbench("attention", folder, "the river", "--template", "chat", "--n-repeated", 3)
    assert refused.status == 2
    assert "--n-repeated: an encoder reads no repeated tokens" in refused.said
    assert "--template: an encoder has no chat template" in refused.said
    lens = lensbench("lens", folder, "the river")
    assert lens.status == 2
    assert "lensbench attention" in lens.said
