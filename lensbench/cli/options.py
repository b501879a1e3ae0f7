"""Options that several verbs share and no spec has."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

Json = Annotated[bool, Parameter("--json", help="JSON on standard output.")]
