"""A corpus as one model's tokens: windows, each of them in one of three parts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from lensbench.corpora.corpus import Corpus, Document
from lensbench.corpora.reading import SHORTEST, read_tokens, reader
from lensbench.errors import InputProblems, Problem
from lensbench.fitting.spec import FitSpec
from lensbench.models.model import LensModel
from lensbench.prompts.encode import Encoder

# Maps are fitted, strengths are chosen, figures are made; of another corpus only the last.
Part = Literal["fit", "choose", "test", "other"]


@dataclass(frozen=True)
class Window:
    """The first tokens of one document, as the model reads it from its beginning."""

    document: Document
    token_ids: tuple[int, ...]


def total_tokens(windows: Sequence[Window]) -> int:
    """Tokens of all of them."""
    return sum(len(window.token_ids) for window in windows)


def cut(
    corpus: Corpus, encoder: Encoder, window: int, wanted: dict[Part, int]
) -> tuple[dict[Part, list[Window]], list[Problem]]:
    """Windows of at most `window` tokens, whole documents to one part, until each has enough.

    Also what is wrong with documents that the model cannot read, such as a token of no embedding.

    Documents go round the parts in the corpus' own order, by what each part still lacks, so that
    a larger corpus never moves one from a part to another.

    Raises InputProblems, with the number that is missing, when the corpus is too small.
    """
    parts: dict[Part, list[Window]] = {part: [] for part in wanted}
    sizes = dict.fromkeys(parts, 0)
    problems: list[Problem] = []
    for each in _windows(corpus, encoder, window, problems):
        lacking = [part for part in parts if sizes[part] < wanted[part]]
        if not lacking:
            break
        part = max(lacking, key=lambda part: 1 - sizes[part] / wanted[part])
        parts[part].append(each)
        sizes[part] += len(each.token_ids)
    if short := [part for part in parts if sizes[part] < wanted[part]]:
        there, needed = sum(sizes.values()), sum(wanted.values())
        what = f"{corpus.name} gives {there:,} tokens in windows of {window}, {needed:,} are needed"
        raise InputProblems(
            [Problem("corpus", what, f"Give more text, or fewer --tokens (short: {short[0]}).")]
        )
    return parts, problems


def wanted_tokens(spec: FitSpec) -> dict[Part, int]:
    """Tokens of each part of the corpus."""
    return {"fit": spec.tokens, "choose": spec.choose_tokens, "test": spec.test_tokens}


def parts_of(
    corpus: Corpus, spec: FitSpec, model: LensModel, also: Corpus | None = None
) -> tuple[dict[Part, list[Window]], list[Problem]]:
    """What a fit reads of its corpus, part by part, and documents that the model cannot read.

    Of the corpus `also` the part `other`, of documents that are in none of the others.

    Raises InputProblems for a corpus that is too small.
    """
    encoder = reader(model.tokenizer, model.d_vocab)
    window = min(spec.window, model.n_ctx)
    windows, problems = cut(corpus, encoder, window, wanted_tokens(spec))
    if also is not None:
        seen = {one.document.sha256 for part in windows.values() for one in part}
        unseen = tuple(document for document in also.documents if document.sha256 not in seen)
        other, unread = cut(
            replace(also, documents=unseen), encoder, window, {"other": spec.test_tokens}
        )
        windows, problems = windows | other, problems + unread
    return windows, problems


def _windows(
    corpus: Corpus, encoder: Encoder, window: int, problems: list[Problem]
) -> Iterator[Window]:
    for document in corpus.documents:
        try:
            ids = read_tokens(document.source, document.text, encoder, window)
        except InputProblems as error:
            problems += error.problems
            continue
        if len(ids) >= SHORTEST:
            yield Window(document, ids)
