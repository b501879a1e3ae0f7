"""Show what each attention head of a model looks at.

With a prompt: for each score the heads in which it is highest; with --html a page of its own, where
lines go from each token to those that a head looks at. With --prompts in its place: a run folder
with records and reports, in which heads have names where their scores are beyond what random
attention and an untrained model give; its page has these lines of the prompts that --keep-pattern
names. Beside the prompts every model reads random tokens that repeat themselves, where induction
heads show.

A text encoder (BERT and its kin, all-minilm-l6-v2) has scores of its own, as its heads look both
ways: [CLS] and [SEP], neighbours, separators. It reads the texts alone, and with --prompts once
more without training.

Examples:

    lensbench attention smollm2-135m "The cat sat on the mat."

    lensbench attention smollm2-135m "The cat sat on the mat." --html cat.html

    lensbench attention smollm2-135m --prompts facts --limit 60

    lensbench attention smollm2-135m --prompts facts --limit 60 --ablate 16

    lensbench attention smollm2-135m gemma3-270m --prompts my.csv -o runs/heads

    lensbench attention all-minilm-l6-v2 --prompts sentences --phenomena
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter
from pydantic import Field

from lensbench.cli.console import (
    loaded_readable,
    note,
    page_path,
    results,
    say,
    say_json,
    show_problems,
    table,
)
from lensbench.cli.lens.run import run_and_report
from lensbench.cli.options import Workers, require_no_workers
from lensbench.cli.prompted import models_and_prompt, prompt_missing
from lensbench.errors import Problem
from lensbench.models.spec import AllowFields, LoadSpec, TrustRemoteCode
from lensbench.spec import ARGUMENT, without_effect
from lensbench.studies.specs.attention import AttentionSpec
from lensbench.studies.specs.lens import Prompts

if TYPE_CHECKING:
    from lensbench.attention.result import AttentionResult

_ALONE = {"as_json", "html", "allow_fields", "trust_remote_code"}
_TOGETHER = {"relations", "limit", "keep", "out", "nulls", "ablate", "phenomena", "sentences"}
_ID = "prompt"
_BEST = 3  # heads of each score
_SHOWN = ["condition", "score", "weighting"]


class HeadsSpec(AttentionSpec):
    """One prompt, or a run over many."""

    models: Annotated[
        tuple[str, ...], Field(min_length=1, exclude=True), ARGUMENT, Parameter("--model")
    ]
    """One or more models, and then the prompt; with --prompts models only."""
    prompts: Prompts = ""
    """A prompt set: facts, a .csv, a .jsonl or a .json."""
    out: Annotated[Path | None, Parameter(("--out", "-o"))] = None
    """With --prompts: run folder. Default: runs/<its name>-attention."""
    as_json: Annotated[bool, Parameter("--json")] = False
    """Every score of every head as JSON on standard output."""
    html: Path | None = None
    """Write the interactive head view of every head here; it opens offline."""
    allow_fields: AllowFields = ()
    trust_remote_code: TrustRemoteCode = False

    def problems(self) -> list[Problem]:
        """An option that would have no effect is an error, not a surprise."""
        how, idle = ("with --prompts", _ALONE) if self.prompts else ("without --prompts", _TOGETHER)
        found = without_effect(self, idle, how)
        if not self.prompts:
            found += prompt_missing(self.models, "attention")
        return found + super().problems()


def attention(spec: Annotated[HeadsSpec, Parameter("*")], *, workers: Workers = None) -> int:
    if spec.prompts:
        out = spec.out or Path("runs") / f"{Path(str(spec.prompts)).stem}-attention"
        return run_and_report(AttentionSpec(**spec.shared(AttentionSpec)), out, workers)
    require_no_workers(workers, "without --prompts")
    models, text = models_and_prompt(spec.models, "attention")
    _require_effect(spec, models)
    collected: list[dict[str, Any]] = []
    status = 0
    for name in models:
        result = _read(name, text, spec)
        show_problems(result.problems)
        status |= bool(result.problems)
        if spec.html is not None:
            _write_html(result, page_path(spec.html, result.model, len(models) > 1))
        if spec.as_json:
            collected += result.table.to_pylist()
        else:
            _show(result)
    if spec.as_json:
        say_json(collected)
    return status


def _read(name: str, text: str, spec: HeadsSpec) -> AttentionResult:
    """One model's heads on one prompt; names need many."""
    from lensbench.attention.encoders.result import read_encoder
    from lensbench.attention.result import read_heads
    from lensbench.models.text_encoder import TextEncoder
    from lensbench.prompts.prompt import Prompt
    from lensbench.studies import attention
    from lensbench.studies.stages import encoders

    prompt, keep = Prompt(_ID, text), (_ID,) if spec.html else ()
    model = loaded_readable(LoadSpec(model=name, **spec.shared(LoadSpec)))
    if isinstance(model, TextEncoder):
        read = replace(encoders.settings_of(spec), conditions=("text",), keep=keep)
        return read_encoder(model, prompt, read)
    settings = replace(attention.settings_of(spec), keep=keep, nulls=False, ablate=0)
    return read_heads(model, prompt, settings, spec.template)


def _require_effect(spec: HeadsSpec, models: Sequence[str]) -> None:
    """Refuse what would have no effect on any of the models, and say what has none on some."""
    from lensbench.checkpoints.ref import model_refs
    from lensbench.studies.attention import require_effect

    refs = model_refs(models)
    require_effect(spec, refs, note)


def _show(result: AttentionResult) -> None:
    """For each condition and score, the heads in which it is highest, by each weighting."""
    from lensbench.attention.result import strongest
    from lensbench.records.schema.attention import WEIGHTINGS

    say(f"{result.model}: block.head of the highest scores")
    best = strongest(result.to_pandas(), _BEST, result.scores)
    rows: dict[tuple[str, str], dict[str, object]] = {}
    for place, own in best.groupby(_SHOWN, sort=False):
        condition, score, weighting = map(str, place)
        row = rows.setdefault((condition, score), {"condition": condition, "score": score})
        row[weighting] = ", ".join(f"{h.block}.{h.head} ({h.value:.2f})" for h in own.itertuples())
    weightings = dict.fromkeys(best["weighting"], None)
    shown = [row | {w: row.get(w) for w in weightings} for row in rows.values()]
    results.print(table(shown, left=(*_SHOWN, *weightings)))
    meanings = "; ".join(f"{weighting}: {WEIGHTINGS[weighting]}" for weighting in weightings)
    _foot(f"in parentheses the score, mean over tokens, 0 to 1; {meanings}")
    for one in result.gate:
        if one.error is not None:
            _foot(f"{one.identity}: within {one.error:.1e} {one.unit} (bound {one.bound:.0e})")


def _foot(line: str) -> None:
    """A line below the table, wrapped between words."""
    results.print(line, highlight=False, markup=False)


def _write_html(result: AttentionResult, path: Path) -> None:
    from lensbench.files import write_bytes
    from lensbench.report.attention.head_view import head_view_page

    gate = [one.as_dict() for one in result.gate]
    patterns, prompts = result.patterns.to_pandas(), result.prompts.to_pandas()
    page = head_view_page(result.model, patterns, prompts, gate)
    write_bytes(path, page)
    note(f"wrote {path}")
