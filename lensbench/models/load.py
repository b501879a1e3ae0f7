"""Loading: a name, a folder or a model object becomes a LensModel, or a reason why it cannot."""

from __future__ import annotations

import copyreg
import warnings
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lensbench.again import by_name, require_together
from lensbench.checkpoints.config.shape import say_keys_chosen
from lensbench.checkpoints.devices import pick_dtype
from lensbench.checkpoints.multimodal import text_model
from lensbench.checkpoints.open import (
    count_parameters,
    open_config,
    open_tokenizer,
    quiet,
)
from lensbench.checkpoints.placement import Placement, require_fit
from lensbench.checkpoints.ref import ModelRef
from lensbench.checkpoints.stored.heap import release
from lensbench.checkpoints.weights import open_weights
from lensbench.errors import ModelError
from lensbench.models.adapted import in_8_bits, open_adapted
from lensbench.models.bridge import Proof, bridged
from lensbench.models.model import LensModel
from lensbench.models.readout import readout_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def load_model(
    model: str | Path | ModelRef | Any,
    *,
    dtype: str | None = None,
    device: str | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    name: str | None = None,
    allow_fields: Collection[str] = (),
    trust_remote_code: bool = False,
    proof: Proof | None = None,
) -> LensModel:
    """Load a causal language model for the lens.

    Args:
        model: NAME[@BITS[:THRESHOLD]][+ADAPTER] or a `ModelRef`: an alias (`smollm2-135m`), a hub
            name that was pulled or a local folder, in 8 or 4 bits and with an adapter where it
            says so. Or a Hugging Face model object, or a TransformerLens model
            (TransformerBridge; HookedTransformer on TransformerLens 3.9). A Hugging Face object is
            wrapped in place: save it before, not after.
        dtype: "float32", "bfloat16" or "float16"; by default float32 on a CPU and for models of
            up to 2e9 parameters, half precision for larger ones on an accelerator.
        device: "cpu", "cuda", "cuda:1", "mps"; by default the first there is of cuda, mps, cpu.
            Or several, for a model that is too large for one: see `Placement`.
        tokenizer: needed with a model object only.
        allow_fields: config fields unknown to lensbench that you know to be harmless.
        trust_remote_code: run code that came with the weights. Off unless you ask.
        proof: the tokens by which the wrapped model is held to the model itself, where those of a
            short text are not to be read besides what is read anyway.

    Raises:
        ModelError: unknown name (with the nearest aliases), not pulled, too large (with the
            arithmetic), config fields that are not understood, NaN or Inf in the weights, an
            adapter of another base, weights that TransformerLens cannot wrap at these bits.
        GateError: what TransformerLens wrapped gives another output than the model itself.
        InputProblems: everything that is wrong with a name or a model folder, at once.
    """
    if _is_object(model):
        return _wrap_object(model, tokenizer, name, proof)
    ref = ModelRef.of(model)
    if not ref.plain:
        return open_adapted(ref, dtype, device, allow_fields, trust_remote_code, proof)
    folder = ref.folder
    ref.say_what_lies_beside()
    config = open_config(folder, allow_fields, trust_remote_code)
    say_keys_chosen(ref.name, config)
    where = Placement.of(device)
    n_params = count_parameters(config, trust_remote_code)
    number_format = pick_dtype(dtype, where.main, n_params)
    require_fit(n_params, number_format, where, in_8_bits(config, where.main))
    with quiet():
        hf_model = open_weights(folder, number_format, trust_remote_code, where=where).eval()
        tokenizer = tokenizer or open_tokenizer(folder, trust_remote_code)
    return bridged(hf_model, tokenizer, name or ref.name, ref.located.source, ref, proof)


def _load_again(ref: ModelRef, dtype: str | None, device: str, name: str) -> LensModel:
    return replace(load_model(ref, dtype=dtype, device=device), name=name)


def _by_name(model: LensModel) -> tuple[Any, ...]:
    require_together(model.name, model.bridge.parameters())
    facts = model.identity()
    dtype = None if facts.get("bits") is not None else str(model.dtype).removeprefix("torch.")
    given = {"ref": model.ref, "dtype": dtype, "device": model.device.type, "name": model.name}
    return by_name(_load_again, given, facts)


copyreg.pickle(LensModel, _by_name)  # how it goes to another process


class Loader:
    """Loads named models and keeps the last one, for whoever asks for the same again.

    Before another is loaded it lets go of that one, so that it never keeps two.
    """

    def __init__(self) -> None:
        self._asked: tuple[ModelRef, str | None, str | None] | None = None
        self._model: LensModel | None = None

    def __call__(
        self, ref: ModelRef, *, dtype: str | None = None, device: str | None = None
    ) -> LensModel:
        """The model at this precision, there. Raises as `load_model`."""
        asked = (ref, dtype, device)
        if self._model is None or asked != self._asked:
            if self._model is not None:
                self.let_go()
                release()
            self._model, self._asked = load_model(ref, dtype=dtype, device=device), asked
        return self._model

    def let_go(self) -> None:
        """Keep none."""
        self._asked = self._model = None


def _is_object(model: object) -> bool:
    """A model of TransformerLens or of Hugging Face; anything else can only be a name."""
    return hasattr(model, "run_with_hooks") or hasattr(model, "config")


def _wrap_object(
    model: Any,
    tokenizer: PreTrainedTokenizerBase | None,
    name: str | None,
    proof: Proof | None,
) -> LensModel:
    """A model that exists already: bridge a Hugging Face one, take TransformerLens' as it is."""
    if hasattr(model, "run_with_hooks"):
        tokenizer = tokenizer or model.tokenizer
        if tokenizer is None:
            raise ModelError("This model has no tokenizer. Pass tokenizer=...")
        label = name or str(model.cfg.model_name)
        hf_config = getattr(getattr(model, "original_model", None), "config", None)
        wrapped = LensModel(
            name=label,
            source="a TransformerLens object",
            bridge=model,
            tokenizer=tokenizer,
            readout=readout_of(model, hf_config),
            model_type=str(getattr(hf_config, "model_type", "unknown")),
        )
        _warn_of_other_tokens(wrapped)
        return wrapped
    if tokenizer is None:
        raise ModelError("A model object needs its tokenizer. Pass tokenizer=...")
    label = name or str(model.config.name_or_path or type(model).__name__)
    hf_model, source = text_model(model.eval()), "a Hugging Face object"
    return bridged(hf_model, tokenizer, label, source, proof=proof)


def _warn_of_other_tokens(model: LensModel) -> None:
    """Say so where a bridge as it came makes other tokens of a text than lensbench reads."""
    if model.bridge.tokenizer is None:
        return
    theirs, ours = (one.to_tokens("The").tolist()[0] for one in (model.bridge, model))
    if theirs != ours:
        warnings.warn(
            f"{model.name}: TransformerLens makes the tokens {theirs} of 'The', lensbench reads "
            f"{ours}, as the tokenizer gives them. A position of a text is another token there: "
            "give run_with_cache and run_with_hooks model.to_tokens(text) instead of the text.",
            stacklevel=4,
        )
