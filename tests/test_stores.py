"""Logs in object stores, on a local S3 server: objects, prefixes, globs, compression, Parquet, errors."""

from __future__ import annotations

import gzip
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import SAMPLES, Ran, jsonl, pair, rows, whole
from pyarrow import fs

from traceprof import stores
from traceprof.errors import TraceprofError
from traceprof.ingest import Options, ingest
from traceprof.trace import Trace

Put = Callable[[str, bytes], None]


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    """A local S3 server, and the environment of a client that is to use it."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def put(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Put:
    """put("bucket/key", bytes): an object on the server."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    stores._system.cache_clear()
    where = fs.S3FileSystem(
        endpoint_override=endpoint.partition("//")[2],
        scheme="http",
        region="us-east-1",
        allow_bucket_creation=True,
    )

    def write(path: str, body: bytes) -> None:
        where.create_dir(path.split("/")[0])
        with where.open_output_stream(path, compression=None) as sink:
            sink.write(body)

    return write


def ids(trace: Trace) -> list[str]:
    """The request ids of a trace, in order."""
    return [r["request_id"] for r in rows(whole(trace))]


def test_objects_prefixes_and_globs(put: Put, tmp_path: Path) -> None:
    """A URL names one object, all below a prefix, or what a glob matches; hidden ones are left out."""
    put("logs/2026/08/a.jsonl", jsonl([pair(1)]))
    put("logs/2026/08/b.jsonl.gz", gzip.compress(jsonl([pair(2)])))
    put("logs/2026/09/c.jsonl", jsonl([pair(3)]))
    put("logs/2026/09/.tmp/d.jsonl", jsonl([pair(4)]))
    put("logs/other/e.jsonl", jsonl([pair(5)]))
    for url, expected in {
        "s3://logs/2026/08/a.jsonl": ["r1"],
        "s3://logs/2026/": ["r1", "r2", "r3"],
        "s3://logs": ["r1", "r2", "r3", "r5"],
        "s3://logs/2026/*/*.jsonl": ["r1", "r3"],
        "s3://logs/2026/0?/[bc].jsonl*": ["r2", "r3"],
        "s3://logs/**/*.jsonl": ["r1", "r3", "r5"],
    }.items():
        assert ids(ingest([url], tmp_path / "t")) == expected, url
    trace = ingest(["s3://logs/2026", "s3://logs/2026/08/a.jsonl", SAMPLES / "planted.jsonl"], tmp_path / "t")
    assert {r["source_file"] for r in rows(trace)} == {
        "08/a.jsonl",
        "08/b.jsonl.gz",
        "09/c.jsonl",
        "planted.jsonl",
    }
    assert trace.manifest["requests"] == 14


def test_a_remote_log_is_the_local_log(put: Put, tmp_path: Path) -> None:
    """Streamed through worker processes in small chunks, lines, arrays, CSV and Parquet give the rows that a file gives."""
    log = jsonl(pair(i, note="x" * 300) for i in range(3000))
    table = pa.table({"request": [str(i) for i in range(5)]})
    sink = io.BytesIO()
    pq.write_table(table, sink)
    files = {
        "big.jsonl": log, "big.jsonl.zst": pa.compress(log, codec="zstd", asbytes=True),
        "sharegpt.json": (SAMPLES / "sharegpt.json").read_bytes(), "azure-llm.csv": (SAMPLES / "azure-llm.csv").read_bytes(),
    }  # fmt: skip
    options = Options(chunk_bytes=200_000, jobs=1)
    for name, body in files.items():
        (tmp_path / name).write_bytes(body)
        put(f"same/{name}", body)
        local = rows(ingest([tmp_path / name], tmp_path / "local", options))
        remote = rows(ingest([f"s3://same/{name}"], tmp_path / "remote", options))
        assert remote == local and len(local) > 4, name


def test_hive_partitions_are_columns(put: Put, tmp_path: Path) -> None:
    """What a folder's name says of the rows below it is a column of a Parquet log, on disk and in a store."""
    sink = io.BytesIO()
    pq.write_table(pa.table({"request": ['{"model": "m", "prompt": "x"}'], "response": ["{}"]}), sink)
    put("lake/date=2026-08-21/tenant_id=acme/part-0.parquet", sink.getvalue())
    folder = tmp_path / "date=2026-08-21" / "tenant_id=acme"
    folder.mkdir(parents=True)
    (folder / "part-0.parquet").write_bytes(sink.getvalue())
    for place in ("s3://lake", tmp_path):
        (row,) = rows(ingest([place], tmp_path / "out" / "t"))
        assert row["tenant_id"] == "acme" and row["model_requested"] == "m"


def test_what_a_store_refuses_is_one_line(put: Put, tmp_path: Path, command: Callable[..., Ran]) -> None:
    """No bucket, no object, no match, no account: one line that names the URL and the remedy."""
    put("logs2/a.jsonl", jsonl([pair(1)]))
    for url in ("s3://nowhere/a.jsonl", "s3://logs2/b.jsonl", "s3://logs2/*.csv", "az://box/a.jsonl"):
        ran = command("ingest", url, "-o", tmp_path / "t")
        assert ran.code == 1 and url in ran.error() and "check the URL" in ran.error()
    assert not (tmp_path / "t").exists()


def test_an_object_that_vanishes_is_told(put: Put, tmp_path: Path) -> None:
    """An object that is gone between listing and reading ends the ingest with its name."""
    put("gone/a.jsonl", jsonl([pair(1)]))
    ((remote, _),) = stores.objects("s3://gone/a.jsonl")
    stores._system(remote.root).delete_file(remote.path)
    with pytest.raises(TraceprofError, match=r"gone/a\.jsonl"):
        remote.open()


def test_resume_knows_a_remote_log(put: Put, tmp_path: Path) -> None:
    """--resume takes URLs: a log in a store can be read twice."""
    put("again/a.jsonl", jsonl([pair(1)]))
    assert ids(ingest(["s3://again/a.jsonl"], tmp_path / "t", Options(resume=True))) == ["r1"]


@pytest.mark.parametrize(
    ("word", "url"), [("s3://b/k", True), ("az://c/k", True), ("s3/b", False), ("-", False), ("http://x", False), ("a://b", False)]
)  # fmt: skip
def test_what_is_a_url(word: Any, url: bool) -> None:
    """Only the stores' schemes; anything else is a file's name."""
    assert stores.is_url(word) == url
