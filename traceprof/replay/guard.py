"""A small process that ends a launched engine when whoever launched it is gone without a word: killed, or out of memory.

`python guard.py JSON` gets a line for each process group that it is to end, on its stdin. As long as that is open it waits. A line "over"
ends it; where its stdin ends without one, nobody else will clean up: it ends the groups, SIGTERM then SIGKILL, runs what cleans up
behind them, and deletes the engine's folder. It stands in a session of its own, so that what kills the launcher's group does not reach it.

It imports nothing of traceprof, so that it starts in a moment.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

OVER = "over"
POLL_S = 0.05


class Guard(NamedTuple):
    """The launcher's end of it."""

    process: subprocess.Popen[str]

    def watch(self, group: int) -> None:
        """End this process group, too, should the launcher be gone."""
        self._say(str(group))

    def _say(self, word: str) -> None:
        assert self.process.stdin is not None
        with contextlib.suppress(OSError):  # somebody has killed the guard
            self.process.stdin.write(word + "\n")
            self.process.stdin.flush()


@contextlib.contextmanager
def guard(
    folder: Path, stop_s: float, clean: Sequence[str] = (), environment: Mapping[str, str] | None = None
) -> Iterator[Guard]:
    """A guard for as long as the block runs; `clean` is a command for what no signal ends, such as containers."""
    told = json.dumps({"folder": str(folder), "stop_s": stop_s, "clean": list(clean)})
    with subprocess.Popen(
        [sys.executable, "-I", "-S", __file__, told],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=None if environment is None else dict(environment),
        text=True,
        start_new_session=True,
    ) as process:
        one = Guard(process)
        try:
            yield one
        finally:
            one._say(OVER)


# ---- the process


def main() -> None:
    """Wait for the launcher's end."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    told = json.loads(sys.argv[1])
    groups = []
    for line in sys.stdin:
        if line.strip() == OVER:
            return
        groups.append(int(line))
    end(groups, told["stop_s"])
    if told["clean"]:
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            subprocess.run(told["clean"], stdin=subprocess.DEVNULL, timeout=120, check=False)
    shutil.rmtree(told["folder"], ignore_errors=True)


def end(groups: Iterable[int], stop_s: float) -> None:
    """End process groups: first asked, then made to."""
    left = [group for group in groups if _signal(group, signal.SIGTERM)]
    deadline = time.monotonic() + stop_s
    while left and time.monotonic() < deadline:
        time.sleep(POLL_S)
        left = [group for group in left if _signal(group, 0)]
    for group in left:
        _signal(group, signal.SIGKILL)


def _signal(group: int, number: int) -> bool:
    """Send a signal to a group; whether there is still something in it."""
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):
        return False
    return True


if __name__ == "__main__":
    main()
