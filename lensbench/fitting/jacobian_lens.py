"""The Jacobian lens as a record: sums of the Jacobians of texts, a text or a few a job."""

from __future__ import annotations

import torch
from jaxtyping import Float
from safetensors.torch import load, save
from torch import Tensor

from lensbench.errors import InputProblems, ModelError, Problem
from lensbench.fitting.jacobian import SHORTEST, jacobian
from lensbench.fitting.linear import Centred
from lensbench.fitting.linear_lens import require_determined, shared_out, solve
from lensbench.fitting.method import Fitter, Method, Solved
from lensbench.fitting.moments import Moments
from lensbench.fitting.tables import documents_table
from lensbench.fitting.windows import Window, total_tokens
from lensbench.lens.fitted.affine import AffineMap
from lensbench.records.engine import Job
from lensbench.records.parts import Part, Parts

_MOST_JOBS = 1_000  # a text takes minutes: none is lost that was done


def _jobs(fitter: Fitter) -> list[list[Window]]:
    """The first texts that are long enough. Raises InputProblems where none is."""
    require_determined(fitter)
    windows, n_tokens = list[Window](), 0
    for one in fitter.windows["fit"]:
        if len(one.token_ids) >= SHORTEST and n_tokens < fitter.spec.jacobian_tokens:
            windows.append(one)
            n_tokens += len(one.token_ids)
    if not windows:
        what = f"no text of {fitter.spec.corpus} has {SHORTEST} tokens in a window"
        remedy = f"Give longer texts, and --window {SHORTEST} or more."
        raise InputProblems([Problem("corpus", what, remedy)])
    return shared_out(windows, 8 * fitter.model.n_layers * fitter.model.d_model**2, _MOST_JOBS)


def _gather(fitter: Fitter, job: Job[list[Window]]) -> Part:
    """The sum of the Jacobians of some texts. The same job yields the same bytes."""
    model, problems = fitter.model, list[Problem]()
    n_texts = n_tokens = 0
    total = torch.zeros(model.n_layers, model.d_model, model.d_model, dtype=torch.float64)
    for window in job.item:
        own = jacobian(model, window.token_ids, fitter.sites[:-1], fitter.spec.batch_tokens)
        if bool(own.isfinite().all()):
            total += own
            n_texts, n_tokens = n_texts + 1, n_tokens + len(window.token_ids)
        else:
            what, remedy = "its Jacobian holds NaN or Inf", "It is left out: give --dtype float32."
            problems.append(Problem(window.document.source, what, remedy))
    table = documents_table(model.name, {"fit": job.item})
    files = {_file(job.number): save({"sum": total})}
    return Part(
        {"fit_documents": table}, problems, {"n_texts": n_texts, "n_tokens": n_tokens}, files
    )


def _file(number: int) -> str:
    """Among the parts, which are removed when the record is finished."""
    return f"parts/jacobians-{number:06d}.safetensors"


def _mean(parts: Parts, n_texts: int) -> Float[Tensor, "layer d_model d_model"]:
    """Over the texts of all jobs, added in their order: the sum of one is as large as of all."""
    first, *others = parts.numbers
    total = load(parts.file(first, _file(first)))["sum"]
    for number in others:
        total += load(parts.file(number, _file(number)))["sum"]
    return total / n_texts


def _solved(fitter: Fitter, parts: Parts) -> Solved:
    """The mean Jacobians, and beside them the linear lens of the same text with its controls."""
    model, layers = fitter.model, range(fitter.model.n_layers)
    n_texts, n_tokens = (sum(one[name] for one in parts.notes) for name in ("n_texts", "n_tokens"))
    if n_texts == 0:
        remedy = "Give --dtype float32, or another corpus."
        raise ModelError(f"{model.name}: the Jacobians of all texts hold NaN or Inf. {remedy}")
    slopes = _mean(parts, n_texts)
    states = fitter.states(fitter.windows["fit"], fitter.sites)
    moments = Moments.of(states, model.n_layers, model.d_model, seed=0)
    linear = solve(fitter, layers, moments)
    shifted = {layer: Centred.of(moments, layer).affine(slopes[layer]) for layer in layers}
    nothing = torch.zeros(model.d_model)
    strengths = linear.strengths["fitted"]
    return Solved(
        {layer: AffineMap(slopes[layer].float(), nothing.clone()) for layer in layers},
        {"shifted": shifted, "linear": linear.lens, **linear.others},
        {"linear": strengths, "shuffled": strengths},
        {"jacobian": {"n_texts": n_texts, "n_tokens": n_tokens, "shortest_tokens": SHORTEST}},
    )


JACOBIAN: Method[list[Window]] = Method(
    _jobs,
    _gather,
    _solved,
    unit="tokens",
    size=total_tokens,
)
