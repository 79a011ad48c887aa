"""When each request of a workload is to be sent.

    partly-open  a session's first turn at its scheduled time; a later one at that, too, or when its real predecessor has ended
                 and the recorded time to think is over, whichever is later: sessions come as they came, users wait for answers
    open         at the scheduled time, whatever became of the turn before
    closed       `concurrency` places; one that falls free goes to the first request, in the order of the workload, whose turn
                 before has ended and whose time to think is over. Scheduled times do not matter

All times are microseconds since the run's start. The time that `Pacer` gives with a request is the one that its latencies count
from: it is known before the request is sent, and does not move when the client is late.
"""

from __future__ import annotations

import heapq
from typing import NamedTuple

MODES = ("partly-open", "open", "closed")


class Planned(NamedTuple):
    """A request, as far as its time goes."""

    index: int  # type: ignore[assignment]  # row of the workload; hides tuple.index
    scheduled_us: int
    think_us: int  # after the end of the turn before; 0 where it is not known
    parent: int | None  # the turn before
    children: int = 0  # requests that have this one as their parent
    parent_ended_us: int | None = None  # where the parent ended before this run went on


class Turn(NamedTuple):
    """A request whose time has come."""

    index: int  # type: ignore[assignment]
    intended_us: int


class Pacer:
    """Gets requests in the order of the workload, tells which are due, and is told when they ended.

    >>> pacer = Pacer("partly-open")
    >>> pacer.add(Planned(0, 1000, 0, None, children=1))
    >>> pacer.add(Planned(1, 5000, 3000, 0))
    >>> pacer.next_us(), pacer.pop(1200), pacer.next_us()
    (1000, Turn(index=0, intended_us=1000), None)
    >>> pacer.ended(0, 4000)
    >>> pacer.next_us()                                 # 4000 + 3000, which is later than 5000
    7000
    """

    def __init__(self, mode: str, concurrency: int = 0, from_us: int = 0) -> None:
        assert mode in MODES and (mode != "closed" or concurrency > 0), (mode, concurrency)
        self._closed, self._waits = mode == "closed", mode != "open"
        self._from_us = from_us  # nothing is due earlier: where a run that was cut off goes on
        self._later: list[tuple[int, int]] = []  # heap of (time, index): when a request may be sent
        self._ready: list[tuple[int, int]] = []  # closed: heap of (index, time) of those that may be sent now
        self._places: list[int] = (
            [from_us] * concurrency if self._closed else []
        )  # heap: since when it is free
        self._waiting: dict[int, list[Planned]] = {}  # by parent that has not ended
        self._ended: dict[int, tuple[int, int]] = {}  # end, and children still to be added
        self._children: dict[int, int] = {}  # of requests added and not yet ended

    def add(self, planned: Planned) -> None:
        """One more request; its parent must have been added before, or `parent_ended_us` be given."""
        self._children[planned.index] = planned.children
        if planned.parent is None or not self._waits:
            self._may_go(planned, None)
        elif planned.parent_ended_us is not None:
            self._may_go(planned, planned.parent_ended_us)
        elif planned.parent in self._ended:
            end, left = self._ended.pop(planned.parent)
            if left > 1:
                self._ended[planned.parent] = (end, left - 1)
            self._may_go(planned, end)
        else:
            self._waiting.setdefault(planned.parent, []).append(planned)

    def _may_go(self, planned: Planned, parent_ended_us: int | None) -> None:
        time = self._from_us if self._closed else max(planned.scheduled_us, self._from_us)
        if parent_ended_us is not None:
            time = max(time, parent_ended_us + planned.think_us)
        heapq.heappush(self._later, (time, planned.index))

    def ended(self, index: int, at_us: int) -> None:
        """Its last attempt ended: its place is free and its children may follow."""
        children = self._children.pop(index)
        if self._closed:
            heapq.heappush(self._places, at_us)
        if not self._waits:
            return
        waiting = self._waiting.pop(index, ())
        for planned in waiting:
            self._may_go(planned, at_us)
        if children > len(waiting):
            self._ended[index] = (at_us, children - len(waiting))

    def next_us(self) -> int | None:
        """When the next request is due; None where that hangs on the end of another, or on requests not yet added."""
        if not self._closed:
            return self._later[0][0] if self._later else None
        if not self._places:
            return None
        if self._ready:
            return self._places[0]
        return max(self._later[0][0], self._places[0]) if self._later else None

    def pop(self, now_us: int) -> Turn | None:
        """The next request that is due, with the time at which it was to be sent."""
        if not self._closed:
            if self._later and self._later[0][0] <= now_us:
                time, index = heapq.heappop(self._later)
                return Turn(index, time)
            return None
        while self._later and self._later[0][0] <= now_us:
            time, index = heapq.heappop(self._later)
            heapq.heappush(self._ready, (index, time))
        if not self._ready or not self._places or self._places[0] > now_us:
            return None
        index, time = heapq.heappop(self._ready)
        return Turn(index, max(time, heapq.heappop(self._places)))

    @property
    def unsent(self) -> int:
        """Requests added that are not yet due or wait for another."""
        return len(self._later) + len(self._ready) + sum(map(len, self._waiting.values()))
