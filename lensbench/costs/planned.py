"""A record as it will be made: what all of it takes, and what is left of that."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any, Generic, TypeVar

from lensbench.checkpoints.devices import gb
from lensbench.checkpoints.families import weight_bytes
from lensbench.checkpoints.open import Tokenizers
from lensbench.checkpoints.placement import Placement
from lensbench.checkpoints.ref import ModelRef
from lensbench.costs.cost import Cost, total
from lensbench.costs.disk import free_bytes, record_bytes, running_bytes
from lensbench.costs.machine import SLOWER, Speed, speed
from lensbench.costs.outline import held_in
from lensbench.costs.outlined import Model, Outlined, outlined
from lensbench.costs.range import Range
from lensbench.costs.workers import STARTING_S, Crew
from lensbench.errors import LensbenchError, Problem
from lensbench.quantized.peaks import Import, Verb, program_bytes, with_weights
from lensbench.records.recording import Request, Standing, standing
from lensbench.records.store import folder_name
from lensbench.threads import threads

Item = TypeVar("Item")


@dataclass(frozen=True)
class Jobs(Generic[Item]):
    """The jobs of a record before any is done, as a study plans them.

    `items`: by the record's widths, as `Work` has them. `once`: what comes before the first job
    and after the last, whatever is there already. `problems`: what will be skipped. `least`: what
    a job takes where every text that a model writes ends with its first token, and `cost` where
    none ends before its limit; None where nothing is written. `n_models`: variants of one model
    that are loaded one after the other. `untimed`: why the time does not follow from operations.
    """

    items: Sequence[Sequence[Item]]
    cost: Callable[[Item], Cost]
    once: Cost = field(default_factory=Cost)
    n_prompts: int = 0
    problems: Sequence[Problem] = ()
    least: Callable[[Item], Cost] | None = None
    n_models: int = 1
    untimed: str = ""

    def of(self, items: Iterable[Item]) -> tuple[Cost, Cost]:
        """What some of them take at least and at most."""
        items = list(items)
        most = total(map(self.cost, items))
        return most if self.least is None else total(map(self.least, items)), most

    def left(self, how_far: Standing) -> list[Item]:
        """Those that are not done."""
        first = sum(map(len, self.items[: how_far.first]))
        numbered = list(enumerate(chain(*self.items)))[first:]
        return [item for number, item in numbered if number not in how_far.numbers]


@dataclass(frozen=True)
class Planned:
    """What one record will take. What nobody knows beforehand is None, and `unknown` says why.

    `obstacles` are why it cannot be made here and now.

    `whole` is of the record, `left` of what is not there yet; so is all else but `disk_bytes`, of
    the finished record. Where a model writes, both are of texts that go on to their limit, and
    `least` is `left` of such as end at once. `running_bytes`: on the disk at once at most while it
    is made. `untimed`: why it has no `wall_s`. `n_workers`: that will do its jobs; 0: this
    process. `notes`: what a user should know. `needed_bytes`: of memory, weights and working
    numbers; `memory_bytes` with the program, and `workers_bytes` those of all workers besides.
    """

    name: str
    folder: Path
    unknown: str = ""
    n_prompts: int | None = None
    n_jobs: int | None = None
    whole: Cost | None = None
    left: Cost | None = None
    least: Cost | None = None
    weight_bytes: int | None = None
    disk_bytes: Range | None = None
    running_bytes: Range | None = None
    needed_bytes: int | None = None
    memory_bytes: int | None = None
    workers_bytes: int = 0
    wall_s: Range | None = None
    untimed: str = ""
    speeds: Sequence[Speed] = ()
    n_workers: int = 0
    notes: Sequence[str] = ()
    problems: Sequence[Problem] = ()
    obstacles: Sequence[str] = ()
    tokenizers: Tokenizers = field(default_factory=dict)  # that were opened for it

    @property
    def peak_bytes(self) -> int | None:
        """Of memory, of this process and all workers; None of what is there."""
        known = None if self.finished else self.memory_bytes
        return None if known is None else known + self.workers_bytes

    @property
    def finished(self) -> bool:
        """The record is there, so that all that is left is nothing."""
        return self.left is not None and self.whole is None

    def as_dict(self) -> dict[str, Any]:
        """For JSON and a manifest: no path of this machine."""
        if self.unknown or self.left is None:
            return {"unknown": self.unknown, "weight_bytes": self.weight_bytes}
        if self.disk_bytes is None:
            return {**self.left.as_dict(), "n_jobs": 0}
        ends = self.least or self.left
        return {
            **self.left.as_dict(),
            "least": {"n_tokens": ends.n_tokens, "flops": ends.flops},
            "n_prompts": self.n_prompts,
            "n_jobs": self.n_jobs,
            "weight_bytes": self.weight_bytes,
            "disk_bytes": list(map(round, self.disk_bytes)),
            "memory_bytes": self.memory_bytes,
            "wall_s": None if self.wall_s is None else [round(end, 1) for end in self.wall_s],
            **({"untimed": self.untimed} if self.untimed else {}),
            **({"workers": self.n_workers} if self.n_workers else {}),
        }


def plan_record(
    name: str,
    ref: ModelRef,
    request: Request,
    jobs_of: Callable[[Outlined[Model], Standing], Jobs[Any]],
    dtype: str | None,
    device: str | None,
    verb: Verb = "lens",
    opened: Callable[[ModelRef, str | None, str | None], Outlined[Model]] = outlined,  # type: ignore[assignment]
    more: Collection[Import] = (),
) -> Planned:
    """One record of one model. What cannot be planned says why, and others can go on.

    Args:
        request: as for the engine; facts of the model, which take long to hash, may be left out.
        jobs_of: plans the jobs, of the widths that the record has.
        verb: whose imports the program has.
        opened: the model without its weights, on the path on which it will be loaded.
        more: what else is imported for it, or was for a record before it.
    """
    tokenizers: Tokenizers = {}

    def known() -> Outlined[Model]:
        found = opened(ref, dtype, device)
        tokenizers[ref.folder] = found.model.tokenizer
        return found

    made = plan_outlined(name, request, known, jobs_of, verb, more)
    if made.unknown:
        return replace(made, weight_bytes=_from_table(ref, dtype, device))
    return replace(made, tokenizers=tokenizers)


def plan_outlined(
    name: str,
    request: Request,
    opened: Callable[[], Outlined[Any]],
    jobs_of: Callable[[Outlined[Any], Standing], Jobs[Any]],
    verb: Verb,
    more: Collection[Import] = (),
) -> Planned:
    """The same of a model that has no name yet, or none of its own."""
    folder = request.store.folder
    try:
        how_far = standing(request)
        if how_far.finished:
            return Planned(name, folder, n_jobs=0, left=Cost())
        known = opened()
        jobs = jobs_of(known, how_far)
    except LensbenchError as error:
        return impossible(name, folder, error)
    left = jobs.left(how_far)
    of_left, of_all = jobs.of(left), jobs.of(chain(*jobs.items))
    least, cost, smallest, whole = (own + jobs.once for own in (*of_left, *of_all))
    weights = known.weights
    tables, shape = request.all_tables, known.shape
    needed = with_weights(shape.sizes, shape.bits, whole.working_bytes)
    running = running_bytes(whole, tables)
    crew = Crew.of(len(left), weights, _free(known.places) - needed)
    speeds, wall_s = list[Speed](), None
    if not jobs.untimed:
        with threads(how_far.threads):
            crews = sorted({1, crew.n or 1})
            speeds = [speed(shape.d_model, known.dtype, known.places.main, n) for n in crews]
        ends = [_working(speeds, one, jobs.once, weights, crew, len(left)) for one in of_left]
        wall_s = Range.between(*ends).plus(_loading(known, jobs.n_models))
    return Planned(
        name,
        folder,
        n_prompts=jobs.n_prompts,
        n_jobs=len(left),
        whole=whole,
        left=cost,
        least=least if jobs.least is not None else None,
        weight_bytes=weights,
        disk_bytes=Range.between(record_bytes(smallest, tables), record_bytes(whole, tables)),
        running_bytes=running,
        needed_bytes=needed,
        memory_bytes=program_bytes(verb, shape.sizes, shape.bits, ["study", *more]) + needed,
        workers_bytes=crew.n * crew.each_bytes,
        wall_s=wall_s,
        untimed=jobs.untimed,
        speeds=speeds,
        n_workers=crew.n,
        notes=[*_made_again(how_far), *([crew.said] if crew.said else [])],
        problems=jobs.problems,
        obstacles=_obstacles(folder, running, needed, known.places),
    )


def uncounted(name: str, folder: Path, why: str) -> Planned:
    """A record whose work nobody can count beforehand."""
    return Planned(name, folder, why)


def impossible(name: str, folder: Path, error: LensbenchError) -> Planned:
    """A record that cannot be made here and now, and why."""
    return Planned(name, folder, _NOT_PLANNED, obstacles=[str(error)])


def unreadable(unknown: Mapping[str, LensbenchError], out: Path | str) -> Iterator[Planned]:
    """Of models that are no model, by name, the records that cannot be made into `out`."""
    for name, error in unknown.items():
        yield impossible(name, Path(out) / folder_name(name), error)


def _made_again(how_far: Standing) -> list[str]:
    """Why a record that looks finished is planned as a whole."""
    if not how_far.missing:
        return []
    names = ", ".join(how_far.missing)
    what = f"its numbers are there, but not {names} (large files are not in git)"
    return [f"{what}: a run makes all of it again. To read what is there: lensbench report"]


def _working(
    speeds: Sequence[Speed], jobs: Cost, once: Cost, weights: int, crew: Crew, n_jobs: int
) -> Range:
    """Seconds of the jobs, by whoever does them, and of what this process does once."""
    alone, together = speeds[0], speeds[-1]
    shared = together.seconds(jobs, weights)
    shared = Range(shared.low, shared.high * crew.uneven(n_jobs))
    start = STARTING_S if crew.asked else Range(0.0, 0.0)
    return shared.plus(alone.seconds(once, weights)).plus(start)


def _loading(known: Outlined[Any], n_models: int) -> Range:
    """What comes before the first job of a model: the outline again, its weights once or twice."""
    read_s = known.weights / _READ_BYTES_PER_S
    low, high = known.wall_s + read_s, (known.wall_s + 2 * read_s) * SLOWER[1]
    return Range(n_models * low, n_models * high)


_NOT_PLANNED = "it cannot be made as things are"
_READ_BYTES_PER_S = 1e9  # of files that are in the system's cache: copied, and tested for NaN


def _obstacles(folder: Path, running: Range, needed: int, places: Placement) -> list[str]:
    """What this machine lacks, with the sums."""
    found, free = list[str](), _free(places)
    if needed > free:
        where = ", ".join(one.device for one in places.places)
        sums = f"{gb(needed)} of weights and working numbers, {gb(free)}"
        found.append(f"too little memory: {sums} are available on {where}")
    if running.low > (room := free_bytes(folder)):
        found.append(
            f"too little disk: {gb(int(running.low))} at least while it is made, "
            f"{gb(room)} are free"
        )
    return found


def _free(places: Placement) -> int:
    """Bytes that all of them have left."""
    return sum(one.room(places.folder) for one in places.places)


def _from_table(ref: ModelRef, dtype: str | None, device: str | None) -> int | None:
    """The bytes of a model that is not here, from the table of families; None of any other."""
    family = ref.located.family
    if family is None:
        return None
    return weight_bytes(family.n_params, held_in(ref, dtype, device, family.n_params))
