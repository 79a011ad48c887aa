"""The trace folder: its file names, lazy scans of it, and the only way it is written: whole or not at all.

TRACE/
  manifest.json             what it was made from, and the counts in and out
  requests/part-*.parquet   one row a request, by arrival within and across parts
  content/part-*.parquet    text; part k holds the requests of requests part k, by session, then arrival
  tokens/part-*.parquet     ids or block hashes; row i of part k is row i of requests part k
  rejects/part-*.parquet    records that could not be used
"""

from __future__ import annotations

import contextlib
import ctypes
import glob
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from traceprof.errors import TraceprofError

if TYPE_CHECKING:
    import polars as pl

MANIFEST = "manifest.json"
KINDS = ("requests", "content", "tokens", "rejects")


class Trace:
    """A finished trace folder.

    >>> Trace("TRACE").manifest["requests"]            # doctest: +SKIP
    12031
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        file = self.path / MANIFEST
        try:
            self.manifest: dict[str, Any] = json.loads(file.read_text("utf-8"))
        except (FileNotFoundError, NotADirectoryError):
            what = "not a trace folder (no manifest.json)" if self.path.is_dir() else "no such trace folder"
            raise TraceprofError(
                what, path=self.path, remedy="make one with: traceprof ingest LOG -o TRACE"
            ) from None
        except (ValueError, OSError) as bad:
            raise TraceprofError(f"unreadable manifest: {bad}", path=file, remedy="ingest again") from None
        if not isinstance(self.manifest, dict) or self.manifest.get("kind") != "traceprof-trace":
            raise TraceprofError(
                "not a traceprof manifest", path=file, remedy="give the folder that ingest wrote"
            )

    def parts(self, kind: str) -> list[Path]:
        """The part files of one kind, in order."""
        return sorted((self.path / kind).glob("part-*.parquet"))

    def scan(self, kind: str) -> pl.LazyFrame:
        """All parts of one kind as a lazy frame; an empty frame of the right schema when there are none."""
        import polars as pl

        parts = self.parts(kind)
        if parts:
            return pl.scan_parquet(parts, glob=False)
        from traceprof import schema

        frame = pl.from_arrow(schema.arrow(schema.FILES[f"trace/{kind}"]).empty_table())
        assert isinstance(frame, pl.DataFrame)
        return frame.lazy()


def open_trace(path: str | os.PathLike[str]) -> Trace:
    """The trace at a path: the folder itself, or the one in the folder that `traceprof run` wrote."""
    inner = Path(path) / "trace"
    return Trace(inner if (inner / MANIFEST).exists() else path)


@contextlib.contextmanager
def staged(target: str | os.PathLike[str], *, mine: str | None, resume: str | None = None) -> Iterator[Path]:
    """A new folder beside `target` that takes its place, in one step, when the block ends without an error.

    A run that is killed leaves `target` as it was; see `workspace` for what it leaves beside it. An existing `target` is replaced
    only when it holds the file `mine` (so that no stranger's folder is lost); None: the place is ours by its name.
    """
    target = Path(os.path.realpath(target))  # a link keeps pointing where it points
    if (
        mine is not None
        and target.exists()
        and (not target.is_dir() or (any(target.iterdir()) and not (target / mine).exists()))
    ):
        raise TraceprofError(
            f"exists and was not written by traceprof (no {mine})", path=target, remedy="give another -o"
        )
    with workspace(target, resume=resume) as stage:
        yield stage
        _swap(stage, target.absolute())


@contextlib.contextmanager
def workspace(target: str | os.PathLike[str], *, resume: str | None = None) -> Iterator[Path]:
    """A new hidden folder beside `target`, which is gone when the block ends.

    What a killed run left there is swept by the next one, or is taken over by it when it holds a file that the glob `resume`
    matches.
    """
    target = Path(os.path.realpath(target))
    parent = target.absolute().parent
    try:
        parent.mkdir(parents=True, exist_ok=True)
        left = [old for old in _left_behind(parent, target.name) if resume and any(old.glob(resume))]
        stage = Path(tempfile.mkdtemp(prefix=f".{target.name}.{os.getpid()}-", suffix=".partial", dir=parent))
        if left:
            max(left, key=lambda old: old.stat().st_mtime).replace(stage)
        for old in _left_behind(parent, target.name):
            shutil.rmtree(old, ignore_errors=True)
        stage.chmod(0o777 & ~_umask())
    except OSError as bad:
        raise TraceprofError(
            f"cannot be written: {bad.strerror}", path=target, remedy="give another -o"
        ) from None
    try:
        yield stage
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _left_behind(parent: Path, name: str) -> list[Path]:
    """The folders of runs that are no longer alive."""
    out = []
    for old in parent.glob(f".{glob.escape(name)}.*.partial"):
        pid = old.name[len(name) + 2 :].partition("-")[0]
        if pid.isdigit() and not _alive(int(pid)):
            out.append(old)
    return out


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _swap(stage: Path, target: Path) -> None:
    """Put `stage` at `target` in one step; the old folder, if any, is then at `stage`."""
    if not target.exists():
        stage.rename(target)
        return
    if sys.platform.startswith("linux"):
        libc = ctypes.CDLL(None, use_errno=True)
        at_fdcwd, exchange = -100, 2
        if hasattr(libc, "renameat2") and (
            libc.renameat2(at_fdcwd, os.fsencode(stage), at_fdcwd, os.fsencode(target), exchange) == 0
        ):
            return
    aside = stage.with_suffix(".old.partial")  # no atomic exchange here: two renames, as close as they can be
    target.rename(aside)
    stage.rename(target)
    shutil.rmtree(aside, ignore_errors=True)


def write_json(path: Path, value: Any) -> None:
    """Write indented JSON with a final newline; keys keep their order."""
    words = json.dumps(value, indent=2, ensure_ascii=False) + "\n"
    path.write_bytes(words.encode("utf-8", "replace"))  # a file name need not be UTF-8
