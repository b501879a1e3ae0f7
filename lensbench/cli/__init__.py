"""The command line: one file a verb, and its docstring is the verb's page of help."""

from __future__ import annotations

import atexit
import errno
import gc
import os
import sys

# transformers reads these when it is first imported; its advice is not for users of this program.
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def main() -> None:
    """Run the program and exit: 0 ok, 1 some items failed, 2 bad usage or input, 130 interrupted.

    Errors made on purpose become one message. What is written for a reader who has left, such as
    `head`, is dropped.
    """
    from lensbench.cli.console import INTERRUPTED, failure, flush, prepare, starting
    from lensbench.cli.program import called
    from lensbench.cli.starting import announce
    from lensbench.errors import LensbenchError

    atexit.register(gc.freeze)  # what goes with the process is not looked through for a second
    prepare()
    announce(starting)
    try:
        sys.exit(called(sys.argv[1:]))
    except LensbenchError as error:
        failure(error)
        sys.exit(2)
    except OSError as error:
        full = ". Free some space and run the same command again" * (error.errno == errno.ENOSPC)
        failure(f"{error.filename or 'the operating system'}: {error.strerror or error}{full}.")
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    finally:
        flush()
