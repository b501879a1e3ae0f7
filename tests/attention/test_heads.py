"""Scores of heads: hand-worked patterns, and Hugging Face's own attention of every family."""

from __future__ import annotations

import math

import pytest
import torch

from lensbench.attention import scores
from lensbench.attention.heads import head_scores
from lensbench.errors import InputProblems
from tests.harness.tiny import Case

# Two heads over three tokens: one looks at itself, one at the token before (the first at itself).
SELF = torch.eye(3)
BEFORE = torch.tensor([[1.0, 0, 0], [1, 0, 0], [0, 1, 0]])
PATTERN = torch.stack([SELF, BEFORE])


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("current_token", [1.0, 0.0]),
        ("previous_token", [0.0, 1.0]),
        ("first_token", [0.0, 0.5]),
        ("entropy_share", [0.0, 0.0]),
    ],
)
def test_scores_of_a_hand_worked_pattern(name: str, expected: list[float]) -> None:
    assert scores.SCORES[name](PATTERN).tolist() == pytest.approx(expected)


def test_even_attention_has_all_the_entropy_there_can_be() -> None:
    even = torch.tril(torch.ones(1, 5, 5)) / torch.arange(1, 6)[None, :, None]
    assert scores.entropy_share(even).tolist() == pytest.approx([1.0])
    # Half as many keys, in bits: log2(2) of log2(4) for the last query alone.
    half = torch.tensor([[[1.0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0.5, 0.5]]])
    assert scores.entropy_share(half).tolist() == pytest.approx([math.log(2) / math.log(4) / 3])


def test_heads_are_scored_from_hugging_faces_own_attention(family: Case) -> None:
    """Two prompts of other lengths in one padded batch; each against its own unpadded pass."""
    prompts = [ids for ids in family.token_ids if len(ids) > 1][:2]
    found = head_scores(family.model, prompts)
    hf = family.fresh_hf()
    hf.set_attn_implementation("eager")
    for number, ids in enumerate(prompts):
        with torch.no_grad():
            attentions = hf(input_ids=torch.tensor([ids]), output_attentions=True).attentions
        for block, pattern in enumerate(attentions):
            rows = found[(found.prompt == number) & (found.block == block)]
            assert rows["head"].tolist() == list(range(pattern.shape[1]))
            for name, score in scores.SCORES.items():
                expected = score(pattern[0].float()).tolist()
                assert rows[name].tolist() == pytest.approx(expected, abs=1e-5), (name, block)


def test_a_prompt_of_one_token_has_no_heads_to_tell_apart(llama: Case) -> None:
    with pytest.raises(InputProblems, match="prompt 1: it is one token"):
        head_scores(llama.model, [[1, 5, 6], [1]])


def test_a_score_of_ones_own_is_a_column(gpt2: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """Adding a score: a function and a line."""
    monkeypatch.setitem(scores.SCORES, "largest", lambda pattern: pattern.amax((-1, -2)))
    assert (head_scores(gpt2.model, [5, 6, 7])["largest"] == 1.0).all()  # the first at itself
