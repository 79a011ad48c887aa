"""Errors that a user can act on.

* TraceprofError          the job failed: one line that names file, line and remedy; exit code 1
  - UsageError            the command was asked for something impossible; exit code 2
"""

from __future__ import annotations

import os


class TraceprofError(Exception):
    """What went wrong, where, and what to do about it, in one line.

    >>> str(TraceprofError("not JSON", path="a.jsonl", line=3, remedy="run jq on it"))
    'a.jsonl:3: not JSON; run jq on it'
    """

    exit_code = 1

    def __init__(
        self,
        message: str,
        *,
        path: str | os.PathLike[str] | None = None,
        line: int | None = None,
        remedy: str | None = None,
    ) -> None:
        self.message = message
        self.path = None if path is None else os.fspath(path)
        self.line = line
        self.remedy = remedy
        super().__init__(message)

    def __str__(self) -> str:
        where = "" if self.path is None else f"{self.path}:{self.line}: " if self.line else f"{self.path}: "
        return " ".join(f"{where}{self.message}{'; ' + self.remedy if self.remedy else ''}".split())


class UsageError(TraceprofError):
    """The command line asks for something that cannot be done."""

    exit_code = 2
