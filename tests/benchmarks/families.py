"""`python -m tests.benchmarks.families`: every causal language model of transformers, verb by verb.

Each class runs in a process of its own, forked from one that has imported everything, and leaves
a file; what is there already is not run again.
"""

from __future__ import annotations

import json
import multiprocessing
import re
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import cyclopts
from cyclopts import Parameter

from lensbench.files import write_text
from tests.benchmarks.table import made_by, markdown_table
from tests.harness.causal_lms import model_types
from tests.harness.sweep import BOUND_BITS, VERBS

_SECONDS = 300  # for one class


def families(
    only: Annotated[tuple[str, ...], Parameter(help="Model types. Default: all.")] = (),
    out: Annotated[Path, Parameter(help="Folder of the table.")] = Path("reports/bench"),
    work: Annotated[Path, Parameter(help="Folder of the outcomes.")] = Path("runs/families"),
    again: Annotated[bool, Parameter(help="Run also what is there.")] = False,
) -> None:
    """Put every class through the verbs and write the table."""
    work.mkdir(parents=True, exist_ok=True)
    import_everything()
    for model_type in only or model_types():
        path = work / f"{model_type}.json"
        if again or not path.exists():
            path.write_text(json.dumps(in_a_fork(model_type), indent=1))
        print(line(json.loads(path.read_text())), flush=True)
    found = [json.loads(path.read_text()) for path in sorted(work.glob("*.json"))]
    write_text(out / "families.md", markdown(found))


def in_a_fork(model_type: str) -> dict[str, Any]:
    """The class's outcomes; a process that dies or hangs is an outcome too."""
    fork = multiprocessing.get_context("fork")
    theirs, ours = fork.Pipe(duplex=False)[::-1]
    child = fork.Process(target=_sweep, args=(model_type, theirs))
    child.start()
    theirs.close()
    try:
        if ours.poll(_SECONDS):
            found: dict[str, Any] = ours.recv()
            child.join(10)  # it removes its files
            return found
        return {"model_type": model_type, "died": f"no answer in {_SECONDS} s"}
    except EOFError:
        child.join()
        return {"model_type": model_type, "died": f"exit status {child.exitcode}"}
    finally:
        child.kill()
        child.join()


def _sweep(model_type: str, pipe: Any) -> None:
    from tests.harness.sweep import sweep

    sys.addaudithook(refuse_installers)
    folder = Path(tempfile.mkdtemp(prefix=f"sweep-{model_type}-"))
    try:
        pipe.send(sweep(model_type, folder))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def refuse_installers(event: str, arguments: tuple[Any, ...]) -> None:
    """TransformerLens installs what some classes miss, into the environment that it runs in."""
    starts = event in ("subprocess.Popen", "os.posix_spawn", "os.exec", "os.system")
    if starts and re.search(r"\b(pip|uv|conda)\b", str(arguments[:2])):
        raise PermissionError(f"a package manager is started: {arguments}")


def import_everything() -> None:
    """By using it, so that a fork costs no imports."""
    from tests.harness.sweep import sweep

    with tempfile.TemporaryDirectory() as folder:
        sweep("llama", Path(folder))


def line(found: Mapping[str, Any]) -> str:
    """One class in a line."""
    return " | ".join([found["model_type"], *cells(found)])


def cells(found: Mapping[str, Any]) -> list[str]:
    """What each verb made of a class, in a few words."""
    for key in ("no_form", "died"):
        if key in found:
            return [f"not measured: {short(found[key])}", *[""] * (len(VERBS) - 1)]
    return [cell(found[verb]) for verb in VERBS]


def cell(outcome: Mapping[str, Any]) -> str:
    """A verdict with its number or its reason."""
    if outcome["verdict"] == "refused":
        return f"refused: {short(outcome['said'])}"
    if outcome["error"] is None:
        return f"{outcome['verdict'].upper()}: {short(outcome['said'])}"
    word = "equal" if outcome["verdict"] == "equal" else outcome["verdict"].upper()
    return f"{word} ({outcome['error']:.0e})"


_PATH = re.compile(r"/\S*?/model\b")
_KINDS = {
    "TransformerLens cannot wrap": "no bridge in TransformerLens",
    "TransformerLens cannot run": "TransformerLens' bridge cannot run it",
    "gives another output than the model itself": "TransformerLens gives another output",
    "The gate failed": "the gate failed",
    "no module is called": "blocks have no modules of these names (--targets)",
    "of which its blocks look at a part": "its cache fails beyond what blocks look back",
    "its cache gives other answers": "its cache fails once it is longer",
    "in a padded batch": "padding changes its answers (--batch-size 1)",
    "what it generates is not": "it does not generate what it reads",
    "has no one list of": "no one list of blocks",
    "has no ln_final": "no final norm",
    "adapted other modules": "blocks of several kinds (--targets)",
    "cannot be used as it is": "a config field that lensbench cannot work with",
    "NaN or Inf": "NaN or Inf in its random form",
    "cannot be run": "its own class cannot run",
    "cannot run": "its own class cannot run",
}


def short(said: str) -> str:
    """A message as a reason in a table."""
    for words, reason in _KINDS.items():
        if words in said:
            return reason
    lines = said.strip().splitlines() or [""]
    return _PATH.sub("it", lines[-1]).strip(" -").replace("|", "/")[:90]


def markdown(found: Sequence[Mapping[str, Any]]) -> str:
    """The table of all classes, and how many there are of each outcome."""
    count = Counter((verb, one[verb]["verdict"]) for one in found for verb in VERBS if verb in one)
    verdicts = ("equal", "refused", "different", "traceback")
    summary = [[verb, *(str(count[verb, verdict]) for verdict in verdicts)] for verb in VERBS]
    rows = [[one["model_type"], *cells(one)] for one in found]
    return "\n".join(
        [
            "# Every causal language model of transformers",
            "",
            f"{len(found)} model types of `AutoModelForCausalLM`, each in a tiny random form, put "
            "through the verbs and compared with Hugging Face's plain forward pass, one prompt at "
            "a time, without cache and padding. *Equal*: `lens`, `check`, `infer` and `train` "
            f"within {BOUND_BITS:g} bits (of entropy, KL, a token's log-probability, the loss "
            "before the first step), `cache` within that share of a state's length; the largest "
            "difference in brackets. *Refused*: an error that says why. Anything else is a fault.",
            "",
            *markdown_table(["verb", *verdicts], summary),
            "",
            *markdown_table(["model type", *VERBS], rows),
            "",
            made_by("bench-families"),
            "",
        ]
    )


if __name__ == "__main__":
    cyclopts.run(families)
