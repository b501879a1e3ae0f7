"""A fitted lens on disk: a record of kind `lens_fit` whose file holds a map for each layer."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save

from lensbench.errors import RecordsError
from lensbench.files import sha256_of
from lensbench.lens.fitted.affine import Affine, AffineMap
from lensbench.lens.fitted.place import METHODS, fitted_folder, fitted_name, published_file
from lensbench.lens.fitted.published import PublishedLens
from lensbench.models.model import LensModel, require_ref
from lensbench.records.facts import TOKENIZER, differing
from lensbench.records.lens.kind import FITTED, OWN, PRECISION, HeldOut
from lensbench.records.open import open_record
from lensbench.records.read import MANIFEST
from lensbench.records.record import Record

FILE, CONTROLS = "lens.safetensors", "controls.safetensors"
_SAME = ("weights_sha256", *TOKENIZER, "config_sha256")  # whatever bits and adapter
_SHAPE = ("n_layers", "d_model", "d_vocab")

_log = logging.getLogger(__name__)


def to_bytes(maps: Mapping[int, AffineMap] | Mapping[str, AffineMap]) -> bytes:
    """Maps by layer, or controls by name, as safetensors: `A.1` [d_model, d_model], `b.1`."""
    tensors = {f"A.{layer}": one.A for layer, one in maps.items()}
    tensors |= {f"b.{layer}": one.b for layer, one in maps.items()}
    return save({name: tensor.contiguous() for name, tensor in tensors.items()})


def of_bytes(data: bytes) -> dict[int, AffineMap]:
    """Back from `to_bytes`. Raises SafetensorError for other bytes."""
    return _by_layer(_named(data))


def _by_layer(named: Mapping[str, AffineMap]) -> dict[int, AffineMap]:
    return {layer: named[str(layer)] for layer in sorted(map(int, named))}


def _named(data: bytes) -> dict[str, AffineMap]:
    tensors = load(data)
    names = [name[2:] for name in tensors if name.startswith("A.")]
    return {name: AffineMap(tensors[f"A.{name}"], tensors[f"b.{name}"]) for name in names}


@dataclass(frozen=True)
class FittedLens:
    """A lens that was fitted: its record, and the maps that it holds."""

    name: str
    record: Record

    @property
    def maps(self) -> dict[int, AffineMap]:
        """By layer, float32. Raises RecordsError when the file was altered or is missing."""
        return _by_layer(_read(self.record.folder / FILE, self.record.manifest["checksums"][FILE]))

    @property
    def controls(self) -> dict[str, AffineMap]:
        """By name, maps of the embedding alone; none of a lens that was made without.

        Raises RecordsError as `maps`.
        """
        expected = self.record.manifest["checksums"].get(CONTROLS)
        return {} if expected is None else _read(self.record.folder / CONTROLS, expected)

    @property
    def kind(self) -> dict[str, Any]:
        """For the manifest of a record that is read with it."""
        settings, corpus = self.record.settings, self.record.manifest["corpus"]
        return {
            **asdict(FITTED),
            "description": f"{settings['method']} lens, fitted on {corpus['name']}",
            "lens_sha256": self.record.manifest["checksums"][FILE],
            "controls": sorted(self.controls),
            "held_out": asdict(self.held_out),
            **({"also": self.also} if self.also else {}),
            "fitted_to": self._fitted_to(),
        }

    def _fitted_to(self) -> dict[str, Any]:
        model = self.record.model
        told = {key: model.get(key) for key in ("name", *PRECISION)}
        return told | {key: model[key] for key in _SAME if key in model}

    @property
    def held_out(self) -> HeldOut:
        """How far it and `final` are from the model on the text that its figures are of."""
        return self._figures("fit_quality", "test")

    @property
    def also(self) -> dict[str, Any]:
        """The same on another corpus, and its name; nothing where there was none."""
        if "fit_also" not in self.record.tables:
            return {}
        corpus = self.record.manifest["also"]["name"]
        return {"corpus": corpus} | asdict(self._figures("fit_also", "other"))

    def _figures(self, table: str, part: str) -> HeldOut:
        quality, n_layers = self.record.table(table), self.record.n_layers
        below = quality[quality["layer"] < n_layers]
        kl_bits = below.groupby("reading")["kl_bits"].mean()
        documents = self.record.table("fit_documents", columns=["document", "part", "n_tokens"])
        text = documents[documents["part"] == part].sort_values("document")
        read = "\n".join(f"{row.document} {row.n_tokens}" for row in text.itertuples())
        return HeldOut(
            float(kl_bits["fitted"]),
            float(kl_bits["final"]),
            int(quality["n_tokens"].iloc[0]),
            sha256(read.encode()).hexdigest(),
        )

    def for_model(self, model: LensModel) -> Affine:
        """To read a model with. Raises RecordsError unless the lens was fitted to its weights.

        Another precision, or an adapter on the same weights, is said.
        """
        there, now = self.record.model, {**model.facts(), **require_ref(model, "a lens").facts()}
        if wrong := differing("model", there, now, (*_SAME, *_SHAPE)):
            lines = "\n".join(f"  - {key}: {a} there, {b} now" for key, (a, b) in wrong.items())
            raise RecordsError(
                f"the lens {self.name} ({self.record.folder}) was fitted to another model:\n"
                f"{lines}\n"
                f"It is of {there['name']}. Fit one of this model: lensbench fit {model.name}"
            )
        other = [key for key in PRECISION if there.get(key) != now.get(key)]
        if other:
            words = ", ".join(f"{key} {there.get(key)} there, {now.get(key)} now" for key in other)
            _log.warning(
                "the lens %s was fitted to %s and reads %s (%s): how well it does is not known",
                self.name,
                there["name"],
                model.name,
                words,
            )
        return Affine(model, self.maps, self.name, list(self.controls.values()))


def open_lens(given: str, base: str) -> FittedLens | PublishedLens:
    """A model's fitted lens by its name, or one by its folder, also one that others published.

    `base`: the model's name without bits and adapter. Raises RecordsError, with what to do, where
    there is none.
    """
    folder = fitted_folder(given, base)
    if given in METHODS and not (folder / MANIFEST).is_file():
        raise RecordsError(
            f"no {given} lens of {base} has been fitted yet. Fit one (minutes): "
            f"lensbench fit {base} --lens {given}"
        )
    if not (folder / MANIFEST).is_file() and published_file(folder) is not None:
        return PublishedLens(fitted_name(given), folder)
    return open_fitted(folder)


def open_fitted(folder: Path) -> FittedLens:
    """One that `lensbench fit` made. Raises RecordsError for another folder."""
    record = open_record(folder)
    if record.kind != "lens_fit":
        what = f"a record of kind {record.kind}, not a fitted lens"
        raise RecordsError(f"{folder}: {what}. Name a folder that `lensbench fit` made.")
    return FittedLens(fitted_name(str(folder)), record)


def lens_kinds(lenses: Sequence[str], base: str) -> dict[str, dict[str, Any]]:
    """What each lens of a run is, for its manifest; of lensbench's own lenses alone nothing.

    Raises RecordsError as `open_lens`.
    """
    fitted = {one: open_lens(one, base).kind for one in lenses if one not in OWN}
    if not fitted:
        return {}
    own = {one: asdict(OWN[one]) for one in lenses if one in OWN}
    return own | {fitted_name(one): kind for one, kind in fitted.items()}


@lru_cache(maxsize=8)
def _read(path: Path, expected: str) -> dict[str, AffineMap]:
    """The maps of a file, which a run asks for to describe a lens and to read with it."""
    try:
        altered = sha256_of(path) != expected
        maps = {} if altered else _named(path.read_bytes())
    except FileNotFoundError as error:
        what = f"{path} is not there: large files are not in git."
        remedy = "Run the analysis that fitted this lens again, or `lensbench fit`."
        raise RecordsError(f"{what} {remedy}") from error
    except (OSError, SafetensorError) as error:
        raise RecordsError(f"{path}: cannot be read ({error}). Fit the lens again.") from error
    if altered:
        raise RecordsError(f"{path}: it was altered after it was written. Fit the lens again.")
    return maps
