"""An import from the first look at a file to a finished record, or to all that is wrong with it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from lensbench.errors import InputProblems, Problem, RecordsError
from lensbench.lens.importing.draft import Decode, Draft
from lensbench.lens.importing.parquet import read_parquet
from lensbench.lens.importing.plain_csv import read_csv
from lensbench.lens.importing.spec import ImportSpec, Origin
from lensbench.lens.importing.transformer_lens import read_transformer_lens
from lensbench.lens.importing.tuned_lens import read_tuned_lens
from lensbench.lens.milestones import milestones_table
from lensbench.records.lens.kind import LensKind
from lensbench.records.lens.record import LensRecord
from lensbench.records.manifest import new_manifest, peak_memory_bytes, versions
from lensbench.records.open import open_lens_record
from lensbench.records.read import MANIFEST
from lensbench.records.schema.lens import LENS, MILESTONES, PROMPTS
from lensbench.records.store import RecordStore
from lensbench.records.validation.columns import Source, typed
from lensbench.records.validation.contradictions import contradictions
from lensbench.records.validation.tables import Written, broken
from lensbench.records.validation.told import Told, read_told, told_by

_TABLES = ("prompts", "lens", "milestones")


@dataclass(frozen=True)
class Checked:
    """A foreign record that is sound: its tables by the schema, and what was noted on the way."""

    told: Told
    prompts: pa.Table
    lens: pa.Table
    milestones: pa.Table
    notes: list[Problem]


def import_records(
    source: Any,
    origin: Origin = "record",
    *,
    manifest: Path | str | Mapping[str, Any] | None = None,
    prompts: Path | str | None = None,
    decode: Decode | None = None,
    out: Path | str | None = None,
) -> LensRecord | None:
    """A lens record of what another tool measured: checked as a whole, milestones made anew.

    >>> lb.import_records("theirs", out="runs/theirs/llama")  # their prompts.parquet, lens.parquet
    >>> lb.import_records(logit_lens(model, text, top_k=5), "transformer-lens", manifest=about,
    ...                   prompts="prompts.csv", out="runs/tl/gpt2")

    Args:
        source: a folder or file; with "transformer-lens" also a LogitLensResult, or several by
            prompt_id.
        origin: "record" (Parquet in lensbench's columns), "csv", "transformer-lens" or
            "tuned-lens".
        manifest: `model`, `lenses` and `measured` (reports/import-manifest.schema.json), or a JSON
            file of them; by default manifest.json beside the data.
        prompts: a CSV of prompts, columns as in the table `prompts`.
        decode: a token's id as text, such as a tokenizer's `decode`.
        out: folder of the new record. None: the data are checked, nothing is written.

    Returns the record, or None where `out` is. Its gate is `imported`: nobody here has checked it.

    Raises InputProblems with all that is wrong with the data, by file and row, and RecordsError for
    a folder that is in use.
    """
    started = time.monotonic()
    if out is not None:
        require_new(Path(out))
    checked = check(source, origin, manifest, prompts, decode)
    if out is None:
        return None
    write(checked, Path(out), origin, started)
    return open_lens_record(out)


def run(spec: ImportSpec) -> Checked:
    """The same by a spec: read, checked and, with `out`, written."""
    started = time.monotonic()
    if spec.out is not None:
        require_new(spec.out)
    decode = _decoder(spec.tokenizer) if spec.tokenizer else None
    checked = check(spec.source, spec.origin, spec.manifest, spec.prompts, decode)
    if spec.out is not None:
        write(checked, spec.out, spec.origin, started)
    return checked


def check(
    source: Any,
    origin: Origin,
    manifest: Path | str | Mapping[str, Any] | None,
    prompts: Path | str | None,
    decode: Decode | None,
) -> Checked:
    """Read and check. Raises InputProblems with all that is wrong."""
    data = Path(source) if isinstance(source, str | Path) else source
    if isinstance(data, Path) and not data.exists():
        raise InputProblems([Problem(str(data), "no such file or folder", "Name the data.")])
    told = _told(data, manifest)
    listed = None if prompts is None else Path(prompts)
    readers: dict[str, Callable[[], Draft]] = {
        "record": lambda: read_parquet(data, told),
        "csv": lambda: read_csv(data, told, listed),
        "transformer-lens": lambda: read_transformer_lens(data, told, listed, decode),
        "tuned-lens": lambda: read_tuned_lens(data, told, listed, decode),
    }
    if origin not in readers:
        raise InputProblems(
            [Problem("origin", f"there is no {origin!r}", f"Choose from {', '.join(readers)}.")]
        )
    return sound(readers[origin]())


def _told(data: Any, manifest: Path | str | Mapping[str, Any] | None) -> Told:
    if isinstance(manifest, Mapping):
        return told_by(manifest, "manifest")
    if manifest is not None:
        return read_told(Path(manifest))
    if not isinstance(data, Path):
        what = "is missing: who measured what, and through which lens"
        raise InputProblems([Problem("manifest", what, "Give model, lenses and measured.")])
    return read_told((data if data.is_dir() else data.parent) / MANIFEST)


def sound(draft: Draft) -> Checked:
    """A draft, once nothing is wrong with it. Raises InputProblems with all that is."""
    draft.leave_out_unknown()
    draft.fill_in()
    prompts, wrong_prompts = typed(draft.prompts, PROMPTS, draft.prompts_at)
    lens, wrong_lens = typed(draft.lens, LENS, draft.lens_at)
    told = draft.told
    kinds = {name: LensKind.of(told.lenses[name].model_dump()) for name in told.names}
    milestones_at = Source(draft.lens_at.name.replace("lens.parquet", "milestones.parquet"))
    written = Written(
        told.model.n_layers,
        kinds,
        prompts.to_pandas(),
        lens.to_pandas(),
        {"prompts": draft.prompts_at, "lens": draft.lens_at, "milestones": milestones_at},
        told.model.d_vocab,
        draft.milestones,
    )
    wrong = [*wrong_prompts, *wrong_lens, *_empty(draft), *_directions(kinds, written)]
    wrong += [*broken(written), *contradictions(written)]
    if wrong:
        raise InputProblems(list(dict.fromkeys(wrong)))
    output = next((name for name in told.names if kinds[name].output), None)
    made = milestones_table(told.model.name, told.model.n_layers, lens, prompts, output)
    notes = [*draft.notes, *_differing(draft.milestones, made, milestones_at)]
    prompts, lens = prompts.cast(PROMPTS.schema), lens.cast(LENS.schema)
    return Checked(told, prompts, lens, made, notes)


def _empty(draft: Draft) -> Iterable[Problem]:
    for frame, at in ((draft.prompts, draft.prompts_at), (draft.lens, draft.lens_at)):
        if frame.empty:
            yield Problem(at.name, "there are no rows", "Give what was measured.")


def _directions(kinds: Mapping[str, LensKind], written: Written) -> Iterable[Problem]:
    """kl_bits is KL(model || lens), and only who says so may fill it."""
    lens = written.lens
    for name, kind in kinds.items():
        if kind.kl is None and lens.loc[lens["lens"] == name, "kl_bits"].notna().any():
            what = f"kl_bits of lens {name} has no direction (lenses.{name}.kl)"
            remedy = 'Say "model_lens" if it is KL(model || lens); leave kl_bits out if it is not.'
            yield Problem(written.sources["lens"].name, what, remedy)


def _differing(theirs: pd.DataFrame | None, made: pa.Table, source: Source) -> Iterable[Problem]:
    """Milestones that somebody else took otherwise: made anew here, and said."""
    if theirs is None:
        return
    keys = ["prompt_id", "lens"]
    both = made.to_pandas().merge(theirs, on=keys, suffixes=("", "_theirs"))
    for name in MILESTONES:
        if f"{name}_layer_theirs" not in both:
            continue
        a, b = (both[f"{name}_layer{side}"].astype(float).fillna(-1) for side in ("", "_theirs"))
        if n := int((a != b).sum()):
            what = f"{name}_layer is another in {n} of {len(both)} rows than `lens` gives"
            yield Problem(source.name, what, "The record holds what `lens` gives.")


def require_new(out: Path) -> None:
    """Raise RecordsError, before anything is read, for a folder that holds a record or files."""
    RecordStore(out, out.name).require_free()
    if (out / MANIFEST).exists():
        raise RecordsError(f"{out} holds a record already. Name another folder, or delete it.")


def write(checked: Checked, out: Path, origin: str, started: float) -> None:
    """Write the record. Raises RecordsError where there is one already, or anything else."""
    told = checked.told
    store = RecordStore(out, told.model.name)
    with store.locked():
        require_new(out)
        notes = list(dict.fromkeys(checked.notes))
        for name in _TABLES:
            store.write_table(name, [getattr(checked, name)])
        store.write_table("problems", [store.problems_table(notes)])
        sums = store.checksums((*_TABLES, "problems"))
        store.write_manifest(_manifest(checked, origin, len(notes), started) | {"checksums": sums})


def _manifest(checked: Checked, origin: str, n_notes: int, started: float) -> dict[str, Any]:
    told = checked.told
    settings = told.settings.model_dump(exclude_none=True) | {
        "lenses": told.names,
        "n_prompts": len(checked.prompts),
        "imported_from": origin,
    }
    return new_manifest(told.model.model_dump(exclude_none=True), settings) | {
        "status": "complete",
        "versions": versions("import"),
        "lenses": {name: told.lenses[name].model_dump() for name in told.names},
        "measured": told.measured.model_dump(exclude_none=True),
        "gate": [_gate(checked)],
        "problems": n_notes,
        "wall_s": round(time.monotonic() - started, 1),
        "peak_memory_bytes": peak_memory_bytes(),
    }


def _gate(checked: Checked) -> dict[str, Any]:
    """What the gate would hold the lens to, with what the data say of it; nobody has checked it."""
    told = checked.told
    output = next((name for name in told.names if told.lenses[name].output), None)
    lens = checked.lens.to_pandas()
    at_end = (lens["lens"] == output) & (lens["layer"] == told.model.n_layers)
    worst = lens.loc[at_end & (lens["site"] == "resid_post"), "kl_bits"].max()
    return {
        "identity": f"lens {(output or told.names[0])!r} at the last layer = the model's output",
        "error": None if pd.isna(worst) else float(worst),
        "bound": None,
        "unit": "bits",
        "passed": None,
        "state": "imported",
        "reason": "measured elsewhere; the error is what the imported data say",
    }


def _decoder(name: str) -> Decode:
    """Token ids as text, by a model's tokenizer."""
    from lensbench.checkpoints.open import open_tokenizer
    from lensbench.checkpoints.source import locate
    from lensbench.prompts.encode import TokenText

    return TokenText(open_tokenizer(locate(name).require_folder()))
