"""Capture: one forward pass that keeps only the residual vectors somebody asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from lensbench.models.model import LensModel
from lensbench.models.readout import Point, Site
from lensbench.prompts.batch import Batch, make_batch

Cell = tuple[int, int]  # (row of the batch, column of the batch)


@dataclass(frozen=True)
class Residuals:
    """`stream[s, c]` is the residual vector of cell c at site s; `logits` are the model's own."""

    sites: list[Site]
    cells: list[Cell]
    stream: Float[Tensor, "site cell d_model"]
    logits: Float[Tensor, "batch pos d_vocab"]

    def at(self, site: Site) -> Float[Tensor, "cell d_model"]:
        """The residual vectors of all cells at one site."""
        return self.stream[self.sites.index(site)]

    def model_logits(self, cells: slice) -> Float[Tensor, "cell d_vocab"]:
        """The model's own logits at some of the cells, float32."""
        rows, columns = zip(*self.cells[cells], strict=True)
        return self.logits[list(rows), list(columns)].float()

    def broken_rows(self) -> set[int]:
        """Rows whose residual stream or logits hold NaN or Inf at one of the cells."""
        bad = ~self.stream.isfinite().all(-1).all(0)  # [cell]
        rows = {row for (row, _), is_bad in zip(self.cells, bad.tolist(), strict=True) if is_bad}
        for row, column in self.cells:
            if not bool(self.logits[row, column].isfinite().all()):
                rows.add(row)
        return rows


def capture(
    model: LensModel, batch: Batch, sites: Sequence[Site], cells: Sequence[Cell]
) -> Residuals:
    """Run `batch` once and keep the residual stream at `sites`, for `cells` only.

    Memory beyond the forward pass itself: `len(sites) * len(cells) * d_model` numbers.
    """
    sites, cells = list(sites), list(cells)
    rows, columns = (list(part) for part in zip(*cells, strict=True))
    stream = torch.empty(
        (len(sites), len(cells), model.d_model), dtype=torch.float32, device=model.device
    )

    def keep(index: int) -> Callable[..., None]:
        def hook(resid: Float[Tensor, "batch pos d_model"], hook: object) -> None:
            stream[index] = resid[rows, columns].detach()

        return hook

    hooks = [(_hook_name(site), keep(index)) for index, site in enumerate(sites)]
    with torch.inference_mode():
        logits = _forward(model, batch, hooks)
    return Residuals(sites, cells, stream, logits)


def residual_stream(
    model: LensModel,
    prompt: str | Sequence[int],
    points: Sequence[Point] = ("embed", "resid_post"),
) -> Residuals:
    """The whole residual stream of one prompt (text or token ids), for looking around.

    `stream` is [site, pos, d_model], float32; `logits` is [1, pos, d_vocab].
    """
    token_ids = model.tokenizer(prompt).input_ids if isinstance(prompt, str) else list(prompt)
    batch = make_batch([0], [token_ids])
    return capture(model, batch, model.sites(points), [(0, p) for p in range(len(token_ids))])


def _forward(
    model: LensModel, batch: Batch, hooks: list[tuple[str, Callable[..., None]]]
) -> Float[Tensor, "batch pos d_vocab"]:
    """The model's own logits. TransformerLens 3's HookedTransformer makes its own position ids."""
    inputs = {"attention_mask": batch.attention_mask.to(model.device)}
    if type(model.bridge).__name__ != "HookedTransformer":
        inputs["position_ids"] = batch.position_ids.to(model.device)
    ids = batch.token_ids.to(model.device)
    return model.bridge.run_with_hooks(ids, fwd_hooks=hooks, return_type="logits", **inputs)


def _hook_name(site: Site) -> str:
    if site.point == "embed":
        return "blocks.0.hook_resid_pre"
    kind = "mid" if site.point == "resid_mid" else "post"
    return f"blocks.{site.layer - 1}.hook_resid_{kind}"
