"""A lens that somebody else fitted and published, in a local folder.

Two formats, both read as plain tensors: that of the tuned-lens project (Belrose et al. 2023:
config.json beside params.pt, h + W h + b of the state that enters block N), and that of Jacobian
lenses (Gurnee et al. 2026: one .pt file, J h of the state that leaves block N). Neither knows the
weights that it was fitted to: what can be checked is, and the rest is said.
"""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass, field
from functools import cache, lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch._weights_only_unpickler import UnpicklingError  # no more of pickle than its error

from lensbench.errors import RecordsError
from lensbench.files import sha256_of
from lensbench.json_text import read_json
from lensbench.lens.fitted.affine import Affine, AffineMap
from lensbench.lens.fitted.place import TUNED_CONFIG, TUNED_FILE, published_file
from lensbench.models.model import LensModel
from lensbench.records.lens.kind import FITTED

UNCHECKED = ("weights", "tokenizer", "config", "precision", "text it was fitted to")
_HALF = (torch.float32, torch.bfloat16, torch.float16)

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Artifact:
    """What such a folder holds: maps by layer, and what it says of its model (None: nothing)."""

    method: str
    maps: dict[int, AffineMap]
    d_model: int
    n_layers: int | None = None
    model: str | None = None
    unembed_hash: str | None = None
    said: dict[str, Any] = field(default_factory=dict)  # what else, for the manifest


@dataclass(frozen=True)
class PublishedLens:
    """A lens in a folder that lensbench did not write."""

    name: str
    folder: Path

    @property
    def file(self) -> Path:
        """Its parameters."""
        found = published_file(self.folder)
        assert found is not None
        return found

    @property
    def artifact(self) -> Artifact:
        """What it holds. Raises RecordsError for what is no such lens, or more than tensors."""
        stamp = self.file.stat()
        return _read(self.file, stamp.st_mtime_ns, stamp.st_size)

    @property
    def kind(self) -> dict[str, Any]:
        """For the manifest of a record that is read with it: no held-out figures are known."""
        own = self.artifact
        return {
            **asdict(FITTED),
            "description": f"{own.method} lens, published for {own.model or 'a model not named'}",
            "lens_sha256": sha256_of(self.file),
            "first_layer": min(own.maps),
            "controls": [],
            "fitted_to": {"name": own.model},
            "published": {"file": self.file.name, **own.said},
            "unchecked": [*UNCHECKED, *(() if own.unembed_hash else ("head",))],
        }

    def for_model(self, model: LensModel) -> Affine:
        """To read a model with. Raises RecordsError where it is seen to be another model's.

        What cannot be seen is said.
        """
        own = self.artifact
        if wrong := list(_contradictions(own, model)):
            lines = "\n".join(f"  - {line}" for line in wrong)
            raise RecordsError(
                f"the lens {self.name} ({self.file}) was fitted to another model than "
                f"{model.name}:\n{lines}\nIt says of its model: {own.model or 'nothing'}. Fit one "
                f"of this model: lensbench fit {model.name} --lens {own.method}"
            )
        _say_unchecked(self.name, own.method, own.model, model.name, own.unembed_hash is not None)
        return Affine(model, own.maps, self.name)


@cache
def _say_unchecked(name: str, method: str, model: str | None, now: str, head: bool) -> None:
    """Once each: every call of `logit_lens` makes its lenses anew."""
    _log.warning(
        "the lens %s is a published %s lens, for %s, and reads %s. Checked: its width and layers%s."
        " It cannot be checked that it was fitted to these weights, this tokenizer, this config and"
        " this precision, and how well it reads is not known (no held-out figures)",
        name,
        method,
        model or "a model that it does not name",
        now,
        " and the head's weights" if head else "",
    )


def _contradictions(own: Artifact, model: LensModel) -> list[str]:
    """What of a lens cannot be of this model."""
    n_layers, wrong = model.n_layers, []
    if own.d_model != model.d_model:
        wrong.append(f"d_model: {own.d_model} there, {model.d_model} now")
    if own.n_layers not in (None, n_layers):
        wrong.append(f"n_layers: {own.n_layers} there, {n_layers} now")
    # The embedding has no Jacobian in this format.
    needed = set(range(1 if own.method == "jacobian" else 0, n_layers))
    if own.n_layers in (None, n_layers) and set(own.maps) != needed:
        wrong.append(f"maps of layers: {_span(own.maps)} there, {_span(needed)} needed")
    if not wrong and own.unembed_hash and own.unembed_hash not in unembed_hashes(model.readout.W_U):
        wrong.append(
            f"unembed_hash: {own.unembed_hash[:12]}... there, "
            f"{unembed_hashes(model.readout.W_U)[0][:12]}... now (if you know that the lens is of "
            "this model, take unembed_hash out of its config.json)"
        )
    return wrong


def _span(layers: Any) -> str:
    return f"{len(layers)}, {min(layers)} to {max(layers)}" if layers else "none"


def unembed_hashes(head: Float[Tensor, "d_model d_vocab"]) -> list[str]:
    """tuned-lens' hash of a head, for it in float32, bfloat16 and float16.

    SHA-256 of what numpy prints of the matrix [token, dimension] with one digit: its corners.
    """
    edges = [0, 1, 2, 3, -3, -2, -1]  # 3 stands for all that is not printed
    corners = head.T[edges][:, edges].detach().cpu()
    return [
        sha256(
            np.array2string(
                corners.to(dtype).float().numpy(),
                max_line_width=75,
                precision=1,
                suppress_small=False,
                separator=" ",
                threshold=1,
                edgeitems=3,
                floatmode="maxprec",
            ).encode()
        ).hexdigest()
        for dtype in _HALF
    ]


# --- files --------------------------------------------------------------------------------------


@lru_cache(maxsize=4)
def _read(file: Path, _changed_ns: int, _size: int) -> Artifact:
    own = _tuned(file) if file.name == TUNED_FILE else _jacobian(file)
    broken = [i for i, one in own.maps.items() if not all(bool(t.isfinite().all()) for t in one)]
    if broken:
        raise RecordsError(f"{file}: NaN or Inf in the maps of layers {broken}. Get it anew.")
    return own


def _plain(file: Path) -> Any:
    """What a file of torch holds, if that is tensors, numbers and words alone."""
    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except (UnpicklingError, OSError, EOFError, RuntimeError, ValueError, LookupError) as error:
        raise RecordsError(
            f"{file}: it is damaged, or holds more than plain tensors (Python objects, which run "
            "code when they are loaded): it is not read. If you trust it, load it in Python and "
            "save its tensors alone: torch.save(lens.state_dict(), ...)."
        ) from error


def _tuned(file: Path) -> Artifact:
    """Raises RecordsError, with what is missing, for another version or kind of lens."""
    config_file = file.with_name(TUNED_CONFIG)
    try:
        config = dict(read_json(config_file))
        d_model, n_layers = int(config["d_model"]), int(config["num_hidden_layers"])
    except (OSError, ValueError, TypeError, KeyError) as error:
        what = f"{config_file}: no config of a tuned lens ({type(error).__name__}: {error})"
        raise RecordsError(f"{what}. It needs d_model and num_hidden_layers.") from error
    kind, tensors = config.get("lens_type", "linear_tuned_lens"), _plain(file)
    needed: dict[str, tuple[int, ...]]
    needed = {f"{i}.weight": (d_model, d_model) for i in range(n_layers)}
    if config.get("bias", True):
        needed |= {f"{i}.bias": (d_model,) for i in range(n_layers)}
    found = {str(k): tuple(getattr(v, "shape", ())) for k, v in dict(tensors).items()}
    if kind != "linear_tuned_lens" or found != needed:
        odd = sorted(set(found.items()) ^ set(needed.items()))[:4]
        raise RecordsError(
            f"{file}: no parameters of a linear tuned lens of {n_layers} layers and width "
            f"{d_model} (lens_type {kind}; {', '.join(f'{name} {shape}' for name, shape in odd)}). "
            "Convert it with the version of tuned-lens that wrote it."
        )
    identity, nothing = torch.eye(d_model), torch.zeros(d_model)
    maps = {
        i: AffineMap(
            identity + tensors[f"{i}.weight"].float().T, tensors.get(f"{i}.bias", nothing).float()
        )
        for i in range(n_layers)
    }
    said = {key: config[key] for key in ("base_model_revision", "unembed_hash") if config.get(key)}
    name = config.get("base_model_name_or_path")
    return Artifact("tuned", maps, d_model, n_layers, name, config.get("unembed_hash"), said)


def _jacobian(file: Path) -> Artifact:
    """Read by TransformerLens' own. Raises RecordsError for what it does not know."""
    _plain(file)
    try:
        from transformer_lens.tools.analysis import JacobianLens
    except ImportError as error:
        raise RecordsError(f"{file}: a Jacobian lens needs transformer-lens 4 or later.") from error
    try:
        lens = JacobianLens.load(str(file))
    except (ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise RecordsError(
            f"{file}: no Jacobian lens ({type(error).__name__}: {error})."
        ) from error
    told = lens.metadata
    maps = {
        block + 1: AffineMap(J.T.contiguous(), torch.zeros(lens.d_model))
        for block, J in sorted(lens.jacobians.items())
    }
    target = told.get("target_layer")
    n_layers = None if target is None else int(target) + 1
    keys = ("model_revision", "corpus", "n_prompts", "fit_dtype", "max_seq_len")
    said = {"n_prompts": lens.n_prompts} | {key: told[key] for key in keys if key in told}
    return Artifact("jacobian", maps, lens.d_model, n_layers, told.get("model_name"), said=said)
