"""The results folder of a replay: what each request saw, appended as it ends, and what the engines said of themselves.

RESULTS/
  manifest.json             kind "traceprof-results": the workload, the options, the client's own calibration, the runs in order
  runs/000-NAME/            one run of the workload against one engine
    requests-*.jsonl        one line a request, written when it ended, a file a client process
    requests.parquet        the same, in the order of the workload, once the run is over
    scrapes.parquet         the engine's own counters before, during and after
    gpu.parquet             memory, power and utilization over time, where there is a GPU to ask
    run.json                engine, validity, counts, counters against what the client saw

A run that was killed has no requests.parquet: what its lines say is read from them.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import traceprof
from traceprof import schema
from traceprof.errors import TraceprofError
from traceprof.trace import write_json

if TYPE_CHECKING:
    import numpy as np
    import polars as pl
    import pyarrow as pa
    from numpy.typing import NDArray

    I64 = NDArray[np.int64]

KIND = "traceprof-results"
MANIFEST = "manifest.json"
RUN = "run.json"
REQUESTS = "requests.parquet"
AT_ONCE = 256  # lines that are made into Python objects at once


class Run(NamedTuple):
    """One run: its folder, whose name is a number and the name of the engine."""

    path: Path

    @property
    def name(self) -> str:
        """The engine's name.

        >>> Run(Path("runs/003-vllm-a")).name
        'vllm-a'
        """
        return self.path.name.partition("-")[2]

    @property
    def finished(self) -> bool:
        """Whether it came to its end."""
        return (self.path / RUN).exists()

    def told(self) -> dict[str, Any]:
        """What run.json holds; empty where the run did not come to its end."""
        try:
            found: dict[str, Any] = json.loads((self.path / RUN).read_text("utf-8"))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as bad:
            raise TraceprofError(f"unreadable: {bad}", path=self.path / RUN, remedy="replay again") from None
        return found

    def requests(self) -> pl.DataFrame:
        """One row a request in the order of the workload, the last attempt of each; columns of `schema.RESULT_REQUESTS`."""
        import polars as pl

        if (self.path / REQUESTS).exists():
            return pl.read_parquet(self.path / REQUESTS)
        return self.lines()

    def lines(self) -> pl.DataFrame:
        """The same from the lines that were written so far; a last line that was cut is left out."""
        from itertools import islice

        import orjson
        import polars as pl
        import pyarrow as pa

        columns = schema.arrow(schema.RESULT_REQUESTS)
        tables = [columns.empty_table()]
        for file in sorted(self.path.glob("requests-*.jsonl")):
            with file.open("rb") as lines:
                while some := list(islice(lines, AT_ONCE)):
                    rows = [orjson.loads(line) for line in some if line.endswith(b"\n")]
                    tables.append(pa.Table.from_pylist(rows, schema=columns))
        frame = pl.from_arrow(pa.concat_tables(tables))
        assert isinstance(frame, pl.DataFrame)
        return frame.sort("index", "attempt").unique("index", keep="last", maintain_order=True)

    def finish(self, told: dict[str, Any], predicted: I64 | None = None) -> None:
        """Put the lines into one Parquet file, and say that the run is over. `predicted`: cached tokens by row of the workload, or -1."""
        import polars as pl

        lines = self.lines()
        if predicted is not None:
            of_row = pl.Series(predicted[lines["index"].to_numpy()], dtype=pl.Int32)
            lines = lines.with_columns(predicted_cached_tokens=pl.when(of_row >= 0).then(of_row))
        self.write(lines.to_arrow().cast(schema.arrow(schema.RESULT_REQUESTS)), told)

    def write(self, table: pa.Table, told: dict[str, Any]) -> None:
        """All requests of a run, and what run.json holds: with that the run is over."""
        import pyarrow.parquet as pq

        part = self.path / f".{REQUESTS}.{os.getpid()}"
        pq.write_table(table, part, compression="zstd")
        part.replace(self.path / REQUESTS)
        write_json(self.path / RUN, told)


class Results:
    """A results folder; raises TraceprofError where there is none."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        file = self.path / MANIFEST
        try:
            self.manifest: dict[str, Any] = json.loads(file.read_text("utf-8"))
        except (FileNotFoundError, NotADirectoryError):
            raise TraceprofError(
                "no results here",
                path=self.path,
                remedy="make some: traceprof replay WORKLOAD --engine NAME=URL -o RESULTS",
            ) from None
        except (OSError, ValueError) as bad:
            raise TraceprofError(f"unreadable: {bad}", path=file, remedy="replay again") from None
        if not isinstance(self.manifest, dict) or self.manifest.get("kind") != KIND:
            raise TraceprofError(
                "not traceprof results", path=file, remedy="give the folder that replay wrote"
            )

    @property
    def runs(self) -> list[Run]:
        """All runs in their order, also those that were cut off."""
        return [Run(path) for path in sorted((self.path / "runs").glob("[0-9]*-*")) if path.is_dir()]


def write_manifest(path: str | os.PathLike[str], told: dict[str, Any]) -> Results:
    """Write or replace the manifest of a results folder."""
    folder = Path(path)
    try:
        (folder / "runs").mkdir(parents=True, exist_ok=True)
        whole = {
            "kind": KIND,
            "schema_version": schema.RESULTS_SCHEMA_VERSION,
            "traceprof_version": traceprof.__version__,
            **told,
        }
        part = folder / f".{MANIFEST}.{os.getpid()}"
        write_json(part, whole)
        part.replace(folder / MANIFEST)
    except OSError as bad:
        raise TraceprofError(
            f"cannot be written: {bad.strerror}", path=folder, remedy="give another -o"
        ) from None
    return Results(folder)


def check_free(folder: Path) -> None:
    """Raise TraceprofError where a folder holds results already."""
    if (folder / MANIFEST).exists() and Results(folder).runs:
        raise TraceprofError("holds results", path=folder, remedy="give another -o")


def new_run(results: Results, number: int, name: str) -> Run:
    """The folder of a run, made where it is missing (a replay that goes on finds its own)."""
    run = Run(results.path / "runs" / f"{number:03}-{name}")
    run.path.mkdir(parents=True, exist_ok=True)
    return run
