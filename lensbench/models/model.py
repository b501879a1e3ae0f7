"""A loaded model: a TransformerLens bridge, its tokenizer and its readout under one name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lensbench.again import cannot_go
from lensbench.checkpoints.config.shape import keys_chosen, rope_switch
from lensbench.checkpoints.devices import device_facts
from lensbench.checkpoints.placement import placed_facts
from lensbench.checkpoints.ref import ModelRef
from lensbench.checkpoints.stored.offload import in_memory
from lensbench.errors import InputProblems, Problem, RecordsError
from lensbench.models.prefix import continues
from lensbench.models.readout import Norm, Readout, next_norms
from lensbench.models.sites import KINDS, Site
from lensbench.prompts.encode import Encoder, Template
from lensbench.prompts.prompt import One, as_prompts, is_one

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


Wanted = str | Site | Sequence[str | Site]  # sites, by kind, by name or as they are


@dataclass(frozen=True)
class LensModel:
    """What the lens needs of a model; made by `load_model`.

    `bridge` is any model with TransformerLens' structural protocol (`cfg`, `run_with_hooks`,
    `ln_final`, `W_U`, `b_U`, `blocks`): a TransformerBridge, or a HookedTransformer on 3.9.
    `source` is where anyone could get the weights; `ref` is None for a model that came as a Python
    object.
    """

    name: str
    source: str
    bridge: Any
    tokenizer: PreTrainedTokenizerBase
    readout: Readout
    model_type: str = "unknown"
    ref: ModelRef | None = None
    precisions: Mapping[str, Any] | None = None  # weights by number format, of one with bits
    _split: dict[int | None, Readout] = field(default_factory=dict, init=False, compare=False)

    @property
    def split_readout(self) -> Readout:
        """The readout with products of bfloat16 parts: see `Readout.in_parts`.

        Made once, and again where the head's weights were changed in place since.
        """
        head = self.readout.W_U
        state = None if head.is_inference() else head._version  # torch counts changes in place
        if state not in self._split:
            self._split.clear()
            self._split[state] = self.readout.in_parts()
        return self._split[state]

    @property
    def base(self) -> str:
        """The name of the weights, without bits and adapter."""
        return self.name if self.ref is None else self.ref.name

    @property
    def n_layers(self) -> int:
        """Number of transformer blocks."""
        return int(self.bridge.cfg.n_layers)

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""
        return int(self.readout.W_U.shape[0])

    @property
    def d_vocab(self) -> int:
        """Number of logits."""
        return int(self.readout.W_U.shape[1])

    @property
    def n_ctx(self) -> int:
        """Longest prompt in tokens."""
        longest = int(self.bridge.cfg.n_ctx)
        chosen = None if self.hf_config is None else keys_chosen(self.hf_config)
        return longest if chosen is None else min(longest, chosen)

    @property
    def rope_switch(self) -> int | None:
        """Tokens beyond which a sequence is rotated otherwise, where there is such a length."""
        return None if self.hf_config is None else rope_switch(self.hf_config)

    @property
    def hf_config(self) -> Any:
        """Hugging Face's config; None of a model that TransformerLens 3 holds by itself."""
        return getattr(getattr(self.bridge, "original_model", None), "config", None)

    @cached_property
    def shares_prefixes(self) -> bool:
        """Whether what prompts have in common at their start can be run once for all of them.

        Not where a sequence's length decides how its beginning is read, nor where a product
        depends on what else is in it (LLM.int8).
        """
        apart = self.rope_switch is None and self.precisions is None
        return apart and continues(self.bridge, self.n_ctx)

    @property
    def n_params(self) -> int:
        """Number of parameters, tied ones once.

        TransformerLens keeps a joint q/k/v matrix beside the three that it splits it into.
        """
        named = self.bridge.named_parameters()
        return sum(weight.numel() for name, weight in named if ".qkv." not in name)

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the head, and so of the logits' product."""
        return self.readout.W_U.dtype

    @property
    def device(self) -> torch.device:
        """Device of the head."""
        return self.readout.W_U.device

    @property
    def norm(self) -> str:
        """ "RMS" or "LN": the kind of the final norm."""
        return "RMS" if str(self.bridge.cfg.normalization_type).startswith("RMS") else "LN"

    @property
    def parallel(self) -> bool:
        """Attention and MLP read the same residual, so there is no state between them."""
        return bool(getattr(self.bridge.cfg, "parallel_attn_mlp", False))

    @property
    def n_heads(self) -> int:
        """Attention heads of a block."""
        return int(self.bridge.cfg.n_heads)

    def to_tokens(self, prompt: One, template: Template = "plain") -> Int[Tensor, "1 pos"]:
        """The ids that lensbench reads for a prompt, for TransformerLens' own calls.

        `model.bridge.run_with_cache(model.to_tokens(text))` sees each token at the position where
        the lens reads it, whether the tokenizer puts BOS before a text or not.

        Args:
            prompt: a text, token ids or a Prompt; with its answer a Prompt may end in a space that
                is a token of its own.
            template: "plain", or "chat" for the model's chat template.

        Raises InputProblems with all that is wrong with the prompt.
        """
        if not is_one(prompt):
            remedy = "Give a text, token ids or a Prompt; of several, one at a time."
            given = f"{type(prompt).__name__} is not one prompt"
            raise InputProblems([Problem("prompt", given, remedy)])
        ids = self.encoder(template).encode(as_prompts(prompt)[0]).token_ids
        return torch.tensor([ids], device=self.device)

    def encoder(self, template: Template = "plain", where: str = "prompts") -> Encoder:
        """Makes tokens of this model out of prompts; `where` they are from, for what it says."""
        return Encoder(self.tokenizer, self.n_ctx, template, where, self.d_vocab)

    @cached_property
    def next_norms(self) -> dict[Site, Norm]:
        """At each state of the residual stream, the norm that the next sub-layer applies."""
        return next_norms(self.bridge)

    def sites(self, wanted: Wanted = ("embed", "resid_post")) -> list[Site]:
        """The wanted sites, in the order in which the model passes them.

        Args:
            wanted: kinds ("resid_post" is that of every block, "head_out" every head's), names
                ("blocks.5.head_out.3") or Sites. Where blocks do not have a kind, such as
                "resid_mid" where attention and MLP are parallel, it gives none.

        Raises InputProblems, with all of them, for what this model does not have.
        """
        items = [wanted] if isinstance(wanted, str | Site) else wanted
        found, problems = set[Site](), list[Problem]()
        for item in items:
            try:
                found.update(self._sites(item))
            except InputProblems as error:
                problems += error.problems
        if problems:
            raise InputProblems(problems)
        order = {kind: place for place, kind in enumerate(KINDS)}
        return sorted(found, key=lambda s: (s.layer, order.get(s.kind, -1), s.kind, s.head or 0))

    def _sites(self, item: str | Site) -> list[Site]:
        """One wanted kind at every block, or one site."""
        if item == "embed":
            return [Site("embed", 0)]
        if item not in KINDS:
            site = item if isinstance(item, Site) else Site.parse(item)
            self._require(site)
            return [site]
        heads = range(self.n_heads) if item == "head_out" else [None]
        layers = range(1, self.n_layers + 1)
        sites = [Site(str(item), layer, head) for layer in layers for head in heads]
        there = self.bridge.hook_dict  # made anew at each look
        return [site for site in sites if site.hook in there]

    def _require(self, site: Site) -> None:
        """Raises InputProblems for a site that this model does not have."""
        if site.hook not in self.bridge.hook_dict:
            what = f"{self.name} has no {site}"
            remedy = f"It has blocks 0 to {self.n_layers - 1}, of {', '.join(KINDS)}."
        elif site.head is not None and not 0 <= site.head < self.n_heads:
            what = f"{self.name} has no head {site.head}"
            remedy = f"Choose from 0 to {self.n_heads - 1}."
        else:
            return
        raise InputProblems([Problem("sites", what, remedy)])

    @property
    def final_site(self) -> Site:
        """After the last block: where the lens must equal the model."""
        return Site("resid_post", self.n_layers)

    def output_bias(self, layer: int) -> Float[Tensor, " d_model"] | float:
        """What the attention before a layer adds at every position, float32; 0 without a bias."""
        attention = self.bridge.blocks[layer - 1].attn
        with in_memory(attention):
            bias: Tensor | None = getattr(attention, "b_O", None)
            return 0.0 if bias is None else bias.detach().float()

    @property
    def arithmetic(self) -> dict[str, str]:
        """How logits are made, for a manifest: the head's product, and what stands for the model.

        In half precision the model's own logits are rounded, so its output is read from its last
        state by the same float32 products as every other state.
        """
        remade = "made in float32 from the last state"
        return {
            "head_product": "float32",
            "model_logits": remade if self.readout.rounds else "the model's own",
        }

    def facts(self) -> dict[str, Any]:
        """The model's part of a manifest, besides what its `ref` says."""
        return {
            "name": self.name,
            "source": self.source,
            "model_type": self.model_type,
            "n_layers": self.n_layers,
            "d_model": self.d_model,
            "d_vocab": self.d_vocab,
            "n_params": self.n_params,
            "norm": self.norm,
            "soft_cap": self.readout.soft_cap,
            "parallel": self.parallel,
            "dtype": str(self.dtype).removeprefix("torch."),
            **self.arithmetic,
            **device_facts(self.device, self.bridge.parameters()),
            **placed_facts(getattr(self.bridge, "original_model", None)),
            **({"precisions": self.precisions} if self.precisions is not None else {}),
        }

    def identity(self) -> dict[str, Any]:
        """Its facts and the hashes of its files. Raises ModelError for one given as an object."""
        if self.ref is None:
            raise cannot_go(self.name)
        return self.facts() | self.ref.facts()

    def __repr__(self) -> str:
        cap = "no soft cap" if self.readout.soft_cap is None else f"cap {self.readout.soft_cap:g}"
        precision = f"{self.ref.precision}, " if self.ref is not None and not self.ref.plain else ""
        return (
            f"LensModel({self.name}: {self.n_layers} layers x {self.d_model}, "
            f"{self.d_vocab:,} tokens, {self.norm} norm, {cap}, {precision}"
            f"{str(self.dtype).removeprefix('torch.')} on {self.device})"
        )


def require_loaded(model: Any) -> LensModel:
    """The model, if it is one. Raises InputProblems for a name, or an object of another kind."""
    if not isinstance(model, LensModel):
        given = repr(model) if isinstance(model, str) else type(model).__name__
        remedy = "Give what lensbench.load_model(...) returns."
        raise InputProblems([Problem("model", f"{given} is no loaded model", remedy)])
    return model


def require_ref(model: LensModel, what: str) -> ModelRef:
    """What the model was loaded as, to tell whether `what` ("a cache") on disk is of it.

    Raises RecordsError for a model that came as an object, of which nobody can tell.
    """
    if model.ref is None:
        raise RecordsError(
            f"{model.name} came as an object, so nobody can tell whether {what} is of it. Load it "
            "by its name or folder."
        )
    return model.ref
