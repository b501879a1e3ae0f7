"""The bench of attention: every way gives the same scores, and its bounds are what they say."""

from __future__ import annotations

import pytest

from lensbench.records.schema.attention import SCORES
from tests.benchmarks import attention as bench
from tests.harness.tiny import Case


@pytest.mark.slow
def test_every_way_gives_the_same_scores(llama: Case) -> None:
    sentences = bench.Sentences(llama.folder, 5)
    (items,) = sentences.batches
    (part,) = bench.lensbench(sentences)()
    ours = part.tables["heads"].to_pandas()
    for way in (bench.hugging_face_scores, bench.transformer_lens_scores):
        theirs = way(sentences)()  # block after block, of each the sentences
        assert len(theirs) == 3 * len(items)
        for number, found in enumerate(theirs):
            block, row = divmod(number, len(items))
            rows = ours[(ours["block"] == block) & (ours["prompt_id"] == f"p{items[row]}")]
            for score in SCORES:
                expected = found[score].numpy()
                assert rows[score].to_numpy() == pytest.approx(expected, abs=1e-5, nan_ok=True)
    assert bench.floor(sentences)() == [3]  # the patterns of three blocks
    assert len(bench.lensbench_moved(sentences)()) == 1


def test_the_bounds_are_of_the_median_of_paired_rounds() -> None:
    seconds = {bench.FLOOR: [1.0, 2.0, 4.0], bench.OURS: [1.5, 3.0, 20.0]}
    seconds[bench.OURS_MOVED] = [2.5, 5.0, 10.0]
    beyond = {bench.FLOOR: 0.0, bench.OURS: 99.0, bench.OURS_MOVED: 101.0}
    assert [row[2:] for row in bench.bounds(seconds, beyond)] == [
        ["1.50", "yes"],
        ["99", "yes"],
        ["2.50", "**no**"],
        ["101", "**no**"],
    ]
