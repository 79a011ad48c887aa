"""Traces of lengths: `timestamp`, `input_length`, `output_length`, as GuideLLM and other replayers read them (JSONL, CSV, Parquet).

Nothing in such a file names the unit of `timestamp`. GuideLLM takes seconds, Mooncake's relatives milliseconds: a file in whose first
rows a time has a decimal point is read in seconds, any other in milliseconds, and each row says so; dates, and numbers that begin after
2001, are since 1970. `--format mapping` states a unit.
Source: vllm-project/guidellm 0fb0fbb, docs/guides/trace_replay.md; ai-dynamo/aiperf 0109a64, dataset/loader/models.py.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import Any

from traceprof.formats.base import (
    BadRecord,
    Has,
    Request,
    attempt,
    epoch_us,
    first_of,
    offset_us,
    parse_time,
)
from traceprof.formats.mooncake import length_row

has = Has.ARRIVALS | Has.LENGTHS
summary = "traces of timestamp, input_length and output_length, such as GuideLLM's (JSONL, CSV, Parquet)"

_TIMES = ("timestamp", "created_time")
_KEYS = {"input_length", "output_length", *_TIMES}
_LOOK = 1_000  # rows of a file that its unit is told by


def detect(record: dict[str, Any]) -> bool:
    """Both lengths, perhaps a time, and nothing else."""
    return {"input_length", "output_length"} <= record.keys() <= _KEYS


def read_all(records: Iterable[Any]) -> Iterator[tuple[Any, Request | BadRecord]]:
    """All rows in order, those of one file in one unit."""
    for _, rows in itertools.groupby(records, key=lambda record: record.file):
        first = list(itertools.islice(rows, _LOOK))
        unit = _unit([first_of(record.value, _TIMES) for record in first])
        for record in itertools.chain(first, rows):
            yield record, attempt(_request, record.value, unit)


def _unit(stamps: list[Any]) -> str:
    """s, ms, or absolute, when the first time is a date or a number of seconds that lies after 2001."""
    begin = next((stamp for stamp in stamps if stamp not in (None, "")), None)
    at = attempt(epoch_us, begin, "timestamp")
    if isinstance(at, int) and at >= 1e9 * 1e6:
        return "absolute"
    return "s" if any(isinstance(s, float) or (isinstance(s, str) and "." in s) for s in stamps) else "ms"


def _request(record: dict[str, Any], unit: str) -> Request:
    out = length_row(record, ("input_length",), ("output_length",))
    stamp = first_of(record, _TIMES)
    if stamp in (None, ""):
        return out
    out.arrival_quality = "measured"
    if unit == "absolute":
        out.arrival_us, naive = parse_time(stamp, "timestamp")
        out.clock = "absolute"
        out.quality += ["tz_assumed"] if naive else []
    elif unit == "s":
        out.clock, out.arrival_us = "relative", offset_us(stamp, "timestamp", 1e6)
        out.quality.append("relative_seconds_assumed")
    else:
        out.clock, out.arrival_us = "relative", offset_us(stamp, "timestamp", 1e3)
        out.arrival_resolution_us = 1_000
        out.quality.append("relative_milliseconds_assumed")
    return out
