"""What is read where, checked before a model is asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from lensbench.errors import InputProblems, Problem
from lensbench.lens.registry import unknown_lenses
from lensbench.models.model import LensModel
from lensbench.models.sites import STREAM, Site
from lensbench.prompts.batch import PaddingSide
from lensbench.records.schema.lens import ON_REQUEST

Positions = str | Sequence[int]
_POSITIONS = ("all", "last", "earlier")
PRODUCTS = ("float32", "bfloat16", "auto")
_NO_LENS = Problem("lens", "is empty", "Name one, such as final.")


@dataclass(frozen=True)
class LensSettings:
    """What is read where. The same settings and prompts give the same numbers.

    `lenses` are names in `LENSES`, or names or folders of fitted lenses; `sites` are kinds of
    states of the residual stream. `layers` counts from 0 (embedding) to n_layers (after the last
    block); None is all of them. `positions` is "last", "all", "earlier" (all but the last), or
    indices into the prompt (negative ones from its end).
    """

    lenses: tuple[str, ...] = ("final",)
    sites: tuple[str, ...] = ("embed", "resid_post")
    layers: tuple[int, ...] | None = None
    positions: Positions = "last"
    top_k: int = 5
    batch_tokens: int = 512
    padding_side: PaddingSide = "right"
    metrics: tuple[str, ...] = ()  # of ON_REQUEST: what takes two passes over the vocabulary
    products: str = "float32"  # of PRODUCTS: how the head's products are made
    keep_stream: bool = False  # hand the residual vectors out with what was read from them

    def __post_init__(self) -> None:
        """Raises InputProblems with every setting that no model could be read with."""
        found = [
            *(unknown_lenses(self.lenses) if self.lenses else [_NO_LENS]),
            *_strange("sites", self.sites, STREAM),
            *_strange("products", [self.products], PRODUCTS),
            *_strange("padding_side", [self.padding_side], get_args(PaddingSide)),
            *_not_whole("layers", self.layers or ()),
            *(_strange("metrics", self.metrics, ON_REQUEST) if self.metrics else ()),
        ]
        if isinstance(self.positions, str):
            found += _strange("positions", [self.positions], _POSITIONS)
        else:
            found += _not_whole("positions", self.positions)
        for name in ("top_k", "batch_tokens"):
            value = getattr(self, name)
            found += _not_whole(name, [value]) or _too_small(name, value)
        if found:
            raise InputProblems(found)

    def sites_in(self, model: LensModel) -> list[Site]:
        """The residual sites to read. Raises InputProblems when the model cannot give them."""
        wanted = range(model.n_layers + 1) if self.layers is None else self.layers
        strange = [layer for layer in wanted if not 0 <= layer <= model.n_layers]
        if strange:
            what = f"{model.name} has no layer {', '.join(map(str, strange))}"
            remedy = f"Choose from 0 (embedding) to {model.n_layers} (after the last block)."
            raise InputProblems([Problem("layers", what, remedy)])
        if self.top_k > model.d_vocab:
            what = f"is {self.top_k}, {model.name} has {model.d_vocab} tokens"
            raise InputProblems([Problem("top_k", what, "Give fewer.")])
        sites = [site for site in model.sites(self.sites) if site.layer in set(wanted)]
        if not sites:
            what = f"{model.name} has none of the sites {', '.join(self.sites)} there"
            raise InputProblems([Problem("layers", what, "Choose other layers or sites.")])
        return sites


def several(given: Any) -> tuple[Any, ...]:
    """What a caller gave as one name or number, or as several of them."""
    if isinstance(given, str | Path):
        return (str(given),)
    try:
        items = given.tolist() if hasattr(given, "tolist") else given
        return tuple(str(item) if isinstance(item, Path) else item for item in items)
    except TypeError:
        return (given,)


def _strange(name: str, given: Sequence[object], known: Sequence[str]) -> list[Problem]:
    remedy = f"Choose from {', '.join(known)}."
    if not given:
        return [Problem(name, "is empty", remedy)]
    return [Problem(name, f"there is no {x!r}", remedy) for x in given if x not in known]


def _not_whole(name: str, given: Sequence[object]) -> list[Problem]:
    strange = [x for x in given if isinstance(x, bool) or not hasattr(x, "__index__")]
    return [Problem(name, f"{x!r} is no whole number", "Give whole numbers.") for x in strange]


def _too_small(name: str, value: int) -> list[Problem]:
    return [Problem(name, f"is {value}", "Give 1 or more.")] if value < 1 else []
