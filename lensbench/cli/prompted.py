"""Models and the prompt behind them, as they stand in a row on the command line."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from lensbench.errors import Collected, InputProblems, LensbenchError, Problem


def models_and_prompt(given: Sequence[str], verb: str) -> tuple[list[str], str]:
    """The models, and the prompt, which stands last.

    Raises InputProblems, before anything is loaded, for an empty prompt and for one whose words
    stand there without quotes, so that all but the last would be models.
    """
    *models, prompt = given
    if not prompt.strip():
        raise InputProblems([Problem("the prompt", "it is empty", "Write one."), *_wrong(models)])
    first, *others = models
    words = [name for name in others if not _is_model(name)]
    if words and len(prompt.split()) == 1 and _is_model(first):
        text = shlex.quote(" ".join([*others[others.index(words[0]) :], prompt]))
        what = f"{', '.join(words)}: no model is called so"
        remedy = f"Put a prompt in quotes: lensbench {verb} {first} {text}."
        raise InputProblems([Problem("the prompt", what, remedy)])
    return models, prompt


def prompt_missing(given: Sequence[str], verb: str) -> list[Problem]:
    """That no prompt stands behind a model."""
    if len(given) > 1:
        return []
    what, remedy = "give a model and a prompt", f'Such as: lensbench {verb} MODEL "PROMPT".'
    return [Problem("models", what, remedy)]


def _wrong(models: Sequence[str]) -> list[Problem]:
    """What is wrong with models, besides."""
    from lensbench.checkpoints.ref import model_refs

    found = Collected()
    with found:
        model_refs(models)
    return found.problems


def _is_model(name: str) -> bool:
    from lensbench.checkpoints.ref import ModelRef

    try:
        ModelRef.of(name)
    except LensbenchError:
        return False
    return True
