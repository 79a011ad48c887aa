"""One file per log format; the file name is the `--format` name. Detection is by content, over a sample."""

from __future__ import annotations

import importlib
from collections import Counter
from collections.abc import Iterable
from types import ModuleType
from typing import Any

from traceprof.errors import UsageError

# in the order in which they are asked: those with distinguishing keys first, the generic shapes last
NAMES = (
    "litellm",
    "openai_batch",
    "weka",
    "qwen_bailian",
    "mooncake",
    "azure_llm",
    "burstgpt",
    "sharegpt",
    "lmcache",
    "openai_responses",
    "anthropic",
    "conversation",
    "openai",
)


def load(name: str) -> ModuleType:
    """The module of a format; UsageError when there is none of that name."""
    key = name.replace("-", "_")
    if key not in NAMES:
        known = ", ".join(n.replace("_", "-") for n in sorted(NAMES))
        raise UsageError(f"no format is called {name!r}", remedy=f"one of: {known}")
    return importlib.import_module(f"traceprof.formats.{key}")


def label(module: ModuleType) -> str:
    """The `--format` name of a format's module: `openai-batch` for openai_batch."""
    return module.__name__.rpartition(".")[2].replace("_", "-")


def detect(sample: Iterable[Any]) -> tuple[str | None, Counter[str]]:
    """The format that most records of a sample are of (None when none is known), and how many are of each."""
    votes: Counter[str] = Counter()
    for record in sample:
        if isinstance(record, dict):
            for name in NAMES:
                if load(name).detect(record):
                    votes[name] += 1
                    break
    return (votes.most_common(1)[0][0] if votes else None), votes
