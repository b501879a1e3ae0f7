"""`python -m tests.benchmarks.corpora`: to which text should a lens be fitted?"""

from __future__ import annotations

import ast
import csv
import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import cyclopts
import numpy as np
import torch
from rich.console import Console

from lensbench.corpora.corpus import Corpus, Document, gathered
from lensbench.corpora.python_docs import SHORTEST, docstrings
from lensbench.corpora.reading import read_tokens, reader
from lensbench.files import write_text
from lensbench.fitting.linear_lens import solve
from lensbench.fitting.method import Fitter, Maps
from lensbench.fitting.moments import Moments
from lensbench.fitting.quality import Measured, measure
from lensbench.fitting.spec import FitSpec
from lensbench.fitting.windows import Part, Window, parts_of
from lensbench.lens.base import Final
from lensbench.lens.fitted.affine import Affine
from lensbench.models.load import load_model
from lensbench.models.model import LensModel
from lensbench.prompts.prompt import choose
from lensbench.prompts.sets import load_prompts, shipped
from lensbench.quantized.data.shipped import dataset
from lensbench.report.kit.numbers import estimate
from lensbench.stats.estimates import Estimate, summed_difference, summed_estimate
from lensbench.studies.stages.fit import corpus_of
from tests.benchmarks.table import Out, at_least, made_by, markdown_table

PACKAGES = ("numpy", "scipy", "pandas")  # whose docstrings are another kind of documentation
THIRDS = ("first", "second", "last")
DEFAULT = "python-docs"
LOGIT = "nothing (logit lens)"
Windows = Mapping[Part, Sequence[Window]]


def science_docs() -> Iterator[tuple[str, str]]:
    """Docstrings of packages for arrays and statistics."""
    for package in PACKAGES:
        spec = importlib.util.find_spec(package)
        assert spec is not None and spec.origin is not None
        folder = Path(spec.origin).parent
        for path in sorted(folder.rglob("*.py")):
            if "tests" not in path.parts:
                for text in docstrings(ast.parse(path.read_bytes())):
                    if len(text) >= SHORTEST:
                        yield f"{package}/{path.relative_to(folder).as_posix()}", text


def corpora(spec: FitSpec, model: LensModel) -> dict[str, Corpus]:
    """What a lens is fitted to, alone and in halves of two."""
    facts = [prompt for name in shipped() for prompt in load_prompts(name).prompts]
    own = spec.model_copy(update={"corpus": "model"})
    return {
        DEFAULT: corpus_of(spec, lambda: model),
        "science-docs": gathered("science-docs", science_docs(), facts),
        "model": corpus_of(own, lambda: model),
    }


def halves(windows: Sequence[Window]) -> tuple[list[Window], list[Window]]:
    """The windows in two parts of as many tokens each, but for one window."""
    ends = np.cumsum([len(window.token_ids) for window in windows])
    middle = int(np.searchsorted(ends, ends[-1] / 2)) + 1
    return list(windows[:middle]), list(windows[middle:])


def prompts_as_text(model: LensModel, limit: int) -> list[Window]:
    """The shipped facts as sentences, each with its answer."""
    facts = choose(load_prompts("facts").prompts, limit)
    texts = [f"{fact.prompt} {fact.answer}." for fact in facts if fact.is_base]
    return [window(model, text, 128) for text in texts]


def prose(model: LensModel, n_tokens: int) -> list[Window]:
    """Answers in plain English to general questions, until there are so many tokens."""
    with dataset("general").open(encoding="utf-8", newline="") as file:
        texts = [f"{row['question']} {row['answer']}" for row in csv.DictReader(file)]
    windows, done = [], 0
    for text in texts:
        if done < n_tokens:
            windows.append(window(model, text, 128))
            done += len(windows[-1].token_ids)
    return windows


def window(model: LensModel, text: str, size: int) -> Window:
    """A text as the model reads it."""
    encoder = reader(model.tokenizer, model.d_vocab)
    return Window(Document("", text, ""), read_tokens("", text, encoder, min(size, model.n_ctx)))


def places(n_layers: int) -> list[int]:
    """Two layers of each third, spread evenly, the last layer not among them."""
    return [int(n_layers * (i + 0.5) / 6) for i in range(6)]


def moments_of(fitter: Fitter, windows: Sequence[Window], layers: Sequence[int]) -> Moments:
    """What a fit needs of some windows."""
    sites = [*(fitter.sites[layer] for layer in layers), fitter.model.final_site]
    moments = Moments.none(len(layers), fitter.model.d_model)
    dealer = torch.Generator().manual_seed(0)
    for stream in fitter.states(windows, sites):
        moments.add(stream[:-1], stream[-1], torch.randperm(stream.shape[1], generator=dealer))
    return moments


def fitted(
    spec: FitSpec, model: LensModel, parts: Mapping[str, Windows], layers: Sequence[int]
) -> dict[str, Maps]:
    """A linear lens of some layers for each corpus, and for half of it with half of another."""
    halved = {name: halves(own["fit"]) for name, own in parts.items()}
    chosen = {name: halves(own["choose"]) for name, own in parts.items()}
    sums = {
        name: [moments_of(Fitter(model, spec, {}), half, layers) for half in own]
        for name, own in halved.items()
    }
    pairs = {name: ((name, 0), (name, 1)) for name in parts}
    pairs |= {f"{DEFAULT} + {name}": ((DEFAULT, 0), (name, 0)) for name in parts if name != DEFAULT}
    lenses = {}
    for name, both in pairs.items():
        total = Moments.none(len(layers), model.d_model)
        for corpus, half in both:
            total.merge(sums[corpus][half])
        choose = [window for corpus, half in both for window in chosen[corpus][half]]
        lenses[name] = solve(Fitter(model, spec, {"choose": choose}), layers, total).lens
    return lenses


def bits_and_tokens(measured: Measured, lens: int, third: int | None) -> np.ndarray:
    """By document: bits of a lens at a third's layers (of all), and how many tokens they are of."""
    layers = slice(None) if third is None else slice(2 * third, 2 * third + 2)
    bits = measured.kl_bits[lens, layers]
    return np.stack([bits.sum(0), measured.n_tokens * float(len(bits))], axis=1)


def mean(total: np.ndarray) -> np.ndarray:
    """Bits a token."""
    return total[..., 0] / total[..., 1]


def study(model: LensModel, tokens: int, test_tokens: int) -> tuple[list[str], dict[str, Measured]]:
    """What lenses are fitted to, and how far each of them is from the model on each test's text."""
    spec = FitSpec(model.name, tokens=tokens, choose_tokens=256, test_tokens=test_tokens)
    parts = {name: parts_of(c, spec, model)[0] for name, c in corpora(spec, model).items()}
    layers = places(model.n_layers)
    lenses = {
        name: Affine(model, maps, name) for name, maps in fitted(spec, model, parts, layers).items()
    }
    tests = {name: own["test"] for name, own in parts.items()} | {
        "prose": prose(model, test_tokens),
        "facts": prompts_as_text(model, test_tokens // 8),
    }
    sites = [model.sites()[layer] for layer in layers]
    every = [*lenses.values(), Final(model)]
    return [*lenses, LOGIT], {
        name: measure(model, every, sites, windows) for name, windows in tests.items()
    }


def section(model: LensModel, fits: Sequence[str], found: Mapping[str, Measured]) -> list[str]:
    """A model's tables: KL by third, and differences to the default over all layers."""
    header = ["fitted to", *(f"on {name}" for name in found)]
    layers = places(model.n_layers)
    lines = [f"## {model.name}", ""]
    for third, name in enumerate(THIRDS):
        a, b = layers[2 * third : 2 * third + 2]
        rows = [
            [
                fit,
                *(
                    cell(summed_estimate(bits_and_tokens(m, i, third), mean))
                    for m in found.values()
                ),
            ]
            for i, fit in enumerate(fits)
        ]
        title = f"KL(model || lens) in bits, {name} third (mean of layers {a} and {b})"
        lines += [f"### {title}", "", *markdown_table(header, rows), ""]
    base = fits.index(DEFAULT)
    rows = [
        [fit, *(cell(_difference(m, i, base)) for m in found.values())]
        for i, fit in enumerate(fits)
        if i != base and fit != LOGIT
    ]
    title = f"Difference to {DEFAULT} in bits, all six layers, paired by document"
    n = ", ".join(f"{name} {len(m.n_tokens)} ({m.n_tokens.sum():,})" for name, m in found.items())
    lines += [f"### {title}", "", *markdown_table(header, rows), ""]
    return [*lines, f"Test documents (tokens): {n}.", ""]


def _difference(measured: Measured, lens: int, base: int) -> Estimate:
    return summed_difference(
        bits_and_tokens(measured, lens, None), bits_and_tokens(measured, base, None), mean
    )


def cell(value: Estimate) -> str:
    """A number of bits with its interval, where there are documents enough for one."""
    return estimate(replace(value, reason=""))


def bench(
    *models: str,
    out: Out = Path("reports/bench"),
    tokens: Annotated[int, at_least(1, "Tokens that each lens is fitted to.")] = 8_000,
    test_tokens: Annotated[int, at_least(1, "Tokens of each test's text.")] = 1_536,
) -> None:
    """Linear lenses fitted to several corpora, each read on the text of all (minutes a model)."""
    lines = []
    for name in models or ("smollm2-135m", "gemma3-270m"):
        with Console(stderr=True).status(name):
            model = load_model(name)
            own = section(model, *study(model, tokens, test_tokens))
        Console().print("\n".join(own), markup=False, highlight=False)
        lines += own
    write_text(out / "corpora.md", _markdown(lines, tokens))


def _markdown(lines: Sequence[str], tokens: int) -> str:
    return "\n".join(
        [
            "# To which text should a lens be fitted?",
            "",
            f"Linear lenses, each fitted to {tokens:,} tokens of one corpus, or to half as many of "
            "each of two, and read on text of every kind that none was fitted to. *python-docs*: "
            "what the installed Python says about itself, the default. *science-docs*: docstrings "
            f"of {', '.join(PACKAGES)}. *model*: what the model itself writes at temperature 1. "
            "*prose*: the general questions and answers that ship with lensbench. *facts*: the "
            "shipped facts as sentences; none of them stands in a corpus. Brackets: 95 % intervals "
            "over documents, where there are enough of them.",
            "",
            *lines,
            made_by("bench-corpora"),
            "",
        ]
    )


if __name__ == "__main__":
    cyclopts.run(bench)
