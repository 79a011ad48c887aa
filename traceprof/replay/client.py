"""The sending process: sockets and a clock, and as little else as can be.

`python -m traceprof.replay.client FD` talks to its clerk over the socket FD (see `frames`). It sends each request when the pacer
says so, keeps what comes back as it came, and hands it on when the answer has ended; what the bytes mean, files and bodies are the
clerk's. Nothing heavy is imported and the garbage collector is off, so that nothing but the kernel stands between an answer and its
time stamp.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import json
import resource
import signal
import socket
import ssl
import sys
import time
from collections import deque
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from time import monotonic_ns
from typing import Any

from traceprof.replay.alarm import alarm, short_slices
from traceprof.replay.connection import Connection, Exchange
from traceprof.replay.frames import Frames, frame, pack_attempt, unpack_request
from traceprof.replay.pacing import Pacer

BURST = 32  # requests sent before answers are looked at again
BACKLOG_BYTES = 256 << 20  # of answers that the clerk has not taken yet: above it nothing more is sent
RETRIED = frozenset((408, 425, 429, 500, 502, 503, 504, 529))
LONGEST_WAIT_S = 600.0
TICK_S = 0.002  # by which a timer of the loop may be early
AT_ONCE_NS = 5_000_000  # after the send: a connection that is closed by then was closed before the server saw the request
US = 1000  # ns


class Client:
    """One shard of a run."""

    def __init__(self, settings: dict[str, Any], write: Callable[[bytes], None]) -> None:
        self._write = write
        self.backlog: Callable[[], int] = lambda: 0
        self._loop = asyncio.get_running_loop()
        self._told = settings
        self._pacer = Pacer(settings["mode"], settings["concurrency"], settings["from_us"])
        self._tls = _tls_context(settings) if settings["tls"] else None
        self._zero_ns = 0
        self._requests: dict[int, tuple[int, bytes]] = {}  # attempts before this run, and what is written
        self._active: set[Exchange] = set()
        self._again: dict[Exchange, asyncio.TimerHandle] = {}  # attempts that wait for their time
        self._idle: list[Connection] = []
        self._queue: deque[Exchange] = deque()  # for a connection, where their number is limited
        self._tasks: set[asyncio.Task[None]] = set()
        self._open = 0
        self._trip_ns = 0  # the fastest connect: what word from the server takes at least
        self._all_told = self._stopped = False
        self.over = asyncio.Event()
        self._alarm = alarm(self._loop, self._tick)
        self._armed = -1
        self._facts = Facts()

    # ---- what the clerk says

    def hear(self, letter: bytes, payload: bytes) -> None:
        """One frame."""
        if letter == b"R":
            planned, attempt, wire = unpack_request(payload)
            self._requests[planned.index] = (attempt, wire)
            self._pacer.add(planned)
        elif letter == b"E":
            self._all_told = True
            self._look_for_end()
        elif letter == b"G":
            self._zero_ns = json.loads(payload)
            self._facts.begin()
            self._watch()
        elif letter == b"S":
            self._stop(json.loads(payload))

    async def open_ahead(self) -> None:
        """Open the connections that were asked for before the clock runs; those that cannot be are left to their requests."""
        todo = self._told["connections_ahead"]
        for _ in range(0, todo, BURST):
            self._open += min(BURST, todo)
            await asyncio.gather(*(self._connect(None) for _ in range(min(BURST, todo))))
            todo -= BURST

    # ---- sending

    def arm(self) -> None:
        """Set the alarm to the time of the next request."""
        next_us = self._pacer.next_us()
        if next_us is not None and self._zero_ns and not self._stopped and next_us != self._armed:
            self._armed = next_us
            self._alarm.set(self._zero_ns + next_us * US)

    def _tick(self) -> None:
        self._armed = -1
        if self._stopped:
            return
        if self.backlog() > BACKLOG_BYTES:
            self._facts.held_back += 1
            self._alarm.set(monotonic_ns() + 5_000_000)
            return
        now_us = (monotonic_ns() - self._zero_ns) // US
        for _ in range(BURST):
            turn = self._pacer.pop(now_us)
            if turn is None:
                break
            attempt, wire = self._requests[turn.index]
            self._start(Exchange(turn.index, attempt, turn.intended_us, wire))
        self.arm()

    def _start(self, exchange: Exchange) -> None:
        self._active.add(exchange)
        while self._idle:
            connection = self._idle.pop()
            if not connection.closed:
                self._facts.reused += 1
                connection.send(exchange)
                return
        self._start_fresh(exchange)

    def _start_fresh(self, exchange: Exchange) -> None:
        limit = self._told["max_connections"]
        if limit and self._open >= limit:
            self._facts.queued += 1
            self._queue.append(exchange)
            return
        self._open += 1
        task = self._loop.create_task(self._connect(exchange))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _connect(self, exchange: Exchange | None) -> None:
        """Open a connection for an exchange, or for whichever comes."""
        begun = monotonic_ns()
        connection, outcome, why = None, "", ""
        try:
            async with asyncio.timeout(self._told["connect_s"]):
                connection = await self._dial()
        except TimeoutError as late:  # ours, or the kernel's
            outcome, why = "timeout", "connect" if late.errno is None else "ETIMEDOUT"
        except ssl.SSLError as bad:
            outcome, why = "tls", getattr(bad, "reason", None) or type(bad).__name__
        except (ConnectionResetError, ConnectionAbortedError, BrokenPipeError) as bad:
            outcome, why = "reset", type(bad).__name__
        except OSError as bad:
            outcome = "refused"
            why = errno.errorcode.get(bad.errno or 0, type(bad).__name__)
        if connection is None:
            self._open -= 1
            self._facts.failed_connects += 1
            if exchange is not None and exchange in self._active:
                self._finish(exchange, outcome, why)
            self._serve_queue()
            return
        took = monotonic_ns() - begun
        self._trip_ns = min(self._trip_ns or took, took)
        self._facts.connect_us.append(took // US)
        if exchange is not None and exchange in self._active:
            connection.send(exchange)
        else:
            self._rest(connection)

    async def _dial(self) -> Connection:
        """A connection to the first address that takes one."""
        addresses = self._told["addresses"]
        for i, (host, port) in enumerate(addresses):
            try:
                _, connection = await self._loop.create_connection(
                    lambda: Connection(self._done, self._lost),
                    host,
                    port,
                    ssl=self._tls,
                    server_hostname=self._told["server_name"] if self._tls else None,
                )
                if i:  # the next one goes there first
                    addresses.insert(0, addresses.pop(i))
                return connection
            except ssl.SSLError:
                raise
            except OSError:
                if i + 1 == len(addresses):
                    raise
        raise AssertionError("no address")

    def _rest(self, connection: Connection) -> None:
        """A connection is free: for a request that waits for one, or later ones."""
        while self._queue:
            exchange = self._queue.popleft()
            if exchange in self._active:
                connection.send(exchange)
                return
        self._idle.append(connection)

    def _serve_queue(self) -> None:
        while self._queue:
            exchange = self._queue.popleft()
            if exchange in self._active:
                self._start_fresh(exchange)
                return

    # ---- ends

    def _done(self, connection: Connection, exchange: Exchange) -> None:
        """A connection is done with an exchange, well or not."""
        if not connection.closed:
            self._rest(connection)
        if (
            exchange.outcome == "reset"
            and not exchange.received
            and connection.used > 1
            and not exchange.resent
            and monotonic_ns() - exchange.sent_ns <= max(AT_ONCE_NS, self._trip_ns)
        ):
            # the server closed an idle connection while the request was on its way: nobody has seen it. Later than that it may
            # have worked on it, and what the client saw is a reset
            exchange.resent = True
            exchange.clear()
            self._facts.resent += 1
            self._start_fresh(exchange)
            return
        self._finish(exchange, exchange.outcome, exchange.error_type)

    def _lost(self, connection: Connection) -> None:
        self._open -= 1
        if len(self._idle) > 64 + 2 * self._open:  # most of them are gone
            self._idle = [c for c in self._idle if not c.closed]
        self._serve_queue()

    def _finish(self, exchange: Exchange, outcome: str, why: str) -> None:
        exchange.outcome, exchange.error_type = outcome, why
        self._active.discard(exchange)
        end_ns = exchange.last_ns if outcome == "whole" else monotonic_ns()
        wait_s = None if self._stopped else self._wait_s(exchange)
        self._write(pack_attempt(exchange, end_ns, wait_s is None))
        self._facts.pieces += len(exchange.data)
        index = exchange.index
        if wait_s is not None:
            self._facts.retried += 1
            again = Exchange(index, exchange.attempt + 1, exchange.intended_us, exchange.wire)
            again.started_ns = 0
            self._again[again] = self._loop.call_later(wait_s + TICK_S, self._retry, again)
            return
        del self._requests[index]
        self._pacer.ended(index, (end_ns - self._zero_ns) // US)
        self.arm()
        self._look_for_end()

    def _wait_s(self, exchange: Exchange) -> float | None:
        """Seconds until the next attempt; None where there is none."""
        made = exchange.attempt - self._requests[exchange.index][0]
        if made >= self._told["retries"]:
            return None
        if exchange.outcome == "whole":
            if exchange.status not in RETRIED:
                return None
        elif exchange.outcome not in ("refused", "reset") or exchange.received:
            return None
        told = retry_after_s(exchange.retry_after, time.time())
        return min(LONGEST_WAIT_S, 0.5 * 2.0**made if told is None else told)

    def _retry(self, exchange: Exchange) -> None:
        del self._again[exchange]
        exchange.started_ns = monotonic_ns()
        self._start(exchange)

    def _look_for_end(self) -> None:
        if (self._all_told and not self._requests) or (self._stopped and not self._active):
            self.over.set()

    def _stop(self, drain_s: float) -> None:
        """Send nothing more; end what is under way after this time at the latest."""
        self._stopped = True
        for exchange, handle in self._again.items():
            handle.cancel()
            self._finish(exchange, "cancelled", "")
        self._again.clear()
        if drain_s > 0:
            self._loop.call_later(drain_s, self._cut_all)
        else:
            self._cut_all()
        self._look_for_end()

    def _cut_all(self) -> None:
        for exchange in list(self._active):
            self._cut(exchange, "cancelled", "")

    def _cut(self, exchange: Exchange, outcome: str, why: str) -> None:
        if exchange.connection is not None:
            exchange.connection.cut(outcome, why)
        else:
            self._finish(exchange, outcome, why)

    # ---- watching

    def _watch(self) -> None:
        """End what is past its deadline; once a moment."""
        told = self._told
        limits = [told["total_s"], told["first_byte_s"], told["stall_s"]]
        moment = min(0.1, min(limits) / 4)
        total, first, stall = (int(limit * 1e9) for limit in limits)
        due = monotonic_ns() + int(moment * 1e9)

        def look() -> None:
            nonlocal due
            now = monotonic_ns()
            self._facts.moment(max(0, now - due) / 1e9)
            for exchange in list(self._active):
                if now - exchange.started_ns > total:
                    self._cut(exchange, "timeout", "total")
                elif exchange.received:
                    if now - exchange.last_ns > stall:
                        self._cut(exchange, "stalled", "")
                elif now - exchange.started_ns > first:
                    self._cut(exchange, "timeout", "first_byte")
            if not self._active and not self._idle:
                gc.collect()  # what failed connections leave behind; nobody waits
            due = monotonic_ns() + int(moment * 1e9)
            if not self.over.is_set():
                self._loop.call_later(moment, look)

        self._loop.call_later(moment, look)

    def facts(self) -> dict[str, Any]:
        """What this process did, for the results."""
        return self._facts.told()

    def close(self) -> None:
        """Close all sockets."""
        self._alarm.close()
        for connection in self._idle:
            connection.close()
        for task in self._tasks:
            task.cancel()


class Facts:
    """The client's own work."""

    def __init__(self) -> None:
        self.reused = self.resent = self.retried = self.queued = self.held_back = self.failed_connects = 0
        self.pieces = 0  # of answers: what was received at one time in one chunk
        self.connect_us: list[int] = []
        self._lags: list[float] = []
        self._begun_cpu = self._begun_wall = self._cpu = self._wall = 0.0
        self._busiest = 0.0

    def begin(self) -> None:
        """The clock runs."""
        self._begun_cpu = self._cpu = time.process_time()
        self._begun_wall = self._wall = time.monotonic()

    def moment(self, lag_s: float) -> None:
        """The loop came back to its watch so much too late."""
        self._lags.append(lag_s)
        wall = time.monotonic()
        if wall - self._wall >= 1:
            cpu = time.process_time()
            self._busiest = max(self._busiest, (cpu - self._cpu) / (wall - self._wall))
            self._cpu, self._wall = cpu, wall

    def told(self) -> dict[str, Any]:
        """As JSON."""
        cpu, wall = time.process_time() - self._begun_cpu, time.monotonic() - self._begun_wall
        connects = sorted(self.connect_us)
        lags = sorted(self._lags)
        return {
            "cpu_s": cpu,
            "wall_s": wall,
            "cpu_busiest_second": max(self._busiest, cpu / wall if wall < 1 else 0.0),
            "memory_bytes": peak_memory_bytes(),
            "pieces": self.pieces,
            "loop_lag_p50_s": _rank(lags, 0.5),
            "loop_lag_p99_s": _rank(lags, 0.99),
            "loop_lag_max_s": lags[-1] if lags else None,
            "connections": len(connects),
            "connect_p50_us": _rank(connects, 0.5),
            "connect_max_us": connects[-1] if connects else None,
            "failed_connects": self.failed_connects,
            "reused": self.reused,
            "resent": self.resent,
            "retried": self.retried,
            "queued_for_connection": self.queued,
            "held_back": self.held_back,
        }


def peak_memory_bytes() -> int:
    """Most memory that this process has held; on Linux not the parent's, which getrusage counts in across an exec."""
    with contextlib.suppress(OSError, ValueError, IndexError), open("/proc/self/status") as status:  # noqa: PTH123
        return 1024 * int(next(line for line in status if line.startswith("VmHWM")).split()[1])
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most * (1 if sys.platform == "darwin" else 1024)


def _rank(values: list[Any], share: float) -> Any:
    """The value at this share of a sorted list; None of nothing."""
    return values[min(len(values) - 1, int(share * len(values)))] if values else None


def retry_after_s(told: str, now_s: float) -> float | None:
    """Seconds that a Retry-After header asks for.

    >>> retry_after_s("7", 0), retry_after_s("Thu, 01 Jan 1970 00:01:00 GMT", 50), retry_after_s("soon", 0)
    (7.0, 10.0, None)
    """
    told = told.strip()
    if told.isascii() and told.isdigit():
        return float(told[:9])
    with contextlib.suppress(ValueError, TypeError, OverflowError):
        return max(0.0, parsedate_to_datetime(told).timestamp() - now_s)
    return None


def _tls_context(settings: dict[str, Any]) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=settings["ca"])
    context.set_alpn_protocols(["http/1.1"])
    return context


# ---- the process


class Link(asyncio.Protocol):
    """The socket to the clerk."""

    def __init__(self) -> None:
        self._frames = Frames()
        self._early: list[tuple[bytes, bytes]] = []
        self.client: Client | None = None
        self.settings: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self.transport: Any = None
        self.gone = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The clerk is there."""
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        """Some of what it says."""
        for letter, payload in self._frames.feed(data):
            if letter == b"C":
                self.settings.set_result(json.loads(payload))
            elif self.client is None:
                self._early.append((letter, payload))
            else:
                self.client.hear(letter, payload)
        if self.client is not None:
            self.client.arm()

    def begin(self, client: Client) -> None:
        """From now on frames go there."""
        self.client = client
        client.backlog = self.transport.get_write_buffer_size
        for letter, payload in self._early:
            client.hear(letter, payload)
        self._early.clear()
        client.arm()

    def connection_lost(self, exc: Exception | None) -> None:
        """It is gone."""
        self.gone.set()
        if not self.settings.done():
            self.settings.set_exception(ConnectionError())


async def serve(sock: socket.socket) -> None:
    """Do what the clerk at the other end says, until it is done or gone."""
    loop = asyncio.get_running_loop()
    _, link = await loop.create_unix_connection(Link, sock=sock)
    try:
        settings = await link.settings
    except ConnectionError:  # the clerk was killed before it could say
        return
    client = Client(settings, link.transport.write)
    await client.open_ahead()
    link.begin(client)
    link.transport.write(frame(b"U", b""))
    gc.freeze()
    gc.disable()
    over, gone = loop.create_task(client.over.wait()), loop.create_task(link.gone.wait())
    await asyncio.wait((over, gone), return_when=asyncio.FIRST_COMPLETED)
    client.close()
    link.transport.write(frame(b"D", json.dumps(client.facts()).encode()))
    await link.gone.wait()  # the clerk closes: nothing of ours is lost on the way


def main() -> None:
    """The process."""
    short_slices()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the clerk hears it, and says what is to be done
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    sock = socket.socket(fileno=int(sys.argv[1]))
    sock.setblocking(False)
    try:
        import uvloop
    except ImportError:
        asyncio.run(serve(sock))
    else:
        uvloop.run(serve(sock))


if __name__ == "__main__":
    main()
