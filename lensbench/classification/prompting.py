"""Labels told by prompting: how likely a causal model finds each label's word behind a text.

A label is scored by the log-probability of all its tokens. A model may find one word likelier than
another whatever stands before it; contextual calibration (Zhao et al. 2021, arXiv 2102.09690) takes
that off, asking the same of texts without content.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from lensbench.checkpoints.stored.heap import give_back
from lensbench.classification.examples import Example
from lensbench.classification.spec import LABEL, TEXT
from lensbench.errors import InputProblems, ModelError, Problem
from lensbench.models.model import LensModel
from lensbench.prompts.batch import plan_batches
from lensbench.prompts.encode import Encoder
from lensbench.prompts.prompt import Prompt
from lensbench.residuals.capture import capture_positions

CONTENT_FREE = ("N/A", "[MASK]", "")  # as in the paper
BATCH_TOKENS = 8192  # a beginning that prompts share is run once a batch
_BETWEEN = "\n\n"  # of two examples
_CUT = 0.9  # of a text, so much is kept each time that its prompt is too long

Ids = tuple[int, ...]


@dataclass(frozen=True)
class Form:
    """How a text is put before a model: the words before and behind it, up to its label."""

    before: str
    behind: str

    @classmethod
    def of(cls, template: str) -> Form:
        """From a template of the spec."""
        before, _, rest = template.partition(TEXT)
        return cls(before, rest.removesuffix(LABEL))

    def asked(self, text: str) -> str:
        """A prompt that ends where the label is to come; the space before it belongs to it."""
        return f"{self.before}{text}{self.behind}".rstrip(" ")

    def shown(self, example: Example) -> str:
        """An example with its label."""
        return f"{self.before}{example.text}{self.behind}{example.label}"


class Words(NamedTuple):
    """The labels as tokens that follow a prompt, and what the prompt has to end in for them."""

    token_ids: list[Ids]
    ending: str


def label_words(encoder: Encoder, model: str, form: Form, labels: Sequence[str]) -> Words:
    """Each label as the tokens that follow a prompt; the tokenizer alone decides.

    Raises InputProblems for labels that the model cannot be asked apart: those that are the same
    tokens, one that begins with all the tokens of another (and is never the likelier one), and one
    that has none.
    """
    prompt = form.asked("x")
    found: list[Ids] = []
    endings: dict[str, str] = {}
    problems: list[Problem] = []
    for label in labels:
        try:
            one = encoder.encode(Prompt(label, prompt, answer=label))
        except InputProblems as error:
            problems += error.problems
            continue
        assert one.answer is not None
        found.append(one.answer.token_ids)
        endings[label] = one.text[len(prompt) :]
    if not problems:
        problems += list(_alike(model, labels, found))
    if len(set(endings.values())) > 1:
        what = f"{model} puts a space before some of them only, as a token of its own"
        problems.append(Problem("labels", what, "Use words for all labels, or digits for all."))
    if problems:
        raise InputProblems(problems)
    return Words(found, next(iter(endings.values())))


def _alike(model: str, labels: Sequence[str], found: Sequence[Ids]) -> Iterator[Problem]:
    remedy = "Rename one: nothing tells them apart, or makes the longer one the likelier."
    for i, (label, ids) in enumerate(zip(labels, found, strict=True)):
        for other, own in zip(labels[i + 1 :], found[i + 1 :], strict=True):
            (_, short), (name, long) = sorted([(label, ids), (other, own)], key=lambda x: len(x[1]))
            if short == long:
                what = f"{label!r} and {other!r} are the same tokens in {model}"
                yield Problem("labels", what, remedy)
            elif long[: len(short)] == short:
                what = f"{name!r} begins with all tokens of the other in {model} ({label}, {other})"
                yield Problem("labels", what, remedy)


class Asked(NamedTuple):
    """log2 p of each label behind each text, and how many texts were cut to fit."""

    bits: Float[Tensor, "text label"]
    n_cut: int


def ask(
    model: LensModel, form: Form, words: Words, shown: Sequence[Example], texts: Sequence[str]
) -> Asked:
    """What a model finds of each label behind each text, the shown examples before all of them.

    A text whose prompt is longer than the model's context loses its end, and is counted.

    Raises InputProblems where the examples alone leave no room, ModelError for NaN.
    """
    prompts, n_cut = prompts_of(model, form, words, shown, texts)
    return Asked(label_bits(model, prompts, words.token_ids), n_cut)


def prompts_of(
    model: LensModel, form: Form, words: Words, shown: Sequence[Example], texts: Sequence[str]
) -> tuple[list[Ids], int]:
    """The tokens of each text's prompt, and how many texts were cut. Raises InputProblems so."""
    start = "".join(form.shown(example) + _BETWEEN for example in shown)
    longest = model.n_ctx - max(map(len, words.token_ids))
    found = [_fitting(model, form, words, start, text, longest) for text in texts]
    return [ids for ids, _ in found], sum(cut for _, cut in found)


def _fitting(
    model: LensModel, form: Form, words: Words, start: str, text: str, longest: int
) -> tuple[Ids, bool]:
    """The tokens of a prompt, and whether its text had to be cut."""
    encoder = Encoder(model.tokenizer, sys.maxsize, d_vocab=model.d_vocab)
    kept = text
    while True:
        prompt = start + form.asked(kept) + words.ending
        ids = encoder.encode(Prompt("text", prompt)).token_ids
        if len(ids) <= longest:
            return ids, kept != text
        if not kept:
            what = f"{len(ids):,} tokens without a text, {model.name} has room for {longest:,}"
            raise InputProblems([Problem("shots", what, "Show fewer examples, or shorter ones.")])
        share = min(_CUT, longest / len(ids))
        kept = kept[: int(share * len(kept))]


def label_bits(
    model: LensModel, prompts: Sequence[Ids], labels: Sequence[Ids]
) -> Float[Tensor, "text label"]:
    """log2 p(label | prompt), summed over the label's tokens, float64.

    Labels that differ in their last token alone are read off one pass.

    Raises ModelError where the model gives NaN.
    """
    stems = _stems(labels)
    rows, places = rows_of(prompts, labels)
    found = torch.zeros((len(prompts), len(labels)), dtype=torch.float64)
    for items in plan_batches([len(row) for row in rows], BATCH_TOKENS, model.rope_switch):
        own = [list(places[item]) for item in items]
        read = capture_positions(model, [rows[item] for item in items], own, [])
        give_back()  # the next batch has other shapes, and would lie beside what this one left
        first = 0
        for item, positions in zip(items, own, strict=True):
            cells = slice(first, first + len(positions))
            first += len(positions)
            log_p = read.model_logits(cells).cpu().double().log_softmax(-1)  # [position, d_vocab]
            text, stem = divmod(item, len(stems))
            for number, label in enumerate(labels):
                if label[:-1] == stems[stem]:
                    at = torch.arange(len(label)), torch.tensor(label)
                    found[text, number] = log_p[at].sum()
    if not bool(found.isfinite().all()):
        raise ModelError(f"{model.name} gives NaN or Inf for a prompt. Ask another model.")
    return found / torch.log(torch.tensor(2.0, dtype=torch.float64))


def _stems(labels: Sequence[Ids]) -> list[Ids]:
    """What stands before the last token of the labels, each once."""
    return list(dict.fromkeys(label[:-1] for label in labels))


def rows_of(prompts: Sequence[Ids], labels: Sequence[Ids]) -> tuple[list[Ids], list[range]]:
    """What is read for all labels, prompt by prompt, and at which positions."""
    stems = _stems(labels)
    rows = [prompt + stem for prompt in prompts for stem in stems]
    return rows, [range(len(p) - 1, len(p) + len(s)) for p in prompts for s in stems]


def shares(bits: Float[Tensor, "text label"]) -> Float[Tensor, "text label"]:
    """Probabilities among the labels alone."""
    return torch.softmax(bits * torch.log(torch.tensor(2.0, dtype=bits.dtype)), dim=-1)


def calibrated(
    bits: Float[Tensor, "text label"], without: Float[Tensor, "free label"]
) -> Float[Tensor, "text label"]:
    """Probabilities over those that a label has of texts without content, made to sum to 1.

    Diagonal calibration as in the paper: p / p_cf, where p_cf is the mean over those texts.
    """
    odds = shares(bits) / shares(without).mean(0)
    return odds / odds.sum(-1, keepdim=True)
