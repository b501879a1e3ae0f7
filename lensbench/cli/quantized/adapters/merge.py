"""Add an adapter into the weights of its base, and save a model that needs no adapter.

The saved model is loaded again and must give the logits of base and adapter, in float32; otherwise
nothing is kept. `lensbench lens` and `check` take the folder.

Examples:

    lensbench adapters merge smollm2-135m runs/adapter -o runs/merged

    lensbench lens runs/merged "The capital of Germany is"
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from lensbench.cli.console import messages, note, say


def merge(
    model: Annotated[str, Parameter(help="The adapter's base: alias, hub name or folder.")],
    adapter: Annotated[Path, Parameter(help="An adapter's folder.")],
    *,
    out: Annotated[Path, Parameter(("--out", "-o"), help="Folder of the merged model.")],
) -> None:
    from lensbench.quantized.loading.merged import merge as merged_into

    with messages.status("merging and comparing logits"):
        done = merged_into(model, adapter, out)
    say(done.folder)
    note(
        f"logits differ from the adapter's by {done.error:.1e} of the largest (bound "
        f"{done.bound:.0e}); the adapter itself changes them by {done.changed:.1e}"
    )
