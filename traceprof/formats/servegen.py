"""ServeGen's client files: no requests, but a model of them, from which requests are sampled, only when asked by --format servegen.

`chunk-N-trace.csv` (no header) has a window a line: start (s), rate (1/s), variation of the gaps, the law of the gaps and its two
parameters. `chunk-N-dataset.json` beside it has, for windows of its own, a histogram per count as the text of a Python dict. Each
window is sampled as ServeGen's generator does at its own rate: gaps by their law, scaled to fill the window; one random number per
request places it in all histograms alike. The seed is `SEED`, the client and the window, so the same files always give the same
requests, and each says `sampled_from_model`. Without its dataset file a client has arrivals and no lengths.
Source: alibaba/ServeGen f891d11, servegen/{clientpool,construct}.py.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import re
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from traceprof import bodies
from traceprof.bodies import literals
from traceprof.formats.base import MAX_I32, BadRecord, Has, Request, Result, Skip, attempt

if TYPE_CHECKING:
    from numpy.typing import NDArray

has = Has.ARRIVALS | Has.LENGTHS
summary = "ServeGen client files, a model of requests that are sampled when asked by `--format servegen` (CSV, JSON)"
lines = True
one_process = True
only_when_asked = "a model of requests, not requests: --format servegen samples them, with a fixed seed"

SEED = 0
MAX_SAMPLED = 250_000  # requests of one window

_NUMBER = r"(\d[\d.]{0,30}(?:[eE][+-]?\d{1,3})?)"
_WINDOW = re.compile(rf"(\d{{1,10}}),{_NUMBER},{_NUMBER},(Gamma|Weibull|),{_NUMBER},{_NUMBER}\s*")
_CLIENT = re.compile(r"(.*chunk-\d+)-(?:trace|dataset)\b.*", re.DOTALL)
_FIELDS = ("output_tokens", "input_tokens", "text_tokens")


def detect(record: Any) -> bool:
    """A line of a client's windows, or its histograms by the start of a window."""
    if isinstance(record, str):
        return _WINDOW.fullmatch(record) is not None
    first = next(iter(record.items()), None) if isinstance(record, dict) else None
    if first is None or not str(first[0]).isdecimal() or not isinstance(first[1], dict):
        return False
    return any(str(first[1].get(field)).startswith("{") for field in _FIELDS)


def read_all(records: Iterable[Any]) -> Iterator[tuple[Any, Result]]:
    """All files; a client's windows wait for its histograms, which lie in memory until its windows have come."""
    known: dict[str, dict[int, _Histograms]] = {}
    waiting: dict[str, list[Any]] = {}
    for file, rows in itertools.groupby(records, key=lambda record: record.file):
        client = found[1] if (found := _CLIENT.fullmatch(file)) else file
        windows = []
        for record in rows:
            value = bodies.decoded(record.value)
            if isinstance(value, str):
                windows.append(record)
                continue
            histograms = attempt(_dataset, value)
            if not isinstance(histograms, BadRecord):
                known[client] = histograms
            yield record, histograms if isinstance(histograms, BadRecord) else Skip("histograms")
        windows = waiting.pop(client, []) + windows
        if client in known and windows:
            yield from _client(client, windows, known.pop(client))
        elif windows:
            waiting[client] = windows
    for client, windows in waiting.items():
        yield from _client(client, windows, {})


class _Histograms(NamedTuple):
    """For each count its values, and how likely a value is at most that."""

    of: dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]]

    def at(self, field: str, chance: NDArray[np.float64]) -> NDArray[np.float64] | None:
        """The values of a count where its distribution reaches each `chance`."""
        if field not in self.of:
            return None
        values, reached = self.of[field]
        return values[np.minimum(np.searchsorted(reached, chance), len(values) - 1)]


def _dataset(value: Any) -> dict[int, _Histograms]:
    if not isinstance(value, dict):
        raise BadRecord("wrong_type", "the histograms are not an object")
    out = {}
    for start, fields in value.items():
        if not str(start).isdecimal() or len(str(start)) > 10 or not isinstance(fields, dict):
            raise BadRecord("wrong_type", "a window is not a start in seconds with an object")
        read = {str(name): _histogram(shown) for name, shown in fields.items()}
        if all(
            found is not None for found in read.values()
        ):  # ServeGen passes over windows with an empty one
            out[int(start)] = _Histograms({name: found for name, found in read.items() if found is not None})
    return dict(sorted(out.items()))


def _histogram(shown: Any) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    if not isinstance(shown, str):
        raise BadRecord("wrong_type", "a histogram is not a text")
    try:
        found, end = literals.value(shown)
        values = np.array([float(key) for key in found], np.float64)
        weights = np.array(list(found.values()), np.float64)
    except (ValueError, TypeError, AttributeError):
        raise BadRecord("wrong_type", "a histogram is not a dict of numbers") from None
    if shown[end:].strip() or not isinstance(found, dict):
        raise BadRecord("wrong_type", "a histogram is not a dict of numbers")
    if not len(values):
        return None
    total = weights.sum()
    if not (np.isfinite(values).all() and 0 < total < math.inf and values.min() >= 0 and weights.min() >= 0):
        raise BadRecord("wrong_type", "a histogram of values or weights that are no counts")
    return values, np.cumsum(weights / total)


def _client(
    client: str, windows: list[Any], histograms: dict[int, _Histograms]
) -> Iterator[tuple[Any, Result]]:
    """The requests of one client, window by window."""
    told = [(record, _WINDOW.fullmatch(record.value)) for record in windows]
    starts = sorted({int(found[1]) for _, found in told if found})
    lengths = {a: b - a for a, b in itertools.pairwise(starts)}
    for record, found in told:
        if found is None:
            yield record, Skip("other_line")
            continue
        start = int(found[1])
        known = [at for at in histograms if at <= start]
        last = lengths.get(starts[-2], 600) if len(starts) > 1 else 600
        yield (
            record,
            attempt(
                _window,
                client,
                start,
                lengths.get(start, last),
                found,
                histograms[known[-1]] if known else None,
            ),
        )


def _window(
    client: str, start: int, length: int, told: re.Match[str], counts: _Histograms | None
) -> Skip | list[Request]:
    try:
        rate, shape, scale = float(told[2]), float(told[5]), float(told[6])
    except ValueError:
        return Skip("other_line")
    if not told[4] or rate <= 0:
        return Skip("idle_window")
    expected = math.ceil(rate * length) if rate < 1e9 else MAX_I32
    if expected > MAX_SAMPLED:
        raise BadRecord(
            "unsupported",
            f"a window of {expected:,} requests; windows of more than {MAX_SAMPLED:,} are not sampled",
        )
    if not (0 < shape < 1e6 and 0 < scale < 1e12):
        raise BadRecord("wrong_type", f"{told[4]} with parameters {shape:g} and {scale:g}")
    name = f"{SEED}\0{client}\0{start}".encode("utf-8", "replace")
    dice = np.random.RandomState(int.from_bytes(hashlib.blake2b(name, digest_size=4).digest(), "little"))
    gaps = dice.gamma(shape, scale, expected) if told[4] == "Gamma" else dice.weibull(shape, expected) * scale
    if not gaps.sum() > 0:
        return Skip("idle_window")
    at = start + np.cumsum(gaps * (length / gaps.sum()))
    at = at[at < start + length]
    return _requests(client.rpartition("/")[2], at, counts, dice)


def _requests(
    client: str, at: NDArray[np.float64], counts: _Histograms | None, dice: np.random.RandomState
) -> list[Request]:
    chance = dice.random_sample(len(at))
    prompt = output = thought = images = None
    if counts is not None:
        prompt, images = _prompt(counts, chance, dice)
        output = counts.at("output_tokens", chance)
        ratio = counts.at("reason_ratio", chance)
        thought = None if output is None or ratio is None else np.floor(output * np.minimum(ratio, 1))
    return [
        Request(
            clock="relative",
            arrival_us=round(when * 1e6),
            arrival_quality="derived",
            content_level="lengths",
            content_state="absent",
            tenant_id=client,
            input_tokens=_count(prompt, i),
            output_tokens=_count(output, i),
            reasoning_tokens=_count(thought, i),
            tokens_source=None if prompt is None and output is None else "trace",
            media=[{"kind": "image", "count": n, "bytes": None, "hash": None}]
            if (n := _count(images, i))
            else None,
            quality=["sampled_from_model"],
        )
        for i, when in enumerate(at.tolist())
    ]


def _prompt(
    counts: _Histograms, chance: NDArray[np.float64], dice: np.random.RandomState
) -> tuple[NDArray[np.float64] | None, NDArray[np.float64] | None]:
    """Tokens of the prompt, those of its images, sounds and videos included, and how many images there are."""
    prompt = counts.at("input_tokens", chance)
    if prompt is None:
        prompt = counts.at("text_tokens", chance)
    images = None
    for kind in ("image", "audio", "video"):
        number = counts.at(f"{kind}_count", chance)
        if prompt is None or number is None:
            continue
        each = np.repeat(np.arange(len(chance)), np.minimum(number, 1000).astype(np.int64))
        size = counts.at(f"{kind}_tokens", dice.random_sample(len(each)))
        if size is not None:
            prompt = prompt + np.bincount(each, size, len(chance))
        images = number if kind == "image" else images
    return prompt, images


def _count(values: NDArray[np.float64] | None, i: int) -> int | None:
    return None if values is None else min(int(values[i]), MAX_I32)
