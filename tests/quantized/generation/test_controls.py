"""Controls: other text of the same length; the same prompts with other neighbours."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from lensbench.errors import InputProblems
from lensbench.progress import Notify, ignore
from lensbench.quantized.data.shipped import general_pairs
from lensbench.quantized.generation.batching import plan, rebatched
from lensbench.quantized.generation.context import fit, fit_to
from lensbench.quantized.generation.controls import partners, substitutes
from lensbench.quantized.generation.infer import run_inference
from lensbench.quantized.generation.spec import Decoding, InferenceSpec
from lensbench.quantized.rag.documents import Document
from lensbench.quantized.rag.embedding import Embedder
from lensbench.quantized.rag.index import Hit, create_index
from lensbench.quantized.style import ask, prompt_ids
from tests.harness.program import Program
from tests.harness.tiny import TINY, save, tokenizer

TOWNS = {
    "Berlin": "Berlin is the capital of Germany and lies on the Spree.",
    "Paris": "The capital of France is Paris. The Seine flows through it, under many bridges.",
    "Rome": "Rome, on the Tiber, is the capital of Italy.",
    "Lisbon": "Lisbon is the capital of Portugal; it stands on hills above the wide river Tagus.",
    "Oslo": "Oslo: capital of Norway.",
    "Vienna": "Vienna is the capital of Austria, and the Danube passes it on the way to the sea.",
    "Prague": "Prague is the capital of the Czech Republic.",
}


def hits(*documents: tuple[str, str]) -> list[list[Hit]]:
    return [[Hit(item, text, 0.5, {})] for item, text in documents]


# --- who gets whose documents -------------------------------------------------------------------


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(1, 30)), min_size=2, max_size=6),
)
def test_partners_are_the_best_of_all_permutations(rows: list[tuple[int, int]]) -> None:
    """Against every permutation: nobody has its own document, lengths differ least in sum."""
    length = dict(rows)  # a document has one text
    retrieved = hits(*((str(document), "x" * length[document]) for document, _ in rows))
    allowed = [
        order
        for order in itertools.permutations(range(len(rows)))
        if all(rows[i][0] != rows[j][0] for i, j in enumerate(order))
    ]
    assume(allowed)

    def total(order: Any) -> int:
        return sum(abs(length[rows[i][0]] - length[rows[j][0]]) for i, j in enumerate(order))

    found = partners(retrieved)
    assert tuple(found) in allowed
    assert total(found) == min(map(total, allowed))


def test_a_prompt_that_retrieved_nothing_is_not_its_own_partner() -> None:
    retrieved = [*hits(("a", "x" * 5), ("b", "x" * 5)), []]
    assert all(partner != own for own, partner in enumerate(partners(retrieved)))


def test_prompts_that_all_retrieved_one_document_cannot_be_shuffled() -> None:
    with pytest.raises(InputProblems, match="same documents"):
        partners(hits(("a", "x"), ("a", "x"), ("b", "y")))
    with pytest.raises(InputProblems, match="same documents"):
        partners(hits(("a", "x")))


def test_irrelevant_text_is_of_the_least_similar_half_and_differs_from_prompt_to_prompt(
    bert: Embedder,
) -> None:
    questions = [f"What is the capital near {town}?" for town in TOWNS]
    own = hits(*TOWNS.items())
    found = substitutes("irrelevant", questions, own, bert)
    assert found == substitutes("irrelevant", questions, own, bert)
    pairs = general_pairs()
    vectors = bert.embed([f"{pair.instruction}\n{pair.response}" for pair in pairs])
    for cosine, put in zip(bert.embed(questions, task="query") @ vectors.T, found, strict=True):
        by_id = {pair.id: score for pair, score in zip(pairs, cosine, strict=True)}
        middle = np.median(cosine)
        assert all(by_id[hit.id] <= middle + 1e-6 for hit in put)
        assert [hit.score for hit in put] == pytest.approx([by_id[hit.id] for hit in put], abs=1e-5)
        assert len({hit.id for hit in put}) == len(put)
    assert len({put[0].id for put in found}) > len(found) / 2


# --- as long in tokens --------------------------------------------------------------------------

texts = st.lists(st.sampled_from(" ".join(TOWNS.values()).split()), min_size=1, max_size=25)


@pytest.mark.parametrize(("kind", "style"), [("bytes", "none"), ("spaces", "alpaca")])
def test_a_cut_gives_the_length_that_is_asked_for_or_the_nearest_below(
    kind: str, style: Any
) -> None:
    tokens = tokenizer(kind)
    context = " ".join(TOWNS.values()) + " é ü "
    instruction = "Which river?"
    offsets = tokens(context, add_special_tokens=False, return_offsets_mapping=True).offset_mapping
    lengths = {
        len(prompt_ids(tokens, ask(tokens, style, instruction, context[:end])))
        for _, end in offsets
    }
    bare = len(prompt_ids(tokens, ask(tokens, style, instruction, None)))
    for wanted in range(min(lengths), max(lengths) + 5):
        put = fit_to(tokens, style, instruction, context, wanted)
        assert len(put.token_ids) == max(n for n in lengths if n <= wanted)
        assert put.question.context is not None
        start, end = put.question.context
        assert context.startswith(put.question.text[start:end])
    assert fit_to(tokens, style, instruction, context, bare).question.context is None


@given(texts, texts)
def test_other_text_makes_a_prompt_as_long_as_its_own(own: list[str], other: list[str]) -> None:
    tokens = tokenizer_of_bytes()
    real = fit(tokens, "none", "Which river?", " ".join(own), 1000)
    put = fit_to(
        tokens, "none", "Which river?", " ".join([*other, *own, *own]), len(real.token_ids)
    )
    assert len(put.token_ids) == len(real.token_ids)


_made: list[Any] = []


def tokenizer_of_bytes() -> Any:
    if not _made:
        _made.append(tokenizer("bytes"))
    return _made[0]


# --- a run under a control ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(open_folder: Path, bert: Embedder) -> Path:
    """A tiny model with room for context, prompts, and an index with a text about each town."""
    save(TINY["llama"], open_folder / "model", {"max_position_embeddings": 512})
    rows = [{"id": town, "prompt": f"Tell me about {town}."} for town in TOWNS]
    (open_folder / "prompts.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with create_index(open_folder / "index", bert) as index:
        index.add([Document(town, text) for town, text in TOWNS.items()])
    return open_folder


@pytest.fixture
def run(folder: Path, tmp_path: Path) -> Callable[..., dict[str, dict[str, Any]]]:
    """The responses of a run with these settings, by prompt."""

    def answer(name: str, notify: Notify = ignore, **changes: Any) -> dict[str, dict[str, Any]]:
        spec = InferenceSpec(
            **{
                "prompts": folder / "prompts.jsonl",
                "out": tmp_path / f"{name}.csv",
                "decoding": Decoding(3),
                "style": "none",
                "batch_size": 2,
                **changes,
            }
        )
        outcome = run_inference(f"{folder / 'model'}@32", spec, notify=notify)
        assert outcome.ok
        rows = pq.read_table(outcome.folder / "responses.parquet").to_pylist()
        found = {row["prompt_id"]: row for row in rows}
        controls = outcome.folder / "controls.parquet"
        assert controls.exists() == ("control" in changes)
        for row in pq.read_table(controls).to_pylist() if controls.exists() else ():
            found[row["prompt_id"]] |= row
        assert len(found) == len(rows)
        return found

    return answer


def context(row: dict[str, Any]) -> str:
    return str(row["text"][row["context_start"] : row["context_end"]])


def test_a_control_of_another_length_is_recorded_and_said(
    run: Callable[..., dict[str, dict[str, Any]]], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where no cut gives the length, as with tokenizers that merge ends of line."""
    monkeypatch.setattr(
        "lensbench.quantized.generation.questions.fit_to",
        lambda *given: fit_to(*given[:-1], given[-1] - (2 if "Oslo" in given[2] else 0)),
    )
    said: list[str] = []
    real = run("real", rag=str(folder / "index"))
    other = run("other", said.append, rag=str(folder / "index"), control="shuffled")
    less = {
        town: real[town]["n_prompt_tokens"] - row["n_prompt_tokens"] for town, row in other.items()
    }
    assert less == {town: 2 if town == "Oslo" else 0 for town in TOWNS}
    assert {town: -row["length_difference"] for town, row in other.items()} == less
    assert [text.split(",")[0] for text in said] == [
        "in 1 of 7 prompts no cut of the control's text gives the length of what was retrieved"
    ]
    assert "up to 2 token(s) shorter" in said[0]


@pytest.mark.parametrize(
    "control", [pytest.param("irrelevant", marks=pytest.mark.slow), "shuffled"]
)
def test_a_control_puts_other_text_of_the_same_length_in(
    run: Callable[..., dict[str, dict[str, Any]]], folder: Path, control: str
) -> None:
    real = run("real", rag=str(folder / "index"))
    other = run("other", rag=str(folder / "index"), control=control)
    assert set(real) == set(other) == set(TOWNS)
    general = {pair.id: f"{pair.instruction}\n{pair.response}" for pair in general_pairs()}
    known = general if control == "irrelevant" else TOWNS
    for town, row in other.items():
        before = real[town]
        assert len(row["prompt_ids"]) == row["n_prompt_tokens"] == before["n_prompt_tokens"]
        assert (row["control"], row["length_difference"]) == (control, 0)
        assert not set(row["retrieved_ids"]) & set(before["retrieved_ids"])
        assert context(row) != context(before)
        assert "\n\n".join(known[item] for item in row["retrieved_ids"]).startswith(context(row))
        cut = "\n\n".join(known[item] for item in row["retrieved_ids"][:-1])
        assert len(cut) < len(context(row))  # no document is named of which nothing is there
    if control == "shuffled":
        first = Counter(row["retrieved_ids"][0] for row in other.values())
        assert first == Counter(row["retrieved_ids"][0] for row in real.values())  # a permutation
    assert other == run("again", rag=str(folder / "index"), control=control)


def test_a_run_without_control_is_not_taken_for_one_with(
    run: Callable[..., dict[str, dict[str, Any]]], folder: Path, tmp_path: Path
) -> None:
    run("same", rag=str(folder / "index"))
    with pytest.raises(Exception, match=r"settings\.control: None there, 'shuffled' now"):
        run("same", rag=str(folder / "index"), control="shuffled")
    settings = json.loads((tmp_path / "same.records" / "manifest.json").read_text())["settings"]
    assert not {"control", "rebatch"} & set(settings)  # earlier records are still the same run


# --- other neighbours ---------------------------------------------------------------------------


@given(
    st.lists(st.integers(1, 50), min_size=2, max_size=70),
    st.integers(1, 9),
    st.integers(0, 5),
)
def test_dealing_keeps_prompts_sizes_and_parts_neighbours(
    lengths: list[int], size: int, seed: int
) -> None:
    before = plan(lengths, size)
    after = rebatched(before, seed)
    assert after == rebatched(before, seed)
    assert list(map(len, after)) == list(map(len, before))
    assert sorted(itertools.chain(*after)) == list(range(len(lengths)))
    home = {item: number for number, batch in enumerate(before) for item in batch}
    for number, batch in enumerate(after):
        assert all(abs(home[item] - number) <= 4 for item in batch)  # of similar length
    if len(before) >= 4 and len(before) % 4 == 0 and len(lengths) % size == 0:
        most = -(-size // 4)
        assert all(max(Counter(home[i] for i in batch).values()) <= most for batch in after)


def test_another_seed_gives_other_batches() -> None:
    batches = plan(range(40), 8)
    assert len({str(rebatched(batches, seed)) for seed in range(5)}) == 5


def test_neighbours_change_and_in_float32_answers_do_not(
    run: Callable[..., dict[str, dict[str, Any]]],
) -> None:
    real, other = run("real"), run("other", rebatch=1)
    assert {town: row["token_ids"] for town, row in real.items()} == {
        town: row["token_ids"] for town, row in other.items()
    }
    assert any(set(other[town]["batch_ids"]) != set(row["batch_ids"]) for town, row in real.items())
    assert sorted(len(row["batch_ids"]) for row in real.values()) == sorted(
        len(row["batch_ids"]) for row in other.values()
    )


@pytest.mark.parametrize(("size", "why"), [(1, "every prompt is alone"), (7, "in one batch")])
def test_without_other_neighbours_there_is_nothing_to_change(
    run: Callable[..., dict[str, dict[str, Any]]], size: int, why: str
) -> None:
    with pytest.raises(InputProblems, match=why):
        run("x", rebatch=1, batch_size=size)


# --- from the command line ----------------------------------------------------------------------


def test_settings_that_make_no_sense_are_all_named() -> None:
    for wrong, named in (
        ({"control": "other", "rebatch": -1}, ["control", "rebatch"]),
        ({"control": "shuffled"}, ["control"]),
    ):
        with pytest.raises(InputProblems) as caught:
            InferenceSpec(Path("p.csv"), Path("o.csv"), **wrong)
        assert [problem.where for problem in caught.value.problems] == named


def test_control_without_retrieval_is_refused(lensbench: Program) -> None:
    done = lensbench("infer", "m", "general", "-o", "o.csv", "--control", "shuffled")
    assert done.status == 2
    assert "no effect without --rag" in done.said


def test_a_shipped_set_is_asked_by_its_name(lensbench: Program, folder: Path) -> None:
    few = ("--bits", 32, "--limit", 3, "--max-new-tokens", 2)
    done = lensbench("infer", folder / "model", "python", "-o", "o.csv", *few)
    assert done.status == 0, done.err
    assert Path("o.csv").read_text().count("reference:") == 3
    done = lensbench("infer", folder / "model", "pyhton", "-o", "o.csv")
    assert done.status == 2
    assert "facts, general, python" in done.said
