"""Quality of retrieval: is the document that answers a question among the first k found?

Recall@k is the share of questions whose document is among the first k; the reciprocal rank is
1 / its place, 0 beyond the last place looked at (Voorhees 1999, TREC-8 question answering).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lensbench.errors import Problem
from lensbench.prompts.rows import place, read_rows, sound_rows
from lensbench.prompts.scripts import apart
from lensbench.prompts.words import PART
from lensbench.quantized.rag.index import Index
from lensbench.stats.estimates import Statistic, clustered_estimate, paired_difference

DEPTHS = (1, 3, 5, 10)
DEEPEST = max(DEPTHS)


@dataclass(frozen=True)
class Labelled:
    """A question, and the document that answers it."""

    id: str
    question: str
    document_id: str


@dataclass(frozen=True)
class Placed:
    """Where a question's document was found: 1 is first, None beyond `DEEPEST`."""

    id: str
    rank: int | None

    @property
    def reciprocal_rank(self) -> float:
        """1 / rank, 0 when it was not found."""
        return 1 / self.rank if self.rank is not None else 0.0

    def within(self, depth: int) -> bool:
        """Whether it is among the first `depth`."""
        return self.rank is not None and self.rank <= depth


def read_labelled(path: Path, index: Index, problems: list[Problem]) -> list[Labelled]:
    """Labelled questions of a .csv or .jsonl with the columns id, question, document_id.

    `problems` grows by rows that cannot be used, an unknown document among the reasons.
    """
    columns = ("id", "question", "document_id")
    rows = list(read_rows(path, path.name, problems, columns))
    known = index.known([cells["document_id"] for _, cells in rows])
    labelled = []
    for line, cells in sound_rows(rows, path.name, problems, columns[1:]):
        row = Labelled(*(cells[column].strip() for column in columns))
        if row.document_id in known:
            labelled.append(row)
        else:
            what = f"the index has no document {row.document_id!r}"
            problems.append(Problem(place(path.name, line, row.id), what, "Add it first.", row.id))
    return labelled


def by_meaning(index: Index, labelled: Sequence[Labelled]) -> list[Placed]:
    """Places by the index's own search."""
    found = index.search([row.question for row in labelled], DEEPEST)
    return [
        _place(row, [hit.id for hit in hits]) for row, hits in zip(labelled, found, strict=True)
    ]


def by_words(index: Index, labelled: Sequence[Labelled]) -> list[Placed]:
    """Places by tf-idf over words, cosine similarity: what retrieval does without a model."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    texts = index.texts()
    ids = list(texts)
    vectorizer = TfidfVectorizer(sublinear_tf=True, tokenizer=_words, token_pattern=None)
    documents = vectorizer.fit_transform(texts.values())
    questions = vectorizer.transform([row.question for row in labelled])
    scores = (questions @ documents.T).toarray()  # [question, document]
    order = np.argsort(-scores, axis=1, kind="stable")[:, :DEEPEST]  # ties by id
    return [_place(row, [ids[j] for j in best]) for row, best in zip(labelled, order, strict=True)]


def _words(text: str) -> list[str]:
    """Marks belong to their letter; of a script without spaces each character is a word."""
    found: list[str] = PART.findall(apart(text))
    return found


def _place(row: Labelled, ids: Sequence[str]) -> Placed:
    """The first hit that is the document, or one that it was cut into."""
    own = re.compile(re.escape(row.document_id) + r"(#\d+)?")
    ranks = [rank for rank, found in enumerate(ids, start=1) if own.fullmatch(found)]
    return Placed(row.id, ranks[0] if ranks else None)


def measures(meaning: Sequence[Placed], words: Sequence[Placed]) -> list[dict[str, Any]]:
    """Each measure under both searches, and the paired difference, with 95 % intervals."""

    def values(placed: Sequence[Placed]) -> dict[str, list[float]]:
        recall = {f"recall@{k}": [float(one.within(k)) for one in placed] for k in DEPTHS}
        return {**recall, f"MRR@{DEEPEST}": [one.reciprocal_rank for one in placed]}

    ours, theirs = values(meaning), values(words)
    rows = []
    for name in ours:
        kind: Statistic = "share" if name.startswith("recall") else "mean"
        a, b = pd.Series(ours[name]), pd.Series(theirs[name])
        estimates = {
            "meaning": clustered_estimate(a, None, kind),
            "words": clustered_estimate(b, None, kind),
            "difference": paired_difference(a, b, a.index.to_series(), kind),
        }
        rows.append({"measure": name} | {kind: vars(e) for kind, e in estimates.items()})
    return rows


def measure_cell(estimate: dict[str, Any]) -> str:
    """An estimate with its interval, in words."""
    if estimate["low"] == estimate["high"]:  # no interval, or no spread to make one from
        return f"{estimate['value']:.2f}"
    return f"{estimate['value']:.2f} ({estimate['low']:.2f} to {estimate['high']:.2f})"
