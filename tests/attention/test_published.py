"""The heads of GPT-2 small and BERT base that others have named, where the cache holds the model.

GPT-2: previous-token and duplicate-token heads as in Wang et al. 2022 (indirect object
identification), induction heads as in TransformerLens' demonstrations. BERT: heads of Clark et al.
2019, whose text counts layers and heads from 1 (8-10 is block 7, head 9: so has it the table of
their notebook, Syntax_Analysis). Each has to stand among the highest of 144.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import lensbench
from lensbench.checkpoints.source import locate
from lensbench.models.load import load_model
from lensbench.studies.attention import run
from lensbench.studies.specs.attention import AttentionSpec
from tests.harness.files import tables

PUBLISHED = {
    "prefix_matching": [(5, 1), (5, 5), (6, 9), (7, 2), (7, 10)],
    "previous_token": [(4, 11)],
    "duplicate_token": [(0, 1), (0, 10), (3, 0)],
}
HIGHEST = 20
BERT = "google-bert/bert-base-uncased"
# Phenomenon, where it is asked, and the head that finds the word, as they are numbered there.
PUBLISHED_BERT = {
    ("verb-object", "to_head"): "8-10",
    ("determiner-noun", "to_head"): "8-11",
    ("preposition-object", "to_dependent"): "9-6",
    ("pronoun-antecedent", "to_head"): "5-4",
}


@pytest.mark.slow
def test_published_heads_of_gpt2_small_are_among_the_highest() -> None:
    if locate("gpt2").folder is None:
        pytest.skip("gpt2 is not in the cache; fetch it with: lensbench pull gpt2")
    model = load_model("gpt2", device="cpu", dtype="float32")
    found = lensbench.attention(model, [5, 6, 7], conditions="repeated", weightings="plain")
    means = found.to_pandas().groupby(["block", "head"])[list(PUBLISHED)].mean()
    for score, heads in PUBLISHED.items():
        highest = means[score].nlargest(HIGHEST).index
        assert [head for head in heads if head not in highest] == [], score


@pytest.mark.slow
def test_published_heads_of_bert_base_are_among_the_highest(tmp_path: Path) -> None:
    if locate(BERT).folder is None:
        pytest.skip(f"{BERT} is not in the cache; fetch it with: lensbench pull {BERT}")
    how = {"weightings": "plain", "nulls": False, "phenomena": True, "device": "cpu"}
    outcome = run(AttentionSpec(models=BERT, prompts="sentences", limit=4, **how), tmp_path)
    assert outcome.ok, outcome.failed
    answers = tables(outcome.folder)["answers"]
    trained = answers[answers["who"] == "trained"]
    for (phenomenon, direction), name in PUBLISHED_BERT.items():
        block, head = (int(number) - 1 for number in name.split("-"))
        own = (trained["phenomenon"] == phenomenon) & (trained["direction"] == direction)
        accuracy = np.stack(trained.loc[own, "right"].to_list()).mean(0)  # of 12 x 12 heads
        assert len(accuracy) == 144
        better = int((accuracy > accuracy[12 * block + head]).sum())
        assert better < HIGHEST, (name, phenomenon, accuracy[12 * block + head], accuracy.max())
