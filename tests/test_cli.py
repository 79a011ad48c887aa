"""The command line as a user has it: real processes, their output and exit codes."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
CHAT = ROOT / "samples" / "chat.jsonl"


def traceprof(*words, stdin=None, **env):
    return subprocess.run(
        [sys.executable, "-m", "traceprof.cli.main", *map(str, words)],
        capture_output=True,
        input=stdin,
        env={**os.environ, **env},
        check=False,
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """One `traceprof run` of the demo log."""
    out = tmp_path_factory.mktemp("run") / "out"
    return out, traceprof("run", CHAT, "-o", out)


def test_run_leaves_trace_profile_and_report(finished):
    """The main job in one command."""
    out, run = finished
    assert run.returncode == 0, run.stderr
    assert (out / "trace" / "manifest.json").is_file()
    assert (out / "report.html").read_text("utf-8").startswith("<!doctype html>")
    found = json.loads((out / "profile" / "profile.json").read_text())
    assert found["trace"]["requests"] > 40
    assert 0 < found["prefix"]["hit_rate"]["16"] <= found["prefix"]["hit_rate"]["1"] < 1


def test_summary_is_plain_in_a_pipe(finished):
    """No escape codes, no progress, the answer and where the report lies."""
    out, run = finished
    text = run.stdout.decode()
    assert "\x1b" not in text and "\x1b" not in run.stderr.decode()
    assert "has been seen before" in text
    assert str(out / "report.html") in text.replace("\n", "")


def test_steps_give_what_run_gives(finished, tmp_path):
    """run is ingest, tokenize, profile, report one after another."""
    out, _ = finished
    for words in (
        ("ingest", CHAT, "-o", tmp_path / "t"),
        ("tokenize", tmp_path / "t"),
        ("profile", tmp_path / "t", "-o", tmp_path / "p"),
        ("report", tmp_path / "p", "-o", tmp_path / "r.html"),
    ):
        done = traceprof(*words)
        assert done.returncode == 0, done.stderr
    one = json.loads((out / "profile" / "profile.json").read_text())
    assert json.loads((tmp_path / "p" / "profile.json").read_text()) == one
    assert (tmp_path / "r.html").read_bytes() == (out / "report.html").read_bytes()


@pytest.mark.parametrize("kind", [".md", ".json", ".svg", ".png"])
def test_report_writes_by_its_ending(finished, tmp_path, kind):
    """Text, JSON and pictures of the same profile."""
    out, _ = finished
    file = tmp_path / f"r{kind}"
    assert traceprof("report", out / "profile", "-o", file).returncode == 0
    start = {".md": b"#", ".json": b"{", ".svg": b"<svg", ".png": b"\x89PNG"}[kind]
    assert file.read_bytes().startswith(start)


@pytest.mark.parametrize("verb", [("run", CHAT, "-o", "o"), ("ingest", CHAT, "-o", "o"), ("formats",)])
def test_json_prints_json_and_nothing_else(verb, tmp_path):
    """--json on stdout is for machines."""
    words = [tmp_path / w if w == "o" else w for w in verb]
    run = traceprof(*words, "--json")
    assert run.returncode == 0
    json.loads(run.stdout)
    assert not run.stderr


def test_quiet_prints_nothing(tmp_path):
    """-q leaves the files to speak."""
    run = traceprof("run", CHAT, "-o", tmp_path / "o", "-q")
    assert (run.returncode, run.stdout, run.stderr) == (0, b"", b"")


def test_stdin_is_a_log(tmp_path):
    """`-` reads standard input."""
    run = traceprof("ingest", "-", "-o", tmp_path / "t", "--json", stdin=CHAT.read_bytes())
    assert json.loads(run.stdout)["inputs"] == ["stdin"]


def test_strict_exits_with_3_when_records_were_rejected(tmp_path):
    """Done, but not all of it."""
    log = tmp_path / "a.jsonl"
    log.write_bytes(CHAT.read_bytes() + b'{"model": "m", "messages": 5}\n')
    assert traceprof("ingest", log, "-o", tmp_path / "t", "--strict").returncode == 3
    run = traceprof("ingest", log, "-o", tmp_path / "t")
    assert run.returncode == 0
    assert b"1 records rejected (1 wrong_type)" in run.stderr or b"1 record rejected" in run.stderr


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("rum", "x"), 2, "Did you mean 'run'"),
        (("run",), 2, "Missing argument"),
        (("run", "none.jsonl", "-o", "o"), 1, "none.jsonl: no such file"),
        (("ingest", CHAT, "-o", "o", "--format", "nonsense"), 2, "no format is called"),
        (("profile", "none", "-o", "o"), 1, "traceprof ingest"),
        (("report", "none", "-o", "r.html"), 1, "none: no profile here"),
        (("report", "none", "-o", "r.docx"), 2, "use one of .html"),
        (("run", CHAT, "-o", "o", "--tokenizer", "./nowhere"), 1, "nowhere"),
        (("ingest", CHAT, "-o", "o", "--block-size", "16"), 2, "does not apply"),
    ],
)
def test_an_error_is_one_line_that_helps(words, code, says, tmp_path):
    """Exit code as the contract says, one line, no traceback."""
    run = subprocess.run(
        [sys.executable, "-m", "traceprof.cli.main", *map(str, words)],
        capture_output=True,
        cwd=tmp_path,
        check=False,
    )
    err = run.stderr.decode()
    assert run.returncode == code, err
    assert says in err
    assert "Traceback" not in err
    assert len([line for line in err.splitlines() if line.startswith("Error: ")]) == 1
    assert not (tmp_path / "o" / "trace").exists() or (tmp_path / "o" / "trace" / "manifest.json").exists()


def test_debug_shows_the_traceback(tmp_path):
    """--debug anywhere on the line."""
    run = traceprof("run", tmp_path / "none", "-o", tmp_path / "o", "--debug")
    assert b"Traceback" in run.stderr


def test_a_terminal_gets_a_progress_bar(tmp_path):
    """On a terminal there is a bar on stderr; it is gone at the end."""
    leader, follower = pty.openpty()
    run = subprocess.Popen(
        [sys.executable, "-m", "traceprof.cli.main", "ingest", str(CHAT), "-o", str(tmp_path / "t")],
        stdout=subprocess.DEVNULL,
        stderr=follower,
    )
    os.close(follower)
    shown = b""
    while True:
        try:
            block = os.read(leader, 4096)
        except OSError:
            break
        if not block:
            break
        shown += block
    os.close(leader)
    assert run.wait() == 0
    assert b"read" in shown


def test_a_log_without_a_usable_request_is_an_error_that_says_why(tmp_path):
    """Not a report about nothing."""
    log = tmp_path / "a.jsonl"
    log.write_text('{"model": "m", "messages": "x"}\n' * 3)
    run = traceprof("run", log, "-o", tmp_path / "o")
    assert run.returncode == 1
    assert b"none of 3 records is a request (3 wrong_type)" in run.stderr
    assert not (tmp_path / "o" / "report.html").exists()


def test_bare_command_prints_its_help():
    """As a person would expect, over several lines."""
    run = traceprof()
    assert run.stdout.decode().startswith("Usage: traceprof")
    assert b"Error" not in run.stderr


def test_report_takes_the_output_folder_of_a_run(finished, tmp_path):
    """OUT, OUT/profile and OUT/profile/profile.json all mean the profile."""
    out, _ = finished
    for path in (out, out / "profile" / "profile.json"):
        assert traceprof("report", path, "-o", tmp_path / "r.md").returncode == 0


def test_the_command_shows_each_engine(tmp_path):
    """A table for people, JSON for machines, an unknown engine is told apart, and a trace that tells no prompts too."""
    log = tmp_path / "log.jsonl"
    rows = [
        {
            "timestamp": 1000 * i,
            "input_length": 1024 + 512 * (i % 2),
            "output_length": 5,
            "hash_ids": [0, 1, 2][: 2 + i % 2],
        }
        for i in range(6)
    ]
    log.write_text("".join(json.dumps(r) + "\n" for r in rows))
    assert traceprof("ingest", log, "-o", tmp_path / "t").returncode == 0
    shown = traceprof("caches", tmp_path / "t", "--engine", "vllm", "--engine", "lru").stdout.decode()
    assert "vLLM" in shown
    assert "SGLang" not in shown
    assert "Nobody said what it runs on" in shown
    told = json.loads(traceprof("caches", tmp_path / "t", "--json", "--capacity-tokens", 1600).stdout)
    assert told["machine"]["given"]
    # the last four prompts are known whole: of such a one, vLLM computes the last block again
    assert told["engines"]["vllm"]["hit_tokens"] == told["engines"]["lru"]["hit_tokens"] - 4 * 16
    assert told["engines"]["vllm"]["refused_requests"] == 0
    more = traceprof("caches", tmp_path / "t", "--engine", "lru", "--replicas", "--providers", "--json")
    beyond = json.loads(more.stdout)
    assert beyond["replicas"]["engine"] == "lru"
    assert [r["hit_tokens"] for r in beyond["replicas"]["rows"] if r["replicas"] == 1] == [6144] * 4
    assert {o["provider"] for o in beyond["providers"]["offers"]} >= {"Anthropic", "OpenAI", "DeepSeek"}
    shown = traceprof(
        "caches", tmp_path / "t", "--engine", "lru", "--replicas", "--providers"
    ).stdout.decode()
    assert "round robin" in shown
    assert "x mean" in shown
    assert "Claude" in shown
    wrong = traceprof("caches", tmp_path / "t", "--engine", "vlm")
    assert wrong.returncode == 2
    assert "one of infinite" in wrong.stderr.decode()
    untimed = tmp_path / "untimed.jsonl"
    untimed.write_text(
        "".join(json.dumps({"messages": [{"role": "user", "content": "hi"}]}) + "\n" for _ in range(2))
    )
    assert traceprof("run", untimed, "-o", tmp_path / "u").returncode == 0
    refused = traceprof("caches", tmp_path / "u" / "trace", "--engine", "lru", "--providers")
    assert refused.returncode == 1
    assert "keep prompts for a time, and the log has no arrival times" in refused.stderr.decode()
    lengths = tmp_path / "azure.csv"
    lengths.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:17:03.9799600,10,2\n")
    assert traceprof("ingest", lengths, "-o", tmp_path / "n").returncode == 0
    nothing = traceprof("caches", tmp_path / "n")
    assert nothing.returncode == 1
    assert "no text, no token ids" in nothing.stderr.decode()
