"""Which products the head makes in a run, and what was measured of them before it.

`float32`: one product in float32. `bfloat16`: those of bfloat16 parts (models/products/split.py),
with decisions of float64. `auto`: those where this machine reads faster with them, as measured.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lensbench.errors import ModelError
from lensbench.lens.gate import worst
from lensbench.lens.metrics import Distribution, entropy_bits, kl_bits
from lensbench.lens.settings import LensSettings
from lensbench.lens.vocabulary.output import ROWS, Cells, Output
from lensbench.lens.vocabulary.reading import Reading
from lensbench.lens.vocabulary.stream import Stream, Vectors
from lensbench.models.model import LensModel
from lensbench.models.readout import Readout
from lensbench.prompts.encode import EncodedPrompt
from lensbench.residuals.capture import capture_positions

PAYS = 0.9  # times float32's time: a gain that is less is not worth another arithmetic
_ROUNDS = 5
_EXACT_CELLS = 4  # at whose layers entropies and divergences are compared with float64


def measured(model: LensModel, asked: str, token_ids: Sequence[Sequence[int]]) -> dict[str, Any]:
    """Both products on the states of some prompts at every layer: what a manifest says of them.

    `used`: "bfloat16" or "float32". `n_products`: of bfloat16 matrices in place of a float32 one.
    `times_float32`: time of a reading, a multiple of float32's, median of rounds in turn.
    `errors_bits` of each: the largest error of entropies and of KL(model || lens), against float64,
    at every layer of some positions.
    Where this device cannot sum bfloat16 products in float32, `auto` gives `why` in their place.

    Raises ModelError where it cannot and they were asked for.
    """
    try:
        readouts = {"float32": model.readout, "bfloat16": model.split_readout}
    except ModelError as why:
        if asked != "auto":
            raise
        return {"used": "float32", "why": str(why)}
    normed = _states(model, token_ids)
    ratio = _times_float32(readouts, normed)
    few = normed[_spread(len(normed), _EXACT_CELLS)]
    head = readouts["bfloat16"].split
    assert head is not None
    return {
        "used": "bfloat16" if asked == "bfloat16" or ratio <= PAYS else "float32",
        "n_products": head.n_products,
        "n_vectors": len(normed) * normed.shape[1],
        "times_float32": round(ratio, 3),
        "errors_bits": {name: _errors_bits(one, few) for name, one in readouts.items()},
    }


def decided(
    model: LensModel, encoded: Sequence[EncodedPrompt], settings: LensSettings
) -> tuple[LensSettings, dict[str, Any]]:
    """The same settings, with products that were measured to pay in place of `auto`; and which.

    These facts are as `measured` has them; of products that were named, `used` alone.
    """
    if settings.products != "auto":
        return settings, {"used": settings.products}
    ids = sorted((prompt.token_ids for prompt in encoded), key=len)
    found = measured(model, "auto", [ids[0], ids[-1]])
    return replace(settings, products=found["used"]), found


def said_of_products(products: Mapping[str, Any] | None) -> dict[str, Any]:
    """A manifest's facts of a model, given what was `measured`, if anything was."""
    if products is None:
        return {}
    if products["used"] == "float32":
        return {"products": products}
    how = f"{products['n_products']} of bfloat16 parts, summed in float32"
    return {"head_product": how, "products": products}


def said_of_choice(products: Mapping[str, Any]) -> list[str]:
    """Of one reading: which products were made, and why; nothing of float32's where none asked."""
    used = products["used"]
    if "times_float32" in products:
        return [f"products: {used}; bfloat16 parts take {products['times_float32']} x float32 here"]
    if "why" in products:
        return [f"products: {used}; {products['why']}"]
    return [] if used == "float32" else [f"products: {used} parts, summed in float32"]


def said_of_again(n_rows: int) -> list[str]:
    """Of one reading: how many rows float64 products made, since float32's are not close enough."""
    return [f"{n_rows:,} rows by float64 products: float32's may be off"] if n_rows else []


def _states(
    model: LensModel, token_ids: Sequence[Sequence[int]]
) -> Float[Tensor, "cell site d_model"]:
    """As the head reads them, spread over the positions of some prompts; the last site is last."""
    sites = model.sites()
    everywhere = [range(len(ids)) for ids in token_ids]
    residuals = capture_positions(model, token_ids, everywhere, sites)
    n_cells = len(residuals.cells)
    some = _spread(n_cells, max(ROWS // len(sites), 1))
    with torch.inference_mode():
        normed = [model.readout.norm(residuals.at(site)[some].float()) for site in sites]
        return torch.stack(normed, dim=1)


def _spread(n: int, wanted: int) -> Int[Tensor, " some"]:
    """So many places of `n`, or all: the first, the last, and some between them.

    The first position of a text is like no other (Xiao et al. 2024, arXiv 2309.17453).
    """
    return torch.linspace(0, n - 1, min(n, wanted)).round().long()


def _stream(readout: Readout, normed: Float[Tensor, "cell site d_model"]) -> Stream:
    """Reads the states as those of a run are read, with two tokens that are followed."""
    final = normed[:, -1]
    best = readout.logits(final).topk(2).indices

    def logits(cells: Cells, tokens: slice) -> Tensor:
        return readout.logits(final[cells], tokens)

    output = Output.of(readout, len(final), logits)
    return Stream(output, {"answer": best[:, 0], "category": best[:, 1]}, top_k=5)


@torch.inference_mode()
def _read(readout: Readout, normed: Float[Tensor, "cell site d_model"]) -> Reading:
    return _stream(readout, normed).within(Vectors(normed, slice(0, len(normed))))


@torch.inference_mode()
def _times_float32(
    readouts: Mapping[str, Readout], normed: Float[Tensor, "cell site d_model"]
) -> float:
    """Seconds with bfloat16 parts over those in float32, the median of rounds in turn."""
    vectors = Vectors(normed, slice(0, len(normed)))
    streams = {name: _stream(readout, normed) for name, readout in readouts.items()}
    for stream in streams.values():
        stream.within(vectors)
    ratios = []
    for _ in range(_ROUNDS):
        seconds = {name: _seconds(stream, vectors) for name, stream in streams.items()}
        ratios.append(seconds["bfloat16"] / seconds["float32"])
    return sorted(ratios)[_ROUNDS // 2]


def _seconds(stream: Stream, vectors: Vectors) -> float:
    started = time.perf_counter()
    stream.within(vectors).log_z.cpu()  # waits for the device
    return time.perf_counter() - started


@torch.inference_mode()
def _errors_bits(readout: Readout, normed: Float[Tensor, "cell site d_model"]) -> dict[str, float]:
    """The largest errors of a reading against the same in float64, a cell at a time."""
    off: dict[str, list[float]] = {"entropy": [], "kl": []}
    for cell in normed.split(1):
        reading = _read(readout, cell)
        q = Distribution.from_logits(readout.in_float64(cell))
        p = Distribution(q.log_probs[:, -1:])
        exact = {"entropy": entropy_bits(q), "kl": kl_bits(p, q)}
        for name, found in (("entropy", reading.entropy_bits), ("kl", reading.kl_bits)):
            off[name].append(float((found - exact[name].flatten()).abs().max()))
    return {name: worst(errors) for name, errors in off.items()}
