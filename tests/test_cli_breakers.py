"""`traceprof breakers`: the table, the text before and after, JSON, and logs that mean harm."""

from __future__ import annotations

import json

import planted
import pytest

from tests.conftest import jsonl

ATTACK = "\x1b[31mred\x1b[0m \x1b]0;owned\x07 [bold]markup[/bold] \u202egnp.exe \x9b2J"


def log(requests):
    return jsonl(planted.record(i, r) for i, r in enumerate(requests))


@pytest.fixture(scope="module")
def requests():
    """A log with a request id in front of the system prompt, fresh in half of the requests, and text that means harm behind it."""
    plant = planted.plant("request_id", 0.5, clean=planted.airline()[:60], place="front")
    return [
        r._replace(
            messages=[
                {**m, "content": (m["content"] or "").replace("Policy\n", f"Policy {ATTACK}\n")}
                for m in r.messages
            ]
        )
        for r in plant.requests
    ]


@pytest.fixture
def trace(command, tmp_path, requests):
    """Its trace, with tokens."""
    (tmp_path / "log.jsonl").write_bytes(log(requests))
    assert command("ingest", tmp_path / "log.jsonl", "-o", tmp_path / "trace", "-q").code == 0
    assert command("tokenize", tmp_path / "trace", "-q").code == 0
    return tmp_path / "trace"


def test_a_finding_is_a_line_and_a_remedy(command, trace):
    """Tokens lost, requests, the hit rate that the remedy gives, what and where, and what to do."""
    ran = command("breakers", trace)
    assert (ran.code, ran.err) == (0, "")
    found = json.loads(command("breakers", trace, "--json").out)
    (one,) = found["findings"]
    line = next(row for row in ran.out.splitlines() if "request id" in row)
    assert one["kind"] == "request_id"
    assert one["where"] in line
    assert f"{one['hit_rate_after']:.1%}".replace("%", " %") in line
    assert f"{one['lost_tokens'] / 1000:.1f} k" in line
    assert " ".join(one["remedy"].split()) in " ".join(ran.out.split())
    assert "req_" not in ran.out


def test_fix_preview_shows_text_before_and_after(command, trace):
    """The id is there before, and not in its place after."""
    ran = command("breakers", trace, "--fix-preview")
    assert ran.code == 0
    found = json.loads(command("breakers", trace, "--fix-preview", "--json").out)
    (one,) = found["findings"]
    assert 1 <= len(one["preview"]) <= 3
    for pair in one["preview"]:
        assert "Request ID: req_" in pair["before"]
        assert "Request ID: req_" not in pair["after"]
    assert "before" in ran.out
    assert "after" in ran.out
    assert "Request ID: req_" in ran.out


@pytest.mark.parametrize("words", [(), ("--fix-preview",)])
def test_text_of_a_log_cannot_drive_the_terminal(command, trace, words):
    """No escape, control or direction character comes through, and nothing is read as markup."""
    ran = command("breakers", trace, *words)
    assert ran.code == 0
    assert not {c for c in ran.out if (ord(c) < 32 and c != "\n") or 127 <= ord(c) < 160 or c == "\u202e"}
    assert "owned" not in ran.out
    if words:
        assert "[bold]markup[/bold]" in ran.out


def test_limit_measures_the_first_requests_only(command, trace):
    """The figures say what they were measured on."""
    found = json.loads(command("breakers", trace, "--json", "--limit", "20").out)
    assert (found["measured_requests"], found["of_requests"]) == (20, 60)
    assert "20" in found["how"]
    assert "first 20 of 60" in " ".join(command("breakers", trace, "--limit", "20").out.split())


def test_it_takes_what_run_wrote(command, tmp_path, requests):
    """The folder of `traceprof run` holds the trace."""
    (tmp_path / "log.jsonl").write_bytes(log(requests))
    assert command("run", tmp_path / "log.jsonl", "-o", tmp_path / "out", "-q").code == 0
    found = json.loads(command("breakers", tmp_path / "out", "--json").out)
    assert [f["kind"] for f in found["findings"]] == ["request_id"]


@pytest.mark.parametrize("level", ["tokens", "hashes"])
def test_without_text_only_splits_of_traffic_are_told(command, tmp_path, level):
    """A trace that keeps no text gives none away, and says why the rest is missing."""
    plant = planted.plant("tenant_split", 0.5)
    (tmp_path / "log.jsonl").write_bytes(log(plant.requests))
    assert command("run", tmp_path / "log.jsonl", "-o", tmp_path / "out", "-q", "--privacy", level).code == 0
    ran = command("breakers", tmp_path / "out", "--fix-preview")
    assert ran.code == 0
    assert "no text" in ran.out
    found = json.loads(command("breakers", tmp_path / "out", "--json", "--fix-preview").out)
    assert [f["kind"] for f in found["findings"]] == ["tenant_split"]
    assert all(f["example"] is None and f["example_fixed"] is None for f in found["findings"])
    assert all(f["preview"] == [] for f in found["findings"])


def test_nothing_found_is_said_in_a_line(command, tmp_path):
    """Conversations as they are: no table, no alarm."""
    (tmp_path / "log.jsonl").write_bytes(log(planted.airline()[:40]))
    assert command("run", tmp_path / "log.jsonl", "-o", tmp_path / "out", "-q").code == 0
    ran = command("breakers", tmp_path / "out")
    assert ran.code == 0
    assert "Nothing that is worth a change" in ran.out
    assert json.loads(command("breakers", tmp_path / "out", "--json").out)["findings"] == []
    assert command("breakers", tmp_path / "out", "-q").out == ""


def test_a_trace_without_tokens_says_what_to_run(command, tmp_path, requests):
    """The remedy is the command that is missing."""
    (tmp_path / "log.jsonl").write_bytes(log(requests[:5]))
    assert command("ingest", tmp_path / "log.jsonl", "-o", tmp_path / "trace", "-q").code == 0
    ran = command("breakers", tmp_path / "trace")
    assert ran.code == 1
    assert f"traceprof tokenize {tmp_path / 'trace'}" in ran.error()


def test_lengths_alone_cannot_be_looked_into(command, tmp_path):
    """A log without prompts has no breakers to find; it says so."""
    (tmp_path / "log.jsonl").write_text(
        '{"timestamp": 0, "input_length": 5, "output_length": 2, "hash_ids": [1]}\n' * 3
    )
    assert command("ingest", tmp_path / "log.jsonl", "-o", tmp_path / "trace", "-q").code == 0
    ran = command("breakers", tmp_path / "trace")
    assert ran.code in (0, 1)
    assert "Traceback" not in ran.err


@pytest.mark.parametrize("words", [("none",), ("none", "--limit", "0"), ()])
def test_what_cannot_be_done_is_one_line(command, tmp_path, monkeypatch, words):
    """No such trace, no such limit, no trace at all."""
    monkeypatch.chdir(tmp_path)
    ran = command("breakers", *words)
    assert ran.code == (1 if words == ("none",) else 2)
    assert ran.error()
