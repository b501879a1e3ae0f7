"""The peak of every verb is what `lensbench doctor` says, measured from outside.

Each run is a process of its own, on smollm2-135m; the kernel counts its pages, mapped weights
included. Constants were measured on this model, so larger ones are held to in `test_memory.py`.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lensbench.checkpoints.open import open_config
from lensbench.checkpoints.placement import PROGRAM
from lensbench.quantized.peaks import VERBS, Batch, Verb, needed_bytes, peak_bytes
from lensbench.quantized.precision import Shape, Sizes, sizes_of
from tests.harness.processes import run

TEXT = "The capital of Germany and of the country number {} is a city by the name of"
PAIR = {
    "instruction": "Name the capital of Italy, and say in one sentence what it is known for.",
    "response": "The capital of Italy is Rome, which is known for its ruins, its fountains and "
    "its food.",
}
# What goes through the model at once, in tokens of smollm2-135m.
BATCHES: dict[Verb, Batch] = {
    "lens": Batch(27, 19),
    "cache": Batch(27, 19),
    "attention": Batch(12, 19, control=False),
    "fit": Batch(4, 128),
    "infer": Batch(8, 19, 4),
    "train": Batch(4, 69, n_read=4 * 27),
}
BITS = (32, 16, 8, 4)
_LEAST_BITS: dict[Verb, int] = {"attention": 16, "fit": 32}  # minutes and more over fewer bits
RUNS = [(verb, bits) for verb in VERBS for bits in BITS if bits >= _LEAST_BITS.get(verb, 4)]


def words(verb: str, bits: int, place: Path) -> list[object]:
    """The command line of a short run."""
    prompts, pairs, out = place / "prompts.csv", place / "pairs.jsonl", place / "out"
    rows = "".join(f"p{i},{TEXT.format(i)},Berlin\n" for i in range(30))
    prompts.write_text("id,prompt,answer\n" + rows)
    pairs.write_text("".join(json.dumps({"id": str(i)} | PAIR) + "\n" for i in range(16)))
    name = f"smollm2-135m@{bits}" if bits in (8, 4) else "smollm2-135m"
    read = ["--dtype", {32: "float32", 16: "bfloat16"}[bits]] if bits in (32, 16) else []
    base: dict[str, list[Any]] = {
        "lens": [name, "--prompts", prompts, "--heatmap-prompts", 0, "-o", out, *read],
        "cache": [name, "--prompts", prompts, "-o", out, *read],
        "attention": [name, "--prompts", prompts, "--limit", 12, "-o", out, *read],
        "fit": [name, "--tokens", 3000, "-o", out, *read],
        "infer": [f"smollm2-135m@{bits}", prompts, "-o", out.with_suffix(".csv")],
        "train": ["smollm2-135m", pairs, "--bits", bits, "--max-steps", 2, "-o", out],
    }
    more: dict[str, list[Any]] = {
        "attention": ["--no-nulls", "--repeat-tokens", 10, "--n-repeated", 2],
        "infer": ["--max-new-tokens", 4, "--batch-size", 8],
        "train": ["--batch-size", 4, "--eval-share", 0, "--examples", 0, "--rank", 8],
    }
    return [verb, *base[verb], *more.get(verb, []), "--device", "cpu"]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's own marks are read")
@pytest.mark.parametrize(("verb", "bits"), RUNS)
def test_the_peak_of_a_verb_is_predicted_within_a_tenth(
    smollm_folder: Path, verb: Verb, bits: Any, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "lensbench.cli", *words(verb, bits, tmp_path)]
    peak = run(command, os.environ, tmp_path).peak_bytes
    predicted = peak_bytes(verb, sizes_of(open_config(smollm_folder)), bits, BATCHES[verb])
    assert predicted == pytest.approx(peak, rel=0.1)


LLAMA3_8B = Sizes(
    6_979_321_856,
    1_050_939_392,
    65_536,
    58_720_256,
    Shape(32, 4096, 128_256, 14_336, 32, 4096),
)


@pytest.mark.parametrize("verb", VERBS)
def test_a_peak_is_that_of_the_program_and_at_least_the_weights(verb: Verb) -> None:
    for bits in BITS:
        needed = needed_bytes(verb, LLAMA3_8B, bits)  # type: ignore[arg-type]
        assert needed >= LLAMA3_8B.loading_bytes(bits)  # type: ignore[arg-type]
        assert peak_bytes(verb, LLAMA3_8B, bits) >= PROGRAM + needed  # type: ignore[arg-type]


def test_what_a_verb_holds_beside_the_weights_worked_out_by_hand() -> None:
    """Llama-3-8B in bfloat16: circuits of all heads, and an untrained model if it is asked for."""
    weights = LLAMA3_8B.weight_bytes(16)
    assert weights == 2 * 8_030_261_248
    # A matrix of all heads is as many float32 numbers as the stream is wide, squared: of every
    # block what it writes, of one block its weights (4), what it writes and reads (4), what the
    # block before it read (3), and three on their way.
    circuits = (32 + 14) * 4 * 4096**2
    alone, usual = Batch(control=False), Batch()
    held = needed_bytes("attention", LLAMA3_8B, 16, alone) - weights
    assert held == pytest.approx(circuits, rel=0.1)
    assert needed_bytes("attention", LLAMA3_8B, 16, usual) == weights + held + weights
    # Beside 8 bits, which have no circuits to read, it is in 16.
    more = [needed_bytes("attention", LLAMA3_8B, 8, batch) for batch in (alone, usual)]
    assert more[1] > more[0]
    assert more[1] >= LLAMA3_8B.weight_bytes(8) + weights


def test_heads_may_be_wider_together_than_the_stream() -> None:
    """Gemma-3-270M: 4 heads of 256 numbers each on a stream of 640."""
    shape = Shape(18, 640, 262_144, 2048, 4, 4 * 256)
    sizes = Sizes(100_270_080, 167_772_160, 9216, 1_310_720, shape)
    narrow = replace(sizes, shape=replace(shape, d_heads=640))
    alone = Batch(control=False)
    wide, less = (needed_bytes("attention", one, 32, alone) for one in (sizes, narrow))
    assert wide - less == (18 + 14) * 4 * 640 * (1024 - 640)
