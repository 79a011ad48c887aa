"""10,000 damaged records for every sample of every format: no crash, no hang, no lost record, no reason that names a bug."""

from __future__ import annotations

import copy
import json
import random
from pathlib import Path
from typing import Any

import pytest
from conftest import FORMATS, SAMPLES, asked, rows, sample_records, whole

from traceprof import formats
from traceprof.ingest import Options, ingest

RECORDS = 10_000
BATCH = 2_500  # records of one file
WRONG: list[Any] = [None, True, "", "x", "-", "null", "{", "[1", '{"a": 1}', "NaN", "\ud800", "\x00", 0, -1, 1, 0.5, -0.0, 1e300, 10**30, 2**63, 2**64,
                    70_000, float("nan"), float("inf"), [], {}, [None], [[]], [{}], {"a": None}, {"": []}, "1970-01-01", "2026-13-01", "9999-12-31T23:59:59Z",
                    "0001-01-01 00:00:00", 1787313600, 1787313600000, -1787313600, "data: {}", "a" * 3000]  # fmt: skip
WORDS = [b'"', b"\\", b"{", b"}", b"[", b"]", b",", b":", b"'", b"null", b"NaN", b"-1", b"1e999", b"\x00", b"\xff", b"\xc3", b"\\u0000", b"\\ud800", b"\r",
         b"\t", b"=", b"(", b")", b" | ", b"9" * 30, b"..."]  # fmt: skip


def shrunk(value: Any) -> Any:
    """A record with long lists and texts cut, so that ten thousand of them are a few MB."""
    if isinstance(value, dict):
        return {k: shrunk(v) for k, v in list(value.items())[:60]}
    if isinstance(value, list):
        return [shrunk(v) for v in value[:4]]
    if isinstance(value, str) and len(value) > 400 and value[:1] not in "{[":
        return value[:400]
    return value


def places(value: Any, found: list[tuple[Any, Any]]) -> list[tuple[Any, Any]]:
    """(container, key) of every value inside."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        found.append((value, key))
        places(inner, found)
    return found


def mangled(record: Any, draw: random.Random) -> Any:
    """A record with one to three of its values wrong, missing, moved or double-encoded."""
    record = copy.deepcopy(record)
    for _ in range(draw.choice((1, 1, 2, 3))):
        where = places(record, [])
        if not where:
            return draw.choice(WRONG)
        container, key = draw.choice(where)
        what = draw.random()
        if what < 0.6:
            container[key] = copy.deepcopy(draw.choice(WRONG))
        elif what < 0.75:
            del container[key]
        elif what < 0.9:
            other, place = draw.choice(where)
            container[key] = copy.deepcopy(other[place])
        else:
            container[key] = json.dumps(container[key], default=str)
    return record


def damaged(line: bytes, draw: random.Random) -> bytes:
    """A line with bytes flipped, cut, dropped, inserted or repeated."""
    for _ in range(draw.choice((1, 1, 2, 4))):
        at, length = draw.randrange(len(line) + 1), draw.randrange(1, 30)
        what = draw.randrange(5)
        if what == 0 and line:
            at = min(at, len(line) - 1)
            line = line[:at] + bytes([line[at] ^ (1 << draw.randrange(8))]) + line[at + 1 :]
        elif what == 1:
            line = line[:at]
        elif what == 2:
            line = line[:at] + line[at + length :]
        elif what == 3:
            line = line[:at] + draw.choice(WORDS) + line[at:]
        else:
            line = line[: at + length] + line[at:]
    return line.replace(b"\n", b" ")


def variants(name: str, draw: random.Random) -> list[bytes]:
    """RECORDS damaged lines of a sample, some whole ones among them, so that readers that join find partners."""
    suffix = Path(FORMATS[name]).suffix
    if suffix == ".csv":
        lines = (SAMPLES / FORMATS[name]).read_bytes().splitlines()[1:]
    else:
        found = [r if isinstance(r, str) else shrunk(r) for r in sample_records(name)[:200]]
        lines = [r.encode() if isinstance(r, str) else json.dumps(r, default=str).encode() for r in found]
    out = []
    for i in range(RECORDS):
        line = lines[i % len(lines)]
        if i % 5 == 0:
            out.append(line)
        elif suffix == ".csv" or not line.startswith(b"{") or draw.random() < 0.4:
            out.append(damaged(line, draw))
        else:
            out.append(json.dumps(mangled(json.loads(line), draw)).encode())
    return [line if line.strip() else b"-" for line in out]


@pytest.mark.timeout(120)
@pytest.mark.parametrize("name", FORMATS)
def test_damaged_records(name: str, tmp_path: Path) -> None:
    """Each record of the files is read, rejected with a reason that says what is wrong, or skipped: none is lost."""
    label = name.split(".")[0]
    draw = random.Random(name)
    log = variants(name, draw)
    is_csv = Path(FORMATS[name]).suffix == ".csv"
    header = (SAMPLES / FORMATS[name]).read_bytes().splitlines()[:1] if is_csv else []
    suffix = ".csv" if is_csv else ".log" if formats.reads_lines(formats.load(label)) else ".jsonl"
    for start in range(0, RECORDS, BATCH):
        (tmp_path / f"{start}{suffix}").write_bytes(
            b"\n".join([*header, *log[start : start + BATCH]]) + b"\n"
        )
    options = Options(**{"format": label, "duplicates": "keep", **asked(name)})
    trace = whole(ingest(sorted(tmp_path.glob(f"*{suffix}")), tmp_path / "t", options))
    found = trace.manifest
    assert "unreadable" not in found["rejects_by_reason"], [
        r for r in rows(trace, "rejects") if r["reason"] == "unreadable"
    ][:3]
    if {s["container"] for s in found["sources"]} <= {
        "jsonl",
        "text",
    }:  # elsewhere a record may be several lines
        assert found["source_records"] >= RECORDS
    assert found["records_in"] >= RECORDS // 4
