"""Engines' own cache code and servers, to hold our models against: which are asked for.

Each has an environment of its own under .engines/, as the servers of tests/interop do, whose helpers serve here, too.
TRACEPROF_DATA may name a folder of traces to compare on besides the generated ones.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "interop"), str(HERE.parent), str(HERE.parent.parent)]
NAMES = tuple(sorted(f.stem.removeprefix("test_") for f in HERE.glob("test_*.py")))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--engines", default=" ".join(NAMES), help="the engines to test with, of: %(default)s")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the tests of engines that were not asked for; pytest counts them as deselected."""
    asked = set(config.getoption("--engines").split())
    if unknown := asked - set(NAMES):
        raise pytest.UsageError(f"--engines: {' '.join(sorted(unknown))}; known are {' '.join(NAMES)}")
    left_out = [item for item in items if Path(item.path).stem.removeprefix("test_") not in asked]
    items[:] = [item for item in items if item not in left_out]
    config.hook.pytest_deselected(items=left_out)
