"""What generation and tracing leave behind, as rows of the record."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Float
from torch import Tensor

from lensbench.quantized.generation.generate import Generation
from lensbench.quantized.generation.questions import Ready
from lensbench.quantized.generation.trace import ResidualMeans
from lensbench.records.residuals import shard, shard_name, tensor_name
from lensbench.records.schema.generation import ACTIVATIONS, CONTROLS, RESPONSES, SPANS
from lensbench.records.schema.residuals import RESIDUAL_INDEX


def responses_table(
    model: str,
    batch: int,
    computed: Sequence[tuple[Sequence[Ready], Sequence[Generation]]],
    seeds: Callable[[Ready], int | None],
) -> pa.Table:
    """One row per response; `computed` are the prompts that went through the model together."""
    rows = [
        _response(model, ready, generation)
        | {"batch": batch, "batch_ids": [other.asked.id for other in together]}
        | {"seed": seeds(ready)}
        for together, generations in computed
        for ready, generation in zip(together, generations, strict=True)
    ]
    return RESPONSES.of_rows(rows)


def controls_table(model: str, answered: Sequence[Ready]) -> pa.Table:
    """One row per prompt of a run under a control."""
    rows = [
        {
            "model": model,
            "prompt_id": ready.asked.id,
            "control": ready.control,
            "length_difference": ready.length_difference,
        }
        for ready in answered
    ]
    return CONTROLS.of_rows(rows)


def in_order(table: pa.Table, column: str, values: Iterable[str]) -> pa.Table:
    """The rows in the order in which `values` names what stands in a column; else as they come."""
    place = {value: i for i, value in enumerate(values)}
    found = [place[value] for value in table[column].to_pylist()]
    return table.take(pa.array(sorted(range(len(found)), key=found.__getitem__), pa.int64()))


def _response(model: str, ready: Ready, generation: Generation) -> dict[str, Any]:
    fitted, question = ready.fitted, ready.fitted.question
    start, end = question.context or (None, None)
    retrieved = ready.hits is not None
    return {
        "model": model,
        "prompt_id": ready.asked.id,
        "prompt": ready.asked.prompt,
        "text": question.text,
        "style": question.style,
        "response": generation.text,
        "finish_reason": generation.finish_reason,
        "n_prompt_tokens": generation.n_prompt_tokens,
        "n_generated_tokens": len(generation.token_ids),
        "prompt_ids": fitted.token_ids,
        "token_ids": generation.token_ids,
        "token_logprob_bits": generation.token_logprob_bits,
        "entropy_bits": generation.entropy_bits,
        "retrieved_ids": [hit.id for hit in ready.hits] if ready.hits is not None else None,
        "retrieved_scores": [hit.score for hit in ready.hits] if ready.hits is not None else None,
        "context_start": start,
        "context_end": end,
        "context_tokens_cut": fitted.context_tokens_cut if retrieved else None,
    }


class TracedBatch:
    """What a tracer saw of one planned batch, piece by piece, copied off the device."""

    def __init__(self, model: str, n_layers: int, keep: Sequence[int]) -> None:
        self.model = model
        self.n_layers = n_layers
        self.keep = keep
        self._cells: list[dict[str, Any]] = []
        self._means: list[Float[np.ndarray, "cell d_model"]] = []
        self._index: list[dict[str, Any]] = []
        self._kept: dict[int, list[Float[Tensor, "pos d_model"]]] = {layer: [] for layer in keep}

    def add(self, ids: Sequence[str], tracer: ResidualMeans) -> None:
        """Take over what `tracer` holds: the rows of these prompts.

        Everything is fetched before anything is kept: when memory runs out on the way, the same
        prompts come again.
        """
        n_tokens = {span: tracer.n_tokens(span).tolist() for span in SPANS}
        norms = {span: tracer.mean_norms(span).cpu().tolist() for span in SPANS}
        means = {span: tracer.means(span).cpu().numpy() for span in SPANS}
        streams = {
            (layer, row): tracer.kept(layer, row) for layer in self.keep for row in range(len(ids))
        }
        for span in SPANS:
            by_row = means[span].transpose(1, 0, 2)  # as the cells below
            self._means.append(by_row.reshape(-1, by_row.shape[-1]))
            self._cells += [
                self._place(item, layer)
                | {"span": span, "n_tokens": n_tokens[span][row]}
                | {"mean_norm": norms[span][layer][row] if n_tokens[span][row] else None}
                for row, item in enumerate(ids)
                for layer in range(self.n_layers + 1)
            ]
        for (layer, row), stream in streams.items():
            lengths = {f"n_{span}_tokens": n_tokens[span][row] for span in SPANS}
            self._keep_stream(self._place(ids[row], layer) | lengths, stream)

    def _keep_stream(self, place: dict[str, Any], stream: Float[Tensor, "pos d_model"]) -> None:
        kept = self._kept[place["layer"]]
        tensor = tensor_name(place["site"], place["layer"])
        first = sum(map(len, kept))
        self._index.append(place | {"tensor": tensor, "first_row": first})
        kept.append(stream)

    def tables(self, batch: int) -> dict[str, pa.Table]:
        """The record's tables of this batch."""
        cells = ACTIVATIONS.of_rows(self._cells)
        n_tokens = [cell["n_tokens"] for cell in self._cells]
        means = _lists(np.concatenate(self._means), n_tokens) if self._means else []
        column = ACTIVATIONS.schema.get_field_index("mean")
        cells = cells.set_column(column, ACTIVATIONS.schema.field("mean"), means)
        index = [row | {"file": shard_name(batch)} for row in self._index]
        return {
            "activations": cells,
            "residual_index": RESIDUAL_INDEX.of_rows(index),
        }

    def shard(self, batch: int) -> dict[str, bytes]:
        """The file of the residuals that this batch kept, if it kept any."""
        tensors = {row["tensor"]: torch.cat(self._kept[row["layer"]]) for row in self._index}
        return shard(batch, tensors, self.model) if tensors else {}

    def _place(self, item: str, layer: int) -> dict[str, Any]:
        return {
            "model": self.model,
            "prompt_id": item,
            "site": "embed" if layer == 0 else "resid_post",
            "layer": layer,
            "depth": layer / self.n_layers,
        }


def _lists(rows: Float[np.ndarray, "row value"], n_tokens: Sequence[int]) -> pa.ListArray:
    """A matrix as one list per row, without a Python number for each value; null without tokens."""
    offsets = pa.array(np.arange(len(rows) + 1, dtype=np.int32) * rows.shape[1])
    empty = pa.array(np.array(n_tokens) == 0)
    return pa.ListArray.from_arrays(offsets, rows.astype(np.float32).ravel(), mask=empty)
