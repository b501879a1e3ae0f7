"""Options that several verbs share."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lensbench.checkpoints.ref import DEFAULT_BITS, FORM, INT8_THRESHOLD, ModelRef
from lensbench.lens.registry import LENSES

if TYPE_CHECKING:
    from lensbench.models.model import LensModel


LensName = StrEnum("LensName", {name: name for name in LENSES})  # type: ignore[misc]
FINAL = LensName("final")


class TemplateName(StrEnum):
    """How a prompt is put to the model."""

    plain = "plain"
    chat = "chat"


class DtypeName(StrEnum):
    """Number formats."""

    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


class BitsName(StrEnum):
    """Bits per weight."""

    four = "4"
    eight = "8"
    sixteen = "16"
    thirty_two = "32"

    @property
    def number(self) -> Any:
        """As `ModelRef` takes it."""
        return int(self.value)


class StyleName(StrEnum):
    """How an instruction is put to a model on the second path."""

    none = "none"
    alpaca = "alpaca"
    chat = "chat"


MODEL_HELP = f"Alias, hub name or folder: {FORM}."
Bits = Annotated[
    BitsName | None,
    typer.Option(
        help="8: LLM.int8; 4: nf4; 16: bfloat16; 32: float32. Default: what the name says, or "
        f"{DEFAULT_BITS['generation']}."
    ),
]
Int8Threshold = Annotated[
    float | None,
    typer.Option(
        min=0.0,
        help="LLM.int8's outlier threshold. 0 makes an answer independent of its batch. Default: "
        f"what the name says, or {INT8_THRESHOLD['generation']:g} "
        f"(the lens: {INT8_THRESHOLD['lens']:g}).",
    ),
]
Adapter = Annotated[
    Path | None, typer.Option(help="A folder made by `lensbench train`, for this very model.")
]
Rag = Annotated[
    str | None, typer.Option(help="An index made by `lensbench rag build`, or its address.")
]
TopK = Annotated[int, typer.Option(min=1, help="How many documents to retrieve. Needs --rag.")]
Style = Annotated[
    StyleName | None,
    typer.Option(help="Default: chat if the model has a chat template, else none."),
]
Dtype = Annotated[
    DtypeName | None,
    typer.Option(
        help="Default: float32 on a CPU and up to 2e9 parameters, else half precision.",
    ),
]
Device = Annotated[
    str | None,
    typer.Option(help="cpu, cuda, cuda:1, mps. Default: the first there is of cuda, mps, cpu."),
]
AllowField = Annotated[
    list[str] | None,
    typer.Option(help="A config field unknown to lensbench that you know to be harmless."),
]
TrustRemoteCode = Annotated[
    bool,
    typer.Option(
        "--trust-remote-code", help="Run code that came with the weights. Mind who made it."
    ),
]
Template = Annotated[
    TemplateName, typer.Option(help="chat: the prompt as the start of a chat answer.")
]


def layer_numbers(text: str, option: str) -> tuple[int, ...]:
    """`0,3,15-20` as numbers, each once."""
    layers: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise typer.BadParameter(f"{option} {text!r}: write it as 15-20 or 0,3,15-20")
        layers |= set(range(int(first), int(last if dash else first) + 1))
    return tuple(sorted(layers))


def model_ref(
    name: str, bits: BitsName | None, adapter: Path | None, int8_threshold: float | None
) -> ModelRef:
    """The model that a name and these options make together, for the second path."""
    return ModelRef.of(
        name,
        bits=bits.number if bits else None,
        adapter=adapter,
        int8_threshold=int8_threshold,
        use="generation",
    )


def load(
    name: str,
    dtype: DtypeName | None,
    device: str | None,
    allow_field: list[str] | None,
    trust_remote_code: bool,
) -> LensModel:
    """The model that these options ask for; a line on standard error says that it is coming."""
    from lensbench.cli.console import literal, messages
    from lensbench.models.load import load_model

    with messages.status(f"loading {literal(name)}"):
        return load_model(
            name,
            dtype=dtype,
            device=device,
            allow_fields=allow_field or (),
            trust_remote_code=trust_remote_code,
        )
