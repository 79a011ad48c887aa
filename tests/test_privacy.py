"""Privacy levels: what is kept, what is not, and that sharing is measured alike."""

from __future__ import annotations

import json
import re
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.parquet as pq
import pytest
from conftest import FORMATS, SAMPLES, Ran, asked, jsonl, pair, rows, table, whole
from hypothesis import given, settings
from hypothesis import strategies as st
from naive import NO_END
from strategies import traces

from traceprof.errors import TraceprofError, UsageError
from traceprof.ingest import ingest
from traceprof.privacy import KEPT, Key, inventory, leaks, protect
from traceprof.profiler import BLOCKS, profile
from traceprof.tokens import tokenize
from traceprof.trace import Trace

Command = Callable[..., Ran]
SECRET = "Zaphod Beeblebrox"
KEY = Key(bytes(range(32)))


def private_log() -> bytes:
    """Requests in which every field that a person fills holds one secret word, good ones and bad ones."""
    request = {
        "model": "m", "user": f"{SECRET}@example.org", "cache_salt": SECRET, "response_format": {"type": SECRET},
        "messages": [
            {"role": "system", "content": f"You serve {SECRET}. " * 9},
            {"role": "user", "content": [{"type": "text", "text": SECRET}, {"type": "image_url", "image_url": {"url": f"data:,{SECRET}"}}]},
            {"role": "assistant", "content": None, "tool_calls": [{"id": SECRET, "type": "function", "function": {"name": SECRET, "arguments": json.dumps({"q": SECRET})}}]},
            {"role": "tool", "tool_call_id": SECRET, "content": SECRET},
        ],
        "tools": [{"type": "function", "function": {"name": SECRET, "description": SECRET, "parameters": {}}}],
    }  # fmt: skip
    response = {
        "id": SECRET,
        "model": f"/home/{SECRET}/model",
        "choices": [{"message": {"role": "assistant", "content": SECRET}}],
    }
    names = {
        "session_id": SECRET,
        "tenant_id": SECRET,
        "app": SECRET,
        "note": SECRET,
        "parent_request_id": SECRET,
    }
    good = [pair(i, request=request, response=response, **names) for i in range(3)]
    failed = pair(
        4, request=request, response={"error": {"type": SECRET, "message": SECRET}}, status_code=500, **names
    )
    bad = pair(5, request={"model": "m", "messages": [{"content": SECRET}]})
    twice = pair(6, request_id=SECRET), pair(7, request_id=SECRET)
    return jsonl([*good, failed, bad, *twice, f'{{"cut": "{SECRET}'.encode()])


def everything(path: Path) -> str:
    """All that can be read in a folder: file names, raw bytes, and every value of every table and footer."""
    seen = []
    for file in sorted(path.rglob("*")):
        seen.append(file.name)
        if file.suffix == ".parquet":
            seen += [
                str(pl.read_parquet(file).to_dicts()),
                str(pq.read_schema(file)),
                str(pq.read_schema(file).metadata),
            ]
        if file.is_file():
            seen.append(file.read_bytes().decode("latin-1"))
    return "\n".join(seen)


@pytest.mark.parametrize("level", ["tokens", "hashes"])
@pytest.mark.parametrize("verb", ["ingest", "run"])
def test_no_word_of_the_log_is_kept(level: str, verb: str, tmp_path: Path, command: Command) -> None:
    """Nothing that a person wrote, and no name of a file, is in what the command leaves, nor in what it prints."""
    log = tmp_path / f"{SECRET}.jsonl"
    log.write_bytes(private_log())
    out = tmp_path / "out" / "trace" if verb == "ingest" else tmp_path / "out"
    out.parent.mkdir(exist_ok=True)
    ran = command(verb, log, "-o", out, "--privacy", level)
    assert ran.code == 0, ran.err
    left = everything(tmp_path / "out") + ran.out + ran.err
    for word in (SECRET, *SECRET.split(), "You serve", "example.org"):
        assert word not in left, word
    trace = whole(Trace(out if verb == "ingest" else out / "trace"))
    assert (
        trace.manifest["privacy"] == level
        and trace.manifest["requests"] == 5
        and trace.manifest["rejects"] == 3
    )
    assert not leaks(trace) and not (trace.path / "content").exists()
    assert not list((tmp_path / "out").rglob(".*"))
    kept = rows(trace)
    assert len({r["session_id"] for r in kept} - {None}) == 1 and len({r["request_id"] for r in kept}) == 5
    assert {r["params"]["response_format"] for r in kept if r["params"]} == {"other"}
    assert all(t["input_ids"] is None for t in rows(trace, "tokens")) == (level == "hashes")


def test_pseudonyms_join_within_a_key_and_only_there(tmp_path: Path) -> None:
    """One key, one pseudonym, the same in every trace; parents still find their requests; another key, other ones."""
    log = tmp_path / "log.jsonl"
    asked = {"model": "m", "messages": [{"role": "user", "content": "one two three " * 20}]}
    log.write_bytes(
        jsonl([pair(1, session_id="s", request=asked), pair(2, session_id="s", parent_request_id="r1")])
    )
    text = ingest([log], tmp_path / "text")
    tokenize(text)
    one, same = (rows(protect(text, tmp_path / name, "hashes", KEY)) for name in ("a", "b"))
    other = rows(protect(text, tmp_path / "c", "hashes"))
    assert one == same
    assert one[1]["parent_request_id"] == one[0]["request_id"] != one[0]["session_id"]
    assert other[0]["session_id"] == other[1]["session_id"] != one[0]["session_id"]
    hashes = [rows(Trace(tmp_path / name), "tokens")[0]["block_hashes"] for name in "abc"]
    assert hashes[0] == hashes[1] != hashes[2]
    key_ids = [Trace(tmp_path / name).manifest["protection"]["key_id"] for name in "abc"]
    assert key_ids[0] == key_ids[1] != key_ids[2]


def measured(trace: Trace, out: Path, unit: int) -> Any:
    """What a profile says of sharing, at the block sizes that a unit can tell."""
    found = profile(trace, out)
    if found["prefix"] is None:
        return None
    sizes = [str(b) for b in BLOCKS if b % unit == 0]
    parts = [found["prefix"], found["prefix"]["with_outputs"] or {"hit_tokens": dict.fromkeys(sizes)}]
    parts += [found["prefix"]["by_model"][m] for m in sorted(found["prefix"]["by_model"])]
    hits = [{b: part["hit_tokens"][b] for b in sizes} for part in parts]
    requests = pl.read_parquet(out / "requests.parquet").select(
        "input_tokens", *(f"hit_tokens_{b}" for b in sizes)
    )
    return (
        hits,
        requests.to_dicts(),
        found["tokens"]["input"],
        found["tokens"]["output"],
        found["lengths"],
        found["concurrency"],
    )


@settings(max_examples=60)
@given(requests=traces(outputs=True), unit=st.sampled_from([1, 2, 16, 64]))
def test_sharing_on_hashes_is_sharing_on_tokens(requests: list[Any], unit: int) -> None:
    """Hit tokens, request by request, with and without outputs, at every block size that the unit divides; lengths; load."""
    log = []
    for i, one in enumerate(requests):
        # symbols are repeated so that prompts reach over several blocks, in lengths that fill none of them
        prompt = [s for s in one.symbols for _ in range(5)]
        record = {
            "request_id": f"r{i}", "timestamp": 1787313600 + one.arrival_us,
            "request": {"model": f"m{one.root}", "prompt": prompt},
            "response": {"choices": [{"text": "", "token_ids": [s for s in one.output or () for _ in range(5)]}]},
        }  # fmt: skip
        if one.end_us != NO_END:
            record["end_time"] = 1787313600 + max(one.arrival_us, one.end_us)
        if one.output is None:
            del record["response"]
        log.append(record)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        (path / "log.jsonl").write_bytes(jsonl(log) or b"{}\n")
        if not log:
            return
        plain = ingest([path / "log.jsonl"], path / "plain")
        hashed = protect(plain, path / "hashed", "hashes", KEY, unit=unit)
        ids = protect(plain, path / "ids", "tokens", KEY)
        assert not leaks(hashed)
        assert measured(hashed, path / "p1", unit) == measured(plain, path / "p2", unit)
        assert measured(ids, path / "p3", 1) == measured(plain, path / "p4", 1)


@pytest.mark.parametrize("name", list(FORMATS.values()))
def test_every_sample_can_be_protected(name: str, tmp_path: Path) -> None:
    """All formats: counts as before, nothing against the level, and sharing as before at the unit of the hashes."""
    from traceprof.ingest import Options

    text = ingest([SAMPLES / name], tmp_path / "text", Options(**asked(name.rpartition(".")[0])))
    tokenize(text)
    said = {
        str(v)
        for c in ("session_id", "tenant_id", "user_id")
        for v in table(text, "requests")[c].drop_nulls()
    }
    hashed = whole(protect(text, tmp_path / "hashes", "hashes", KEY))
    assert not leaks(hashed)
    for key in ("records_in", "requests", "rejects", "skipped", "rejects_by_reason"):
        assert hashed.manifest[key] == text.manifest[key]
    left = table(hashed, "requests")
    for column in ("session_id", "tenant_id", "user_id"):
        assert left[column].n_unique() == table(text, "requests")[column].n_unique()
        assert not said & set(left[column].drop_nulls().to_list())
    before, after = profile(text, tmp_path / "p1"), profile(hashed, tmp_path / "p2")
    assert after["concurrency"] == before["concurrency"] and after["arrivals"] == before["arrivals"]
    assert after["sessions"] == before["sessions"] and after["lengths"]["input"] == before["lengths"]["input"]
    if before["prefix"] is None:
        assert after["prefix"] is None
    else:
        unit = before["tokenizer"]["unit"]
        sizes = [str(b) for b in BLOCKS if b % max(unit, 16) == 0]
        hits = [p["prefix"]["hit_tokens"] for p in (before, after)]
        assert {b: hits[0][b] for b in sizes} == {b: hits[1][b] for b in sizes}
        assert after["tokenizer"]["source"] == "hashes" and not any(
            t["preview"] for t in after["prefix"]["top_prefixes"]
        )


def test_a_column_that_nobody_thought_of_is_emptied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A text column that is not declared in KEPT is not kept."""
    text = ingest([SAMPLES / "chat.jsonl"], tmp_path / "text")
    tokenize(text)
    monkeypatch.delitem(KEPT, "tenant_id")
    assert {r["tenant_id"] for r in rows(protect(text, tmp_path / "t", "tokens", KEY))} == {None}


def test_what_stands_against_the_level_is_found(tmp_path: Path) -> None:
    """The look for leaks sees text, ids, names and strange files that were put into a protected trace."""
    text = ingest([SAMPLES / "chat.jsonl"], tmp_path / "text")
    tokenize(text)
    assert leaks(text) == []
    trace = protect(text, tmp_path / "t", "hashes", KEY)
    assert leaks(trace) == []
    (trace.path / "content").mkdir()
    (trace.path / "notes.txt").write_text("x")
    part = trace.parts("requests")[0]
    frame = pl.read_parquet(part)
    changed = frame.with_columns(tenant_id=pl.lit("ACME"), model_served=pl.lit("https://acme.example"))
    changed.write_parquet(part)
    tokens = trace.parts("tokens")[0]
    pq.write_table(pq.read_table(text.parts("tokens")[0]), tokens)
    found = " ".join(leaks(trace))
    for what in ("content/", "notes.txt", "tenant_id", "model_served", "input_ids"):
        assert what in found, what


def test_keys(tmp_path: Path, command: Command) -> None:
    """A new key file is for its owner alone; what is no key, or a key inside the trace, is refused with one line."""
    path = tmp_path / "key"
    assert (
        command(
            "ingest", SAMPLES / "planted.jsonl", "-o", tmp_path / "a", "--privacy", "hashes", "--key", path
        ).code
        == 0
    )
    assert stat.S_IMODE(path.stat().st_mode) == 0o600 and re.fullmatch(r"[0-9a-f]{64}\n", path.read_text())
    assert (
        command(
            "ingest", SAMPLES / "planted.jsonl", "-o", tmp_path / "b", "--privacy", "hashes", "--key", path
        ).code
        == 0
    )
    assert rows(Trace(tmp_path / "a")) == rows(Trace(tmp_path / "b"))
    for bad in ("", "zz", "ab" * 8 + "x", "ab" * 7, "ab" * 65):
        path.write_text(bad)
        ran = command(
            "ingest", SAMPLES / "planted.jsonl", "-o", tmp_path / "a", "--privacy", "hashes", "--key", path
        )
        assert ran.code == 1 and "not a key" in ran.error()
    ran = command(
        "ingest",
        SAMPLES / "planted.jsonl",
        "-o",
        tmp_path / "a",
        "--privacy",
        "hashes",
        "--key",
        tmp_path / "a" / "key",
    )
    assert ran.code == 2 and "inside the trace" in ran.error()
    ran = command("ingest", SAMPLES / "planted.jsonl", "-o", tmp_path / "a", "--key", path)
    assert ran.code == 2 and "--key" in ran.error()
    ran = command(
        "ingest",
        SAMPLES / "planted.jsonl",
        "-o",
        tmp_path / "a",
        "--privacy",
        "hashes",
        "--key",
        tmp_path / "no" / "key",
    )
    assert ran.code == 1 and "key" in ran.error()


def test_protection_cannot_be_taken_back(tmp_path: Path) -> None:
    """A protected trace cannot be made less private, and text without tokens cannot be protected."""
    text = ingest([SAMPLES / "chat.jsonl"], tmp_path / "text")
    with pytest.raises(TraceprofError, match="no tokens yet"):
        protect(text, tmp_path / "t", "hashes")
    tokenize(text)
    hashed = protect(text, tmp_path / "t", "hashes", KEY)
    assert tokenize(hashed) is None
    with pytest.raises(UsageError, match="hashes only"):
        protect(hashed, tmp_path / "u", "tokens")
    with pytest.raises(UsageError, match="level"):
        protect(text, tmp_path / "u", "text")


def test_inspect_shows_what_is_kept(tmp_path: Path, command: Command) -> None:
    """Every column that holds something is listed, with how it is kept; a leak ends with 1."""
    for level in ("text", "hashes"):
        assert command("ingest", SAMPLES / "chat.jsonl", "-o", tmp_path / level, "--privacy", level).code == 0
        ran = command("inspect", tmp_path / level)
        assert ran.code == 0 and f"privacy level {level}" in ran.out
        trace = Trace(tmp_path / level)
        for kept in inventory(trace):
            assert re.search(
                rf"^  {kept.column} +{kept.rows:,} rows  {re.escape(kept.how)}", ran.out, re.M
            ), kept
        found = json.loads(command("inspect", tmp_path / level, "--json").out)
        assert found["privacy"] == level and found["leaks"] == []
        listed = {(c["kind"], c["column"]) for c in found["columns"]}
        for kind in ("requests", "tokens", "content"):
            frame = table(trace, kind)
            assert {c for k, c in listed if k == kind} == {
                c for c in frame.columns if frame[c].null_count() < len(frame)
            }
    (tmp_path / "hashes" / "content").mkdir()
    ran = command("inspect", tmp_path / "hashes")
    assert ran.code == 1 and "AGAINST ITS LEVEL" in ran.out
