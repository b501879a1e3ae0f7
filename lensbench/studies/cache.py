"""Making a residual cache: batch by batch into shards, gated, resumable at any point."""

from __future__ import annotations

import dataclasses
import hashlib
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
from jaxtyping import Float
from torch import Tensor

from lensbench.checkpoints.ref import ModelRef
from lensbench.errors import InputProblems, Problem, RecordsError
from lensbench.lens.base import Final
from lensbench.lens.gate import (
    Identity,
    check_identities,
    last_layer_kl_bits,
    lens_identity,
    require,
    stored_identity,
    worst,
)
from lensbench.lens.logit import not_finite_problem
from lensbench.lens.settings import LensSettings
from lensbench.lens.table import prompts_table
from lensbench.models.adapted import facts_of
from lensbench.models.load import load_model
from lensbench.models.model import LensModel
from lensbench.models.sites import Site
from lensbench.prompts.batch import plan_batches
from lensbench.prompts.encode import EncodedPrompt, TokenText
from lensbench.prompts.prompt import choose
from lensbench.prompts.sets import PromptSet, load_prompts
from lensbench.records.manifest import new_manifest, peak_memory_bytes, versions
from lensbench.records.residuals import ITEM_BYTES, shard_name, shards_of
from lensbench.records.store import RecordStore
from lensbench.residuals.capture import Residuals
from lensbench.residuals.store import DTYPES, Kept, KeptPrompt, capture_kept, keep, write_kept
from lensbench.studies.cache_spec import CacheSpec
from lensbench.studies.lens import (
    Progress,
    encode_prompts,
    gate_prompts,
    is_complete,
)

Notify = Callable[[str], None]
Notes = dict[str, float | None]

_SPARE_BYTES = 64 << 20  # for the index, and for whoever else writes to the disk meanwhile


def run_cache(
    spec: CacheSpec,
    out: Path,
    progress: Progress = lambda *_: None,
    notify: Notify = lambda _: None,
) -> list[Problem]:
    """Write the residuals of a prompt set into `out`, or go on after an interruption.

    Nothing is written before the gate has passed: the readout of the last layer gives the model's
    own output. Returns the prompts that were left out. `notify` gets the size before the run.

    Raises:
        InputProblems: unknown model, prompt set or layers.
        GateError: the lens does not reproduce this model.
        RecordsError: another cache is there, or the disk cannot hold this one.
    """
    ref = ModelRef.of(spec.model)
    prompt_set = load_prompts(spec.prompts)
    if spec.relations:
        prompt_set = prompt_set.only(spec.relations)
    facts = facts_of(ref, spec.dtype, spec.device)
    store = RecordStore(out, str(ref), "cache")
    settings = _settings(spec, prompt_set)
    with store.locked():
        if not is_complete(store, settings, facts):
            model = load_model(ref, dtype=spec.dtype, device=spec.device)
            made = _Run(spec, model, store, prompt_set, model.facts() | facts, settings)
            if not ref.plain:
                made.manifest["versions"] |= versions("inference")
            made.go(progress, notify)
        return store.problems()


def _settings(spec: CacheSpec, prompt_set: PromptSet) -> dict[str, Any]:
    return spec.settings() | {
        "prompts": prompt_set.name,
        "prompts_sha256": prompt_set.sha256,
        "n_prompts": len(choose(prompt_set.prompts, spec.limit)),
        "seed": 0,
    }


class _Run:
    """One cache in the making."""

    def __init__(
        self,
        spec: CacheSpec,
        model: LensModel,
        store: RecordStore,
        prompt_set: PromptSet,
        facts: Mapping[str, Any],
        settings: Mapping[str, Any],
    ) -> None:
        self.spec, self.model, self.store = spec, model, store
        self.dtype = DTYPES[spec.residual_dtype]
        settings_of = LensSettings(sites=spec.sites, layers=spec.layers, top_k=1)
        self.sites = settings_of.sites_in(model)
        prompts = choose(prompt_set.prompts, spec.limit)
        encoded, problems = encode_prompts(model, prompts, spec.template, prompt_set.name)
        self.kept, too_long = _kept(encoded, spec.positions, model.n_ctx)
        self.problems = prompt_set.problems + problems + too_long
        lengths = [len(item.token_ids) for item in self.kept]
        self.batches = plan_batches(lengths, spec.batch_tokens)
        self.manifest = new_manifest(dict(facts), dict(settings), "cache") | {
            "sites": [[site.name, site.layer] for site in self.sites],
            "prompt_sha256": {
                item.prompt.prompt.id: hashlib.sha256(item.prompt.text.encode()).hexdigest()
                for item in self.kept
            },
        }

    def go(self, progress: Progress, notify: Notify) -> None:
        """From where it stopped to a complete record."""
        started = time.monotonic()
        self._require_room(notify)
        identities = check_identities(self.model, gate_prompts([k.prompt for k in self.kept]))
        require(identities)
        self.store.start(self.manifest)
        resumed = self._write_batches(progress)
        index, found, notes = self.store.parts(len(self.batches), "residual_index")
        problems = self.problems + found
        self._write_tables(index, problems)
        stored = _worst(notes, "stored_kl_bits")
        self.store.finish(
            self.manifest
            | {
                "gate": [i.as_dict() for i in self._with_run(identities, notes, stored)],
                "stored_kl_bits": stored,
                "problems": len(problems),
                "resumed_batches": resumed,
                "wall_s": round(time.monotonic() - started, 1),
                "peak_memory_bytes": peak_memory_bytes(),
            }
        )

    def _write_tables(self, index: pa.Table, problems: list[Problem]) -> None:
        there = set(index["prompt_id"].to_pylist())
        encoded = [item.prompt for item in self.kept if item.prompt.prompt.id in there]
        text = TokenText(self.model.tokenizer)
        self.store.write_table("prompts", prompts_table(self.model, encoded, text))
        self.store.write_table("residual_index", index)
        self.store.join_parts(len(self.batches), "residual_cells")
        self.store.write_table("problems", self.store.problems_table(problems))

    def _with_run(
        self, identities: Sequence[Identity], notes: Sequence[Notes], stored: float | None
    ) -> list[Identity]:
        """The gate's list, its first identity of the whole run, and that of what is on disk."""
        live = _worst(notes, "gate_kl_bits")
        if live is None or stored is None:  # not one prompt could be kept
            return list(identities)
        on_disk = stored_identity(self.model, stored, self.dtype)
        return [lens_identity(self.model, live), on_disk, *identities[1:]]

    def _require_room(self, notify: Notify) -> None:
        """Say how large the cache will be; refuse it when the disk cannot hold what is missing."""
        n_cells = sum(len(item.positions) for item in self.kept)
        item_bytes = ITEM_BYTES[self.spec.residual_dtype]
        whole = n_cells * len(self.sites) * self.model.d_model * item_bytes
        there = sum(
            path.stat().st_size
            for number in range(len(self.batches))
            if self.store.has_part(number)
            and (path := self.store.folder / shard_name(number)).exists()
        )
        free = shutil.disk_usage(self.store.folder).free
        size = (
            f"{n_cells:,} cells x {len(self.sites)} sites x {self.model.d_model} numbers x "
            f"{item_bytes} bytes = {_size(whole)}"
        )
        if max(whole - there, 0) + _SPARE_BYTES > free:
            raise RecordsError(
                f"{self.store.folder}: the cache takes {size}, {_size(there)} of it are there, and "
                f"{_size(free)} are free ({_size(_SPARE_BYTES)} must stay so). Free some space, or "
                "keep fewer: --layers, --positions last, --dtype bfloat16, --limit."
            )
        notify(f"{size}, {_size(free)} free")

    def _write_batches(self, progress: Progress) -> int:
        """Write every batch that is not there yet. Returns how many were there already."""
        resumed = 0
        for number, items in enumerate(self.batches):
            progress(self.store.model, number, len(self.batches))
            if self.store.has_part(number):
                resumed += 1
                continue
            self._write_batch(number, [self.kept[item] for item in items])
        progress(self.store.model, len(self.batches), len(self.batches))
        return resumed

    def _write_batch(self, number: int, wanted: Sequence[KeptPrompt]) -> None:
        """One batch through the model, the gate and to disk."""
        kept, residuals, problems = self._captured(wanted)
        notes: Notes = {"gate_kl_bits": None, "stored_kl_bits": None}
        stream: dict[Site, Float[Tensor, "cell d_model"]] = {}
        if residuals is not None:
            notes = self._gate(residuals)
            stream = {site: residuals.at(site).to(self.dtype) for site in self.sites}
        record = shards_of(self.manifest)
        tables = write_kept(self.store.folder, number, self.model, kept, stream, record)
        self.store.write_part(number, tables, problems, notes)

    def _captured(
        self, kept: Sequence[KeptPrompt]
    ) -> tuple[Sequence[KeptPrompt], Residuals | None, list[Problem]]:
        """One batch's residuals; prompts that give NaN or Inf are left out, and it runs again."""
        last, problems = self.model.final_site, list[Problem]()
        sites = self.sites if last in self.sites else [*self.sites, last]  # the gate reads it
        while kept:
            residuals = capture_kept(self.model, kept, sites)
            broken = residuals.broken_rows()
            if not broken:
                return kept, residuals, problems
            problems += [not_finite_problem(self.model, kept[r].prompt) for r in sorted(broken)]
            kept = [item for row, item in enumerate(kept) if row not in broken]
        return [], None, problems

    def _gate(self, residuals: Residuals) -> Notes:
        """The last layer is the model, and how far what goes to disk is from it."""
        final = Final(self.model)
        live = stored = float(last_layer_kl_bits(self.model, residuals, final).max())
        require([lens_identity(self.model, live)])
        if self.dtype != residuals.stream.dtype:
            rounded = residuals.stream.to(self.dtype).float()
            as_stored = dataclasses.replace(residuals, stream=rounded)
            stored = float(last_layer_kl_bits(self.model, as_stored, final).max())
        return {"gate_kl_bits": live, "stored_kl_bits": stored}


def _kept(
    encoded: Sequence[EncodedPrompt], positions: Kept, n_ctx: int
) -> tuple[list[KeptPrompt], list[Problem]]:
    kept, problems = [], []
    for prompt in encoded:
        try:
            kept.append(keep(prompt, positions, n_ctx))
        except InputProblems as error:
            problems += error.problems
    if not kept:
        raise InputProblems(problems)
    return kept, problems


def _worst(notes: Sequence[Notes], key: str) -> float | None:
    values = [value for note in notes if (value := note[key]) is not None]
    return worst(values) if values else None


def _size(n_bytes: int) -> str:
    """1.23 GB or 45.6 MB."""
    return f"{n_bytes / 1e9:,.2f} GB" if n_bytes >= 1e9 else f"{n_bytes / 1e6:,.1f} MB"
