"""Parts of the replay client by themselves: HTTP answers cut anywhere, frames, alarms, the words of Retry-After."""

from __future__ import annotations

import asyncio
import email.utils
import itertools
import sys
import time
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.replaying import row, send
from traceprof.replay import frames
from traceprof.replay.alarm import LoopTimer, TimerFd
from traceprof.replay.client import retry_after_s
from traceprof.replay.connection import Connection, Exchange
from traceprof.replay.pacing import Planned

# ---- HTTP answers


class Wire:
    """What an asyncio transport is to a connection."""

    def __init__(self):
        self.written, self.aborted = b"", False

    def write(self, data):
        self.written += data

    def get_write_buffer_size(self):
        return 0

    def abort(self):
        self.aborted = True


def exchanged(pieces, eof=True):
    """The end of one exchange whose answer comes in these pieces, and its connection; then the server closes."""
    done, lost = [], []
    connection = Connection(lambda _, exchange: done.append(exchange), lost.append)
    connection.connection_made(Wire())
    exchange = Exchange(0, 0, 0, b"POST / HTTP/1.1\r\n\r\n")
    connection.send(exchange)
    assert connection.transport.written == exchange.wire
    for piece in pieces:
        if connection.transport.aborted:
            break
        connection.data_received(piece)
    kept = not connection.closed
    if eof:
        connection.connection_lost(None)
        assert lost == [connection]
        assert done == [exchange]
    return exchange, kept


def cut(data, places):
    """Data in pieces, cut at these places."""
    at = [0, *sorted({p % len(data) for p in places if p % len(data)}), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(at)]


BODIES = st.lists(st.binary(min_size=1, max_size=30), min_size=1, max_size=6)
INTERIM = b"HTTP/1.1 100 Continue\r\nX: y\r\n\r\n"


@given(
    BODIES, st.sampled_from(["chunked", "length", "closes", "length, closes"]), st.booleans(), st.lists(st.integers(0, 500))
)  # fmt: skip
@example([b"x"], "closes", True, [3])
def test_an_answer_is_the_same_however_it_is_cut(body, framing, interim, places):
    """Chunks, a length, or the end of the connection; an interim answer before it or not."""
    head = {
        "chunked": b"Transfer-Encoding: chunked\r\n",
        "length": b"Content-Length: %d\r\n" % len(b"".join(body)),
        "closes": b"",
        "length, closes": b"Connection: close\r\nContent-Length: %d\r\n" % len(b"".join(body)),
    }[framing]
    data = (
        b"".join(b"%x\r\n%s\r\n" % (len(b), b) for b in body) + b"0\r\n\r\n"
        if framing == "chunked"
        else b"".join(body)
    )
    answer = b"HTTP/1.1 200 OK\r\nContent-Type: a/b\r\n" + head + b"\r\n" + data
    exchange, kept = exchanged(cut((INTERIM if interim else b"") + answer, places))
    assert (exchange.outcome, exchange.status, exchange.content_type) == ("whole", 200, "a/b")
    assert b"".join(exchange.data) == b"".join(body)
    assert len(exchange.at) == len(exchange.data) and list(exchange.at) == sorted(exchange.at)
    assert kept == (framing != "length, closes")


@given(BODIES, st.lists(st.integers(0, 500)), st.integers(1, 60))
def test_an_answer_that_is_cut_short_is_a_reset_not_whole(body, places, missing):
    """However it was cut, one whose last bytes are missing has not ended."""
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(b), b) for b in body) + b"0\r\n\r\n"
    answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks
    exchange, kept = exchanged(cut(answer[: max(1, len(answer) - missing)], places))
    assert (exchange.outcome, exchange.error_type, kept) == ("reset", "closed", True)


@given(st.binary(max_size=200), st.lists(st.integers(0, 500)), st.integers(0, 90), st.booleans())
def test_no_bytes_of_a_server_make_the_client_fail(noise, places, at, replace):
    """Noise in an answer, or in its place: one exchange, one outcome."""
    answer = (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Type: a/b\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
    )
    data = answer[:at] + noise + answer[at + replace * len(noise) :]
    exchange, _ = exchanged(cut(data, places) if data else [])
    assert exchange.outcome in ("whole", "malformed", "reset")


@given(st.lists(st.integers(0, 500)))
def test_what_comes_behind_an_answer_is_not_the_next_one(places):
    """The connection is not used again, and nothing of it is in the answer."""
    one = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n"
    exchange, kept = exchanged([b"".join((one, b"abc", one, b"xyz"))])
    assert (exchange.outcome, exchange.data, kept) == ("whole", [b"abc"], False)
    exchange, _ = exchanged(cut(one + b"abc" + one + b"xyz", places))
    assert (exchange.outcome, b"".join(exchange.data)) == ("whole", b"abc")


def test_a_head_that_does_not_end_is_malformed():
    """At 256 kB."""
    exchange, kept = exchanged([b"HTTP/1.1 200 OK\r\n"] + [b"X: " + b"y" * 50_000 + b"\r\n"] * 9)
    assert (exchange.outcome, exchange.error_type, kept) == ("malformed", "head_too_large", False)
    assert exchange.received < 400_000


# ---- frames

I63 = st.integers(0, 2**62)


@given(
    st.builds(Planned, I63, I63, I63, st.none() | I63, st.integers(0, 2**31), st.none() | I63), st.integers(0, 99),
    st.binary(max_size=300), st.lists(st.integers(0, 500)),
)  # fmt: skip
def test_a_request_is_the_same_on_the_other_side(planned, attempt, wire, places):
    """However the socket cuts it; two in a row."""
    whole = frames.pack_request(planned, attempt, wire) + frames.frame(b"E", b"null")
    reader = frames.Frames()
    found = [f for piece in cut(whole, places) for f in reader.feed(piece)]
    assert [letter for letter, _ in found] == [b"R", b"E"]
    assert frames.unpack_request(found[0][1]) == (planned, attempt, wire)


@given(
    st.sampled_from(frames.OUTCOMES), st.lists(st.tuples(I63, st.binary(max_size=50)), max_size=5), st.booleans(),
    st.integers(0, 999), st.text(max_size=300), st.text(st.characters(codec="latin-1"), max_size=300),
)  # fmt: skip
def test_an_attempt_is_the_same_on_the_other_side(outcome, received, final, status, error_type, content_type):
    """Its pieces and their times, too; what a server may choose freely is cut to a bounded length."""
    exchange = Exchange(3, 1, 77, b"abc")
    exchange.outcome, exchange.error_type, exchange.content_type = outcome, error_type, content_type
    exchange.status, exchange.sent_ns, exchange.received = status, 5, 99
    for at, piece in received:
        exchange.at.append(at)
        exchange.data.append(piece)
    ((letter, payload),) = frames.Frames().feed(frames.pack_attempt(exchange, 1234, final))
    found = frames.unpack_attempt(payload)
    assert letter == b"A"
    assert found.pieces == exchange.data and list(found.at_ns) == list(exchange.at)
    assert found.error_type == error_type.encode("ascii", "replace").decode()[:100]
    assert found.content_type == content_type[:200]
    assert (found.index, found.attempt, found.intended_us, found.sent_ns, found.end_ns) == (3, 1, 77, 5, 1234)
    assert (found.outcome, found.final, found.status) == (outcome, final, status)
    assert (found.bytes_sent, found.bytes_received) == (3, 99)


# ---- alarms


@pytest.mark.parametrize("kind", [LoopTimer] + [TimerFd] * sys.platform.startswith("linux"))
def test_an_alarm_rings_once_and_not_before_its_time(kind):
    """Set, replaced by a later time, by an earlier one, and by one that is past."""

    async def rung(*waits_ns):
        rings = []
        clock = kind(asyncio.get_running_loop(), lambda: rings.append(time.monotonic_ns()))
        begun = time.monotonic_ns()
        for wait in waits_ns:
            clock.set(begun + wait)
        while not rings:
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.01)
        clock.close()
        return rings, begun + waits_ns[-1]

    for waits in ((3_000_000,), (1_000_000, 30_000_000), (60_000_000_000, 2_000_000), (-5_000_000,)):
        rings, at = asyncio.run(rung(*waits))
        assert len(rings) == 1
        assert rings[0] >= at


def test_an_alarm_that_was_closed_does_not_ring():
    """Nor does one that was never set."""

    async def rung(kind):
        rings = []
        clock = kind(asyncio.get_running_loop(), lambda: rings.append(0))
        clock.set(time.monotonic_ns() + 5_000_000)
        clock.close()
        await asyncio.sleep(0.02)
        return rings

    assert asyncio.run(rung(LoopTimer)) == []


def test_the_client_works_without_uvloop(tmp_path, monkeypatch):
    """Where it cannot be imported, asyncio's own loop does the work."""
    from tests.knownserver import known_server

    (tmp_path / "path").mkdir()
    (tmp_path / "path" / "uvloop.py").write_text("raise ImportError")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'path'}:{Path(__file__).parent.parent}")
    with known_server(tmp_path / "log") as server:
        _, got = send(tmp_path, [row(i, i * 0.01) for i in range(20)], server.url)
    assert {r["outcome"] for r in got} == {"ok"}
    assert all(r["sent_us"] >= r["intended_us"] for r in got)


# ---- Retry-After


@given(st.integers(0, 10**8), st.integers(0, 2**31))
def test_retry_after_is_seconds_or_a_date(seconds, now):
    """A date in the past is now."""
    assert retry_after_s(f" {seconds} ", now) == seconds
    assert retry_after_s(email.utils.formatdate(now + seconds, usegmt=True), now) == seconds
    assert retry_after_s(email.utils.formatdate(now, usegmt=True), now + seconds) == 0


@given(st.text())
def test_retry_after_that_says_nothing_is_none_or_a_time(told):
    """Whatever a server writes."""
    found = retry_after_s(told, 0.0)
    assert found is None or found >= 0
