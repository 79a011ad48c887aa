"""What a section of the report is made of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from traceprof.report.words import clean, finite, number, percent


class Cell(NamedTuple):
    """One cell of a table."""

    text: str
    kind: str = "text"  # "number" stands right; "quote" is text from the log
    bar: float | None = None  # share of 0..1, drawn beside the number


class Table(NamedTuple):
    """A table; the first cell of each row is that row's header."""

    caption: str
    head: tuple[str, ...]
    rows: Sequence[tuple[Cell, ...]]


class Chart(NamedTuple):
    """A place for the chart of that key, with what it shows in words."""

    key: str
    title: str
    caption: str


class Section(NamedTuple):
    """A heading and what stands under it; plain strings are paragraphs, in which `x` is code."""

    id: str
    title: str
    parts: list[str | Table | Chart]


def num(text: str, bar: float | None = None) -> Cell:
    """A cell that holds a number."""
    return Cell(text, "number", None if bar is None else min(max(bar, 0.0), 1.0))


def quote(text: object, absent: str = "not kept") -> Cell:
    """A cell that holds text from the log."""
    shown = clean(text)
    return Cell(shown, "quote") if shown else Cell(absent)


def ratio(value: object) -> Cell:
    """A share as a percentage with a bar; any other number as it is."""
    real = finite(value)
    return num(percent(real), real) if real is not None and 0 <= real <= 1 else num(number(value))
