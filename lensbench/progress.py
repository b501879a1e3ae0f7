"""How far something is: one event for every run, and who is told."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TypeVar

Item = TypeVar("Item")


@dataclass(frozen=True)
class Progress:
    """What is being done, and how much of it is: `done` of `total`, both counted in `unit`.

    `total` is None where nobody knows how much there is, such as while a model loads.
    """

    stage: str  # such as "loading smollm2-135m", or "smollm2-135m" while it is measured
    done: int = 0
    total: int | None = None
    unit: str = ""  # in the plural: "batches", "layers", "steps"
    detail: str = ""  # what changes on the way, such as "loss 1.832"


Watch = Callable[[Progress], None]
Notify = Callable[[str], None]  # what a user should know, once each


def within(stage: str, watch: Watch) -> Watch:
    """Tell `watch` that what is reported is a part of `stage`."""
    return lambda now: watch(replace(now, stage=f"{stage}: {now.stage}"))


def once(notify: Notify) -> Notify:
    """Tell `notify` each text when it comes first: several say the same of what they share."""
    told: set[str] = set()

    def tell(text: str) -> None:
        if text not in told:
            told.add(text)
            notify(text)

    return tell


def counted(items: Iterable[Item], now: Progress, watch: Watch, every: int = 100) -> Iterator[Item]:
    """The items as they are; after every so many, `watch` is told how many have gone by.

    `now` says what is done with them, and with `total` how many there are.
    """
    for number, item in enumerate(items, start=1):
        yield item
        if number % every == 0 or number == now.total:
            count = "" if now.total is not None else f"{number:,} {now.unit}"
            watch(replace(now, done=number, detail=count))


def ignore(_: object) -> None:
    """Tell nobody."""
