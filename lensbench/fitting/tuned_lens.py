"""The tuned lens as a record: a job trains some layers, whose states it keeps in memory."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lensbench.errors import Problem
from lensbench.fitting.linear import Centred
from lensbench.fitting.linear_lens import MOST_JOBS, require_determined, solve
from lensbench.fitting.method import Fitter, Maps, Method, Solved
from lensbench.fitting.moments import Moments
from lensbench.fitting.tables import documents_table
from lensbench.fitting.tuned import White, train
from lensbench.fitting.windows import Part as CorpusPart
from lensbench.lens.fitted.affine import AffineMap
from lensbench.lens.fitted.artifact import of_bytes, to_bytes
from lensbench.records.engine import Job
from lensbench.records.parts import Part, Parts

_STATES_BYTES = 2e9  # in memory at once; one layer and the last are, whatever they take
_READINGS = ("fitted", "linear", "calibration", "shuffled")

Layers = tuple[int, ...]


def _jobs(fitter: Fitter) -> list[Layers]:
    """The layers in groups: each costs one pass over the corpus, and is lost when interrupted."""
    require_determined(fitter)
    n_layers = fitter.model.n_layers
    layer_bytes = 4 * fitter.model.d_model * fitter.n_states("fit")
    size = max(min(-(-n_layers // MOST_JOBS), int(_STATES_BYTES // layer_bytes) - 1), 1)
    return [tuple(range(n_layers))[start : start + size] for start in range(0, n_layers, size)]


def _gather(fitter: Fitter, job: Job[Layers]) -> Part:
    """The maps of some layers. The same job yields the same bytes."""
    model, spec, layers = fitter.model, fitter.spec, job.item
    states = _states(fitter, "fit", layers)
    streams = states.split(spec.batch_tokens, dim=1)
    moments = Moments.of(streams, len(layers), model.d_model, seed=job.number)
    solved = solve(fitter, layers, moments)
    strengths = solved.strengths["fitted"]
    identity = AffineMap(torch.eye(model.d_model), torch.zeros(model.d_model))
    starts = solved.lens if spec.start == "linear" else dict.fromkeys(layers, identity)
    trained = train(
        model.readout,
        [starts[layer] for layer in layers],
        [White.of(Centred.of(moments, i), strengths[layer]) for i, layer in enumerate(layers)],
        states,
        _states(fitter, "choose", layers),
        spec.learning_rate,
        spec.epochs,
    )
    done = dict(zip(layers, trained, strict=True))
    maps: dict[str, Maps] = {
        "fitted": {layer: AffineMap(*(t.cpu() for t in one.best)) for layer, one in done.items()},
        "linear": solved.lens,
        **solved.others,
    }
    broken = [
        Problem(
            f"layer {layer}",
            f"step {one.broken} of its training gave NaN or Inf, and ended it",
            "It keeps the best map before (see `training` in manifest.json); give a lower "
            "--learning-rate.",
        )
        for layer, one in done.items()
        if one.broken is not None
    ]
    return Part(
        {"fit_documents": documents_table(model.name, {})},
        broken,
        {
            "training": [
                {"layer": layer, **{k: v for k, v in vars(one).items() if k != "best"}}
                for layer, one in done.items()
            ],
            "strengths": list(strengths.items()),
        },
        {_file(job.number, name): to_bytes(maps[name]) for name in _READINGS},
    )


def _states(
    fitter: Fitter, part: CorpusPart, layers: Layers
) -> Float[Tensor, "state cell d_model"]:
    """Of all tokens of a part, at some layers and the last."""
    sites = [fitter.sites[layer] for layer in (*layers, fitter.model.n_layers)]
    states = torch.empty(len(sites), fitter.n_states(part), fitter.model.d_model)
    start = 0
    for own in fitter.states(fitter.windows[part], sites):
        states[:, start : start + own.shape[1]] = own
        start += own.shape[1]
    return states


def _file(number: int, reading: str) -> str:
    """Among the parts, which are removed when the record is finished."""
    return f"parts/{reading}-{number:06d}.safetensors"


def _solved(fitter: Fitter, parts: Parts) -> Solved:
    maps: dict[str, dict[int, AffineMap]] = {
        name: {
            layer: one
            for number in parts.numbers
            for layer, one in of_bytes(parts.file(number, _file(number, name))).items()
        }
        for name in _READINGS
    }
    strengths: dict[int, float] = {}
    training: list[dict[str, Any]] = []
    for notes in parts.notes:
        strengths |= dict(notes["strengths"])
        training += notes["training"]
    lens = maps.pop("fitted")
    return Solved(lens, maps, {"linear": strengths, "shuffled": strengths}, {"training": training})


TUNED: Method[Layers] = Method(_jobs, _gather, _solved, unit="layers", size=len)
