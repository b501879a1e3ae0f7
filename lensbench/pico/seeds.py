"""Trainings of several seeds: a record of each, made in turn here or by workers at once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lensbench.checkpoints.devices import pick_device
from lensbench.cluster.several import Wanted, make_each
from lensbench.errors import Problem, RecordsError
from lensbench.pico.cost import needed_bytes
from lensbench.pico.spec import PicoSpec, SeedsSpec
from lensbench.pico.train import train_pico
from lensbench.progress import Notify, Watch, ignore
from lensbench.records.engine import Outcome
from lensbench.records.failures import note_failures
from lensbench.records.open import open_record
from lensbench.records.store import RecordStore


def train_seeds(spec: SeedsSpec, progress: Watch = ignore, notify: Notify = ignore) -> Outcome:
    """Train one seed into `spec.out`, or several into folders in it; the same call goes on.

    Of several one that cannot be trained is in the outcome, and noted beside the others.

    Raises:
        InputProblems: as `train_pico`, for all seeds.
        RecordsError: the folder of several seeds is that of one; and as `train_pico` for one seed.
        ModelError: as `train_pico` for one seed.
        MissingExtraError: no accelerate.
    """
    specs = spec.trainings
    if len(specs) == 1:
        outcome = trained(specs, spec.out.parent, progress, notify)
        for error in outcome.failed.values():
            raise error
        return outcome
    _require_no_run(spec.out)
    outcome = trained(specs, spec.out, progress, notify)
    note_failures(spec.out, outcome.failed)
    return outcome


def trained(specs: Sequence[PicoSpec], home: Path, progress: Watch, notify: Notify) -> Outcome:
    """Trainings of the same text into folders that lie in `home`."""
    wanted = [
        Wanted(
            RecordStore(spec.out, spec.name, "pretraining"),
            spec,
            needed_bytes(spec),
            pick_device(spec.device),
        )
        for spec in specs
    ]
    outcome = make_each(train_pico, wanted, home, progress, notify)
    outcome.problems += _other_texts(outcome.folders)
    return outcome


def _require_no_run(folder: Path) -> None:
    """Raise RecordsError where a training of one seed would get others into its folder."""
    if RecordStore(folder, "", "pretraining").manifest() is not None:
        raise RecordsError(
            f"{folder} holds the training of one seed, and several have a folder of their own "
            "each. Give another folder with --out."
        )


def _other_texts(folders: Sequence[Path]) -> list[Problem]:
    """Seeds that were trained on another text than the first: files that changed, or a machine
    on which the same name is another text."""
    records = [open_record(folder) for folder in folders]
    remedy = "Delete its folder and run the same command again."
    return [
        Problem(one.name, f"it was trained on another text than {records[0].name}", remedy)
        for one in records[1:]
        if one.settings["corpus_sha256"] != records[0].settings["corpus_sha256"]
    ]
