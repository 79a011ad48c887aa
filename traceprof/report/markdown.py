"""The report as Markdown: the same text and tables as the page, for a pull request or a wiki."""

from __future__ import annotations

import re
from collections.abc import Iterator

from traceprof.report.document import document
from traceprof.report.parts import Cell, Chart, Table
from traceprof.report.words import Profile


def render_markdown(profile: Profile) -> str:
    """The whole report without its charts."""
    return "\n".join(_lines(profile)) + "\n"


def _lines(profile: Profile) -> Iterator[str]:
    told = document(profile)
    yield f"# {escape(told.title)}"
    if told.subtitle:
        yield f"\n{escape(told.subtitle)}"
    yield f"\n**{escape(told.answer[0])}**"
    for text in told.answer[1:]:
        yield f"\n{escape(text)}"
    for notice in told.notices:
        yield f"\n> {escape(notice)}"
    for section in told.sections:
        yield f"\n## {escape(section.title)}"
        for part in section.parts:
            if isinstance(part, Table):
                yield from _table(part)
            elif not isinstance(part, Chart):
                yield f"\n{escape(part)}"


def _table(table: Table) -> Iterator[str]:
    yield f"\n{escape(table.caption)}:\n"
    yield _row(escape(name) for name in table.head)
    numbers = [cell.kind == "number" for cell in table.rows[0]] if table.rows else [False] * len(table.head)
    yield _row("---:" if right else "---" for right in numbers)
    for row in table.rows:
        yield _row(_cell(cell) for cell in row)


def _row(cells: Iterator[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(cell: Cell) -> str:
    if cell.kind != "quote":
        return escape(cell.text)
    shown = cell.text.replace("`", "'").replace("|", "\\|")
    return f"`{shown}`"


def escape(text: str) -> str:
    """Text that Markdown shows as it is; `code` stays code.

    >>> print(escape("a_b <i> `--tokenizer A|B`"))
    a\\_b &lt;i> `--tokenizer A\\|B`
    """
    pieces = re.split(r"(`[^`]*`)", text)
    return "".join(
        piece.replace("|", "\\|")
        if i % 2
        else re.sub(r"([\\*_\[\]|~#`])", r"\\\1", piece).replace("&", "&amp;").replace("<", "&lt;")
        for i, piece in enumerate(pieces)
    )
