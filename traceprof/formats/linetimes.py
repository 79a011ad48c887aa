"""Times at the head of a log's lines, which often lack the zone, some the year too; a collector's stamp before them tells both."""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime
from typing import NamedTuple

from traceprof.formats.base import Request, stamped

_TIME = re.compile(r"(?:(\d{4})-)?(\d\d)-(\d\d)[ T](\d\d):(\d\d):(\d\d)(?:[.,](\d{1,6}))?")
_SECOND = 1_000_000
_DAY = 86_400 * _SECOND


class At(NamedTuple):
    """When a line was written: us since 1970, what of it was assumed, and its resolution."""

    us: int | None
    assumed: tuple[str, ...] = ()
    resolution_us: int | None = None  # None: finer than a ms, or not known


class LineClock:
    """The times of one log's lines, each near the one before: so the year of lines without one turns at New Year.

    The first line's year, where no collector's stamp tells it, is that of its last occurrence before `now`.
    """

    def __init__(self, now: float | None = None) -> None:
        self._now = int((time.time() if now is None else now) * _SECOND)
        self._last: int | None = None
        self._cache: tuple[str, int] = ("", 0)

    def read(self, head: str) -> At:
        """The time in the head of a line.

        >>> LineClock().read("2026-08-21T10:00:00.250Z INFO 08-21 12:00:00 [a.py:1] ").us
        1787306400250000
        """
        stamp, rest = stamped(head)
        found = _TIME.search(rest)
        us = None if found is None else self._seconds(found, stamp)
        if found is None or us is None:
            return At(stamp)
        # the same moment, in a zone that is some quarters of an hour away: the stamp is the better time
        if (
            stamp is not None
            and abs(stamp - us) < _DAY
            and (stamp - us + 2 * _SECOND) % (900 * _SECOND) < 30 * _SECOND
        ):
            return At(stamp)
        fraction = found[7]
        resolution = _SECOND if fraction is None else 1_000 if len(fraction) < 4 else None
        assumed = ("tz_assumed",) if found[1] or stamp is not None else ("year_assumed", "tz_assumed")
        return At(us + int((fraction or "0").ljust(6, "0")), assumed, resolution)

    def arrive(self, q: Request, head: str) -> None:
        """Give a request the arrival that the head of its first line tells."""
        at = self.read(head)
        if at.us is not None:
            q.clock, q.arrival_us, q.arrival_quality = "absolute", at.us, "log_time"
            q.arrival_resolution_us = at.resolution_us
            q.quality.extend(at.assumed)

    def _seconds(self, found: re.Match[str], stamp: int | None) -> int | None:
        """us since 1970 of a time to the second, as if in UTC."""
        key = found[0][:19] if found[1] else found[0][:14]
        if stamp is None and key == self._cache[0]:
            return self._cache[1]
        year, *parts = found.groups()[:6]
        if year is not None:
            us = _us(int(year), *map(int, parts))
        else:
            near = stamp if stamp is not None else self._last
            us = _nearest([int(p) for p in parts], near, self._now)
        if us is not None:
            self._last, self._cache = us, (key, us)
        return us


def _nearest(parts: list[int], near: int | None, now: int) -> int | None:
    """The time of month, day, hour, minute, second in the year that is nearest to a time; without one, the last before now."""
    year = datetime.fromtimestamp((now if near is None else near) / _SECOND, UTC).year
    times = [us for y in (year - 1, year, year + 1) if (us := _us(y, *parts)) is not None]
    if near is not None:
        return min(times, key=lambda us: abs(us - near), default=None)
    return max((us for us in times if us <= now + _DAY), default=None)


def _us(year: int, *parts: int) -> int | None:
    try:
        us = int(datetime(year, *parts, tzinfo=UTC).timestamp()) * _SECOND  # type: ignore[arg-type,misc]
    except (ValueError, OverflowError):
        return None
    return us if us >= 0 else None
