"""An analysis: its `analysis.toml` names a kind, which has a spec and a function that runs it."""

from __future__ import annotations

import dataclasses
import importlib
import time
import tomllib
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from lensbench.classification.spec import ClassifySpec
from lensbench.errors import InputProblems, Problem
from lensbench.pico.spec import PicoStudySpec
from lensbench.progress import Notify, Progress, Watch, ignore
from lensbench.spec import Spec, nearest
from lensbench.studies.specs.adapter import AdapterSpec
from lensbench.studies.specs.attention import AttentionSpec
from lensbench.studies.specs.correlation import CorrelationStudySpec
from lensbench.studies.specs.diff import DiffStudySpec
from lensbench.studies.specs.embeddings import EmbeddingsSpec
from lensbench.studies.specs.lens import RunSpec
from lensbench.studies.specs.placement import PlacementSpec
from lensbench.studies.specs.sampling import SamplingSpec
from lensbench.studies.specs.tokens import TokensSpec
from lensbench.studies.specs.transfer import TransferSpec

if TYPE_CHECKING:
    from lensbench.costs.plan import Plan
    from lensbench.records.engine import Outcome

ANALYSIS = "analysis.toml"
KINDS: dict[str, type[Spec]] = {
    "lens": RunSpec,
    "adapter": AdapterSpec,
    "correlation": CorrelationStudySpec,
    "diff": DiffStudySpec,
    "placement": PlacementSpec,
    "transfer": TransferSpec,
    "attention": AttentionSpec,
    "pico": PicoStudySpec,
    "tokens": TokensSpec,
    "embeddings": EmbeddingsSpec,
    "sampling": SamplingSpec,
    "classify": ClassifySpec,
}  # each is run by the function `run` of the file of its name, and planned by its `plan`
# Keys that may name a file beside the analysis.
_FILES = ("prompts", "other_prompts", "documents", "data", "corpus", "pairs", "rated", "senses")


def read_analysis(folder: Path) -> Spec:
    """The spec of `analyses/NNN_question/analysis.toml`.

    Raises InputProblems naming the file and everything that is wrong with its keys, at once.
    """
    path = folder / ANALYSIS if folder.is_dir() else folder
    content = _content(path)
    kind = content.pop("kind", "lens")
    try:
        if kind not in KINDS:
            raise InputProblems([Problem("kind", f"it is {kind!r}", nearest(kind, KINDS))])
        return KINDS[kind](**{key: _value(key, content[key], path.parent) for key in content})
    except InputProblems as error:
        named = [dataclasses.replace(p, where=f"{path}, {p.where}") for p in error.problems]
        raise InputProblems(named) from None


def run_analysis(
    spec: Spec, out: Path, progress: Watch = ignore, notify: Notify = ignore
) -> Outcome:
    """Run an analysis of any kind into `out`, or go on with it. Raises what it raises.

    What fails is noted beside the records, so that their report says what is missing.
    """
    from lensbench.checkpoints.placement import Placement
    from lensbench.records.failures import note_failures

    if (device := getattr(spec, "device", None)) is not None:
        Placement.of(device)  # one that is not there is no fault of each model
    outcome: Outcome = _module(spec).run(spec, out, progress, notify)
    note_failures(out, outcome.failed)
    return outcome


def plan(
    analysis: Spec | Path | str,
    out: Path | str | None = None,
    watch: Watch = ignore,
    workers: int | None = None,
) -> Plan:
    """What running an analysis would take: tokens, operations, bytes and seconds, by record.

    Texts are really tokenised; the time follows from a measurement of less than a second for each
    width of a model. No weight is read, nothing is fetched, and no file is written. What is there
    already costs nothing.

    Args:
        analysis: a folder with an analysis.toml, that file, or a spec.
        out: where the records go, or are already. Default: reports/<name of the analysis>.
        workers: how many will do the jobs, each a process on this machine. Their rate is that of
            as many measurements at once, which share cores and memory as they will.

    Raises InputProblems for everything that is wrong with the analysis, as `run` does. A record
    that cannot be planned says why in `unknown`.
    """
    from lensbench.checkpoints.stored.heap import release
    from lensbench.costs.outlined import forget_outlines
    from lensbench.costs.plan import Plan
    from lensbench.costs.planned import Planned
    from lensbench.costs.workers import planned_for

    started = time.perf_counter()
    spec = analysis if isinstance(analysis, Spec) else read_analysis(Path(analysis))
    folder = results_folder(analysis) if out is None else Path(out)
    watch(Progress("planning"))
    records, first = list[Planned](), dict[Path, Any]()
    if workers:
        spec.require_shareable()
    with planned_for(workers):
        for record in _module(spec).plan(spec, folder):
            first = first or dict(record.tokenizers)
            records.append(dataclasses.replace(record, tokenizers={}))  # they are large
    forget_outlines()
    release()
    return Plan(records, time.perf_counter() - started, first)


def results_folder(analysis: Spec | Path | str) -> Path:
    """Where the results of an analysis go unless another folder is named."""
    if isinstance(analysis, Spec):
        return Path("reports") / "analysis"
    path = Path(analysis)
    return Path("reports") / (path if path.is_dir() else path.parent).resolve().name


def _module(spec: Spec) -> ModuleType:
    """The file that knows analyses of the spec's kind."""
    (kind,) = [name for name, known in KINDS.items() if known is type(spec)]
    return importlib.import_module(f"lensbench.studies.{kind}")


def _content(path: Path) -> dict[str, Any]:
    where = str(path)
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        remedy = f"Name a folder that holds an {ANALYSIS}."
        raise InputProblems([Problem(where, "there is no such file", remedy)]) from error
    except (ValueError, RecursionError) as error:  # also a number of 5,000 digits, or deep lists
        raise InputProblems([Problem(where, f"it is not TOML ({error})", "Mend it.")]) from error


def _value(key: str, value: Any, folder: Path) -> Any:
    """TOML has no null: a limit of 0 asks all. A file is looked up beside the analysis first."""
    if key == "limit" and value == 0:
        return None
    if isinstance(value, dict):
        return {inner: _value(inner, item, folder) for inner, item in value.items()}
    if key not in _FILES:
        return value
    if isinstance(value, list):
        return [_value(key, item, folder) for item in value]
    beside = folder / str(value)
    try:
        return str(beside) if beside.is_file() else value
    except OSError:  # no file can be called so
        return value
