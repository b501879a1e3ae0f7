"""`python -m tests.benchmarks.coverage`: do the 95 % intervals cover, of few prompts and relations?

Each population is drawn from again and again; its own number is known, or taken from a sample of
40,000 relations. Nothing here uses what the intervals are made of.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import cyclopts
import numpy as np
import pandas as pd
from rich.console import Console

from lensbench.files import write_text
from lensbench.stats.estimates import Estimate, Statistic, clustered_estimate, paired_difference
from tests.benchmarks.table import Out, at_least, made_by, markdown_table

Draw = tuple[np.ndarray, np.ndarray]  # values, and the relation of each
Rng = np.random.Generator
PERCENTILE_SHARE = 8  # of so many samples one goes through the bootstrap beside it, which is slow
N_LAYERS = 30
ENOUGH = 0.9  # less is shown bold


@dataclass(frozen=True)
class Population:
    """Relations of prompts: how one is drawn, and the number that an interval is to cover."""

    name: str
    statistic: Statistic
    draw: Callable[[Rng, np.ndarray], Draw]  # from the relations' sizes
    true: float
    paired: bool = False

    def estimate(self, values: np.ndarray, relation: np.ndarray) -> Estimate:
        """As a report makes it."""
        if not self.paired:
            return clustered_estimate(values, relation, self.statistic)
        a, b = pd.Series((values > 0).astype(float)), pd.Series((values < 0).astype(float))
        return paired_difference(a, b, pd.Series(relation), self.statistic)


def share(mean: float, alike: float) -> Population:
    """Right or wrong, relations between easy and hard; `alike`: correlation within a relation."""

    def draw(rng: Rng, sizes: np.ndarray) -> Draw:
        scale = 1 / alike - 1
        relation = np.repeat(np.arange(len(sizes)), sizes)
        easy = rng.beta(mean * scale, (1 - mean) * scale, len(sizes))
        return (rng.random(len(relation)) < easy[relation]).astype(float), relation

    return Population(f"share {mean:g}, alike {alike:g}", "share", draw, mean)


def change(up: float, down: float) -> Population:
    """Right only after, or only before a change; relations differ in how often."""

    def draw(rng: Rng, sizes: np.ndarray) -> Draw:
        relation = np.repeat(np.arange(len(sizes)), sizes)
        odds = rng.dirichlet(np.array([up, down, 1 - up - down]) * 8, len(sizes))[relation]
        luck = rng.random(len(relation))
        lost = np.where(luck < odds[:, 0] + odds[:, 1], -1.0, 0.0)
        return np.where(luck < odds[:, 0], 1.0, lost), relation

    return Population(
        f"change of a share, {up:g} up, {down:g} down", "share", draw, up - down, True
    )


def bits(spread: float, between: float) -> Population:
    """Skewed as bits are: log-normal, by relation and by prompt."""

    def draw(rng: Rng, sizes: np.ndarray) -> Draw:
        relation = np.repeat(np.arange(len(sizes)), sizes)
        level = rng.normal(0, between, len(sizes))[relation]
        return np.exp(level + rng.normal(0, spread, len(relation))), relation

    true = float(np.exp((spread**2 + between**2) / 2))
    return Population(f"mean, log-normal {spread:g}, {between:g} between", "mean", draw, true)


def normal(between: float) -> Population:
    """Bell-shaped, relations apart by so many standard deviations of a prompt."""

    def draw(rng: Rng, sizes: np.ndarray) -> Draw:
        relation = np.repeat(np.arange(len(sizes)), sizes)
        level = rng.normal(0, between, len(sizes))[relation]
        return level + rng.normal(size=len(relation)), relation

    return Population(f"mean, normal, {between:g} between", "mean", draw, 0.0)


def layers(middle: float, spread: float, between: float, where: str) -> Population:
    """The layer at which an answer emerges, of 30, as a depth; many may sit at the last."""

    def draw(rng: Rng, sizes: np.ndarray) -> Draw:
        relation = np.repeat(np.arange(len(sizes)), sizes)
        level = middle + rng.normal(0, between, len(sizes))[relation]
        layer = (level + rng.normal(0, spread, len(relation))).round()
        return layer.clip(0, N_LAYERS) / N_LAYERS, relation

    true = float(np.median(draw(np.random.default_rng(0), np.full(40_000, 20))[0]))
    return Population(f"median depth {where}, {between:g} layers between", "median", draw, true)


def populations() -> list[Population]:
    """Of every statistic, easy and hard."""
    return [
        *(share(mean, alike) for mean in (0.5, 0.8, 0.95) for alike in (0.05, 0.3)),
        change(0.05, 0.05),
        change(0.2, 0.05),
        normal(0.2),
        normal(0.65),
        bits(0.5, 0.3),
        bits(1.0, 0.5),
        layers(20, 5, 1.7, "in the middle"),
        layers(20, 4, 3.3, "in the middle"),
        layers(31, 5, 2, "at the end"),
    ]


def percentile(population: Population, rng: Rng, values: np.ndarray, relation: np.ndarray) -> bool:
    """Whether the percentile bootstrap over relations covers, which reports had before."""
    own = [values[relation == name] for name in range(relation.max() + 1)]
    take = np.median if population.statistic == "median" else np.mean
    drawn = [
        take(np.concatenate([own[i] for i in rng.integers(len(own), size=len(own))]))
        for _ in range(400)
    ]
    return bool(np.percentile(drawn, 2.5) <= population.true <= np.percentile(drawn, 97.5))


def covered(population: Population, groups: int, several: bool, samples: int) -> str:
    """A cell: how often the interval covers where there is one, and the bootstrap beside it."""
    rng = np.random.default_rng([groups, several, len(population.name)])
    hits, before = [], []
    for number in range(samples):
        sizes = rng.integers(5, 31, groups) if several else np.ones(groups, int)
        values, relation = population.draw(rng, sizes)
        found = population.estimate(values, relation)
        if found.low is not None and found.high is not None:
            hits.append(found.low - 1e-9 <= population.true <= found.high + 1e-9)
        if number % PERCENTILE_SHARE == 0:
            before.append(percentile(population, rng, values, relation))
    covers = float(np.mean(hits)) if len(hits) >= samples / 2 else None
    own = "none" if covers is None else f"{100 * covers:.0f}"
    own = f"**{own}**" if covers is not None and covers < ENOUGH else own
    return f"{own} ({100 * np.mean(before):.0f})"


def table(groups: tuple[int, ...], several: bool, samples: int) -> list[str]:
    """A row for each population, a column for each number of groups."""
    unit = "relations" if several else "prompts"
    header = ("population", *(f"{number} {unit}" for number in groups))
    cells = ([covered(one, k, several, samples) for k in groups] for one in populations())
    rows = zip((one.name for one in populations()), cells, strict=True)
    return markdown_table(header, [[name, *own] for name, own in rows])


def bench(
    out: Out = Path("reports/bench"),
    samples: Annotated[int, at_least(1, "Samples of each population.")] = 400,
) -> None:
    """Coverage of the 95 % intervals of reports, by simulation (some minutes on one core)."""
    with Console(stderr=True).status("drawing"):
        text = _markdown(samples)
    write_text(out / "coverage.md", text)


def _markdown(samples: int) -> str:
    return "\n".join(
        [
            "# Do the intervals cover?",
            "",
            f"{samples:,} seeded samples of each population: how often, in per cent, a 95 % "
            "interval holds the population's own number; in brackets the percentile bootstrap over "
            'relations, which reports had before (an eighth of the samples). "none": no interval '
            "is given, and so no verdict. Shares: Korn & Graubard's interval after Clopper & "
            "Pearson; changes of a share: Bonett & Price; means, perplexity, BLEU: studentised "
            "bootstrap, Student's of 2 to 5 relations; medians: order statistics, or Woodruff's "
            "interval. See lensbench/stats/intervals.py. "
            f"Bold: below {100 * ENOUGH:.0f}. "
            f"So many samples tell coverage to {200 * (0.0475 / samples) ** 0.5:.0f} points.",
            "",
            "## Relations of 5 to 30 prompts",
            "",
            *table((2, 3, 4, 5, 6, 12, 20), True, samples),
            "",
            "## Prompts without relations, each standing for itself",
            "",
            *table((3, 5, 6, 10, 20, 50), False, samples),
            "",
            made_by("bench-coverage"),
            "",
        ]
    )


if __name__ == "__main__":
    cyclopts.run(bench)
