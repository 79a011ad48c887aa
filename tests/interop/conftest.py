"""Real servers for the tests of this folder: which are asked for, and `traceprof ingest` as a process of its own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import servers

from traceprof.trace import Trace

ALL = (*servers.NAMES, *servers.TOOLS)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--engines", default=" ".join(ALL), help="the servers and tools to test with, of: %(default)s"
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the tests of servers that were not asked for; pytest counts them as deselected."""
    asked = set(config.getoption("--engines").split())
    if unknown := asked - set(ALL):
        raise pytest.UsageError(f"--engines: {' '.join(sorted(unknown))}; known are {' '.join(ALL)}")
    ours = [item for item in items if Path(item.path).parent == servers.HERE]
    left_out = [item for item in ours if _needs(item) not in asked]
    items[:] = [item for item in items if item not in left_out]
    config.hook.pytest_deselected(items=left_out)


def _needs(item: pytest.Item) -> str:
    """The server or tool that a test is about: the one in its file's name; of test_exports.py the one in its parameter `tool`."""
    named = Path(item.path).stem.removeprefix("test_")
    parameters = (
        item.callspec.params if isinstance(item, pytest.Function) and hasattr(item, "callspec") else {}
    )
    return str(parameters.get("tool", named))


class Ingested(NamedTuple):
    """A trace that the command wrote: its manifest, and its rows with what content and tokens say of each."""

    manifest: dict[str, Any]
    rows: list[dict[str, Any]]

    def format(self) -> str:
        """The one format that was found."""
        (found,) = self.manifest["formats"]
        return str(found)


@pytest.fixture
def ingest(tmp_path: Path) -> Callable[..., Ingested]:
    """ingest(LOG, ..., options): what `traceprof ingest` makes of logs; the rows come in order of arrival."""
    made = 0

    def run(*words: object) -> Ingested:
        nonlocal made
        made += 1
        out = tmp_path / f"trace{made}"
        done = subprocess.run(
            [sys.executable, "-m", "traceprof.cli.main", "ingest", *map(str, words), "-o", str(out), "--quiet"],
            capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        trace = Trace(out)
        rows = trace.scan("requests").collect().to_dicts()
        for kind in ("content", "tokens"):
            frame = trace.scan(kind)
            if trace.parts(kind):
                frame = frame.sort("row") if kind == "content" else frame
                for row, more in zip(rows, frame.collect().to_dicts(), strict=True):
                    row.update({k: v for k, v in more.items() if k not in row})
        return Ingested(trace.manifest, rows)

    return run
