"""A corpus: documents in an order that their texts decide, and hashes of what it is."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lensbench.corpora.facts import stated
from lensbench.corpora.files import text_files
from lensbench.corpora.hub import FORM, PREFIX, hub_texts
from lensbench.corpora.python_docs import python_docs
from lensbench.errors import InputProblems, Problem
from lensbench.progress import Progress, Watch, counted, ignore
from lensbench.prompts.prompt import Prompt

WRITTEN = "model"  # text that the model writes itself: see `written`
SHIPPED: dict[str, Callable[[], Iterable[tuple[str, str]]]] = {"python-docs": python_docs}


@dataclass(frozen=True)
class Document:
    """A text, where it came from, and its hash, which is also its name."""

    source: str
    text: str
    sha256: str


@dataclass(frozen=True)
class Corpus:
    """Documents without repetitions, shuffled by their hashes: the same texts, the same order.

    `n_with_facts` documents were left out because a fact that is asked about stands in them,
    `n_facts` different ones in all. `problems` are files that could not be read. `origin`: how the
    texts came about, where more than the name says so.
    """

    name: str
    documents: tuple[Document, ...]
    n_with_facts: int
    n_facts: int
    problems: tuple[Problem, ...] = ()
    origin: Mapping[str, Any] = field(default_factory=dict)

    @property
    def sha256(self) -> str:
        """Of all its documents, whatever their number."""
        lines = "".join(document.sha256 for document in self.documents)
        return hashlib.sha256(lines.encode()).hexdigest()


def load_corpus(
    given: str, facts: Sequence[Prompt] = (), whole: bool = False, watch: Watch = ignore
) -> Corpus:
    """A shipped corpus by its name, a data set of the hub, a text file or a folder of them.

    Args:
        facts: prompts whose answers a lens fitted on this will be asked for. A document in which
            one sentence holds the subject and the answer of one of them is left out.
        whole: all of a data set's file, not its beginning alone.

    Raises InputProblems, with what to do, for a name that is neither, and where nothing is left.
    """
    problems: list[Problem] = []
    origin: dict[str, Any] = {}
    name = given if given in SHIPPED or given.startswith(PREFIX) else Path(given).name
    if given.startswith(PREFIX):
        texts, problems, origin = hub_texts(given, whole)
    elif given in SHIPPED:
        now = Progress("reading the corpus", unit="texts")
        texts = list(counted(SHIPPED[given](), now, watch))
    elif Path(given).exists():
        texts, problems = text_files(Path(given))
    else:
        what = f"there is no corpus, file or folder {given!r}"
        known = SHIPPED if whole else (*SHIPPED, WRITTEN)  # what a model writes is never whole
        remedy = f"Name one of {', '.join(known)}, {FORM}, a .txt or .md file, or a folder of them."
        raise InputProblems([Problem("corpus", what, remedy)])
    return gathered(name, texts, facts, problems, origin)


def gathered(
    name: str,
    texts: Iterable[tuple[str, str]],
    facts: Sequence[Prompt] = (),
    problems: Sequence[Problem] = (),
    origin: Mapping[str, Any] | None = None,
) -> Corpus:
    """A corpus of (where it stands, text), without those that state one of the facts.

    Raises InputProblems where nothing is left.
    """
    every = {
        digest: Document(source, text, digest)
        for source, text in texts
        if text.strip() and (digest := hashlib.sha256(text.encode()).hexdigest())
    }
    asked = [prompt for prompt in facts if prompt.is_base]
    found = {digest: own for digest, one in every.items() if (own := stated(one.text, asked))}
    documents = tuple(every[digest] for digest in sorted(every) if digest not in found)
    if not documents:
        what = f"{name} holds no text" if not found else f"all of {name} states facts asked about"
        raise InputProblems([*problems, Problem("corpus", what, "Give another corpus.")])
    n_facts = len({fact.id for own in found.values() for fact in own})
    return Corpus(name, documents, len(found), n_facts, tuple(problems), origin or {})
