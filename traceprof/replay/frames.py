"""What the sending process and its clerk tell each other over a pair of sockets: a length, a letter, a payload.

To the client   C  settings, as JSON; the first frame
                R  a request: when, after which, and the bytes to write
                E  there are no more requests
                G  go: the zero of all times, ns of the monotonic clock
                S  stop: send nothing more; seconds to wait for answers under way
To the clerk    U  up
                A  an attempt and what came back
                D  done: facts of the client's own work, as JSON; the last frame

Both run on one machine, so numbers are in its own byte order.
"""

from __future__ import annotations

import struct
from array import array
from typing import NamedTuple

from traceprof.replay.connection import Exchange
from traceprof.replay.pacing import Planned

_LENGTH = struct.Struct("=Ic")
_REQUEST = struct.Struct("=qqqqqIH")
_ATTEMPT = struct.Struct("=qHqqqqqqHBBIqqI")
OUTCOMES = ("whole", "refused", "reset", "tls", "timeout", "stalled", "cancelled", "malformed")
"""How an attempt can end for the client; what a whole answer says is for the clerk to read."""
NONE = -1


def frame(letter: bytes, payload: bytes) -> bytes:
    """A frame."""
    return _LENGTH.pack(len(payload) + 1, letter) + payload


class Frames:
    """Cuts what a socket gave into frames.

    >>> frames = Frames()
    >>> whole = frame(b"G", b"12") + frame(b"E", b"")
    >>> frames.feed(whole[:6]), frames.feed(whole[6:])
    ([], [(b'G', b'12'), (b'E', b'')])
    """

    def __init__(self) -> None:
        self._rest = bytearray()

    def feed(self, data: bytes) -> list[tuple[bytes, bytes]]:
        """(letter, payload) of each frame that is whole now."""
        rest = self._rest
        rest += data
        found, at = [], 0
        while len(rest) - at >= _LENGTH.size:
            length, letter = _LENGTH.unpack_from(rest, at)
            end = at + 4 + length
            if end > len(rest):
                break
            found.append((letter, bytes(memoryview(rest)[at + 5 : end])))
            at = end
        if at:
            del rest[:at]
        return found


def pack_request(planned: Planned, attempt: int, wire: bytes) -> bytes:
    """A request as a frame."""
    parent = NONE if planned.parent is None else planned.parent
    ended = NONE if planned.parent_ended_us is None else planned.parent_ended_us
    head = _REQUEST.pack(
        planned.index, planned.scheduled_us, planned.think_us, parent, ended, planned.children, attempt
    )
    return frame(b"R", head + wire)


def unpack_request(payload: bytes) -> tuple[Planned, int, bytes]:
    """What `pack_request` packed."""
    index, scheduled, think, parent, ended, children, attempt = _REQUEST.unpack_from(payload)
    planned = Planned(
        index,
        scheduled,
        think,
        None if parent == NONE else parent,
        children,
        None if ended == NONE else ended,
    )
    return planned, attempt, payload[_REQUEST.size :]


class Attempt(NamedTuple):
    """One attempt as the client saw it. Times are ns of the monotonic clock, 0 where there is none."""

    index: int  # type: ignore[assignment]
    attempt: int
    intended_us: int
    started_ns: int  # when it was taken up
    sent_ns: int
    first_ns: int
    end_ns: int
    status: int
    outcome: str  # one of OUTCOMES
    final: bool  # no other attempt follows
    error_type: str
    content_type: str
    bytes_sent: int
    bytes_received: int
    at_ns: array[int]  # when each piece of the body was received
    pieces: list[bytes]


def pack_attempt(exchange: Exchange, end_ns: int, final: bool) -> bytes:
    """An attempt that ended, as a frame."""
    content_type = exchange.content_type.encode("latin-1")[:200]
    error_type = exchange.error_type.encode("ascii", "replace")[:100]
    lengths = array("I", map(len, exchange.data))
    head = _ATTEMPT.pack(
        exchange.index, exchange.attempt, exchange.intended_us, exchange.started_ns, exchange.sent_ns,
        exchange.first_ns, end_ns, len(exchange.wire), exchange.status, OUTCOMES.index(exchange.outcome), final, len(lengths),
        exchange.received, len(content_type), len(error_type),
    )  # fmt: skip
    parts = [head, content_type, error_type, exchange.at.tobytes(), lengths.tobytes(), *exchange.data]
    return frame(b"A", b"".join(parts))


def unpack_attempt(payload: bytes) -> Attempt:
    """What `pack_attempt` packed."""
    (
        index, attempt, intended, started, sent, first, end, bytes_sent, status, outcome, final, count, received, of_type, of_error,
    ) = _ATTEMPT.unpack_from(payload)  # fmt: skip
    at = _ATTEMPT.size
    content_type = payload[at : at + of_type].decode("latin-1")
    at += of_type
    error_type = payload[at : at + of_error].decode("ascii")
    at += of_error
    times, lengths = array("q"), array("I")
    times.frombytes(payload[at : at + 8 * count])
    at += 8 * count
    lengths.frombytes(payload[at : at + 4 * count])
    at += 4 * count
    pieces = []
    for length in lengths:
        pieces.append(payload[at : at + length])
        at += length
    return Attempt(
        index, attempt, intended, started, sent, first, end, status, OUTCOMES[outcome], bool(final), error_type, content_type,
        bytes_sent, received, times, pieces,
    )  # fmt: skip
