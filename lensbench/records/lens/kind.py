"""What kind a lens is, in the words of a report, and which lens the headlines are of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

NORMS = {
    "final": "the model's own final norm",
    "next": "the norm of the next sub-layer",
    "none": "no norm",
    "other": "another norm than the model's final one",
}
KL_DIRECTION = "model_lens"  # kl_bits is KL(model || lens), and nothing else
# What of a model a lens was fitted to beside its weights: at another precision, or under another
# adapter, nobody knows how well it reads.
PRECISION = ("dtype", "bits", "int8_threshold", "adapter", "adapter_sha256")


@dataclass(frozen=True)
class HeldOut:
    """How far a fitted lens, and `final` on the same tokens, is from the model on unseen text.

    KL(model || lens) in bits, means over tokens and over the layers below the last, at which both
    are the model. Two lenses with the same `text_sha256` were measured on the same documents.
    """

    kl_bits: float
    final_kl_bits: float
    n_tokens: int
    text_sha256: str


def headline_lens(lenses: Sequence[str], held_out: Mapping[str, HeldOut]) -> str:
    """The one with the lowest held-out KL of those told; without any `final`, or the first.

    A lens that is not nearer to the model than `final` on the same tokens is not chosen.
    """
    nearer = [name for name in lenses if name in held_out and _gain(held_out[name]) > 0]
    if nearer:
        return min(nearer, key=lambda name: held_out[name].kl_bits)
    return "final" if "final" in lenses else lenses[0]


def _gain(told: HeldOut) -> float:
    return told.final_kl_bits - told.kl_bits


@dataclass(frozen=True)
class LensKind:
    """A lens as its record describes it; None: the record does not say.

    `norm` is a key of NORMS; `fitted`: a map that was learnt from data stands before the norm;
    `soft_cap`: the model's own soft cap of the logits is in it; `kl`: which way kl_bits goes;
    `output`: at the last layer it is the model's own output; `first_layer`: below it it reads none.
    """

    norm: str | None = None
    fitted: bool | None = None
    soft_cap: bool | None = None
    kl: str | None = None
    output: bool | None = None
    description: str = ""
    first_layer: int = 0

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> LensKind:
        """As a manifest has it; entries not known here say nothing."""
        return cls(**{f.name: told[f.name] for f in fields(cls) if told.get(f.name) is not None})

    @property
    def words(self) -> str:
        """What a state goes through, for the middle of a sentence."""
        if self.norm is None and self.fitted is None:
            return self.description or "a way that the record does not describe"
        norm = NORMS.get(self.norm or "", "a norm that the record does not name")
        first = "a fitted map, then " if self.fitted else ""
        unsaid = " (whether fitted is not said)" if self.fitted is None else ""
        cap = ", without the model's soft cap" if self.soft_cap is False else ""
        return f"{first}{norm} and the head{cap}{unsaid}"

    @property
    def brief(self) -> str:
        """The same in a word or three, for a legend."""
        norm = {
            "final": "final norm",
            "none": "no norm",
            "next": "next norm",
            "other": "other norm",
        }
        said = norm.get(self.norm or "", "undescribed")
        return f"fitted, {said}" if self.fitted else said

    @property
    def reads_like(self) -> tuple[Any, ...]:
        """What must be alike in two lenses for their numbers to be of one kind."""
        return (self.norm, self.fitted, self.soft_cap, self.description if self.fitted else "")


UNTOLD = LensKind()
FITTED = LensKind("final", True, True, KL_DIRECTION, True)  # whoever fitted it (lens/fitted/)
OWN = {
    "final": LensKind("final", False, True, KL_DIRECTION, True),
    "next": LensKind("next", False, True, KL_DIRECTION, False),
    "raw": LensKind("none", False, True, KL_DIRECTION, False),
}  # lensbench's own lenses (lens/registry.py)
