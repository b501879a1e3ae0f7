"""Show what a model would say if it stopped at each layer.

With a prompt: a table in the terminal. With --prompts or --cache in its place: a run folder with
records and reports.

Examples:

    lensbench lens smollm2-135m "The capital of Germany is"

    lensbench lens smollm2-135m "The capital of Germany is" --answer Berlin \
        --html b.html

    lensbench lens smollm2-135m "The capital of Germany is" --lens final \
        --lens linear

    lensbench lens smollm2-135m gemma3-270m --prompts facts --limit 60

    lensbench lens smollm2-135m smollm2-135m@8 --prompts facts --keep-residuals

    lensbench lens smollm2-135m --cache runs/cache
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter
from pydantic import Field

from lensbench.cli.console import (
    batch_progress,
    loaded,
    messages,
    note,
    page_path,
    say_json,
    show_problems,
    show_reports,
)
from lensbench.cli.lens.run import run_and_report
from lensbench.cli.options import Workers, require_no_workers
from lensbench.cli.prompted import models_and_prompt, prompt_missing
from lensbench.errors import InputProblems, Problem
from lensbench.models.spec import AllowFields, LoadSpec, TrustRemoteCode
from lensbench.spec import ARGUMENT, without_effect
from lensbench.studies.specs.lens import Prompts, RunSpec

if TYPE_CHECKING:
    from lensbench.lens.result import Alone, LensResult

_ALONE = {"answer", "position", "as_json", "html", "allow_fields", "trust_remote_code"}
_TOGETHER = {"relations", "limit", "heatmap_prompts", "batch_tokens", "keep_residuals"}
_OF_THE_CACHE = {"prompts", "mid", "dtype", "template", "metrics", "products"}


class LensSpec(RunSpec):
    """One prompt, or a run over many."""

    models: Annotated[
        tuple[str, ...], Field(min_length=1, exclude=True), ARGUMENT, Parameter("--model")
    ]
    """One or more models, and then the prompt; with --prompts or --cache models only."""
    prompts: Prompts = ""
    """A prompt set: facts, a .csv, a .jsonl or a .json."""
    cache: Path | None = None
    """A folder made by `lensbench cache`, in place of prompts and passes."""
    out: Annotated[Path | None, Parameter(("--out", "-o"))] = None
    """With --prompts or --cache: run folder. Default: runs/<its name>."""
    top_k: Annotated[int, Field(ge=1, le=50)] = 5
    """Top tokens per layer."""
    answer: str | None = None
    """The word to follow. Default: what the model itself says next."""
    position: int = -1
    """Which position; -1 is the last."""
    mid: bool = False
    """Also after attention in each block."""
    as_json: Annotated[bool, Parameter("--json")] = False
    """Rows as JSON on standard output."""
    html: Path | None = None
    """Write an interactive layer x position heat map here."""
    allow_fields: AllowFields = ()
    trust_remote_code: TrustRemoteCode = False

    def problems(self) -> list[Problem]:
        """An option that would have no effect is an error, not a surprise."""
        how, idle = "without --prompts", _TOGETHER | {"out"}
        if self.cache is not None:
            how, idle = "with --cache", _ALONE | _TOGETHER | _OF_THE_CACHE
        elif self.prompts:
            how, idle = "with --prompts", _ALONE
        found = without_effect(self, idle, how)
        if self.cache is not None and len(self.models) != 1:
            what = "--cache goes with the one model it is of and no prompt"
            found.append(Problem("models", what, "Give one."))
        elif self.cache is None and not self.prompts:
            found += prompt_missing(self.models, "lens")
        return found + super().problems()

    @property
    def read_sites(self) -> tuple[str, ...]:
        """The states that are read."""
        return ("embed", "resid_mid", "resid_post") if self.mid else self.sites

    @property
    def alone_lenses(self) -> tuple[str, ...]:
        """Those that one prompt is read by."""
        return self.lenses if "lenses" in self.model_fields_set else ("final",)

    @property
    def run(self) -> RunSpec:
        """The run over many prompts."""
        given = self.shared(RunSpec)
        if "lenses" not in self.model_fields_set:
            del given["lenses"]
        return RunSpec(**given | {"sites": self.read_sites})


def lens(spec: Annotated[LensSpec, Parameter("*")], *, workers: Workers = None) -> int:
    if spec.prompts and spec.cache is None:
        out = spec.out or Path("runs") / Path(str(spec.prompts)).stem
        return run_and_report(spec.run, out, workers)
    require_no_workers(workers, "without --prompts")
    if spec.cache is not None:
        return _from_cache(spec, spec.cache)
    from lensbench.lens.fitted.artifact import lens_kinds

    models, prompt = models_and_prompt(spec.models, "lens")
    collected: list[dict[str, Any]] = []
    for name in models:
        asked = _asked(prompt, spec)
        model = loaded(LoadSpec(model=name, **spec.shared(LoadSpec)), asked)
        with messages.status("reading"):
            result = asked.read(model)
        if spec.as_json:
            collected += _rows(result, spec.position)
        else:
            from lensbench.cli.lens.table import show

            show(model, result, _at(result, spec.position), own=spec.answer is None)
        if spec.html is not None:
            kinds = lens_kinds(spec.alone_lenses, model.base)
            _write_html(result, page_path(spec.html, name, many=len(models) > 1), kinds)
    if spec.as_json:
        say_json(collected)
    return 0


def _from_cache(spec: LensSpec, cache: Path) -> int:
    """The record of a live run of the cache's prompts, and its reports."""
    from lensbench.studies.stages.cached import run_cached

    out = spec.out or Path("runs") / f"{cache.name}-lens"
    with batch_progress() as progress:
        folder, problems = run_cached(
            spec.models[0], cache, out, spec.top_k, spec.device, progress, spec.run.lenses
        )
    show_problems(problems)
    show_reports([folder], out)
    return 1 if problems else 0


def _asked(prompt: str, spec: LensSpec) -> Alone:
    """The lens at every position, following the answer or else the model's own next token."""
    from lensbench.lens.result import Alone
    from lensbench.lens.settings import LensSettings
    from lensbench.prompts.prompt import Prompt

    settings = LensSettings(
        spec.alone_lenses,
        spec.read_sites,
        top_k=spec.top_k,
        metrics=spec.metrics,
        products=spec.products,
    )
    return Alone(Prompt(id="prompt", prompt=prompt, answer=spec.answer), settings, spec.template)


def _at(result: LensResult, position: int) -> Any:
    """The rows of one position, by depth."""
    frame = result.to_pandas()
    length = int(frame.position.max()) + 1
    wanted = position + length if position < 0 else position
    if not 0 <= wanted < length:
        what = f"the prompt has {length} positions, no {position}"
        raise InputProblems([Problem("--position", what, f"Give -{length} to {length - 1}.")])
    return frame[frame.position == wanted].sort_values("depth", kind="stable")


def _rows(result: LensResult, position: int) -> list[dict[str, Any]]:
    """JSON-safe rows: lists for arrays, null for what cannot be measured; the products, too."""
    rows = _at(result, position).assign(products=result.products["used"])
    return list(json.loads(rows.to_json(orient="records", force_ascii=False)))


def _write_html(result: LensResult, path: Path, told: dict[str, dict[str, Any]]) -> None:
    from lensbench.files import write_bytes
    from lensbench.records.lens.kind import OWN, LensKind
    from lensbench.report.lens.page import reading_page

    rows, prompts = result.to_pandas(), result.prompts.to_pandas()
    exact = [f"last layer = the model within {result.gate_kl_bits:.1e} bits", *result.arithmetic]
    kinds = OWN | {name: LensKind.of(kind) for name, kind in told.items()}
    write_bytes(path, reading_page(result.model, prompts, rows, exact, kinds))
    note(f"wrote {path}")
