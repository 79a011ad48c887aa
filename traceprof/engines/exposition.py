"""Prometheus's text exposition: what a server counts, as samples, and as totals by meaning."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from traceprof.engines.base import Series

_NAME = re.compile(r"[ \t]*([a-zA-Z_:][a-zA-Z0-9_:]*)[ \t]*")
_LABEL = re.compile(r'[ \t]*([a-zA-Z_][a-zA-Z0-9_]*)[ \t]*=[ \t]*"((?:[^"\\]|\\.)*)"[ \t]*(,?)')
_COUNTER = re.compile(r"# TYPE ([a-zA-Z_:][a-zA-Z0-9_:]*) counter\s*$")
_CLOSE = re.compile(r"[ \t]*\}")
_VALUE = re.compile(r"[ \t]*([+-]?(?:[0-9.]+(?:[eE][+-]?[0-9]+)?|inf|infinity|nan))(?=\s|$)", re.IGNORECASE)
_ESCAPE = re.compile(r"\\(.)")


class Sample(NamedTuple):
    """One line of an exposition."""

    name: str
    labels: tuple[tuple[str, str], ...]  # sorted
    value: float

    @property
    def key(self) -> str:
        """Its labels as written.

        >>> Sample("a", (("x", "1"), ("y", 'say "hi"')), 2.0).key
        'x="1",y="say \\\\"hi\\\\""'
        """
        return ",".join(f'{name}="{_escape(value)}"' for name, value in self.labels)


def parse(text: str) -> list[Sample]:
    """All samples in their order, and a 0 for every counter that is announced and has none: it has counted nothing yet.

    >>> parse('# TYPE a counter\\na_total{b="c"} 3\\n# TYPE d_total counter\\n')
    [Sample(name='a_total', labels=(('b', 'c'),), value=3.0), Sample(name='d_total', labels=(), value=0.0)]
    """
    found: list[Sample] = []
    announced: list[str] = []
    for line in text.split("\n"):
        sample = _sample(line)
        if sample is not None:
            found.append(sample)
        elif counter := _COUNTER.match(line):
            announced.append(counter[1])
    there = {sample.name.removesuffix("_total") for sample in found}
    silent = [name for name in announced if name.removesuffix("_total") not in there]
    return found + [Sample(name, (), 0.0) for name in silent]


def labels_of(key: str) -> tuple[tuple[str, str], ...]:
    """The labels that `Sample.key` was written from.

    >>> labels_of('x="1",y="a,b"')
    (('x', '1'), ('y', 'a,b'))
    """
    return tuple((name, _unescape(value)) for name, value, _ in _LABEL.findall(key))


def _sample(line: str) -> Sample | None:
    head = _NAME.match(line)
    if head is None:
        return None
    at = head.end()
    labels: list[tuple[str, str]] = []
    if line[at : at + 1] == "{":
        at += 1
        while label := _LABEL.match(line, at):
            labels.append((label[1], _unescape(label[2])))
            at = label.end()
        close = _CLOSE.match(line, at)
        if close is None:
            return None
        at = close.end()
    value = _VALUE.match(line, at)
    if value is None:
        return None
    try:
        return Sample(head[1], tuple(sorted(labels)), float(value[1]))
    except ValueError:  # 1.2.3
        return None


def _unescape(value: str) -> str:
    return _ESCAPE.sub(lambda m: "\n" if m[1] == "n" else m[1], value)


def _escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


# ---- totals


def has(series: Series, samples: Iterable[Sample]) -> bool:
    """Whether any sample is of a series."""
    return any(matches(series, sample) for sample in samples)


def matches(series: Series, sample: Sample) -> bool:
    """Whether a sample is of a series: its name, and a value that counts of every label that is named."""
    if sample.name != series.name:
        return False
    labels = dict(sample.labels)
    return all(labels.get(name) in values for name, values in series.labels.items())


def total(series: Series, samples: Iterable[Sample]) -> float:
    """A series summed over the labels that it does not name; 0 where it is not there."""
    return sum(s.value for s in samples if matches(series, s))


def mean(series: Series, samples: Iterable[Sample]) -> float:
    """A series averaged over the labels that it does not name; 0 where it is not there.

    >>> mean(Series("usage"), [Sample("usage", (("engine", "0"),), 0.5), Sample("usage", (("engine", "1"),), 0.7)])
    0.6
    """
    values = [s.value for s in samples if matches(series, s)]
    return sum(values) / len(values) if values else 0.0


def present(series: Mapping[str, Sequence[Series]], samples: Sequence[Sample]) -> dict[str, Series]:
    """By meaning, the first of its series that the samples have."""
    found = {}
    for meaning, choices in series.items():
        here = next((one for one in choices if has(one, samples)), None)
        if here is not None:
            found[meaning] = here
    return found


def factor(name: str, samples: Iterable[Sample]) -> list[float]:
    """The numbers of `NAME`, or of the label in `NAME@LABEL`, one a sample; labels that hold no number are left out."""
    name, _, label = name.partition("@")
    found = []
    for sample in samples:
        if sample.name != name:
            continue
        told = dict(sample.labels).get(label) if label else sample.value
        with contextlib.suppress(TypeError, ValueError):
            found.append(float(told))  # type: ignore[arg-type]
    return found
