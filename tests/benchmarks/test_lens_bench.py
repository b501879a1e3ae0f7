"""The bench: every peer does the job on a tiny checkpoint, and the ways agree with each other."""

from __future__ import annotations

from dataclasses import replace

import pyarrow as pa
import pytest
import torch

from lensbench.lens.metrics import LN_2
from lensbench.models.load import load_model
from lensbench.prompts.encode import Word, encode_all
from lensbench.prompts.prompt import Prompt
from tests.benchmarks.__main__ import bounds
from tests.benchmarks.measure import peak_beyond_forward, round_robin
from tests.benchmarks.peers import (
    FLOOR,
    OURS,
    OURS_SEVERAL,
    PEERS,
    hugging_face_loop,
    transformer_lens_stack,
)
from tests.benchmarks.whole_run import hugging_face_run, lensbench
from tests.harness.tiny import PROMPTS, Case

TOKENS = 8
HERE = [name for name in PEERS if not name.startswith("nnterp")]  # it needs the extra `bench`


@pytest.mark.parametrize("name", HERE)
def test_every_peer_does_its_job(llama: Case, name: str) -> None:
    seconds = round_robin({name: PEERS[name](llama.folder, TOKENS)}, rounds=1)
    assert [len(times) for times in seconds.values()] == [1]


def test_two_ways_give_the_same_statistics(llama: Case) -> None:
    stacked = transformer_lens_stack(llama.folder, TOKENS)()
    by_layer = hugging_face_loop(llama.folder, TOKENS)()
    for statistic in (0, 1):  # entropy, KL
        loop = torch.stack([layer[statistic] for layer in by_layer])
        torch.testing.assert_close(stacked[statistic], loop, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_memory_is_measured_in_a_process_of_its_own(llama: Case) -> None:
    peak = peak_beyond_forward(FLOOR, llama.folder, TOKENS)
    assert peak is None or peak >= 0


def test_a_whole_run_and_the_script_beside_it_give_the_same_numbers(llama: Case) -> None:
    model = load_model(llama.folder, device="cpu")
    encoded = [
        replace(item, answer=Word("-", (item.token_ids[0],), "written"))
        for item in encode_all(model.encoder(), [Prompt(f"{i}", t) for i, t in enumerate(PROMPTS)])[
            0
        ]
    ]
    parts = lensbench(model, encoded)()
    ours = pa.concat_tables([part.tables["lens"] for part in parts]).to_pandas()
    in_order = sorted(encoded, key=lambda item: len(item.token_ids))
    for layer, (entropy, kl, prob, rank, top) in enumerate(
        hugging_face_run(llama.folder, encoded)()
    ):
        for row, item in enumerate(in_order):
            own = ours[(ours.layer == layer) & (ours.prompt_id == item.prompt.id)].iloc[0]
            assert own.entropy_bits * LN_2 == pytest.approx(float(entropy[row]), abs=1e-4)
            assert own.kl_bits * LN_2 == pytest.approx(float(kl[row]), abs=1e-4)
            assert own.answer_prob == pytest.approx(float(prob[row]), rel=1e-4)
            assert (own.answer_rank, own.top_ids[0]) == (int(rank[row]), int(top[row, 0]))


def test_bounds_are_of_medians_within_rounds() -> None:
    seconds = {FLOOR: [1.0, 2.0, 1.0], OURS: [0.9, 2.2, 0.8], OURS_SEVERAL: [2.5, 6.6, 2.4]}
    rows = bounds("smollm2-135m", seconds, {OURS: 70 << 20}, 10 << 20)
    assert [row[2:] for row in rows] == [["0.90", "yes"], ["0.80", "yes"], ["60", "yes"]]
    slow = {**seconds, OURS: [1.1, 2.2, 1.2], OURS_SEVERAL: [4.0, 8.0, 4.0]}
    rows = bounds("smollm2-135m", slow, {OURS: 80 << 20}, 10 << 20)
    assert [row[3] for row in rows] == ["**no**"] * 3
    assert len(bounds("gemma3-270m", seconds, {OURS: None}, 0)) == 2
