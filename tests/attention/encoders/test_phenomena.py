"""Phenomena of encoders, in both directions, against the class's own attention."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModel

from lensbench.attention.encoders.phenomena import encoder_phenomena
from lensbench.attention.phenomena.held_out import halves
from lensbench.errors import InputProblems
from lensbench.models.text_encoder import load_encoder
from lensbench.prompts.sets import load_prompts
from tests.harness.encoders import save_encoder
from tests.harness.files import write_csv

NOUNS = ("river", "mountain", "city", "desert", "forest", "garden", "house", "planet")


def test_the_best_head_is_found_from_the_classes_own_attention(tmp_path: Path) -> None:
    """Every word is one token: `gold a NOUN silver music`, asked at the noun and at its article."""
    text = "gold a {} silver music"
    rows = [
        {"id": noun, "prompt": text.format(noun), "pairs": f"determiner-noun: a > {noun}"}
        for noun in NOUNS
    ]
    sentences = load_prompts(write_csv(tmp_path / "mine.csv", rows))
    folder = save_encoder("bert", tmp_path / "tiny")
    encoder = load_encoder(folder, "cpu")
    told = encoder_phenomena(encoder, sentences)
    assert told.problems == []
    hf = AutoModel.from_pretrained(folder, attn_implementation="eager").eval()
    right: dict[str, list[list[bool]]] = {"to_head": [], "to_dependent": []}
    for row in rows:
        ids = encoder.tokenizer(row["prompt"]).input_ids
        assert len(ids) == 7
        with torch.no_grad():
            found = hf(input_ids=torch.tensor([ids]), output_attentions=True).attentions
        heads = torch.cat([pattern[0] for pattern in found])  # blocks after one another
        for direction, query, gold in (("to_head", 2, 3), ("to_dependent", 3, 2)):
            others = [key for key in range(1, 6) if key != query]
            right[direction].append(
                [max(others, key=lambda key: float(head[query, key])) == gold for head in heads]
            )
    first, second = halves(list(NOUNS), 0) or ([], [])
    for row in told.phenomena.to_pylist():
        hits = np.array(right[row["direction"]])
        assert row["offset"] == (1 if row["direction"] == "to_head" else -1)
        assert row["offset_accuracy"] == 1.0
        best = 4 * row["block"] + row["head"]
        assert row["first_half_accuracy"] == hits[first].mean(0).max() == hits[first, best].mean()
        assert row["accuracy"] == hits[second, best].mean()
    assert told.phenomena.num_rows == 2
    assert {row["claim"] for row in told.depths.to_pylist()} == {"broad", "syntactic"}


def test_sentences_without_pairs_are_refused(tmp_path: Path) -> None:
    sentences = load_prompts(write_csv(tmp_path / "mine.csv", [{"id": "x", "prompt": "a river"}]))
    encoder = load_encoder(save_encoder("bert", tmp_path / "tiny"), "cpu")
    with pytest.raises(InputProblems, match="which of its words belong together"):
        encoder_phenomena(encoder, sentences)
