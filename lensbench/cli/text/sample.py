"""Show what temperature and filters make of a model's next token, and of its texts.

With a prompt: for each setting how uncertain the next token is (entropy, and 2^entropy, a fair draw
among so many), how many tokens can be drawn, how much of the model's own probability they hold, and
how far that is from the model's own distribution (total variation, 0 to 1). All settings share one
pass over the prompt. --texts writes some texts of each, with the same luck in all.

A setting that is named by its options stands beside the model's own distribution. --grid shows 26;
--settings those that are named, such as greedy, min-p=0.1 or "T=0.7 top-p=0.9".

With --prompts in its place: a record of each model with its report, over many prompts and with
intervals, texts of some of them (what they repeat, how alike they are, what they cost in bits), and
small tasks with and without examples (--no-tasks leaves those out).

Examples:

    lensbench sample smollm2-135m "The capital of Germany is" --grid

    lensbench sample smollm2-135m "Once upon a time" --temperature 0.7 \
        --top-p 0.9 --texts 3

    lensbench sample smollm2-135m "Once upon a time" --settings greedy T=1.2 \
        "T=1.5 min-p=0.1" --texts 2

    lensbench sample smollm2-135m --prompts general --limit 44 -o runs/sample
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter
from pydantic import Field

from lensbench.cli.console import explain, literal, messages, results, say, say_json, table
from lensbench.cli.lens.run import run_and_report
from lensbench.cli.options import Workers, require_no_workers
from lensbench.cli.prompted import models_and_prompt, prompt_missing
from lensbench.errors import Problem
from lensbench.escape import printable, visible
from lensbench.records.schema.text.sampling import OWN
from lensbench.sampling.settings import GRID, Setting, settings_of
from lensbench.spec import ARGUMENT, without_effect
from lensbench.studies.specs.lens import Prompts
from lensbench.studies.specs.sampling import SamplingSpec

if TYPE_CHECKING:
    from lensbench.sampling.result import Sampled

_OPTIONS = set(Setting.model_fields)
_ALONE = {*_OPTIONS, "grid", "as_json"}
_TOGETHER = {"relations", "limit", "written", "continued", "tasks", "shots", "out"}
_OF_TEXTS = ("max_new_tokens", "seed")
_ENDS = {"length": "cut at its length", "stop": "ended by itself"}
_COLUMNS = {  # of the table, and its heading
    "setting": "setting",
    "entropy_bits": "bits",
    "effective_tokens": "2^bits",
    "n_kept": "kept",
    "kept_prob": "mass",
    "top_prob": "p(top)",
    "total_variation": "moved",
    "top_token": "top",
}


class SampleVerb(SamplingSpec, Setting):
    """One prompt, or a run over many."""

    models: Annotated[
        tuple[str, ...], Field(min_length=1, exclude=True), ARGUMENT, Parameter("--model")
    ]
    """One or more models, and then the prompt; with --prompts models only."""
    prompts: Prompts = ""
    """A prompt set: general, a .csv, a .jsonl or a .json."""
    out: Annotated[Path | None, Parameter(("--out", "-o"))] = None
    """With --prompts: run folder. Default: runs/<its name>-sample."""
    grid: bool = False
    """Show all settings of the shipped grid; of --prompts they are the default."""
    texts: Annotated[int, Field(ge=0)] = 0
    """Write so many texts of each setting. With --prompts: 4 of each and prompt by default."""
    as_json: Annotated[bool, Parameter("--json")] = False
    """Every number and text as JSON on standard output."""

    def problems(self) -> list[Problem]:
        """An option that would have no effect is an error, not a surprise."""
        how, idle = ("with --prompts", _ALONE) if self.prompts else ("without --prompts", _TOGETHER)
        found = without_effect(self, idle, how)
        if not self.prompts:
            found += self._alone()
        return found + super().problems()

    def _alone(self) -> list[Problem]:
        """What does not go together of one prompt."""
        found = prompt_missing(self.models, "sample")
        given = self.model_fields_set
        ways = [self.grid, "compared" in given, bool(_OPTIONS & given)]
        if sum(ways) > 1:
            what = "settings are named in more than one way"
            remedy = "Use one of --grid, --settings and the options of one setting."
            found.append(Problem("grid" if self.grid else "compared", what, remedy))
        if not self.texts:
            found += without_effect(self, _OF_TEXTS, "without `texts`")
        return found

    @property
    def chosen(self) -> list[Setting]:
        """What is shown of one prompt."""
        if self.grid or "compared" in self.model_fields_set:
            return settings_of(GRID if self.grid else self.compared)
        own = Setting(**self.shared(Setting))
        return [own] if own.name == OWN else [Setting(), own]

    @property
    def run(self) -> SamplingSpec:
        """The run over many prompts."""
        given = self.shared(SamplingSpec)
        if "texts" not in self.model_fields_set:
            del given["texts"]
        return SamplingSpec(**given)


def sample(spec: Annotated[SampleVerb, Parameter("*")], *, workers: Workers = None) -> int:
    if spec.prompts:
        out = spec.out or Path("runs") / f"{Path(str(spec.prompts)).stem}-sample"
        return run_and_report(spec.run, out, workers)
    require_no_workers(workers, "without --prompts")
    from lensbench.sampling.model import load_sampled
    from lensbench.sampling.result import sampled

    models, prompt = models_and_prompt(spec.models, "sample")
    collected = []
    for name in models:
        with messages.status(f"loading {literal(name)}"):
            model = load_sampled(name, spec.device)
        with messages.status("writing" if spec.texts else "reading the prompt"):
            how = (spec.texts, spec.max_new_tokens, spec.seed)
            found = sampled(name, model, prompt, spec.chosen, *how)
        if spec.as_json:
            collected.append(_plain(found))
        else:
            _show(found)
    if spec.as_json:
        say_json(collected)
        return 0
    texts = "" if spec.texts else "With --texts 3: texts too. "
    explain(f"{texts}With --prompts general in place of a prompt: a report over many.")
    return 0


def _plain(found: Sampled) -> dict[str, Any]:
    return {
        "model": found.model,
        "prompt": found.prompt,
        "settings": found.table.to_dict("records"),
        "texts": found.written.to_dict("records"),
    }


def _show(found: Sampled) -> None:
    """A row a setting, and under it what each writes."""
    rows = [
        {head: _cell(name, row[name]) for name, head in _COLUMNS.items()}
        for row in found.table.to_dict("records")
    ]
    say(f"{printable(found.model)}: the next token")
    results.print(table(rows, left=("setting", "top")))
    explain(
        "2^bits: a fair draw among so many is as uncertain; kept: tokens that can be drawn; mass: "
        "the model's own probability of them; moved: total variation to it, 0 to 1."
    )
    for text in found.texts:
        mean = sum(text.bits) / len(text.bits)
        how = _ENDS.get(text.finish_reason, text.finish_reason)
        say(f"\n{text.setting} #{text.draw + 1} ({mean:.2f} bits a token, {how})")
        say(printable(text.text))


def _cell(column: str, value: Any) -> object:
    if column == "top_token":
        return visible(value)
    if column == "n_kept":
        return f"{value:,}"
    if not isinstance(value, float):
        return value
    return f"{value:,.1f}" if column == "effective_tokens" else f"{value:.3f}"
