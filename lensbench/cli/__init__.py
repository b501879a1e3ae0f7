"""The command line: one file a verb."""

from __future__ import annotations

import errno
import os
import sys
from typing import Annotated

# transformers reads these when it is first imported; its advice is not for users of this program.
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import typer

from lensbench.cli.adapters import adapters
from lensbench.cli.cache import cache
from lensbench.cli.chat import chat
from lensbench.cli.check import check
from lensbench.cli.correlate import correlate
from lensbench.cli.data import data
from lensbench.cli.diff import diff
from lensbench.cli.doctor import doctor
from lensbench.cli.eval import evaluate
from lensbench.cli.infer import infer
from lensbench.cli.lens import lens
from lensbench.cli.models import models
from lensbench.cli.pull import pull
from lensbench.cli.rag import rag
from lensbench.cli.report import report
from lensbench.cli.run import run
from lensbench.cli.train import train
from lensbench.errors import LensbenchError
from lensbench.version import __version__

app = typer.Typer(
    name="lensbench",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
for verb in (
    models,
    pull,
    check,
    lens,
    cache,
    run,
    report,
    infer,
    chat,
    train,
    correlate,
    diff,
    doctor,
):
    app.command()(verb)
app.command("eval")(evaluate)
app.add_typer(rag, name="rag")
app.add_typer(data, name="data")
app.add_typer(adapters, name="adapters")


def _version(show: bool) -> None:
    if show:
        sys.stdout.write(f"lensbench {__version__}\n")
        raise typer.Exit


@app.callback()
def _lensbench(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """At which depth does a language model know what it is about to say?

    Start with: lensbench pull smollm2-135m, then
    lensbench lens smollm2-135m "The capital of Germany is".

    Exit status: 0 ok, 1 some items failed (or a gate did), 2 bad usage or input, 130 interrupted.
    """


def main() -> None:
    """Run the program; errors made on purpose become one message and exit status 2."""
    from lensbench.cli.console import failure

    try:
        app()
    except LensbenchError as error:
        failure(error)
        sys.exit(2)
    except OSError as error:
        full = ". Free some space and run the same command again" * (error.errno == errno.ENOSPC)
        failure(f"{error.filename or 'the operating system'}: {error.strerror or error}{full}.")
        sys.exit(2)
