"""Scores of encoders: hand-worked patterns, and the class's own attention one text at a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import AutoModel

from lensbench.attention.encoders.scores import (
    MEANINGS,
    Places,
    by_block,
    encoder_scores,
    score_texts,
)
from lensbench.errors import InputProblems
from lensbench.models.text_encoder import TextEncoder, load_encoder, untrained_encoder
from lensbench.prompts.sets import load_prompts
from tests.harness.encoders import save_encoder

TEXTS = ("the river, gold", "Number 12.", "a city and a desert of silver", "winter, summer")
# [CLS] a b . [SEP]
PLACES = Places(
    torch.tensor([True, False, False, False, True]),
    torch.tensor([False, False, False, True, False]),
)


def head(*keys: int) -> torch.Tensor:
    """Each of five queries looks at one key."""
    return torch.nn.functional.one_hot(torch.tensor(keys), 5)[None].float()


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ((0, 0, 0, 0, 0), {"cls": 1.0}),
        ((4, 4, 4, 4, 4), {"sep": 1.0, "separator": 1.0}),
        ((0, 1, 2, 3, 4), {"current_token": 1.0}),
        # b looks at a, the full stop at b; a has no token of the text before it.
        ((0, 0, 1, 2, 3), {"previous_token": 1.0, "cls": 1 / 3}),
        # a looks at b, b at the full stop, that at [SEP], which is no neighbour.
        ((1, 2, 3, 4, 4), {"next_token": 1.0, "sep": 1 / 3, "separator": 1 / 2}),
        ((3, 3, 3, 3, 3), {"separator": 1.0, "current_token": 1 / 3, "next_token": 1 / 2}),
    ],
)
def test_scores_of_a_hand_worked_pattern(keys: tuple[int, ...], expected: dict[str, float]) -> None:
    found = encoder_scores(head(*keys), PLACES)
    assert set(found) == set(MEANINGS)
    for name, value in found.items():
        assert float(value) == pytest.approx(expected.get(name, 0.0)), name


def test_even_attention_has_all_the_entropy_there_can_be() -> None:
    found = encoder_scores(torch.full((2, 5, 5), 0.2), PLACES)
    assert found["entropy_share"].tolist() == pytest.approx([1.0, 1.0])
    assert found["cls"].tolist() == pytest.approx([0.2, 0.2])
    assert found["separator"].tolist() == pytest.approx([0.4, 0.4])


@pytest.fixture(scope="module", params=["bert", "distilbert"])
def encoder(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> TextEncoder:
    folder = save_encoder(request.param, tmp_path_factory.mktemp(request.param) / "tiny")
    return load_encoder(folder, "cpu")


def test_texts_are_scored_by_the_classes_own_attention(encoder: TextEncoder) -> None:
    """A padded batch, against loops over each text alone."""
    rows = score_texts(encoder, TEXTS)
    assert len(rows) == len(TEXTS) * 3 * 4
    hf = AutoModel.from_pretrained(encoder.folder, attn_implementation="eager").eval()
    for number, text in enumerate(TEXTS):
        ids = encoder.tokenizer(text).input_ids
        with torch.no_grad():
            found = hf(input_ids=torch.tensor([ids]), output_attentions=True).attentions
        n = len(ids)
        for block, pattern in enumerate(found):
            own = rows[(rows["text"] == number) & (rows["block"] == block)]
            inner = range(1, n - 1)
            cls = [float(np.mean([one[q, 0] for q in inner])) for one in pattern[0]]
            after = [float(np.mean([one[q, q + 1] for q in range(1, n - 2)])) for one in pattern[0]]
            assert own["cls"].tolist() == pytest.approx(cls, abs=1e-5)
            assert own["next_token"].tolist() == pytest.approx(after, abs=1e-5)


def test_means_of_blocks_have_intervals_over_texts(encoder: TextEncoder) -> None:
    rows = score_texts(encoder, TEXTS * 3)
    found = by_block(rows)
    assert set(found) == set(MEANINGS)
    for score, blocks in found.items():
        assert len(blocks) == 3
        for block, one in enumerate(blocks):
            assert one.value == pytest.approx(rows[rows["block"] == block][score].mean())
            assert one.n == 12
            assert one.low is not None and one.high is not None
            assert one.low <= one.value <= one.high


def test_texts_without_neighbours_are_refused_all_at_once(encoder: TextEncoder) -> None:
    with pytest.raises(InputProblems) as caught:
        score_texts(encoder, ["a", "the river", " "])
    assert [problem.where for problem in caught.value.problems] == ["text 0", "text 2"]


@pytest.mark.real
def test_minilm_looks_at_cls_and_an_untrained_one_at_everything_alike() -> None:
    """Measured over all sentences: .56 in block 2 and .07; to the token before .16 in block 0."""
    encoder = load_encoder("all-minilm-l6-v2", "cpu")
    texts = [prompt.prompt for prompt in load_prompts("sentences").prompts[:60]]
    own = by_block(score_texts(encoder, texts))
    other = by_block(score_texts(untrained_encoder(encoder), texts))
    assert own["cls"][2].low is not None and own["cls"][2].low > 0.5
    assert own["previous_token"][0].low is not None and own["previous_token"][0].low > 0.14
    for score in ("cls", "previous_token"):
        assert all(one.high is not None and one.high < 0.1 for one in other[score])
    assert all(one.value is not None and one.value > 0.99 for one in other["entropy_share"])
