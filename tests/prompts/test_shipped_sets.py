"""The shipped sets `general` and `python`, and the reference that retrieval for `python` needs."""

from __future__ import annotations

import ast
import contextlib
import importlib
import io
import re
from collections import Counter
from typing import Any

import numpy as np
import pytest

from lensbench.prompts.prompt import choose
from lensbench.prompts.sets import load_prompts, prompt_file
from lensbench.quantized.data.pairs import Pair
from lensbench.quantized.data.shipped import dataset, general_pairs, python_reference
from lensbench.quantized.data.sources import pairs_of
from lensbench.quantized.generation.questions import read_questions
from lensbench.quantized.generation.responses_csv import RESERVED

MODULES = """
    abc argparse asyncio bisect collections contextlib copy csv dataclasses datetime decimal enum
    fractions functools hashlib heapq itertools json logging math os pathlib random re sqlite3
    statistics string tempfile textwrap typing unittest.mock zipfile
"""
# What a reference says that Python does, in words that Python itself can check.
CLAIM = re.compile(
    r"(?:After `(?P<setup>[^`]+)`,\s+)?`(?P<code>[^`]+)` (?P<how>gives|raises)\s+`(?P<what>[^`]+)`"
)


def reference() -> dict[str, Pair]:
    return {pair.id: pair for pair in python_reference()}


# --- both sets ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["general", "python"])
def test_the_sets_are_large_unique_and_varied(name: str) -> None:
    prompts = load_prompts(name).prompts
    texts = [prompt.prompt for prompt in prompts]
    assert len(prompts) >= 110
    assert len({text.casefold() for text in texts}) == len(texts)
    assert all(prompt.id.startswith(f"{name}:") for prompt in prompts)
    topics = Counter(prompt.relation for prompt in prompts)
    assert len(topics) >= 10
    assert min(topics.values()) >= 8
    openings = Counter(text.split()[0] for text in texts)
    assert len(openings) >= 60
    assert max(openings.values()) <= len(texts) / 8
    words = sorted(len(text.split()) for text in texts)
    assert words[0] <= 6
    assert words[-1] >= 30
    assert words[len(words) * 3 // 4] >= 1.4 * words[len(words) // 4]


@pytest.mark.parametrize("name", ["general", "python"])
def test_the_first_rows_already_have_every_topic(name: str) -> None:
    prompts = load_prompts(name).prompts
    topics = {prompt.relation for prompt in prompts}
    assert {prompt.relation for prompt in prompts[: len(topics)]} == topics
    assert [prompt.id for prompt in choose(prompts, 5)]


@pytest.mark.parametrize("name", ["general", "python"])
def test_infer_takes_every_row(name: str) -> None:
    asked, problems = read_questions(prompt_file(name), None, RESERVED)
    assert problems == []
    assert [one.prompt for one in asked] == [one.prompt for one in load_prompts(name).prompts]


def test_no_general_prompt_is_a_shipped_question() -> None:
    """Those answer as context, and would not be unrelated."""
    ours = {prompt.prompt for prompt in load_prompts("general").prompts}
    assert not ours & {pair.instruction for pair in general_pairs()}


@pytest.mark.parametrize("name", ["general", "python", "python_reference"])
def test_the_sets_are_described_with_their_licence(name: str) -> None:
    readme = dataset("general").with_name("README.md").read_text(encoding="utf-8")
    count = len(python_reference()) if "_" in name else len(load_prompts(name).prompts)
    assert re.search(rf"{name}.csv` \| {count} .*CC0-1.0", readme)


# --- the reference ------------------------------------------------------------------------------


def test_every_python_prompt_has_a_document_of_its_own() -> None:
    wanted = [prompt.extra["document_id"] for prompt in load_prompts("python").prompts]
    documents = reference()
    assert len(documents) >= 110
    assert set(wanted) == set(documents)
    assert len(set(wanted)) == len(wanted)
    assert len({pair.response for pair in documents.values()}) == len(documents)
    assert pairs_of("python_reference") == (python_reference(), [])


def test_a_document_is_no_copy_of_its_prompt() -> None:
    documents = reference()
    for prompt in load_prompts("python").prompts:
        own = documents[prompt.extra["document_id"]]
        assert own.instruction not in prompt.prompt
        assert prompt.prompt not in f"{own.instruction}\n{own.response}"


@pytest.fixture
def names() -> dict[str, Any]:
    for module in MODULES.split():
        importlib.import_module(module)
    return {
        module.split(".")[0]: importlib.import_module(module.split(".")[0])
        for module in MODULES.split()
    }


@pytest.mark.parametrize("pair", python_reference(), ids=lambda pair: pair.id)
def test_what_a_document_says_about_code_is_so(pair: Pair, names: dict[str, Any]) -> None:
    for claim in CLAIM.finditer(pair.response):
        space = dict(names)
        exec(claim["setup"] or "", space)
        if claim["how"] == "raises":
            with pytest.raises(eval(claim["what"], space)):
                eval(claim["code"], space)
            continue
        got, said = eval(claim["code"], space), eval(claim["what"], space)
        assert (got, type(got)) == (said, type(said)), claim[0]


def test_most_documents_say_something_that_can_be_checked() -> None:
    claims = {item: len(CLAIM.findall(pair.response)) for item, pair in reference().items()}
    assert sum(claims.values()) >= 140
    assert sum(n > 0 for n in claims.values()) >= 0.7 * len(claims)


# --- code in the prompts ------------------------------------------------------------------------


def code_of(prompt: str) -> str:
    """The paragraphs that are Python, one or more words of prose aside."""
    return "\n".join(part for part in prompt.split("\n\n") if is_code(part))


def is_code(text: str) -> bool:
    try:
        body = ast.parse(text).body
    except IndentationError:
        return "def " in text  # one prompt is about this very mistake
    except SyntaxError:
        return False
    return not all(isinstance(node, ast.Expr) and isinstance(node.value, ast.Name) for node in body)


def prompts_about(topic: str) -> list[Any]:
    found = [prompt for prompt in load_prompts("python").prompts if prompt.relation == topic]
    return [pytest.param(prompt, id=prompt.id) for prompt in found]


@pytest.mark.parametrize("prompt", prompts_about("print"))
def test_what_is_asked_about_output_prints_something(prompt: Any) -> None:
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown):
        exec(code_of(prompt.prompt), {})
    assert shown.getvalue().strip()


@pytest.mark.parametrize("prompt", prompts_about("error"))
def test_an_error_that_is_asked_about_really_comes(prompt: Any) -> None:
    with pytest.raises(Exception) as caught:
        exec(code_of(prompt.prompt), {})
    assert caught.type.__name__ in prompt.prompt
    named = re.search(r'Error: (.{12,40}?)(?:["\n(.]|$)', prompt.prompt)
    if named and caught.type is not RecursionError:
        assert named[1].split("'")[0].strip() in str(caught.value)


# --- retrieval ----------------------------------------------------------------------------------


@pytest.mark.real
@pytest.mark.slow
def test_a_real_embedding_model_finds_the_document() -> None:
    """Measured: .83 at rank 1, .91 within 3."""
    from lensbench.quantized.rag.embedding import load_embedder

    embedder = load_embedder()
    pairs, prompts = python_reference(), load_prompts("python").prompts
    texts = [f"{pair.instruction}\n{pair.response}" for pair in pairs]
    assert max(map(embedder.count, texts)) <= embedder.limit  # no document is cut
    asked = embedder.embed([prompt.prompt for prompt in prompts], task="query")
    scores = asked @ embedder.embed(texts).T
    place = {pair.id: column for column, pair in enumerate(pairs)}
    right = [place[prompt.extra["document_id"]] for prompt in prompts]
    own = scores[np.arange(len(right)), right]
    ranks = (scores > own[:, None]).sum(axis=1) + 1
    assert (ranks == 1).mean() >= 0.8
    assert (ranks <= 3).mean() >= 0.88
