"""The bench: every peer does the job on a tiny checkpoint, and the ways agree with each other."""

from __future__ import annotations

import pytest
import torch

from tests.benchmarks.measure import peak_beyond_forward, round_robin
from tests.benchmarks.peers import FLOOR, PEERS, hugging_face_loop, transformer_lens_stack
from tests.harness.tiny import Case

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


def test_memory_is_measured_in_a_process_of_its_own(llama: Case) -> None:
    peak = peak_beyond_forward(FLOOR, llama.folder, TOKENS)
    assert peak is None or peak >= 0
