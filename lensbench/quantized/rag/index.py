"""An index: documents in, the nearest ones to a question out."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from lensbench.errors import ModelError, Problem, RecordsError
from lensbench.files import write_text
from lensbench.json_text import read_json
from lensbench.progress import Progress, Watch, ignore
from lensbench.quantized.rag.database import (
    HNSW_FROM,
    SCHEMA_VERSION,
    About,
    Database,
    Place,
    Stored,
    connected,
    find_place,
)
from lensbench.quantized.rag.documents import Document
from lensbench.quantized.rag.embedding import Embedder, load_embedder
from lensbench.records.store import disk_error

MANIFEST = "manifest.json"
_FORMAT = "lensbench index"
_BATCH = 256  # documents per transaction


@dataclass(frozen=True)
class Hit:
    """A document that was found. `score` is the cosine similarity, -1 to 1."""

    id: str
    text: str
    score: float
    metadata: dict[str, str]


@dataclass(frozen=True)
class Changes:
    """What an addition did, in documents."""

    new: int
    changed: int
    unchanged: int
    deleted: int


class Index:
    """Documents and their vectors.

    `model` is the embedding model or where it is; by default it is looked for where it was when
    the index was made, and loaded when it is first needed.
    """

    def __init__(self, database: Database, place: Place, model: Embedder | str | None) -> None:
        self.place = place
        self.about = database.about()
        self._database = database
        self._model = model
        if isinstance(model, Embedder):
            self._require(model)

    @cached_property
    def embedder(self) -> Embedder:
        """The index's own embedding model. Raises ModelError when it is another or not there."""
        if isinstance(self._model, Embedder):
            return self._model
        embedder = load_embedder(self._model or self.about.model_place)
        self._require(embedder)
        return embedder

    def _require(self, embedder: Embedder) -> None:
        if embedder.sha256 != self.about.model_sha256:
            raise ModelError(
                f"{self.place} was built with the embedding model {self.about.model_name} "
                f"({self.about.model_sha256[:12]}), not with {embedder.name} "
                f"({embedder.sha256[:12]}). Give that one with --model, or build a new index."
            )
        if self.about.modules_sha256 not in (None, embedder.modules_sha256):
            raise ModelError(
                f"{self.place} was built when {self.about.model_name} had another tokenizer, "
                "pooling or layer behind its weights: a question would be laid beside vectors of "
                "another kind. Put it back as it was, or build a new index."
            )

    def count(self) -> int:
        """Number of documents."""
        return self._database.count()

    def search(
        self, questions: Sequence[str], top_k: int, where: Mapping[str, str] | None = None
    ) -> list[list[Hit]]:
        """For each question the `top_k` nearest documents, best first; ties by id.

        `where` keeps documents whose metadata has all these values. Exact below `HNSW_FROM`
        documents and with a filter; else by HNSW, which may miss some.
        Raises RecordsError when the index is empty.
        """
        if not self.count():
            raise RecordsError(f"{self.place} is empty. Fill it with: lensbench rag add INDEX FILE")
        vectors = self.embedder.embed(questions, task="query")
        nearest = (self._database.nearest(vector, top_k, where) for vector in vectors)
        return [[Hit(*row) for row in rows] for rows in nearest]

    def add(
        self,
        documents: Sequence[Document],
        delete_missing: bool = False,
        progress: Watch = ignore,
    ) -> Changes:
        """Write documents over those of the same id; what did not change is left alone.

        Each batch is one transaction: whatever interrupts this, the same call does the rest.
        With `delete_missing`, documents of the same sources that are not given now are deleted.
        """
        database = self._database
        with database.writing():
            before = database.fingerprints([document.id for document in documents])
            new = [d for d in documents if d.id not in before]
            old = [d for d in documents if d.id in before and d.sha256 != before[d.id].sha256]
            same_text = [d for d in old if d.embedded_sha256 == before[d.id].embedded_sha256]
            other_text = [d for d in old if d.embedded_sha256 != before[d.id].embedded_sha256]
            database.set_complete(False)
            self._embed(new + other_text, progress)
            database.relabel([(d.id, d.source, d.sha256, d.metadata) for d in same_text])
            deleted = self._delete(documents, delete_missing)
            if database.has_hnsw():
                if old or deleted:
                    database.drop_versions()
            elif database.count() >= HNSW_FROM:
                database.build_hnsw()
            database.set_complete(True)
        unchanged = len(documents) - len(new) - len(old)
        return Changes(len(new), len(old), unchanged, deleted)

    def _embed(self, documents: Sequence[Document], progress: Watch) -> None:
        """Embed and store, a batch at a time, those of similar length together."""
        ordered = sorted(documents, key=lambda document: (len(document.text), document.id))
        for start in range(0, len(ordered), _BATCH):
            batch = ordered[start : start + _BATCH]
            vectors = self.embedder.embed([document.text for document in batch])
            self._database.upsert(
                [
                    Stored(
                        id=document.id,
                        parent=document.parent or document.id,
                        source=document.source,
                        text=document.text,
                        sha256=document.sha256,
                        embedded_sha256=document.embedded_sha256,
                        metadata=document.metadata,
                        embedding=vector,
                    )
                    for document, vector in zip(batch, vectors, strict=True)
                ]
            )
            done = start + len(batch)
            progress(Progress("filling the index", done, len(ordered), "documents"))

    def _delete(self, documents: Sequence[Document], delete_missing: bool) -> int:
        parents = sorted({document.parent or document.id for document in documents})
        deleted = self._database.delete_pieces(parents, [document.id for document in documents])
        if delete_missing:
            sources = sorted({document.source for document in documents})
            deleted += self._database.delete_missing(sources, parents)
        return deleted

    def taken(self, documents: Sequence[Document]) -> list[Problem]:
        """Documents whose id belongs to another source already: adding them would replace those."""
        there = self._database.fingerprints([document.id for document in documents])
        return [
            Problem(
                document.source,
                f"the id {document.id!r} belongs to {there[document.id].source} in the index",
                "Use another id, or --replace.",
                document.id,
            )
            for document in documents
            if document.id in there and there[document.id].source != document.source
        ]

    def known(self, ids: Sequence[str]) -> set[str]:
        """Those of `ids` that are documents here, or were cut into some."""
        return self._database.known(ids)

    def texts(self) -> dict[str, str]:
        """Every document's text by its id."""
        return self._database.texts()

    def sources(self) -> dict[str, int]:
        """Documents of each source file."""
        return self._database.sources()

    def facts(self) -> dict[str, Any]:
        """The index's part of a manifest: what decides its answers; no passwords, no paths."""
        about = self._database.about()
        modules = {"embedding_modules_sha256": about.modules_sha256}
        return {
            "documents": self.count(),
            "content_sha256": self._database.content_sha256(),
            "complete": about.complete,
            "embedding_model": about.model_name,
            "embedding_sha256": about.model_sha256,
            "dimension": about.dimension,
            "search": "hnsw" if self._database.has_hnsw() else "exact",
            "schema_version": about.schema_version,
            **(modules if about.modules_sha256 else {}),
        }


@contextmanager
def open_index(where: str | Path, model: str | None = None) -> Iterator[Index]:
    """An index in a folder or at a postgresql:// address, ready to search or to add to.

    `model` says where its embedding model is now, if no longer where it was.
    Raises RecordsError when there is no index there, or it cannot be opened.
    """
    place = find_place(where)
    if place.folder is not None:
        _require_index(place.folder)
    with connected(place) as database:
        if not database.exists():
            raise RecordsError(f"There is no index at {place}. {_BUILD}")
        yield Index(database, place, model)


@contextmanager
def create_index(where: str | Path, embedder: Embedder) -> Iterator[Index]:
    """As `open_index`, but an index that is not there yet is made.

    Raises ModelError when there is one of another embedding model.
    """
    place = find_place(where)
    if place.folder is not None:
        prepare_folder(place.folder)
    with connected(place) as database:
        if not database.exists():
            database.create(_about(embedder))
        yield Index(database, place, embedder)


def _about(embedder: Embedder) -> About:
    return About(
        schema_version=SCHEMA_VERSION,
        model_name=embedder.name,
        model_place=embedder.place,
        model_sha256=embedder.sha256,
        dimension=embedder.dimension,
        complete=False,
        modules_sha256=embedder.modules_sha256,
    )


_BUILD = "Build one with: lensbench rag build FILE -o INDEX"


def _require_index(folder: Path) -> None:
    if not folder.is_dir():
        raise RecordsError(f"There is no folder {folder}. {_BUILD}")
    if not (folder / MANIFEST).is_file():
        raise RecordsError(f"{folder} is no index: it has no {MANIFEST}. {_BUILD}")
    try:
        manifest = read_json(folder / MANIFEST)
    except ValueError as error:
        raise RecordsError(f"{folder / MANIFEST} is damaged ({error}).") from error
    if not isinstance(manifest, dict) or manifest.get("format") != _FORMAT:
        raise RecordsError(f"{folder} holds something else than an index. {_BUILD}")


def prepare_folder(folder: Path) -> None:
    """Make a folder recognisable before anything is in it, so that a killed build can go on."""
    if folder.exists() and any(folder.iterdir()):
        _require_index(folder)
        return
    manifest = {"format": _FORMAT, "schema_version": SCHEMA_VERSION}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / MANIFEST, json.dumps(manifest, indent=2) + "\n")
    except OSError as error:
        raise disk_error(folder, error) from error
