"""The tables of an index in PostgreSQL with pgvector, and every line of SQL that touches them.

One index is one database schema, so several share an address: `postgresql://.../db#name`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

import numpy as np
from jaxtyping import Float

from lensbench.errors import MissingExtraError, RecordsError
from lensbench.quantized.rag.server import serving

if TYPE_CHECKING:
    import psycopg

SCHEMA_VERSION = 1
HNSW_FROM = 50_000  # documents; below this an exact search takes about 1 ms per thousand
_EF_SEARCH = 100  # candidates that HNSW keeps: recall against time
_HNSW_UP_TO = 100  # documents for one question; it misses more of them the nearer to the candidates
_BUILD_MEMORY = "1GB"
_SCHEMES = ("postgresql://", "postgres://")
_DEFAULT_NAME = "rag"
_NAME = re.compile(r"[a-z0-9_]{1,40}")

_TABLES = """
CREATE TABLE about (
    schema_version int NOT NULL,
    model_name text NOT NULL,
    model_place text NOT NULL,
    model_sha256 text NOT NULL,
    dimension int NOT NULL,
    complete bool NOT NULL,
    modules_sha256 text
);
CREATE TABLE documents (
    id text COLLATE "C" PRIMARY KEY,
    parent text COLLATE "C" NOT NULL,
    source text COLLATE "C" NOT NULL,
    text text NOT NULL,
    sha256 text NOT NULL,
    embedded_sha256 text NOT NULL,
    metadata jsonb NOT NULL,
    embedding vector({dimension}) NOT NULL
);
CREATE INDEX documents_metadata ON documents USING gin (metadata jsonb_path_ops);
CREATE INDEX documents_parent ON documents (parent);
"""
_NEAREST = """
SELECT id, text, 1 - (embedding <=> %(vector)s) AS score, metadata FROM documents
{where} ORDER BY embedding <=> %(vector)s, id LIMIT %(top_k)s
"""
_UPSERT = """
INSERT INTO documents (id, parent, source, text, sha256, embedded_sha256, metadata, embedding)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s)
ON CONFLICT (id) DO UPDATE SET parent = excluded.parent, source = excluded.source,
    text = excluded.text, sha256 = excluded.sha256,
    embedded_sha256 = excluded.embedded_sha256, metadata = excluded.metadata,
    embedding = excluded.embedding
"""


class Place(NamedTuple):
    """Where an index is: a folder, or an address and the index's name there."""

    folder: Path | None
    address: str
    name: str

    def __str__(self) -> str:
        """For people and messages: an address without its password."""
        if self.folder is not None:
            return str(self.folder)
        parts = urlsplit(self.address)
        hidden = self.address.replace(f":{parts.password}@", ":***@") if parts.password else ""
        return f"{hidden or self.address}#{self.name}"


def find_place(where: str | Path) -> Place:
    """Read what a user gave as an index. Raises RecordsError for a name that cannot be one."""
    if not str(where).startswith(_SCHEMES):
        return Place(Path(where).expanduser().resolve(), "", _DEFAULT_NAME)
    address, _, name = str(where).partition("#")
    if not _NAME.fullmatch(name or _DEFAULT_NAME):
        raise RecordsError(
            "After # stands the index's name: up to 40 of a-z, 0-9 and _. "
            "A # inside a password is written %23."
        )
    return Place(None, address, name or _DEFAULT_NAME)


@dataclass(frozen=True)
class About:
    """What an index says of itself."""

    schema_version: int
    model_name: str
    model_place: str
    model_sha256: str
    dimension: int
    complete: bool  # False while a build or an addition is unfinished
    modules_sha256: str | None = None  # not known of an index made before it was noted


class Stored(NamedTuple):
    """One row of `documents`, in the table's order."""

    id: str
    parent: str
    source: str
    text: str
    sha256: str
    embedded_sha256: str
    metadata: Any
    embedding: Float[np.ndarray, " dimension"]


class Fingerprint(NamedTuple):
    """What tells whether a document changed."""

    sha256: str
    embedded_sha256: str
    source: str


class Database:
    """One index's tables on an open connection."""

    def __init__(self, connection: psycopg.Connection[Any], name: str) -> None:
        self.connection = connection
        # A prepared statement keeps its plan, exact or by HNSW, whatever is asked for later.
        connection.prepare_threshold = None
        self.schema = f"lensbench_{name}"
        self._run("SELECT set_config('search_path', %s || ', public', false)", self.schema)

    def _run(self, query: str, *values: Any) -> psycopg.Cursor[Any]:
        return self.connection.execute(query.encode(), values or None)

    def _one(self, query: str, *values: Any) -> Any:
        row = self._run(query, *values).fetchone()
        return row[0] if row else None

    def exists(self) -> bool:
        """Whether the tables are there."""
        return self._one("SELECT to_regclass(%s)", f"{self.schema}.about") is not None

    def create(self, about: About) -> None:
        """Make the tables, all or none."""
        with self.connection.transaction():
            self._run("CREATE EXTENSION IF NOT EXISTS vector")
            self._run(f"CREATE SCHEMA IF NOT EXISTS {self.schema}")
            self._run(_TABLES.replace("{dimension}", str(about.dimension)))
            marks = ", ".join(["%s"] * len(vars(about)))
            self._run(f"INSERT INTO about VALUES ({marks})", *vars(about).values())

    def drop(self) -> None:
        """Remove the index with all its documents."""
        self._run(f"DROP SCHEMA {self.schema} CASCADE")

    def about(self) -> About:
        """What the index says of itself. Raises RecordsError for another schema version."""
        from pgvector.psycopg import register_vector

        version = self._one("SELECT schema_version FROM about")
        if version != SCHEMA_VERSION:
            raise RecordsError(
                f"The index has schema {version}, this lensbench reads {SCHEMA_VERSION}. "
                "Build the index again, or use the lensbench that wrote it."
            )
        register_vector(self.connection)
        row = self._run("SELECT * FROM about").fetchone()
        assert row is not None
        return About(*row)

    def set_complete(self, complete: bool) -> None:
        """Note whether a change is under way."""
        self._run("UPDATE about SET complete = %s", complete)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Keep every other writer out; the lock ends with the connection, however that ends."""
        lock = f"hashtextextended('{self.schema}', 0)"
        if not self._one(f"SELECT pg_try_advisory_lock({lock})"):
            raise RecordsError(
                "Another process is writing this index. Wait for it, then run the command again."
            )
        yield
        self._run(f"SELECT pg_advisory_unlock({lock})")

    def count(self) -> int:
        """Number of documents."""
        return int(self._one("SELECT count(*) FROM documents"))

    def sources(self) -> dict[str, int]:
        """Documents of each source file."""
        query = "SELECT source, count(*) FROM documents GROUP BY source ORDER BY source"
        return dict(self._run(query).fetchall())

    def content_sha256(self) -> str:
        """One hash over all documents: ids, texts and metadata."""
        lines = "coalesce(string_agg(id || ' ' || sha256, E'\\n' ORDER BY id), '')"
        query = f"SELECT encode(sha256(convert_to({lines}, 'UTF8')), 'hex') FROM documents"
        return str(self._one(query))

    def fingerprints(self, ids: Sequence[str]) -> dict[str, Fingerprint]:
        """Of those documents that are there."""
        query = "SELECT id, sha256, embedded_sha256, source FROM documents WHERE id = ANY(%s)"
        return {row[0]: Fingerprint(*row[1:]) for row in self._run(query, list(ids))}

    def known(self, ids: Sequence[str]) -> set[str]:
        """Those of `ids` that are a document's, or its parent's."""
        query = "SELECT unnest(ARRAY[id, parent]) FROM documents WHERE %s && ARRAY[id, parent]"
        return set(ids) & {row[0] for row in self._run(query, list(ids))}

    def texts(self) -> dict[str, str]:
        """Every document's text by its id, in the order of ids."""
        return dict(self._run("SELECT id, text FROM documents ORDER BY id").fetchall())

    def upsert(self, rows: Sequence[Stored]) -> None:
        """Write some documents, all or none."""
        from psycopg.types.json import Jsonb

        values = [row._replace(metadata=Jsonb(row.metadata)) for row in rows]
        with self.connection.transaction(), self.connection.cursor() as cursor:
            cursor.executemany(_UPSERT, values)

    def relabel(self, rows: Sequence[tuple[str, str, str, Mapping[str, str]]]) -> None:
        """Replace (id,) source, hash and metadata of documents whose text is the same."""
        from psycopg.types.json import Jsonb

        query = "UPDATE documents SET source = %s, sha256 = %s, metadata = %s WHERE id = %s"
        values = [(source, sha256, Jsonb(metadata), id_) for id_, source, sha256, metadata in rows]
        with self.connection.transaction(), self.connection.cursor() as cursor:
            cursor.executemany(query, values)

    def delete_pieces(self, parents: Sequence[str], keep: Sequence[str]) -> int:
        """Delete what `parents` were cut into before and no longer are."""
        query = "DELETE FROM documents WHERE parent = ANY(%s) AND NOT id = ANY(%s)"
        return self._run(query, list(parents), list(keep)).rowcount

    def delete_missing(self, sources: Sequence[str], parents: Sequence[str]) -> int:
        """Delete documents of `sources` that belong to none of `parents`."""
        query = "DELETE FROM documents WHERE source = ANY(%s) AND NOT parent = ANY(%s)"
        return self._run(query, list(sources), list(parents)).rowcount

    def has_hnsw(self) -> bool:
        """Whether searches without a filter are approximate."""
        return self._one("SELECT to_regclass('documents_hnsw')") is not None

    def build_hnsw(self) -> None:
        """Index the vectors (Malkov & Yashunin 2018) with pgvector's default m and construction.

        Serial: parallel workers share memory that containers ration.
        """
        with self.connection.transaction():
            self._run(f"SET LOCAL maintenance_work_mem = '{_BUILD_MEMORY}'")
            self._run("SET LOCAL max_parallel_maintenance_workers = 0")
            how = "USING hnsw (embedding vector_cosine_ops)"
            self._run(f"CREATE INDEX documents_hnsw ON documents {how}")

    def drop_versions(self) -> None:
        """Take rows' earlier versions out of the table and out of HNSW, which walks over them.

        A version that some other reader may still see stays.
        """
        self._run("VACUUM documents")

    def nearest(
        self,
        vector: Float[np.ndarray, " dimension"],
        top_k: int,
        where: Mapping[str, str] | None = None,
        exact: bool = False,
    ) -> list[tuple[str, str, float, dict[str, str]]]:
        """(id, text, cosine similarity, metadata) of the nearest documents, best first.

        `top_k` of them, or all that there are. With a filter, or for many documents, the search is
        always exact; and where HNSW finds fewer than were asked for: a row's earlier versions stay
        among its candidates until a vacuum, and pgvector leaves them out only then.
        """
        from psycopg.types.json import Jsonb

        condition = "WHERE metadata @> %(where)s" if where else ""
        query = _NEAREST.replace("{where}", condition).encode()
        values = {"vector": vector, "top_k": top_k, "where": Jsonb(dict(where or {}))}
        with self.connection.transaction():
            if not (exact or where is not None or top_k > _HNSW_UP_TO):
                self._run(f"SET LOCAL hnsw.ef_search = {_EF_SEARCH}")
                found = self.connection.execute(query, values).fetchall()
                if len(found) == top_k:
                    return found
            self._run("SET LOCAL enable_indexscan = off")  # no other plan needs one
            return self.connection.execute(query, values).fetchall()


@contextmanager
def connected(place: Place) -> Iterator[Database]:
    """An open database for `place`, its server started where it is a folder's own.

    Raises RecordsError for whatever PostgreSQL has to complain about.
    """
    try:
        import psycopg
    except ImportError as error:
        raise MissingExtraError("psycopg", "rag") from error
    try:
        if place.folder is None:
            with psycopg.connect(place.address, autocommit=True) as connection:
                yield Database(connection, place.name)
        else:
            with serving(place.folder) as address, psycopg.connect(address, autocommit=True) as c:
                yield Database(c, place.name)
    except psycopg.Error as error:
        raise RecordsError(f"{place}: {_advice(error)}") from error


def _advice(error: psycopg.Error) -> str:
    """PostgreSQL's words in one line, and what to do about the well-known ones."""
    from psycopg import errors

    said = " ".join(str(error).split()) or type(error).__name__
    advice: dict[type[psycopg.Error], str] = {
        errors.DiskFull: "Make room on the disk and run the same command again.",
        errors.FeatureNotSupported: "The server needs the extension pgvector 0.5 or newer.",
        errors.InsufficientPrivilege: "Ask for the rights to create a schema and the extension.",
        errors.OperationalError: "Check the address and that the server is up, then run the same "
        "command again; what was committed is kept.",
    }
    return next(
        (f"{said}. {what}" for kind, what in advice.items() if isinstance(error, kind)), said
    )
