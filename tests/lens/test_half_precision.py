"""Half precision: what is read are float32 products over the model's own, rounded weights.

The right values are products in float64 over the same weights, of the stream that Hugging Face's
own modules give in the same dtype.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from lensbench import Prompt, load_model, logit_lens
from lensbench.lens.vocabulary.output import ROWS
from lensbench.lens.vocabulary.stream import Vectors
from lensbench.models.readout import _TILE_BYTES, Readout
from tests.harness.families import DISTINCT
from tests.harness.reference import Array, Reference, is_top_k, possible_ranks, statistics
from tests.harness.tiny import PROMPTS, Case
from tests.harness.vocabulary import stream_of

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}
LLAMA_3_8B = (4096, 128_256)
ENTROPY_BITS = 1e-4  # what float32 products may move an entropy by, at that shape
BITS = 5e-5


def in_dtype(case: Case, dtype: str) -> tuple[Reference, Reference]:
    """Hugging Face's model in a dtype, and the same rounded weights lifted to float32."""
    from transformers import AutoModelForCausalLM

    hf = AutoModelForCausalLM.from_pretrained(
        case.folder, dtype=DTYPES[dtype], attn_implementation="eager"
    ).eval()
    own = Reference(hf, case.row)
    return own, Reference(copy.deepcopy(hf).float(), case.row)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", DISTINCT)
def test_every_number_is_that_of_exact_products(
    name: str, dtype: str, tiny_case: Callable[[str], Case]
) -> None:
    case = tiny_case(name)
    model = load_model(case.folder, dtype=dtype, device="cpu")
    prompts = [Prompt(f"p{i}", text, answer="Berlin") for i, text in enumerate(PROMPTS)]
    frame = logit_lens(model, prompts, top_k=5).to_pandas()
    own, lifted = in_dtype(case, dtype)
    for _, rows in frame.groupby("prompt_id"):
        rows = rows[rows.is_last]
        ids = model.to_tokens(prompts[int(rows.prompt_id.iloc[0][1:])]).tolist()[0]
        stream, _ = own.run(ids)
        output = exact(lifted, stream, ("resid_post", model.n_layers))
        for row in rows.itertuples():
            logits = exact(lifted, stream, (row.site, row.layer))
            assert_cell(row, logits, output)


def exact(lifted: Reference, stream: dict[Any, torch.Tensor], key: tuple[str, int]) -> Array:
    """[1, d_vocab] at the last position, products in float64."""
    return lifted.logits(stream[key][-1:].float(), "final", key)


def assert_cell(row: Any, logits: Array, output: Array) -> None:
    wanted = statistics(logits, output, row.answer_id, [])
    for name in ("entropy_bits", "kl_bits", "answer_prob", "answer_margin_bits"):
        np.testing.assert_allclose(getattr(row, name), wanted[name][0], atol=BITS, err_msg=name)
    assert row.answer_rank in possible_ranks(logits[0], row.answer_id)
    assert row.answer_ties == 0
    assert is_top_k(logits[0], list(row.top_ids))


def readings(d_model: int, d_vocab: int, rows: int, dtype: torch.dtype) -> tuple[Readout, Any]:
    """A random head of a shape, and normed vectors for it with logits of standard deviation 3."""
    generator = torch.Generator().manual_seed(0)
    head = torch.randn(d_vocab, d_model, generator=generator).mul_(3 / d_model**0.5).to(dtype)
    normed = torch.randn(rows, d_model, generator=generator)
    return Readout(norm=lambda x: x, W_U=head.T, b_U=None), normed


def exact_logits(readout: Readout, normed: torch.Tensor) -> torch.Tensor:
    """Products in float64, a tile of the vocabulary at a time."""
    tiles = readout.W_U.T.split(8192)
    return torch.cat([normed.double() @ tile.double().T for tile in tiles], dim=-1)


@pytest.mark.parametrize(
    ("shape", "rows"),
    [((256, 32_768), 400), pytest.param(LLAMA_3_8B, 64, marks=pytest.mark.slow)],
)
@pytest.mark.parametrize("dtype", DTYPES.values())
def test_no_decision_is_one_of_rounding(
    shape: tuple[int, int], rows: int, dtype: torch.dtype
) -> None:
    """Rounded products would change top tokens, and tie them: shown, or this would show nothing."""
    readout, normed = readings(*shape, rows, dtype)
    truth = exact_logits(readout, normed)
    read, rounded = readout.logits(normed), readout.rounded(normed)
    best = truth.topk(5).indices
    assert torch.equal(read.topk(5).indices, best)
    assert not torch.equal(rounded.topk(5).indices, best)
    second = best[:, 1]
    q = stream_of(readout, read, {"second": second}).read(Vectors(normed[:, None], slice(0, rows)))
    assert torch.equal(q.top_ids, best)
    assert (q.seen["second"].n_better == 1).all()
    assert (q.seen["second"].n_equal == 0).all()
    if dtype == torch.bfloat16:
        assert (rounded == rounded.gather(1, second[:, None])).sum(-1).max() > 1
    log_probs = torch.log_softmax(truth, -1)
    entropy = -(log_probs.exp() * log_probs).sum(-1) / np.log(2)
    assert (q.entropy_bits - entropy).abs().max() < ENTROPY_BITS


class Largest(TorchDispatchMode):
    """The bytes of the largest tensors that are made, by number of bytes, views left out."""

    def __init__(self) -> None:
        super().__init__()
        self.made: list[int] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        given = {a.untyped_storage().data_ptr() for a in args if isinstance(a, torch.Tensor)}
        if isinstance(out, torch.Tensor) and out.untyped_storage().data_ptr() not in given:
            self.made.append(out.untyped_storage().nbytes())
        return out


def test_no_float32_copy_of_the_head_is_made() -> None:
    readout, normed = readings(1024, 65_536, 3, torch.bfloat16)
    with Largest() as largest:
        logits = readout.logits(normed)
    assert max(largest.made) <= _TILE_BYTES < 4 * readout.W_U.numel() / 10
    assert logits.dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_no_row_of_logits_is_made_while_streaming(dtype: torch.dtype) -> None:
    """A thousand rows over this vocabulary would be 268 MB."""
    readout, normed = readings(64, 65_536, ROWS, dtype)
    stream = stream_of(readout, readout.logits(normed[:4]), {"answer": torch.arange(4)})
    with Largest() as largest:
        stream.read(Vectors(normed.view(4, -1, 64), slice(0, 4)))
    assert 4 * 65_536 < max(largest.made) <= 2 * _TILE_BYTES


def test_a_float32_head_is_read_by_one_product() -> None:
    readout, normed = readings(64, 1000, 3, torch.float32)
    assert torch.equal(readout.logits(normed), normed @ readout.W_U)
    assert torch.equal(readout.rounded(normed), readout.logits(normed))


def test_the_record_says_how_logits_were_made(llama: Case) -> None:
    half = load_model(llama.folder, dtype="bfloat16", device="cpu")
    assert half.facts()["head_product"] == llama.model.facts()["head_product"] == "float32"
    assert half.facts()["model_logits"] == "made in float32 from the last state"
    assert llama.model.facts()["model_logits"] == "the model's own"
