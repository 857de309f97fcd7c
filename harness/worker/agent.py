"""The warm agent: one process per pytest run that starts the ranks of each case through torch elastic's fork server.

It reads one JSON request a line from standard input and answers each with one line on standard output. When standard
input ends, because pytest ended in whatever way, it kills the ranks it has and ends too.

    {"job": "<file>", "ranks": 2, "timeout_s": 120}  ->  {"exits": {"0": 0, "1": -9}, "ended": ""}

`ended` says why it ended the ranks: `timeout`, or `hang`.
"""

from __future__ import annotations

import os
import sys
from multiprocessing import forkserver
from pathlib import Path

from harness.worker.serving import ParentGone, serve, take_output


def main() -> None:
    """Take standard output for the replies, so that no library's chatter gets between them, and serve."""
    reply_fd = take_output()
    os.environ["TORCHELASTIC_SIGNALS_TO_HANDLE"] = "SIGTERM"
    # The server takes seconds to load the ranks' libraries: meanwhile this process loads its own, and pytest collects.
    forkserver.set_forkserver_preload(["harness.worker.preload"])
    forkserver.ensure_running()
    from torch.distributed.elastic.multiprocessing.api import SignalException

    from harness.worker.elastic import run

    try:
        serve(run, reply_fd)
    except (ParentGone, SignalException, BrokenPipeError):
        os._exit(1)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    main()
