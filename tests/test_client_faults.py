"""Whatever a server does is a recorded outcome: nothing hangs, no request is lost, totals add up."""

from __future__ import annotations

import collections
import datetime
import json
import socket
import threading
import time
from pathlib import Path

import pytest

from tests.knownserver import known_server
from tests.misbehaving import HUGE, misbehaving
from tests.replaying import OPENAI, new_run, row, send, turns, workload
from traceprof.replay.clerk import Recorded
from traceprof.replay.run import replay_run
from traceprof.replay.settings import Options

WELL = ("ok", None)
OUTCOMES = {  # fault -> outcome, error type; None where it does not matter
    "reset_before": ("reset", "ConnectionResetError"),
    "reset_midstream": ("reset", "ConnectionResetError"),
    "close_midstream": ("reset", "closed"),
    "silent": ("timeout", "first_byte"),
    "stall": ("stalled", None),
    "trickle": ("timeout", "total"),
    "not_http": ("malformed", "http"),
    "not_sse": ("malformed", "not_json"),
    "bad_chunk": ("malformed", "http"),
    "endless_head": ("malformed", "head_too_large"),
    "huge_event": WELL,
    "one_byte_at_a_time": WELL,
    "wrong_usage": WELL,
    "error_event": ("stream_error", "overloaded"),
    "empty": ("empty", None),
    "truncated": ("malformed", "truncated"),
    "status_400": ("http_error", "invalid_request_error"),
    "status_429": ("http_error", "rate_limit"),
    "close_delimited": WELL,
    "close_after": WELL,
    "says_close": WELL,
    "continues": WELL,
    "says_too_much": WELL,
    "whole_at_once": WELL,
}
DEADLINES = {"first_byte_s": 2.0, "stall_s": 2.0, "total_s": 4.0}


def faulty(index, fault, at_s=0.0, **more):
    return row(index, at_s, prompt=f"please fault={fault}", **more)


@pytest.fixture
def server(tmp_path):
    with misbehaving(tmp_path / "log") as found:
        yield found


def test_every_fault_is_its_outcome(tmp_path, server):
    """Each fault once, all at the same time, with good requests between them; each row has exactly one result."""
    rows = []
    for i, fault in enumerate(OUTCOMES):
        rows += [faulty(2 * i, fault, i * 0.005), row(2 * i + 1, i * 0.005)]
    told, got = send(tmp_path, rows, server.url, keep_text=True, **DEADLINES)
    assert [r["index"] for r in got] == list(range(len(rows)))
    seen = {fault: (r["outcome"], r["error_type"]) for fault, r in zip(OUTCOMES, got[::2], strict=True)}
    assert seen == OUTCOMES
    assert {r["outcome"] for r in got[1::2]} == {"ok"}
    assert sum(told["summary"]["outcomes"].values()) == len(rows) == told["requests_ended"]
    by_fault = dict(zip(OUTCOMES, got[::2], strict=True))
    assert by_fault["huge_event"]["chunk_chars"] == [HUGE]
    assert by_fault["one_byte_at_a_time"]["output_text"] == "one two"
    assert len(by_fault["one_byte_at_a_time"]["chunk_us"]) == 2
    assert by_fault["says_too_much"]["output_text"] == "one"
    assert by_fault["whole_at_once"]["output_text"] == "all of it"
    wrong = by_fault["wrong_usage"]
    assert (wrong["output_tokens"], wrong["cached_tokens"], wrong["tokens_source"]) == (None, None, "none")
    assert by_fault["stall"]["chunk_chars"] == [4]  # what came before is kept
    assert by_fault["status_400"]["http_status"] == 400


def test_error_messages_of_a_server_are_not_in_the_results(tmp_path, server):
    """They may quote the prompt; only types and codes are kept."""
    send(tmp_path, [faulty(0, "status_400"), faulty(1, "error_event")], server.url)
    for file in (tmp_path / "runs").rglob("*"):
        if file.is_file():
            assert b"secret words" not in file.read_bytes()


def test_a_refused_connection_is_an_outcome_and_the_session_goes_on(tmp_path):
    """Nobody listens: every turn is refused, none waits for ever for the one before."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    told, got = send(
        tmp_path, [*turns("s", 0, [0, 0.01, 0.02], 0.01), row(3, 0.01)], f"http://127.0.0.1:{port}"
    )
    assert [(r["outcome"], r["error_type"], r["sent_us"]) for r in got] == [
        ("refused", "ECONNREFUSED", None)
    ] * 4
    assert not told["valid"] and told["invalid_because"] == "nothing was sent"


def test_a_server_that_never_accepts_is_a_timeout_of_the_connection(tmp_path):
    """Its backlog is full: the handshake is never answered."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
        address = listener.getsockname()
        fillers = []
        for _ in range(4):
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex(address)
            fillers.append(filler)
        _, got = send(tmp_path, [row(0)], f"http://127.0.0.1:{address[1]}", connect_s=0.4)
        for filler in fillers:
            filler.close()
    assert (got[0]["outcome"], got[0]["error_type"]) == ("timeout", "connect")


def test_a_storm_of_429_is_recorded_and_not_retried_unless_asked(tmp_path, server):
    """One attempt each."""
    told, got = send(tmp_path, [faulty(i, "status_429", i * 0.001) for i in range(100)], server.url)
    assert collections.Counter((r["outcome"], r["http_status"], r["attempt"]) for r in got) == {
        ("http_error", 429, 0): 100
    }
    assert len(server.seen()) == 100
    assert told["summary"]["outcomes"] == {"http_error": 100}


def test_retries_are_attempts_of_their_own(tmp_path, server):
    """503 twice, then an answer: three lines, the last one counts, the intended time stays."""
    run = new_run(tmp_path)
    _, got = send(tmp_path, [faulty(0, "status_503_twice")], server.url, run=run, retries=3)
    lines = [json.loads(line) for line in (run.path / "requests-00.jsonl").read_text().splitlines()]
    assert [(line["attempt"], line["outcome"], line["final"]) for line in lines] == [
        (0, "http_error", False),
        (1, "http_error", False),
        (2, "ok", True),
    ]
    assert len({line["intended_us"] for line in lines}) == 1
    assert [(r["attempt"], r["outcome"]) for r in got] == [(2, "ok")]


def test_a_retry_comes_no_sooner_than_the_server_asks(tmp_path, server):
    """Retry-After: 1; without it half a second, then twice that."""
    send(tmp_path, [faulty(0, "status_503_once")], server.url, retries=1)
    first, second = (one["arrived_ns"] for one in server.seen())
    assert second - first >= 1_000_000_000


def test_a_refused_connection_is_retried_where_asked(tmp_path):
    """The server comes up between the attempts."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    run = new_run(tmp_path)
    over = threading.Event()

    def come_up():
        while not (run.path / "requests-00.jsonl").read_bytes():
            time.sleep(0.01)
        with known_server(tmp_path / "log", port=port):
            over.wait(60)

    (run.path / "requests-00.jsonl").touch()
    thread = threading.Thread(target=come_up)
    thread.start()
    try:
        url = f"http://127.0.0.1:{port}"
        _, got = send(tmp_path, [row(0)], url, run=run, resume=True, retries=6)
    finally:
        over.set()
        thread.join()
    assert got[0]["outcome"] == "ok" and got[0]["attempt"] >= 1


def test_tokens_that_a_server_does_not_count_are_counted_here_and_marked(tmp_path, server):
    """By the function that is given; the server's own count comes first."""
    rows = [faulty(0, "wrong_usage"), row(1), faulty(2, "status_400")]
    _, got = send(tmp_path, rows, server.url, count=lambda text: 100 + len(text))
    assert [(r["output_tokens"], r["tokens_source"]) for r in got] == [
        (103, "counted"),
        (3, "usage"),
        (None, "none"),
    ]


def test_retries_end(tmp_path, server):
    """429 for ever: first attempt and two more."""
    _, got = send(tmp_path, [faulty(0, "status_429")], server.url, retries=2)
    assert [(r["attempt"], r["outcome"]) for r in got] == [(2, "http_error")]
    assert len(server.seen()) == 3


def test_a_bad_request_is_not_retried(tmp_path, server):
    """What is wrong with 400 will be wrong again; so will half an answer that was paid for."""
    rows = [faulty(0, "status_400"), faulty(1, "reset_midstream")]
    _, got = send(tmp_path, rows, server.url, retries=2)
    assert [r["attempt"] for r in got] == [0, 0]


def test_stopping_does_not_wait_for_a_retry(tmp_path, server):
    """Retry-After asks for more than this test has; Ctrl-C is heard, and the attempt that was to come is cancelled."""
    stop, run = threading.Event(), new_run(tmp_path)
    w = workload(tmp_path, [faulty(0, "status_429_for_long")])

    def stop_later(progress):
        if server.seen():
            stop.set()

    told = replay_run(w, OPENAI, server.url, Options(retries=2), run, stop=stop, progress=stop_later)
    assert told["stopped"] and not run.finished
    (left,) = run.requests().to_dicts()
    assert (left["attempt"], left["outcome"], left["taken_up_us"]) == (1, "cancelled", None)


def test_a_connection_that_was_closed_between_requests_is_replaced_unseen(tmp_path, server):
    """The server closes after each answer; the next request finds out and is sent once more, on a fresh connection."""
    rows = turns("s", 0, [0.0] * 30, 0.0, prompt="fault=close_after")
    _, got = send(tmp_path, rows, server.url)
    assert {r["outcome"] for r in got} == {"ok"} and {r["attempt"] for r in got} == {0}
    assert len(server.seen()) == 30


def test_a_fresh_connection_that_is_reset_is_not_tried_again(tmp_path, server):
    """Only a reused one may have been closed before the server saw the request."""
    told, got = send(tmp_path, [faulty(0, "reset_before")], server.url)
    assert got[0]["outcome"] == "reset"
    assert len(server.seen()) == 1
    assert told["client"]["processes"][0]["resent"] == 0


def test_a_server_that_dies_at_work_on_a_reused_connection_is_not_asked_again(tmp_path, server):
    """Streaming servers say nothing until the prompt is computed: a reset then is a reset, sent once."""
    rows = turns("s", 0, [0.0] * 2, 0.0)
    rows[1]["prompt_text"] = "fault=reset_while_working"
    told, got = send(tmp_path, rows, server.url)
    assert told["client"]["processes"][0]["reused"] == 1
    assert told["client"]["processes"][0]["resent"] == 0
    assert [r["outcome"] for r in got] == ["ok", "reset"]
    assert len(server.seen()) == 2


def test_a_run_that_was_stopped_before_a_retry_goes_on_with_it(tmp_path, server):
    """The attempt that was cut is made again, under its next number; every row has its result."""
    stop, run = threading.Event(), new_run(tmp_path)
    w = workload(tmp_path, [faulty(0, "status_429_for_long"), row(1)])

    def stop_later(progress):
        if len(server.seen()) == 2:
            stop.set()

    assert replay_run(w, OPENAI, server.url, Options(retries=2), run, stop=stop, progress=stop_later)[
        "stopped"
    ]
    told = replay_run(w, OPENAI, server.url, Options(), run, resume=True)
    assert not told["stopped"] and told["requests_ended"] == 2
    assert [(r["index"], r["attempt"], r["outcome"]) for r in run.requests().to_dicts()] == [
        (0, 2, "http_error"),
        (1, 0, "ok"),
    ]


@pytest.mark.parametrize(
    ("lines", "ended", "attempts"),
    [
        ([(0, "http_error", False)], {}, {7: 1}),  # killed while the retry waited
        ([(0, "http_error", False), (1, "cancelled", True)], {}, {7: 2}),
        ([(0, "http_error", False), (1, "ok", True)], {7: 101}, {}),
        ([(0, "cancelled", True), (1, "ok", True)], {7: 101}, {}),  # resumed before
        ([(1, "cancelled", True), (0, "http_error", False)], {}, {7: 2}),  # in files of other processes
        ([(0, "ok", True)], {7: 100}, {}),
    ],
)
def test_the_last_attempt_says_whether_a_request_is_sent_again(tmp_path, lines, ended, attempts):
    """By the lines of a run that was cut off."""
    rows = [
        {"index": 7, "attempt": n, "outcome": outcome, "final": final, "end_us": 100 + n}
        for n, outcome, final in lines
    ]
    (tmp_path / "requests-00.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows))
    assert Recorded.of(tmp_path)[:2] == (ended, attempts)


def test_half_an_answer_on_a_reused_connection_is_not_asked_for_again(tmp_path, server):
    """The server has worked on it: a reset, sent once."""
    rows = turns("s", 0, [0.0] * 2, 0.0)
    rows[1]["prompt_text"] = "fault=reset_midstream"
    told, got = send(tmp_path, rows, server.url)
    assert told["client"]["processes"][0]["reused"] == 1
    assert [r["outcome"] for r in got] == ["ok", "reset"]
    assert len(server.seen()) == 2


def test_a_server_that_dies_and_comes_back_loses_no_request(tmp_path):
    """Killed in the middle, started again on the same port: what came in between is refused or reset, the rest ok."""
    rows = [row(i, i * 0.02, prompt=f"{i}") for i in range(150)]
    over, servers = threading.Event(), []

    def die_and_come_back():
        while len(servers[0].seen()) < 40:
            time.sleep(0.01)
        servers[0].kill()
        time.sleep(0.3)
        with known_server(tmp_path / "log2", ttft_s=0.02, port=servers[0].port) as second:
            servers.append(second)
            over.wait(60)

    with known_server(tmp_path / "log", ttft_s=0.02) as first:
        servers.append(first)
        thread = threading.Thread(target=die_and_come_back)
        thread.start()
        try:
            told, got = send(tmp_path, rows, first.url)
        finally:
            over.set()
            thread.join()
    assert [r["index"] for r in got] == list(range(150))
    count = collections.Counter(r["outcome"] for r in got)
    assert set(count) <= {"ok", "refused", "reset"} and count["refused"] + count["reset"] > 0
    assert got[0]["outcome"] == got[-1]["outcome"] == "ok"
    answered = {int(one["body"]["prompt"]) for server in servers for one in server.seen()}
    assert answered <= {r["index"] for r in got if r["outcome"] == "ok"}
    assert sum(told["summary"]["outcomes"].values()) == 150


# ---- TLS


@pytest.fixture(scope="module")
def certificate(tmp_path_factory) -> Path:
    """For localhost, signed by itself; with its key, in one file."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name).issuer_name(name).public_key(key.public_key()).serial_number(1)
        .not_valid_before(now - datetime.timedelta(1)).not_valid_after(now + datetime.timedelta(1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )  # fmt: skip
    path = tmp_path_factory.mktemp("tls") / "localhost.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(private + made.public_bytes(serialization.Encoding.PEM))
    return path


def test_a_certificate_that_nobody_vouches_for_is_an_outcome(tmp_path, certificate):
    """Without --ca every request is a TLS error, none is sent."""
    with misbehaving(tmp_path / "log", certificate=certificate) as server:
        _, got = send(tmp_path, [row(0), row(1)], server.url)
    assert [(r["outcome"], r["error_type"], r["sent_us"]) for r in got] == [
        ("tls", "CERTIFICATE_VERIFY_FAILED", None)
    ] * 2


def test_tls_with_a_given_certificate(tmp_path, certificate):
    """Answers, faults and connection reuse are as without it."""
    rows = [*turns("s", 0, [0.0] * 3, 0.0), faulty(3, "reset_midstream"), faulty(4, "close_delimited")]
    with misbehaving(tmp_path / "log", certificate=certificate) as server:
        _, got = send(tmp_path, rows, server.url, ca=certificate)
        seen = server.seen()
    assert [r["outcome"] for r in got] == ["ok", "ok", "ok", "reset", "ok"]
    assert len({one["connection"] for one in seen if "fault" not in json.dumps(one["body"])}) == 1


def test_a_server_that_does_not_speak_tls_is_an_outcome(tmp_path):
    """Plain HTTP where https was asked for."""

    def answer_plainly():
        sock, _ = listener.accept()
        with sock:
            sock.recv(1 << 16)
            sock.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=answer_plainly)
        thread.start()
        _, got = send(tmp_path, [row(0)], f"https://127.0.0.1:{listener.getsockname()[1]}")
        thread.join()
    assert (got[0]["outcome"], got[0]["sent_us"]) == ("tls", None)
