"""What a section of the report is made of."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from traceprof.report.words import clean, count, finite, number, percent

LONGEST_TABLE = 20  # rows of a list that has no natural end: models, tenants, prefixes


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


def more(total: int, what: str) -> Iterator[str]:
    """That a table stops at its longest, where it does."""
    if total > LONGEST_TABLE:
        yield f"The {LONGEST_TABLE} largest of {count(total)} {what} are shown."


def change(before: object, after: object) -> str:
    """A rate before and after, as one cell.

    >>> change(0.5, 0.75), change(None, 0.5)
    ('50.0 % → 75.0 %', '')
    """
    was, becomes = finite(before), finite(after)
    return "" if was is None or becomes is None else f"{percent(was)} → {percent(becomes)}"


def spoken(name: str) -> str:
    """A key as words."""
    return name.replace("_", " ")
