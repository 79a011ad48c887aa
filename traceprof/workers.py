"""Worker processes, for what holds the interpreter lock: parsing and rendering."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import Any

import pyarrow as pa

from traceprof.errors import TraceprofError

Progress = Callable[[str, float, float], None]
"""Called with (what is being done, amount done, amount in all)."""


class Workers:
    """`jobs` worker processes, started with the first task; with one, work is done in-process."""

    def __init__(self, jobs: int) -> None:
        self.jobs = jobs
        self._executor: ProcessPoolExecutor | None = None

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, kind: Any, *rest: Any) -> None:
        if self._executor is None:
            return
        if kind is not None:  # end them now: nobody may write to a folder that is about to be removed
            for process in list((getattr(self._executor, "_processes", None) or {}).values()):
                process.kill()
        self._executor.shutdown(cancel_futures=True)

    def imap(self, function: Callable[..., Any], tasks: Iterable[tuple[Any, ...]]) -> Iterator[Any]:
        """function(*task) for each task, in order; a bounded number of tasks is under way."""
        if self.jobs == 1:
            for task in tasks:
                yield function(*task)
            return
        if self._executor is None:
            self._executor = ProcessPoolExecutor(
                self.jobs,
                mp_context=get_context("spawn"),
                initializer=_die_with_parent,
                initargs=(os.getpid(),),
            )
        waiting: list[Future[Any]] = []
        try:
            for task in tasks:
                with _interrupts_held():
                    waiting.append(self._executor.submit(function, *task))
                while len(waiting) > self.jobs + 1:
                    yield waiting.pop(0).result()
                while sum(not f.done() for f in waiting) > self.jobs + 1:
                    wait(waiting, return_when=FIRST_COMPLETED)
            for future in waiting:
                yield future.result()
        except BrokenProcessPool:
            raise TraceprofError(
                "a worker process ended before its work was done: killed from outside, or out of memory",
                remedy="a smaller --jobs needs less",
            ) from None


@contextlib.contextmanager
def _interrupts_held() -> Iterator[None]:
    """Ctrl-C waits while a worker starts; the worker inherits the mask and never sees it: the command ends it."""
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "pthread_sigmask"):
        yield
        return
    came: list[int] = []
    handler = signal.signal(signal.SIGINT, lambda number, frame: came.append(number))
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        signal.signal(signal.SIGINT, handler or signal.SIG_DFL)
    if came:
        raise KeyboardInterrupt


def _die_with_parent(parent: int) -> None:
    """A worker ends when the command is killed, also by SIGKILL (Linux)."""
    import ctypes
    import sys

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    keep_memory()
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)


def give_back_memory() -> None:
    """Return what is free to the system, between steps."""
    import ctypes

    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)


def keep_memory() -> None:
    """Let this process keep what it freed: getting pages from the system again for every batch is a tenth of the time.

    The same holds for looking for reference cycles, of which parsed JSON has none, each time a few hundred objects are new.
    """
    import ctypes
    import gc

    gc.freeze()
    gc.set_threshold(100_000)
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):  # glibc: no maps of their own for large blocks, no giving back below 1 GB
        libc.mallopt(-4, 0)
        libc.mallopt(-1, 1 << 30)
        pa.set_memory_pool(pa.system_memory_pool())
