"""workload -> the input files of other tools: one file a tool, with what it cannot say and how to use it (docs/exports.md)."""

from __future__ import annotations

import contextlib
import importlib
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, NamedTuple, Protocol, cast

from traceprof.errors import TraceprofError, UsageError

if TYPE_CHECKING:
    from traceprof.workload.exports.prompts import Prompts
    from traceprof.workloads import Workload

EXPORTS = (
    "aiperf", "azure", "dynamo", "dynamo-agentic", "guidellm", "inference-perf", "mooncake", "openai", "sglang", "sglang-tokens",
    "vllm-custom", "vllm-timed-trace",
)  # fmt: skip
"""Names of the exports."""


class Export(Protocol):
    """What every module of an export has."""

    TOOL: str  # what reads the file, as people write it
    CHECKED: str  # version whose own reader ran over our files, or commit that was read; empty: none
    CARRIES: frozenset[str]  # of prompts.FACTS, those that the file can say
    BLOCK_SIZE: int | None  # tokens that a hash stands for, by default; None: it holds no hashes
    SUFFIX: str  # how the tool wants the file's name to end

    def lines(self, prompts: Prompts) -> Iterator[bytes]:
        """The file, line by line."""

    def command(self, path: str, told: Told) -> str:
        """How to send it: a command line, or the settings that the tool reads."""


class Told(NamedTuple):
    """What a command must know of the file."""

    model: str  # name that the engine knows
    requests: int
    rate: float  # requests a second, on average
    seconds: int  # from the first request to the last
    block_size: int  # tokens that a hash stands for
    chat: bool  # whether its prompts are messages


class Exported(NamedTuple):
    """What was written."""

    path: Path
    requests: int
    left_out: list[str]  # what the workload holds and the file does not
    command: str  # how to use it
    model: str | None  # whose name the command has; None: MODEL stands there


def find(name: str) -> Export:
    """The module of an export; UsageError when there is none of that name.

    >>> find("mooncake").BLOCK_SIZE
    512
    """
    if name not in EXPORTS:
        raise UsageError(f"no export is called {name!r}", remedy="one of " + ", ".join(EXPORTS))
    return cast(Export, importlib.import_module(f"traceprof.workload.exports.{name.replace('-', '_')}"))


def export(
    workload: Workload,
    name: str,
    path: str | os.PathLike[str],
    *,
    model: str | None = None,
    block_size: int | None = None,
) -> Exported:
    """Write a workload as the input file of another tool, whole or not at all; the same workload gives the same bytes.

    `model` is the name under which the engine knows its model, `block_size` the tokens of a hash where the file holds hashes (by default
    what the tool expects, or, where the workload tells prompts apart in larger units only, those). Raises TraceprofError when the
    workload lacks what the tool must have.
    """
    from traceprof.workload.exports.prompts import Prompts

    module = find(name)
    if block_size is not None and module.BLOCK_SIZE is None:
        raise UsageError(f"{name} holds no block hashes, so no block size")
    path = Path(path)
    if not path.name.endswith(module.SUFFIX):
        raise UsageError(
            f"{module.TOOL} reads files named *{module.SUFFIX}",
            remedy=f"-o {path.with_suffix(module.SUFFIX)}",
        )
    prompts = Prompts(workload, block_size=block_size or module.BLOCK_SIZE or 0, model=model)
    if block_size is None and prompts.block_size % workload.meta["unit"]:
        prompts.block_size = workload.meta["unit"]  # no smaller ones tell more
    with _whole(path) as out:
        out.writelines(module.lines(prompts))
        if not prompts.taken:
            why = ", ".join(f"{reason}: {number:,}" for reason, number in prompts.refused.items())
            raise TraceprofError(
                f"{name} can take none of its requests: {why}", path=workload.path, remedy="another --export"
            )
    span_s = prompts.last_us / 1e6
    named = model or prompts.model
    told = Told(
        model=named or "MODEL",
        requests=prompts.taken,
        rate=round(prompts.taken / span_s, 3) if span_s else float("inf"),
        seconds=math.ceil(span_s),
        block_size=prompts.block_size,
        chat=prompts.chat,
    )
    command = module.command(os.fspath(path), told)
    return Exported(path, prompts.taken, prompts.left_out(module.CARRIES), command, named)


@contextlib.contextmanager
def _whole(path: Path) -> Iterator[IO[bytes]]:
    """A file that takes its place when the block ends without an error."""
    part = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as out:
            yield out
        part.replace(path)
    except OSError as bad:
        raise TraceprofError(
            f"cannot be written: {bad.strerror}", path=path, remedy="give another -o"
        ) from None
    finally:
        part.unlink(missing_ok=True)
