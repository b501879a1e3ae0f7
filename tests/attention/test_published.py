"""The heads of GPT-2 small that others have named, where a folder or the cache holds the model.

Previous-token and duplicate-token heads as in Wang et al. 2022 (indirect object identification),
induction heads as in TransformerLens' demonstrations. Each has to stand among the highest of 144.
"""

from __future__ import annotations

import pytest

import lensbench
from lensbench.checkpoints.source import locate
from lensbench.models.load import load_model

PUBLISHED = {
    "prefix_matching": [(5, 1), (5, 5), (6, 9), (7, 2), (7, 10)],
    "previous_token": [(4, 11)],
    "duplicate_token": [(0, 1), (0, 10), (3, 0)],
}
HIGHEST = 20


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
