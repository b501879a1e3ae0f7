"""`sample`: what settings make of a prompt's next token and of its texts, in one call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from lensbench.errors import InputProblems, Problem
from lensbench.prompts.encode import TokenText
from lensbench.prompts.prompt import One, as_prompts, some_prompts
from lensbench.quantized.loading.load import AdaptedModel
from lensbench.sampling.effects import Effect, effects
from lensbench.sampling.model import encoder_of, load_sampled, no_room, read, too_large
from lensbench.sampling.settings import GRID, Setting, settings_of
from lensbench.sampling.writing import Written, uniforms, write


@dataclass(frozen=True, eq=False)
class Sampled:
    """One prompt: `effects` of each setting on the next token, and the `texts` it writes."""

    model: str
    prompt: str
    effects: Sequence[Effect]
    texts: Sequence[Written]
    top_tokens: Sequence[str]  # of each effect, as text

    @property
    def table(self) -> pd.DataFrame:
        """One row per setting; columns as in the table `first_tokens` of a record."""
        rows = [
            one.columns(token) for one, token in zip(self.effects, self.top_tokens, strict=True)
        ]
        return pd.DataFrame(rows)

    @property
    def written(self) -> pd.DataFrame:
        """One row per setting x draw: text, n_tokens, bits_per_token, finish_reason."""
        rows = [
            {
                "setting": one.setting,
                "draw": one.draw,
                "text": one.text,
                "n_tokens": len(one.token_ids),
                "bits_per_token": sum(one.bits) / len(one.bits),
                "finish_reason": one.finish_reason,
            }
            for one in self.texts
        ]
        columns = ["setting", "draw", "text", "n_tokens", "bits_per_token", "finish_reason"]
        return pd.DataFrame(rows, columns=columns)

    def __repr__(self) -> str:
        shown = ["setting", "entropy_bits", "effective_tokens", "n_kept", "kept_prob", "top_prob"]
        return f"Sampled({self.model})\n{self.table[shown].to_string(index=False)}"


def sample(
    model: str | AdaptedModel,
    prompt: One,
    settings: str | Setting | Sequence[str | Setting] = GRID,
    *,
    texts: int = 0,
    max_new_tokens: int = 40,
    seed: int = 0,
    device: str | None = None,
) -> Sampled:
    """What temperature and filters make of the next token, exactly; and texts, where asked for.

    One pass over the prompt is shared by all settings. Filters are transformers' own.

    >>> lb.sample("smollm2-135m", "The capital of Germany is", "T=0.7 top-p=0.9")  # doctest: +SKIP

    Args:
        model: a name (NAME[@BITS][+ADAPTER]), or what `load_quantized` returns.
        settings: names such as "greedy", "T=0.7", "top-p=0.9 T=0.7", or `Setting`s; by default a
            grid of 26.
        texts: how many to write of each setting, with the same random numbers in all.

    Raises:
        InputProblems: everything that is wrong with the prompt, the settings (with the range of
            each) and the lengths.
        ModelError: an unknown model, or one that gives NaN or cannot be run so.
    """
    given = [settings] if isinstance(settings, str | Setting) else list(settings)
    problems = _wrong_counts(texts, max_new_tokens)
    chosen: list[Setting] = []
    try:
        chosen = settings_of([one.name if isinstance(one, Setting) else one for one in given])
    except InputProblems as error:
        problems += error.problems
    if not given:
        problems.append(Problem("settings", "there are none", "Give at least one."))
    if problems:
        raise InputProblems(problems)
    if not isinstance(model, AdaptedModel):  # a name: nothing is loaded for an empty prompt
        some_prompts(prompt)
    loaded = load_sampled(model, device)
    name = str(model if isinstance(model, str) else loaded.ref)
    return sampled(name, loaded, prompt, chosen, texts, max_new_tokens, seed)


def sampled(
    name: str,
    model: AdaptedModel,
    prompt: One,
    settings: Sequence[Setting],
    texts: int = 0,
    max_new_tokens: int = 40,
    seed: int = 0,
) -> Sampled:
    """The same of a loaded model, called `name`, and settings that are sound by themselves."""
    (asked,) = as_prompts(prompt)
    problems = too_large(model, settings)
    token_ids: tuple[int, ...] = ()
    try:
        token_ids = encoder_of(model).encode(asked).token_ids
    except InputProblems as error:
        problems += [replace(one, where="prompt") for one in error.problems]
    problems += no_room(model, token_ids, max_new_tokens if texts else 0, "prompt")
    if problems:
        raise InputProblems(problems)
    start = read(model, token_ids, follow=texts > 0)
    found = effects(start.logits, token_ids, settings)
    written = []
    if texts:
        written = write(model, start, settings, uniforms(seed, asked.id, texts, max_new_tokens))
    text = TokenText(model.tokenizer)
    return Sampled(name, asked.prompt, found, written, [text(one.top_token) for one in found])


def _wrong_counts(texts: Any, max_new_tokens: Any) -> list[Problem]:
    asked = (("texts", texts, 0), ("max_new_tokens", max_new_tokens, 1))
    return [
        Problem(name, f"it is {value!r}", f"Give a whole number of at least {least}.")
        for name, value, least in asked
        if not isinstance(value, int) or isinstance(value, bool) or value < least
    ]
