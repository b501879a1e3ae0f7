"""Making a residual cache: batch by batch into shards, gated, resumable at any point."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from lensbench.checkpoints.ref import ModelRef
from lensbench.errors import Problem, RecordsError
from lensbench.lens.caching import Keeper, keep_all, keep_batch
from lensbench.lens.gate import check_identities, require, stored_identity, worst
from lensbench.lens.record import encode_prompts, gate_of_run, gate_prompts
from lensbench.lens.settings import LensSettings
from lensbench.lens.table import prompts_table
from lensbench.models.adapted import facts_of
from lensbench.models.load import load_model
from lensbench.models.sites import Site
from lensbench.progress import Notify, Progress, Watch, ignore
from lensbench.prompts.batch import plan_batches
from lensbench.prompts.encode import TokenText
from lensbench.prompts.prompt import added
from lensbench.prompts.sets import PromptSet, load_prompts
from lensbench.quantized.peaks import Batch, Use
from lensbench.records.engine import Work, make
from lensbench.records.parts import Parts
from lensbench.records.recording import Finished, Recording, Request
from lensbench.records.residuals import ITEM_BYTES, shard_name
from lensbench.records.store import RecordStore
from lensbench.residuals.store import DTYPES, KeptPrompt
from lensbench.studies.lens import GROWS, prompt_settings
from lensbench.studies.specs.cache import CacheSpec
from lensbench.studies.stages.sized import sized, tokens_of

_SPARE_BYTES = 64 << 20  # for the index, and for whoever else writes to the disk meanwhile


def run_cache(
    spec: CacheSpec, out: Path, progress: Watch = ignore, notify: Notify = ignore
) -> list[Problem]:
    """Write the residuals of a prompt set into `out`, or go on after an interruption.

    With a larger limit the cache is widened. Nothing is written before the gate has passed: the
    readout of the last layer gives the model's own output. Returns the prompts that were skipped.
    `notify` gets the size before the run.

    Raises:
        InputProblems: unknown model, prompt set or layers.
        GateError: the lens does not reproduce this model.
        RecordsError: another cache is there, or the disk cannot hold this one.
    """
    ref, spec = ModelRef.of(spec.model), sized(spec)
    prompt_set = load_prompts(spec.prompts, spec.relations)
    progress(Progress(f"hashing the weights of {ref}"))
    store = RecordStore(out, str(ref), "cache")
    use = None if store.manifest() else Use("cache", Batch.of_tokens(tokens_of(spec)))
    request = Request(
        store,
        spec.settings() | prompt_settings(prompt_set, spec.limit),
        facts_of(ref, spec.dtype, spec.device, use),
        grows=GROWS,
        again=ref.facts,
    )
    return make(request, _Run(spec, ref, prompt_set, progress, notify).prepare, progress)


@dataclass(frozen=True)
class _Run:
    """One cache."""

    spec: CacheSpec
    ref: ModelRef
    prompt_set: PromptSet
    watch: Watch
    notify: Notify

    def prepare(self, record: Recording) -> Work[Keeper, list[KeptPrompt]]:
        """Load the model, see that there is room, and test the gate."""
        spec, prompt_set = self.spec, self.prompt_set
        self.watch(Progress(f"loading {self.ref}"))
        model = load_model(self.ref, dtype=spec.dtype, device=spec.device)
        sites = LensSettings(sites=spec.sites, layers=spec.layers, top_k=1).sites_in(model)
        encoded, problems = encode_prompts(model, prompt_set, spec.limit, spec.template)
        kept, too_long = keep_all(encoded, spec.positions, model.n_ctx)
        self._require_room(record.store.folder, model.d_model, sites, kept)
        self.watch(Progress(f"testing the gate of {self.ref}"))
        identities = check_identities(model, gate_prompts(model, [k.prompt for k in kept]))
        require(identities)
        record.begin({**model.facts(), **record.request.model})
        keeper = Keeper(model, sites, DTYPES[spec.residual_dtype], record.id)

        def finish(parts: Parts) -> Finished:
            gate = gate_of_run(model, identities, parts, record.widened)
            stored = _worst_stored(parts, record)
            if stored is not None:
                gate.insert(1, stored_identity(model, stored, keeper.dtype))
            return Finished(
                [*problems, *too_long, *parts.problems],
                {"prompts": _prompts(keeper, kept, parts)},
                [identity.as_dict() for identity in gate],
                facts=_facts(sites, kept) | {"stored_kl_bits": stored},
            )

        return Work(keeper, keep_batch, self._batches(record, kept, model.rope_switch), finish)

    def _batches(
        self, record: Recording, kept: Sequence[KeptPrompt], switch: int | None
    ) -> list[list[list[KeptPrompt]]]:
        """For each width of the cache the batches that it adds."""
        plan = []
        limits = [width["limit"] for width in record.widths]
        for stage in added(self.prompt_set.prompts, limits):
            ids = {prompt.id for prompt in stage}
            own = [item for item in kept if item.prompt.prompt.id in ids]
            lengths = [len(item.token_ids) for item in own]
            batches = plan_batches(lengths, tokens_of(self.spec), switch)
            plan.append([[own[item] for item in batch] for batch in batches])
        return plan

    def _require_room(
        self, folder: Path, d_model: int, sites: Sequence[Site], kept: Sequence[KeptPrompt]
    ) -> None:
        """Say how large the cache will be; refuse it when the disk cannot hold what is missing."""
        n_cells = sum(len(item.positions) for item in kept)
        item_bytes = ITEM_BYTES[self.spec.residual_dtype]
        whole = n_cells * len(sites) * d_model * item_bytes
        there = sum(path.stat().st_size for path in folder.glob(shard_name("*")))
        free = shutil.disk_usage(folder).free
        size = (
            f"{n_cells:,} cells x {len(sites)} sites x {d_model} numbers x "
            f"{item_bytes} bytes = {_size(whole)}"
        )
        if max(whole - there, 0) + _SPARE_BYTES > free:
            raise RecordsError(
                f"{folder}: the cache takes {size}, {_size(there)} of it are there, and "
                f"{_size(free)} are free ({_size(_SPARE_BYTES)} must stay so). Free some space, or "
                "keep fewer: --layers, --positions last, --residual-dtype "
                "bfloat16, --limit."
            )
        self.notify(f"{size}, {_size(free)} free")


def _prompts(keeper: Keeper, kept: Sequence[KeptPrompt], parts: Parts) -> pa.Table:
    """The table of the prompts that are in the cache."""
    there = set(parts.table("residual_index")["prompt_id"].to_pylist())
    encoded = [item.prompt for item in kept if item.prompt.prompt.id in there]
    return prompts_table(keeper.model, encoded, TokenText(keeper.model.tokenizer))


def _facts(sites: Sequence[Site], kept: Sequence[KeptPrompt]) -> dict[str, Any]:
    """What the manifest says of what is kept."""
    texts = {item.prompt.prompt.id: item.prompt.text.encode() for item in kept}
    return {
        "sites": [[site.name, site.layer] for site in sites],
        "prompt_sha256": {key: hashlib.sha256(text).hexdigest() for key, text in texts.items()},
    }


def _worst_stored(parts: Parts, record: Recording) -> float | None:
    """KL(model || last layer on disk), the worst cell; None where nothing could be kept."""
    every = [*parts.notes, *record.widened]
    found = [value for each in every if (value := each.get("stored_kl_bits")) is not None]
    return worst(found) if found else None


def _size(n_bytes: int) -> str:
    """1.23 GB or 45.6 MB."""
    return f"{n_bytes / 1e9:,.2f} GB" if n_bytes >= 1e9 else f"{n_bytes / 1e6:,.1f} MB"
