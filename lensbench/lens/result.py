"""The logit lens as one call, and its result as an object that reads well in a notebook."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import torch

from lensbench.checkpoints.config.shape import context_length
from lensbench.checkpoints.devices import tokens_at_once
from lensbench.errors import InputProblems, Problem
from lensbench.escape import visible
from lensbench.lens.gate import worst
from lensbench.lens.logit import (
    BatchReadings,
    capture_batch,
    output_of,
    read_batch,
    read_batches,
)
from lensbench.lens.settings import LensSettings, Positions, several
from lensbench.lens.table import lens_table, measured, prompts_table
from lensbench.lens.vocabulary.products import decided, said_of_again, said_of_choice
from lensbench.models.bridge import Proof
from lensbench.models.model import LensModel, require_loaded
from lensbench.models.readout import EVERY
from lensbench.prompts.batch import PaddingSide
from lensbench.prompts.encode import (
    NOTHING,
    EncodedPrompt,
    Encoder,
    Template,
    TokenText,
    Word,
    encode_all,
)
from lensbench.prompts.prompt import Prompt, Prompts, as_prompts
from lensbench.records.lens.answer_forms import said_of_forms
from lensbench.records.parts import in_order
from lensbench.records.schema.lens import ON_REQUEST
from lensbench.residuals.capture import Residuals
from lensbench.residuals.store import ResidualCache
from lensbench.spec import nearest

if TYPE_CHECKING:
    from jaxtyping import Float
    from plotly.graph_objects import Figure
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

_FEW_TOKENS = 64  # a pass over them takes hardly longer than one over the few of a short text


@dataclass(frozen=True, eq=False)
class LensResult:
    """Readings of one model: `table` and `prompts` follow records/schema/lens.py (LENS, PROMPTS).

    `gate_kl_bits` is the largest KL(model || final lens at the last layer) over everything read.
    `products` says how the head's were made: `used`, and where it was asked for what pays, what was
    measured. `n_read_again` rows are of float64 products, since float32's may be off by more than
    2e-5 bits + 2e-5 of an entropy or KL.
    """

    model: str
    table: pa.Table
    prompts: pa.Table
    gate_kl_bits: float
    problems: list[Problem]
    products: Mapping[str, Any]
    n_read_again: int

    def to_pandas(self) -> pd.DataFrame:
        """One row per lens x prompt x position x site; units are in the column names."""
        return self.table.to_pandas()

    def plot(self, prompt_id: str | None = None, value: str = "entropy_bits") -> Figure:
        """A heat map, layer x position, of one prompt; top tokens in the cells and on hover.

        Args:
            prompt_id: which prompt; the first one by default.
            value: any column that is measured, such as "kl_bits" or "answer_prob".

        Raises InputProblems for a prompt or a column that is not there.
        """
        from lensbench.lens.plot import heat_map

        ids = self.prompts["prompt_id"].to_pylist()
        chosen = ids[0] if prompt_id is None else prompt_id
        found = []
        if chosen not in ids:
            what = f"there is no prompt {chosen!r}"
            found.append(Problem("prompt_id", what, nearest(chosen, ids)))
        if value not in measured():
            what = f"nothing measured is called {value!r}"
            found.append(Problem("value", what, nearest(value, measured())))
        elif value in ON_REQUEST and not self.table[value].drop_null():
            remedy = f"Ask for it: logit_lens(..., metrics={value!r})."
            found.append(Problem("value", f"{value} was not measured", remedy))
        if found:
            raise InputProblems(found)
        return heat_map(self.to_pandas(), chosen, value, f"{self.model}: {chosen}")

    @property
    def notes(self) -> list[str]:
        """What a reader would not expect of how answers were joined to their prompts."""
        table = self.table
        last = table.filter(
            (pc.field("layer") == pc.max(table["layer"]))
            & (pc.field("site") == "resid_post")
            & (pc.field("lens") == table["lens"][0])
            & pc.field("is_last")
        )
        prompts = self.prompts.to_pandas().set_index("prompt_id")
        return list(said_of_forms(prompts, last.to_pandas()))

    @property
    def arithmetic(self) -> list[str]:
        """How logits were made, where that is not by float32 products alone."""
        return [*said_of_choice(self.products), *said_of_again(self.n_read_again)]

    def __repr__(self) -> str:
        n_lenses = len(set(self.table["lens"].to_pylist()))
        lines = [
            f"LensResult({self.model}: {self.prompts.num_rows} prompt(s), "
            f"{self.table.num_rows:,} rows, {n_lenses} lens(es), "
            f"last layer = model within {self.gate_kl_bits:.1e} bits)"
        ]
        frame = self.to_pandas()
        last = frame[frame.is_last & (frame.site == "resid_post")]
        for prompt_id, part in list(last.groupby("prompt_id", sort=False))[:5]:
            row = part.sort_values("layer").iloc[-1]
            token = visible(row.top_tokens[0])
            lines.append(f"  {prompt_id}: {token!r} at p = {row.top_probs[0]:.2f}")
        lines += [f"  {note}" for note in (*self.notes, *self.arithmetic)]
        if self.problems:
            lines.append(f"  {len(self.problems)} skipped: see .problems")
        return "\n".join(lines)


def logit_lens(
    model: LensModel,
    prompts: Prompts,
    *,
    layers: int | Sequence[int] | None = None,
    positions: int | Positions = "all",
    lens: str | Sequence[str] = "final",
    sites: str | Sequence[str] = ("embed", "resid_post"),
    top_k: int = 5,
    metrics: str | Sequence[str] = (),
    template: Template = "plain",
    padding_side: PaddingSide = "right",
    batch_tokens: int | None = None,
    products: str = "float32",
) -> LensResult:
    """What each residual vector would predict if the model stopped there.

    The logit lens of nostalgebraist (2020), with the model's own final norm recomputed at each
    layer, gated: the last layer must reproduce the model.

    Args:
        layers: 0 (embedding) to n_layers (after the last block); all by default.
        positions: "all", "last", "earlier" (all but the last) or indices into the prompt.
        lens: "final" (the lens of the model's output), "linear" or "tuned" (see `fit_lens`), the
            folder of a fitted lens, or "next" and "raw" for sensitivity.
        sites: "embed", "resid_mid" (after attention), "resid_post" (after each block).
        top_k: how many top tokens to keep per cell.
        metrics: "js_bits" measures that too, for which logits are gone through twice.
        template: "chat" puts the prompt at the start of a chat answer.
        batch_tokens: tokens per forward pass, padding included; by default 512 on a CPU, up to
            2,048 on a GPU.
        products: "bfloat16" makes the head's products of exact bfloat16 parts, summed in float32
            by matrix units, with the ranks and top tokens of float64; "auto" where it is measured
            to be faster. On a CPU it is slower.

    Raises:
        GateError: the lens does not reproduce this model.
        InputProblems: no prompt could be encoded, or unknown layers or positions.
    """
    encoder = require_loaded(model).encoder(template)
    settings = LensSettings(
        lenses=several(lens),
        sites=several(sites),
        layers=None if layers is None else several(layers),
        positions=positions if isinstance(positions, str) else several(positions),
        top_k=top_k,
        metrics=several(metrics),
        batch_tokens=tokens_at_once(model.device, batch_tokens),
        padding_side=padding_side,
        products=products,
    )
    encoded, problems = encode_all(encoder, as_prompts(prompts))
    if not encoded:
        raise InputProblems(problems or [NOTHING])
    return read(model, encoded, settings, problems)


def read(
    model: LensModel,
    encoded: Sequence[EncodedPrompt],
    settings: LensSettings,
    problems: Sequence[Problem] = (),
    cache: ResidualCache | None = None,
) -> LensResult:
    """The lens over prompts that are encoded already; with a cache, from its residuals."""
    settings, products = decided(model, encoded, settings)
    batches = read_batches(model, encoded, settings, cache)
    return _joined(model, encoded, batches, products, problems)


def read_own(
    model: LensModel,
    encoded: EncodedPrompt,
    settings: LensSettings,
    captured: Residuals | None = None,
) -> LensResult:
    """The lens over one prompt, at all its positions, of its answer.

    Without one of the token that the model itself says next, which is known from the pass that is
    read: there is no second one. In half precision it is the best by float32 products, as in what
    is read. That pass may have been made already (`captured`, of all positions).
    """
    settings, products = decided(model, [encoded], replace(settings, positions="all"))
    captured = captured or capture_batch(model, [encoded], settings)
    own_output = output_of(model, captured)
    if encoded.answer is None:
        logits, n_cells = own_output[0], len(captured.cells)
        with torch.inference_mode():
            token = int(logits(slice(n_cells - 1, n_cells), EVERY).argmax())
        own = Word(TokenText(model.tokenizer)(token), (token,), "written")
        encoded = replace(encoded, answer=own)
    readings = read_batch(model, [encoded], settings, captured=captured, own_output=own_output)
    return _joined(model, [encoded], [readings], products)


class Alone(Proof):
    """One prompt that is read at all its positions, by a pass that is the model's proof as well.

    Give it to `load_model`, and the model to `read`: two passes in all, Hugging Face's own and the
    one that is read. The proof of a long prompt would take longer than that of a short text.
    """

    def __init__(
        self, prompt: Prompt, settings: LensSettings, template: Template = "plain"
    ) -> None:
        self._prompt, self._template = prompt, template
        self._settings = replace(settings, positions="all")
        self._captured: tuple[Any, EncodedPrompt, Residuals] | None = None  # of which bridge

    def ids(self, tokenizer: PreTrainedTokenizerBase, config: Any) -> list[int]:
        """The prompt's, where they are few. Raises InputProblems with all that is wrong with it."""
        d_vocab = int(config.get_text_config(decoder=True).vocab_size)
        encoder = Encoder(tokenizer, context_length(config), self._template, d_vocab=d_vocab)
        ids = list(encoder.encode(self._prompt).token_ids)
        return ids if len(ids) <= _FEW_TOKENS else super().ids(tokenizer, config)

    def logits(self, model: LensModel, ids: Sequence[int]) -> Float[Tensor, "pos d_vocab"]:
        """Those of the pass that will be read, where the proof is the prompt."""
        encoded = model.encoder(self._template).encode(self._prompt)
        if list(encoded.token_ids) != list(ids):
            return super().logits(model, ids)
        residuals = capture_batch(model, [encoded], self._settings)
        self._captured = model.bridge, encoded, residuals
        return residuals.logits[0]

    def read(self, model: LensModel) -> LensResult:
        """The lens over the prompt, as `read_own`."""
        made, self._captured = self._captured, None
        if made is not None and made[0] is model.bridge:
            return read_own(model, made[1], self._settings, made[2])
        encoded = model.encoder(self._template).encode(self._prompt)
        return read_own(model, encoded, self._settings)


def _joined(
    model: LensModel,
    encoded: Sequence[EncodedPrompt],
    batches: Iterable[BatchReadings],
    products: Mapping[str, Any],
    problems: Sequence[Problem] = (),
) -> LensResult:
    """What was read, batch after batch, as one result."""
    text = TokenText(model.tokenizer)
    tables, found, errors, n_again = [], list(problems), [], 0
    for readings in batches:
        tables.append(lens_table(model, readings, text))
        found += readings.problems
        n_again += readings.n_read_again
        if readings.gate_kl_bits is not None:
            errors.append(readings.gate_kl_bits)
    if not errors:
        raise InputProblems(found or [NOTHING])
    failed = {problem.prompt_id for problem in found}
    measured = [item for item in encoded if item.prompt.id not in failed]
    return LensResult(
        model=model.name,
        table=in_order(pa.concat_tables(tables), "prompt_id", [one.prompt.id for one in measured]),
        prompts=prompts_table(model, measured, text),
        gate_kl_bits=worst(errors),
        problems=found,
        products=products,
        n_read_again=n_again,
    )
