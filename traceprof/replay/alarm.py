"""Wakes an event loop at an absolute time of the monotonic clock, and asks the kernel to let it run then.

On Linux a timerfd, which is as exact as the kernel's timers; elsewhere the loop's own timers, set a little early, and turns of the
loop until the time has come (uvloop's are whole milliseconds).
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import platform
import sys
import time
from collections.abc import Callable

_TFD_FLAGS = 0o4000 | 0o2000000  # TFD_NONBLOCK | TFD_CLOEXEC
_TFD_TIMER_ABSTIME = 1
_EARLY_NS = 1_500_000


class _TimeSpec(ctypes.Structure):
    _fields_ = (("tv_sec", ctypes.c_long), ("tv_nsec", ctypes.c_long))


class _TimerSpec(ctypes.Structure):
    _fields_ = (("interval", _TimeSpec), ("value", _TimeSpec))


class TimerFd:
    """Calls `ring` at or after the time that was set last."""

    def __init__(self, loop: asyncio.AbstractEventLoop, ring: Callable[[], None]) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._fd = self._libc.timerfd_create(time.CLOCK_MONOTONIC, _TFD_FLAGS)
        if self._fd < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create")
        self._spec = _TimerSpec()
        self._at = ctypes.byref(self._spec)
        self._loop, self._ring = loop, ring
        loop.add_reader(self._fd, self._rang)

    def set(self, at_ns: int) -> None:
        """Ring at this time; replaces the one before."""
        self._spec.value.tv_sec, self._spec.value.tv_nsec = divmod(max(at_ns, 1), 1_000_000_000)
        self._libc.timerfd_settime(self._fd, _TFD_TIMER_ABSTIME, self._at, None)

    def _rang(self) -> None:
        try:
            os.read(self._fd, 8)
        except BlockingIOError:  # set anew since the kernel said so
            return
        self._ring()

    def close(self) -> None:
        """Rings no more."""
        self._loop.remove_reader(self._fd)
        os.close(self._fd)


class LoopTimer:
    """The same with the timers of the loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, ring: Callable[[], None]) -> None:
        self._loop, self._ring = loop, ring
        self._handle: asyncio.Handle | None = None
        self._at = 0

    def set(self, at_ns: int) -> None:
        """Ring at this time; replaces the one before."""
        if self._handle is not None:
            self._handle.cancel()
        self._at = at_ns
        left = at_ns - time.monotonic_ns() - _EARLY_NS
        self._handle = (
            self._loop.call_later(left / 1e9, self._turn) if left > 0 else self._loop.call_soon(self._turn)
        )

    def _turn(self) -> None:
        if time.monotonic_ns() < self._at:
            self._handle = self._loop.call_soon(self._turn)
        else:
            self._handle = None
            self._ring()

    def close(self) -> None:
        """Rings no more."""
        if self._handle is not None:
            self._handle.cancel()


def alarm(loop: asyncio.AbstractEventLoop, ring: Callable[[], None]) -> TimerFd | LoopTimer:
    """The better of the two that this system has."""
    if sys.platform.startswith("linux"):
        with contextlib.suppress(OSError, AttributeError):
            return TimerFd(loop, ring)
    return LoopTimer(loop, ring)


_SCHED_SETATTR = {"x86_64": 314, "aarch64": 274}
_SLICE_NS = 100_000


class _SchedAttr(ctypes.Structure):
    _fields_ = (
        ("size", ctypes.c_uint32),
        ("policy", ctypes.c_uint32),
        ("flags", ctypes.c_uint64),
        ("nice", ctypes.c_int32),
        ("priority", ctypes.c_uint32),
        ("runtime", ctypes.c_uint64),
        ("deadline", ctypes.c_uint64),
        ("period", ctypes.c_uint64),
    )


def short_slices() -> None:
    """Tell Linux (6.12 and later) that this process works in short bursts, so that it is let run as soon as it wakes.

    It gets no more time than others do, and needs no right. Without it a busy machine lets it wait for the end of another's
    slice, which is 3 ms and more.
    """
    number = _SCHED_SETATTR.get(platform.machine())
    if sys.platform.startswith("linux") and number is not None:
        asked = _SchedAttr(
            size=ctypes.sizeof(_SchedAttr), nice=os.getpriority(os.PRIO_PROCESS, 0), runtime=_SLICE_NS
        )
        ctypes.CDLL(None).syscall(number, 0, ctypes.byref(asked), 0)  # where it is refused, all is as before
