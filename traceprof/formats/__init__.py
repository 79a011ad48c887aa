"""One file per log format; the file name is the `--format` name. Detection is by content, over a sample."""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections import Counter
from collections.abc import Iterable
from types import ModuleType
from typing import Any

from traceprof.errors import UsageError

_SHARED = ("base", "held", "linetimes", "maps", "pairs")  # modules that are no format
# shapes that other logs may have too: asked in this order, when no other format claims a record
_GENERIC = (
    "gemini",
    "converse",
    "ollama",
    "tgi",
    "openai_responses",
    "anthropic",
    "conversation",
    "openai",
    "prompt_dataset",
)
NAMES = tuple(m.name for m in pkgutil.iter_modules(__path__) if m.name not in _SHARED)


@functools.cache  # it is asked for every record of every sample
def load(name: str) -> ModuleType:
    """The module of a format; UsageError when there is none of that name."""
    key = name.replace("-", "_")
    if key not in NAMES:
        import difflib

        near = difflib.get_close_matches(key, NAMES, 3)
        meant = " or ".join(n.replace("_", "-") for n in near)
        raise UsageError(
            f"no format is called {name!r}",
            remedy=f"did you mean {meant}?" if near else "see: traceprof formats",
        )
    return importlib.import_module(f"traceprof.formats.{key}")


def label(module: ModuleType) -> str:
    """The `--format` name of a format's module: `openai-batch` for openai_batch."""
    return module.__name__.rpartition(".")[2].replace("_", "-")


def claims(record: Any) -> list[str]:
    """The formats that a record may be of: those with distinguishing keys, else the first of the generic shapes.

    A record is an object, or a line of text, of which only formats that read lines are asked.
    """
    if isinstance(record, str):
        return [name for name in NAMES if reads_lines(module := load(name)) and module.detect(record)]
    if not isinstance(record, dict):
        return []
    found = [name for name in NAMES if name not in _GENERIC and load(name).detect(record)]
    return found or [name for name in _GENERIC if load(name).detect(record)][:1]


def generic(names: Iterable[str]) -> bool:
    """Whether nothing but shapes that other logs may have too is among the formats."""
    return set(names) <= set(_GENERIC)


def of_file(name: str) -> str | None:
    """The format that writes files of such a name, whatever its records look like."""
    patterns = ((key, getattr(load(key), "file_name", None)) for key in NAMES)
    return next((key for key, pattern in patterns if pattern is not None and pattern.search(name)), None)


def reads_lines(module: ModuleType) -> bool:
    """Whether a format's records are lines of text."""
    return bool(getattr(module, "lines", False))


def detect(sample: Iterable[Any]) -> tuple[list[str], Counter[str]]:
    """The formats that most records of a sample may be of, and how many are of each.

    None is known when there is none, and several when nothing in the sample tells them apart.
    """
    votes: Counter[str] = Counter()
    for record in sample:
        votes.update(claims(record))
    most = max(votes.values(), default=0)
    found = [name for name, n in votes.items() if n == most]
    # bodies of several providers in one log: each is read as what it is
    return found[:1] if generic(found) else found, votes
