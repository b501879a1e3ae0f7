"""A corpus that a model writes: the same bytes whatever happened before, and a lens of it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from lensbench import InputProblems, Prompt
from lensbench.corpora import written as writing
from lensbench.corpora.facts import stated
from lensbench.corpora.written import Writer, written_corpus, written_seed
from lensbench.fitting.spec import FitSpec
from lensbench.models.model import LensModel
from lensbench.progress import Progress, ignore
from lensbench.studies.stages.fit import fit_lens
from tests.harness.files import manifest, tables
from tests.harness.tiny import Case

WINDOW = 24


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LENSBENCH_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def writer(tiny_case: Callable[[str], Case]) -> Writer:
    return writer_of(tiny_case("gpt2").model)


def writer_of(model: LensModel) -> Writer:
    return Writer(model.name, {"weights_sha256": "x"}, lambda: model, 0, WINDOW)


def no_model() -> LensModel:
    raise AssertionError("the model is not needed")


def files(writer: Writer) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(writer.folder.iterdir())}


def test_it_holds_enough_and_is_kept(writer: Writer) -> None:
    seen: list[Progress] = []
    corpus = written_corpus(writer, 1_500, (), seen.append)
    assert [one.done for one in seen] == sorted(one.done for one in seen)
    assert seen[0].total == 1_500 and seen[-1].done == 1_500
    assert len(files(writer)) > 3
    again = written_corpus(replace(writer, load=no_model), 1_500, (), ignore)
    assert again == corpus
    assert corpus.origin["written"] == {"seed": 0, "temperature": 1.0, "window": WINDOW}
    other = written_corpus(replace(writer, seed=1), 1_500, (), ignore)
    assert not {d.text for d in other.documents} & {d.text for d in corpus.documents}


def test_a_smaller_corpus_is_the_same_after_a_larger_one(writer: Writer) -> None:
    small = written_corpus(writer, 600, (), ignore)
    large = written_corpus(writer, 2_000, (), ignore)
    assert {d.sha256 for d in small.documents} < {d.sha256 for d in large.documents}
    assert written_corpus(writer, 600, (), ignore) == small


def test_interrupted_and_damaged_it_ends_in_the_same_bytes(
    writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = written_corpus(writer, 1_500, (), ignore)
    whole = files(writer)
    names = [name for name in whole if name != "recipe.json"]
    for name in names[1:]:
        (writer.folder / name).unlink()
    damaged = whole[names[0]].replace(b'"text": "', b'"text": "x', 1)
    (writer.folder / names[0]).write_bytes(damaged)
    calls: list[int] = []
    write = writing.write_texts

    def stopped(*given: object) -> list[list[int]]:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return write(*given)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(writing, "write_texts", stopped)
        with pytest.raises(KeyboardInterrupt):
            written_corpus(writer, 1_500, (), ignore)
    assert len(files(writer)) == 3
    assert written_corpus(writer, 1_500, (), ignore) == corpus
    assert files(writer) == whole


def test_what_states_a_fact_is_made_up_for(writer: Writer) -> None:
    every = written_corpus(writer, 600, (), ignore)
    pairs = {d.text: d.text.split()[:2] for d in every.documents if len(d.text.split()) > 1}
    facts = [Prompt(own[0], "x", subject=own[0], answer=own[1]) for own in pairs.values()]
    there = next(own for own in facts if any(stated(text, [own]) for text in pairs))
    without = written_corpus(writer, 600, [there], ignore)
    assert without.n_with_facts > 0 and without.n_facts == 1
    assert not any(stated(d.text, [there]) for d in without.documents)
    readable = {one["text"]: one["n_tokens"] for n in (0, 1, 2, 3) for one in writer.batch(n)}
    assert sum(readable[d.text] for d in without.documents) >= 600


def test_what_no_prompt_may_hold_is_no_text_of_it(writer: Writer) -> None:
    written_corpus(writer, 600, (), ignore)
    path = writer.folder / "000000.json"
    texts = json.loads(path.read_text())["texts"]
    texts[0]["text"] += "\0"
    texts[1]["text"] = " "
    digest = hashlib.sha256(json.dumps(texts).encode()).hexdigest()
    path.write_text(json.dumps({"sha256": digest, "texts": texts}))
    found = {d.text for d in written_corpus(writer, 600, (), ignore).documents}
    assert not {texts[0]["text"], " "} & found
    assert texts[2]["text"] in found


def test_a_model_that_writes_nothing_is_refused(tiny_case: Callable[[str], Case]) -> None:
    silent = tiny_case("gemma3_text").model  # ends nearly every text at once
    with pytest.raises(InputProblems, match=r"wrote [\d,]+ tokens in [\d,]+ texts, most of them"):
        written_corpus(writer_of(silent), 600, (), ignore)


@pytest.mark.parametrize(("given", "seed"), [("model", 0), ("model:3", 3), ("models", None)])
def test_a_seed_may_stand_behind_the_name(given: str, seed: int | None) -> None:
    assert written_seed(given) == seed


@pytest.mark.parametrize("given", ["model:x", "model:-1", "model:1.5"])
def test_what_is_no_seed_is_refused(given: str) -> None:
    with pytest.raises(InputProblems, match="no seed"):
        written_seed(given)


@pytest.mark.parametrize("family", ["qwen3", pytest.param("gpt2", marks=pytest.mark.slow)])
def test_a_lens_is_fitted_to_what_its_model_writes(
    tiny_case: Callable[[str], Case], family: str, tmp_path: Path
) -> None:
    case = tiny_case(family)
    sizes = {"tokens": 400, "choose_tokens": 64, "test_tokens": 200, "window": WINDOW}
    spec = FitSpec(str(case.folder), corpus="model", batch_tokens=128, **sizes)
    one, two = tmp_path / "one", tmp_path / "two"
    assert fit_lens(spec, one).ok
    told = manifest(one)
    assert told["corpus"]["name"] == "model"
    assert told["corpus"]["written"]["seed"] == 0
    assert told["settings"]["corpus_sha256"] == told["corpus"]["sha256"]
    tokens = tables(one)["fit_documents"].groupby("part").n_tokens.sum()
    assert tokens["fit"] >= 400 and tokens["choose"] >= 64 and tokens["test"] >= 200
    assert fit_lens(spec, two).ok
    assert (one / "lens.safetensors").read_bytes() == (two / "lens.safetensors").read_bytes()
