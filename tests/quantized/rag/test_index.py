"""The index: exact search equals numpy, updates in place, models kept apart, addresses."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lensbench.errors import ModelError, RecordsError
from lensbench.progress import Progress
from lensbench.quantized.rag.database import Database, Stored, connected, find_place
from lensbench.quantized.rag.documents import Document
from lensbench.quantized.rag.embedding import Embedder, load_embedder
from lensbench.quantized.rag.index import Index, create_index, open_index
from tests.harness.tiny_bert import WORDS, save_bert

NUMBERS = itertools.count()


@pytest.fixture
def address(database_address: str) -> str:
    """A place for one index, on a server that the session shares."""
    return f"{database_address}#test_{next(NUMBERS)}"


@pytest.fixture
def index(address: str, bert: Embedder) -> Iterator[Index]:
    """An empty index of the tiny embedding model."""
    with create_index(address, bert) as index:
        yield index


def documents(n: int, source: str = "a.csv") -> list[Document]:
    """Different short texts."""
    words = WORDS.split()
    pairs = itertools.islice(itertools.permutations(words, 2), n)
    return [
        Document(f"d{i:03d}", " ".join(pair), {"source": source, "odd": str(i % 2)}, f"d{i:03d}")
        for i, pair in enumerate(pairs)
    ]


def brute_force(bert: Embedder, question: str, among: list[Document]) -> list[tuple[str, float]]:
    """All documents by cosine similarity, in float64."""
    vectors = bert.embed([d.text for d in among]).astype(np.float64)
    query = bert.embed([question], task="query")[0].astype(np.float64)
    scores = vectors @ query
    order = sorted(range(len(among)), key=lambda i: (-scores[i], among[i].id))
    return [(among[i].id, float(scores[i])) for i in order]


def test_a_search_is_the_brute_force_search(index: Index, bert: Embedder) -> None:
    among = documents(60)
    index.add(among)
    questions = ["silver river", "an unknown thing", "stone " * 200]
    for question, hits in zip(questions, index.search(questions, 7), strict=True):
        expected = brute_force(bert, question, among)[:7]
        assert [hit.id for hit in hits] == [id_ for id_, _ in expected]
        np.testing.assert_allclose(
            [hit.score for hit in hits], [score for _, score in expected], atol=1e-6
        )
        texts = {document.id: document.text for document in among}
        assert [hit.text for hit in hits] == [texts[hit.id] for hit in hits]


@pytest.fixture(scope="module")
def vectors_only(database_address: str, bert: Embedder) -> Iterator[Callable[..., Database]]:
    """A database holding given vectors and nothing that was embedded."""
    with ExitStack() as stack:
        place = f"{database_address}#vectors"
        stack.enter_context(create_index(place, bert))
        database = stack.enter_context(connected(find_place(place)))
        database.about()

        def holding(vectors: np.ndarray) -> Database:
            database.delete_missing(["s"], [])
            database.connection.execute("DROP INDEX IF EXISTS documents_hnsw")
            rows = [
                Stored(f"{i:05d}", f"{i:05d}", "s", "-", "-", "-", {"even": str(i % 2 == 0)}, v)
                for i, v in enumerate(vectors)
            ]
            database.upsert(rows)
            return database

        yield holding


@given(
    n=st.integers(1, 25), n_directions=st.integers(1, 6), k=st.integers(1, 30), seed=st.integers(0)
)
def test_exact_search_equals_numpy_with_ties_by_id(
    vectors_only: Callable[..., Database], n: int, n_directions: int, k: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    # Few directions, so that many documents tie.
    directions = rng.normal(size=(n_directions, 32)).astype(np.float32)
    vectors = directions[rng.integers(0, n_directions, n)]
    query = rng.normal(size=32).astype(np.float32)
    unit = directions / np.linalg.norm(directions, axis=1, keepdims=True)
    by_direction = {d.tobytes(): float(u @ query) for d, u in zip(directions, unit, strict=True)}
    scores = [by_direction[v.tobytes()] / float(np.linalg.norm(query)) for v in vectors]
    expected = sorted(range(n), key=lambda i: (-scores[i], i))[:k]

    found = vectors_only(vectors).nearest(query, k)
    assert [int(row[0]) for row in found] == expected
    np.testing.assert_allclose([row[2] for row in found], [scores[i] for i in expected], atol=1e-5)


@pytest.fixture(scope="module")
def hnsw(vectors_only: Callable[..., Database]) -> tuple[Database, np.ndarray, np.ndarray]:
    """A database with an HNSW index, its vectors, and questions."""
    rng = np.random.default_rng(0)  # without clusters: harder than any text
    vectors, queries = rng.normal(size=(3000, 32)), rng.normal(size=(40, 32))
    database = vectors_only(vectors.astype(np.float32))
    database.build_hnsw()
    return database, vectors.astype(np.float32), queries.astype(np.float32)


def nearest_by_numpy(vectors: np.ndarray, query: np.ndarray) -> list[str]:
    """All ids, best first."""
    scores = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)) @ query
    return [f"{i:05d}" for i in np.argsort(-scores, kind="stable")]


def test_hnsw_is_used_and_finds_nearly_all(
    hnsw: tuple[Database, np.ndarray, np.ndarray],
) -> None:
    database, vectors, queries = hnsw
    query = "EXPLAIN SELECT id FROM documents ORDER BY embedding <=> %s LIMIT 10"
    plan = database.connection.execute(query, (queries[0],)).fetchall()
    assert "documents_hnsw" in str(plan)
    recall = [
        len({row[0] for row in database.nearest(query, 10)} & set(exact[:10])) / 10
        for query, exact in ((query, nearest_by_numpy(vectors, query)) for query in queries)
    ]
    assert np.mean(recall) >= 0.95


def test_what_is_promised_exact_is_exact_beside_a_poor_hnsw(
    hnsw: tuple[Database, np.ndarray, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lensbench.quantized.rag.database._EF_SEARCH", 10)
    database, vectors, queries = hnsw
    missed = 0
    for query in queries:
        best = nearest_by_numpy(vectors, query)
        missed += [row[0] for row in database.nearest(query, 10)] != best[:10]
        assert [row[0] for row in database.nearest(query, 10, exact=True)] == best[:10]
        assert [row[0] for row in database.nearest(query, 11)] == best[:11]
        even = [id_ for id_ in best if int(id_) % 2 == 0]
        assert [row[0] for row in database.nearest(query, 10, {"even": "True"})] == even[:10]
    assert missed


@pytest.mark.parametrize(("share", "times"), [(0.01, 1), (0.75, 1), (1.0, 3)])
def test_hnsw_finds_all_that_are_there_after_an_edit_of_any_size(
    vectors_only: Callable[..., Database], share: float, times: int
) -> None:
    """Rows' earlier versions stay in the graph until a vacuum; the search walks over them."""
    rng = np.random.default_rng(3)
    vectors = rng.normal(size=(400, 32)).astype(np.float32)
    database = vectors_only(vectors)
    database.build_hnsw()
    edited = rng.permutation(len(vectors))[: int(share * len(vectors))]
    for turn in range(times):
        vectors[edited] += 0.01 * rng.normal(size=(len(edited), 32)).astype(np.float32)
        rows = [
            Stored(f"{i:05d}", f"{i:05d}", "s", "-", f"{turn}", "-", {}, vectors[i]) for i in edited
        ]
        database.upsert(rows)
    queries = rng.normal(size=(8, 32)).astype(np.float32)
    for vacuumed in (False, True):
        if vacuumed:
            database.drop_versions()
        for query, k in itertools.product(queries, (10, 100)):
            found = [row[0] for row in database.nearest(query, k)]
            assert len(found) == len(set(found)) == k
            wanted = set(nearest_by_numpy(vectors, query)[:k])
            assert len(wanted & set(found)) >= 0.8 * k


def test_hnsw_finds_the_few_that_a_deletion_left(vectors_only: Callable[..., Database]) -> None:
    rng = np.random.default_rng(4)
    vectors = rng.normal(size=(700, 32)).astype(np.float32)
    database = vectors_only(vectors)
    database.build_hnsw()
    database.delete_missing(["s"], [f"{i:05d}" for i in range(0, 700, 50)])
    for query in rng.normal(size=(5, 32)).astype(np.float32):
        left = [id_ for id_ in nearest_by_numpy(vectors, query) if int(id_) % 50 == 0]
        assert [row[0] for row in database.nearest(query, 100)] == left
        assert [row[0] for row in database.nearest(query, 10)] == left[:10]


def test_an_addition_leaves_no_earlier_versions_in_hnsw(
    index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lensbench.quantized.rag.index.HNSW_FROM", 50)
    among = documents(60)
    index.add(among)
    database = index._database
    assert database.has_hnsw()
    vacuumed: list[int] = []
    drop = database.drop_versions
    monkeypatch.setattr(database, "drop_versions", lambda: vacuumed.append(1) or drop())
    index.add(among)
    assert not vacuumed
    index.add([replace(document, text=f"{document.text} gold") for document in among])
    assert vacuumed
    assert len(index.search(["silver river"], 60)[0]) == 60


def test_an_addition_counts_and_embeds_only_what_changed(index: Index, bert: Embedder) -> None:
    first = documents(10)
    assert vars(index.add(first)) == {"new": 10, "changed": 0, "unchanged": 0, "deleted": 0}
    second = [
        replace(first[0], text="another text"),
        replace(first[1], metadata={"source": "a.csv", "odd": "x"}),
        *first[2:],
        Document("d999", "new here", {"source": "a.csv"}, "d999"),
    ]
    steps: list[Progress] = []
    changes = index.add(second, progress=steps.append)
    assert vars(changes) == {"new": 1, "changed": 2, "unchanged": 8, "deleted": 0}
    done = [(step.done, step.total) for step in steps]
    assert done == [(2, 2)]  # the new text and the new document; not the relabelled one
    assert index.texts() == {document.id: document.text for document in second}
    assert [hit.id for hit in index.search(["anything"], 5, {"odd": "x"})[0]] == ["d001"]
    expected = brute_force(bert, "another text", second)
    assert [hit.id for hit in index.search(["another text"], 11)[0]] == [i for i, _ in expected]


def test_pieces_that_are_gone_are_deleted_and_others_only_on_request(index: Index) -> None:
    def piece(parent: str, number: int) -> Document:
        return Document(f"{parent}#{number}", f"{parent} {number}", {"source": "a.csv"}, parent)

    index.add([piece("x", 1), piece("x", 2), piece("x", 3), piece("y", 1)])
    index.add([Document("z", "z", {"source": "b.csv"}, "z")])
    assert index.add([piece("x", 1)]).deleted == 2
    assert sorted(index.texts()) == ["x#1", "y#1", "z"]
    assert index.add([piece("x", 1)], delete_missing=True).deleted == 1
    assert sorted(index.texts()) == ["x#1", "z"]  # another source's document stays
    assert index.sources() == {"a.csv": 1, "b.csv": 1}


def test_a_filter_needs_all_its_values(index: Index) -> None:
    index.add([*documents(20), Document("other", "gold", {"source": "b.csv", "odd": "1"}, "other")])
    (hits,) = index.search(["gold"], 30, {"odd": "1", "source": "a.csv"})
    assert {hit.id for hit in hits} == {f"d{i:03d}" for i in range(1, 20, 2)}
    assert index.search(["gold"], 3, {"odd": "7"}) == [[]]


def test_an_id_of_another_source_is_noticed(index: Index) -> None:
    index.add(documents(3))
    (problem,) = index.taken(documents(1, "b.csv"))
    assert problem.prompt_id == "d000"
    assert "a.csv" in problem.what
    assert index.taken(documents(3)) == []


def test_another_embedding_model_is_refused(address: str, bert: Embedder, tmp_path: Path) -> None:
    with create_index(address, bert) as index:
        index.add(documents(2))
    other = save_bert(tmp_path, seed=1)
    with (
        open_index(address, str(other)) as index,
        pytest.raises(ModelError, match="built with the embedding model"),
    ):
        index.search(["gold"], 1)
    stranger = replace(bert, sha256="0" * 64)
    with pytest.raises(ModelError, match="--model"), create_index(address, stranger):
        pass
    with open_index(address) as index:  # its own is found where it was
        assert index.search(["gold"], 1)


def test_the_same_weights_with_another_pooling_are_another_model(
    address: str, bert: Embedder, tmp_path: Path
) -> None:
    other = save_bert(tmp_path)
    with create_index(address, load_embedder(str(other), "cpu")) as index:
        index.add(documents(2))
    (pooling,) = other.glob("*_Pooling/config.json")
    told = json.loads(pooling.read_text())
    pooling.write_text(json.dumps(told | {"pooling_mode": "max"}))
    with open_index(address) as index, pytest.raises(ModelError, match="pooling or layer behind"):
        index.search(["gold"], 1)
    with pytest.raises(ModelError, match="build a new index"):
        create_index(address, replace(bert, modules_sha256="0" * 64)).__enter__()


def test_an_index_from_before_that_was_noted_is_read_as_it_was(
    address: str, bert: Embedder
) -> None:
    with create_index(address, bert) as index:
        index.add(documents(2))
        index._database.connection.execute("ALTER TABLE about DROP COLUMN modules_sha256")
    with open_index(address) as index:
        assert index.search(["gold"], 1)
        assert "embedding_modules_sha256" not in index.facts()


def test_facts_describe_the_content_and_no_machine(index: Index, bert: Embedder) -> None:
    index.add(documents(5))
    facts = index.facts()
    assert facts["documents"] == 5
    assert facts["complete"] is True
    assert facts["embedding_sha256"] == bert.sha256
    assert "/" not in str(facts)
    index.add([replace(documents(1)[0], text="changed")])
    changed = index.facts()
    assert changed["content_sha256"] != facts["content_sha256"]
    index.add(documents(1))
    assert index.facts() == facts


def test_indexes_at_one_address_are_apart(database_address: str, bert: Embedder) -> None:
    for name, n in (("one", 3), ("two", 5)):
        with create_index(f"{database_address}#{name}", bert) as index:
            index.add(documents(n))
    with open_index(f"{database_address}#one") as index:
        assert index.count() == 3


def test_an_empty_index_says_what_to_do(index: Index) -> None:
    with pytest.raises(RecordsError, match="lensbench rag add"):
        index.search(["gold"], 1)


def test_a_second_writer_is_turned_away(address: str, bert: Embedder) -> None:
    with create_index(address, bert) as index, open_index(address) as other:
        index.add(documents(2))

        def write_too(_: Progress) -> None:
            with pytest.raises(RecordsError, match="Another process is writing"):
                other.add(documents(9))
            assert other.facts()["complete"] is False

        index.add(documents(3), progress=write_too)
        assert other.facts()["complete"] is True
        assert other.count() == 3  # what is committed is seen at once
        assert other.add(documents(4)).new == 1


def test_what_is_not_there_or_cannot_be_reached_is_a_clear_error(
    database_address: str, tmp_path: Path
) -> None:
    places = {
        f"{database_address}#nothing": "There is no index",
        f"{database_address}#No Name": "up to 40 of a-z",
        "postgresql://me:secret@127.0.0.1:9/db": "Check the address",
        str(tmp_path / "nowhere"): "There is no folder",
        str(tmp_path): "is no index",
    }
    for place, said in places.items():
        with pytest.raises(RecordsError, match=said) as caught, open_index(place):
            pass
        assert "secret" not in str(caught.value)


def test_a_newer_schema_is_refused(address: str, bert: Embedder) -> None:
    with create_index(address, bert) as index:
        index._database.connection.execute("UPDATE about SET schema_version = 99")
    with pytest.raises(RecordsError, match="schema 99"), open_index(address):
        pass
