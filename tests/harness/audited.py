"""Run the program's verbs in this process and write down what they start and what they call.

    python -m tests.harness.audited EVENTS < COMMANDS

reads a list of commands (JSON, each a list of words) and writes a list of [command, event, what].
An audit hook cannot be taken out again, so this is a process of its own.
"""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

STARTS = {"subprocess.Popen", "os.exec", "os.posix_spawn", "os.spawn", "os.system", "os.startfile"}
CALLS = {"socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "urllib.Request"}


def main(out: str) -> None:
    commands = json.load(sys.stdin)
    events: list[list[Any]] = []
    current = ["import"]

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event in STARTS | CALLS:
            what = arguments[1] if event == "subprocess.Popen" else arguments
            events.append([current[0], event, str(what)])

    sys.addaudithook(hook)
    from lensbench.cli import main as program

    for words in commands:
        current[0] = " ".join(words)
        sys.argv = ["lensbench", *words]
        sys.stdin = io.StringIO("What is a heap?\n/quit\n")
        try:
            program()
        except SystemExit as ended:
            if ended.code:
                events.append([current[0], "exit", str(ended.code)])
    Path(out).write_text(json.dumps(events))


if __name__ == "__main__":
    main(sys.argv[1])
