"""An engine of `live.py` as a server, in real time: OpenAI's API and the engine's own, its usage fields, its counters under its own names.

    serve("vllm", costs, scheduler("vllm"), 400_000, "127.0.0.1", 8000, "llama-8b")

Each step ends at its own time on the monotonic clock, counted from the end of the step before: being late once makes nothing
later. Answers are words that mean nothing, one a token, as many as were asked for. Prompts are kept only as tokens, and are not
logged.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import re
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple
from urllib.parse import parse_qs

import orjson

from traceprof import __version__, caches, engines
from traceprof.errors import TraceprofError, UsageError
from traceprof.simulate import wire
from traceprof.simulate.cost import Costs
from traceprof.simulate.live import Job, Live
from traceprof.simulate.live_caches import Slots, live_cache
from traceprof.simulate.live_prompts import Pieces, Prompts
from traceprof.simulate.schedulers import Scheduler
from traceprof.simulate.wire import MANNERS, Asked, Refused, Told

VERSION = f"traceprof-{__version__}"  # what it says that it is
LARGEST = 256 << 20  # bytes of a request
_REASONS = {
    200: "OK", 400: "Bad Request", 404: "Not Found", 413: "Payload Too Large", 422: "Unprocessable Entity",
    500: "Internal Server Error", 503: "Service Unavailable",
}  # fmt: skip


class Served(NamedTuple):
    """What a server has done."""

    requests: int  # answered to their end
    steps: int
    late_s: float  # by which a step ended too late, at most: the machine was too slow for the engine


def serve(
    engine: str,
    costs: Costs,
    scheduler: Scheduler,
    capacity_tokens: int,
    host: str = "127.0.0.1",
    port: int = 0,
    model: str = "model",
    tokenizer: Prompts | None = None,
    stop: threading.Event | None = None,
    speed: float = 1.0,
    *,
    context_tokens: int | None = None,
    cache: Mapping[str, int] | None = None,
    began: Callable[[str], None] | None = None,
) -> Served:
    """Serve until `stop`, or until the process is interrupted or told to end.

    capacity_tokens  tokens of KV
    tokenizer        how prompts become tokens, by default `Pieces`
    speed            so many times as fast as the engine
    context_tokens   the longest prompt with its answer; by default what the cache holds
    cache            options of the cache's model, as in `traceprof.caches`
    began            called with the URL once it answers; port 0 takes any that is free
    """
    if not speed > 0:
        raise UsageError("speed is not above 0", remedy="give 1 for real time")
    server = _Server(
        engine,
        costs,
        scheduler,
        capacity_tokens,
        model,
        tokenizer or Pieces(),
        speed,
        context_tokens,
        cache or {},
    )
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(server.run(host, port, stop, began))
    return Served(server.live.counts.requests, server.live.counts.steps, server.late_s / speed)


@contextlib.contextmanager
def served(
    engine: str,
    costs: Costs,
    scheduler: Scheduler,
    capacity_tokens: int,
    *,
    model: str = "model",
    tokenizer: Prompts | None = None,
    speed: float = 1.0,
    context_tokens: int | None = None,
    cache: Mapping[str, int] | None = None,
) -> Iterator[str]:
    """`serve` in a thread on loopback for as long as the block runs; its URL."""
    stop, told = threading.Event(), queue.SimpleQueue[str | BaseException]()

    def run() -> None:
        try:
            serve(
                engine, costs, scheduler, capacity_tokens, model=model, tokenizer=tokenizer, stop=stop, speed=speed,
                context_tokens=context_tokens, cache=cache, began=told.put,
            )  # fmt: skip
        except BaseException as bad:  # raised where the block begins
            told.put(bad)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        found = told.get()
        if isinstance(found, BaseException):
            raise found
        yield found
    finally:
        stop.set()
        thread.join()


# ---- the engine in real time


class _Exchange:
    """A request and its answer."""

    def __init__(self, connection: _Connection, asked: Asked, job: Job, writer: wire.Writer) -> None:
        self.connection, self.asked, self.job, self.writer = connection, asked, job, writer
        self.words: list[str] = []


class _Server:
    """Turns the engine's steps into time, and its tokens into bytes."""

    def __init__(
        self,
        engine: str,
        costs: Costs,
        scheduler: Scheduler,
        capacity: int,
        model: str,
        prompts: Prompts,
        speed: float,
        context: int | None,
        options: Mapping[str, int],
    ) -> None:
        self.engine = engines.engine(engine)
        name = self.engine.name
        if name not in MANNERS:
            raise UsageError(f"{self.engine.label} cannot be served", remedy="one of " + ", ".join(MANNERS))
        options = {**_of_scheduler(name, scheduler), **options}
        cache = live_cache(name, capacity, **options)
        self.context = min(context or cache.limit, cache.limit)
        if self.context < 2:
            raise UsageError("no request has room", remedy="give more KV memory, or a smaller model")
        self.live = Live(scheduler, costs, cache, prompts.vocabulary)
        self.speed, self.model, self.words = speed, model, prompts.words
        self.late_s = 0.0
        block = options.get("block_size", options.get("page_size", caches.engine(name).BLOCK_SIZE))
        self._settings = {
            "block": block, "capacity": capacity, "context": self.context, "slots": scheduler.max_seqs,
        }  # fmt: skip
        self.ways = wire.ways(self.engine)
        self.reader = wire.Reader(self.engine, model, prompts, self.context)
        self.pages = {
            path: (kind, body) for path, kind, body in wire.pages(self.engine, model, VERSION, self._settings)
        }
        self._numbers = iter(range(1 << 62))
        self._open: dict[int, _Exchange] = {}
        self._finished: Counter[str] = Counter()
        self._zero = 0.0
        self.connections: set[_Connection] = set()

    async def run(
        self, host: str, port: int, stop: threading.Event | None, began: Callable[[str], None] | None
    ) -> None:
        """Until it is to stop."""
        self._loop = asyncio.get_running_loop()
        self._zero = self._loop.time()
        ended = asyncio.Event()
        broken: list[Exception] = []

        def broke(_: asyncio.AbstractEventLoop, told: dict[str, Any]) -> None:
            bad = told.get("exception")
            if isinstance(bad, Exception) and not isinstance(bad, OSError):  # which is but a client that left
                broken.append(bad)
                ended.set()

        self._loop.set_exception_handler(broke)
        try:
            listening = await self._loop.create_server(lambda: _Connection(self), host, port, backlog=1024)
        except OSError as bad:
            raise TraceprofError(
                f"cannot listen on {host}:{port}: {bad.strerror}", remedy="give another port"
            ) from None
        if threading.current_thread() is threading.main_thread():
            self._loop.add_signal_handler(signal.SIGTERM, ended.set)
        try:
            async with listening:
                if began is not None:
                    began(f"http://{host}:{listening.sockets[0].getsockname()[1]}")
                while not ended.is_set() and (stop is None or not stop.is_set()):
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(ended.wait(), 0.05)
        finally:
            for connection in list(self.connections):
                connection.abort()
            await asyncio.sleep(0)  # they are closed in the loop's next turn
        if broken:
            raise broken[0]

    # time

    def now(self) -> float:
        """Seconds of the engine's time."""
        return (self._loop.time() - self._zero) * self.speed

    def _at(self, when: float, call: Callable[..., None], *what: Any) -> None:
        self._loop.call_at(self._zero + when / self.speed, call, *what)

    def ask(self, connection: _Connection, asked: Asked) -> _Exchange:
        """A request has come."""
        number, now = next(self._numbers), self.now()
        job = Job(number, asked.prompt, asked.output, root=asked.salt, arrival=now)
        exchange = _Exchange(connection, asked, job, wire.Writer(self.engine.name, asked, number))
        self._at(now + self.live.costs.request_s, self._arrive, exchange)
        return exchange

    def _arrive(self, exchange: _Exchange) -> None:
        if exchange.connection.gone:
            return
        if not self.live.arrive(exchange.job):
            exchange.connection.refuse(self.reader.refusal(400, "the request is larger than the KV cache"))
            return
        self._open[exchange.job.number] = exchange
        self._go(self.now())

    def cancel(self, exchange: _Exchange) -> None:
        """The client has left."""
        if self._open.pop(exchange.job.number, None) is not None:
            self.live.cancel(exchange.job)

    def _go(self, at: float) -> None:
        """Begin the next step, unless one is under way."""
        if not self.live.busy:
            seconds = self.live.begin(at)
            if seconds is not None:
                self._at(at + seconds, self._over, at + seconds)

    def _over(self, due: float) -> None:
        """A step has ended: send what it yielded, begin the next."""
        self.late_s = max(self.late_s, self.now() - due)
        step = self.live.end()
        ended = {job.number for job in step.ended}
        for job in step.yielded:
            exchange = self._open.get(job.number)
            if exchange is not None:
                self._yielded(exchange, self._told(exchange, due) if job.number in ended else None)
        for job in step.failed:
            exchange = self._open.pop(job.number, None)
            if exchange is not None:
                self._failed(exchange)
        self._go(due)

    def _failed(self, exchange: _Exchange) -> None:
        """llama.cpp's slots have no room for all that runs."""
        no = self.reader.refusal(500, "failed to find a memory slot for batch", "server_error")
        if exchange.asked.stream and exchange.job.made:
            exchange.connection.send(exchange.writer.framed(no.body), True)
        else:
            exchange.connection.refuse(no)

    def _told(self, exchange: _Exchange, due: float) -> Told:
        job = exchange.job
        assert job.first is not None and job.started is not None
        return Told(
            job.prompt, job.hit, job.made, exchange.asked.finish, job.first - job.started, due - job.first, due - job.arrival
        )  # fmt: skip

    def _yielded(self, exchange: _Exchange, told: Told | None) -> None:
        job, connection, writer = exchange.job, exchange.connection, exchange.writer
        word = self.words[self.live.said(job, job.made - 1)]
        if told is not None:
            del self._open[job.number]
            self._finished[told.finish] += 1
        if not exchange.asked.stream:
            exchange.words.append(word)
            if told is not None:
                connection.answer(200, wire.JSON, writer.whole("".join(exchange.words), told))
            return
        data = writer.word(word, told)
        if job.made == 1:
            connection.begin(writer.type)
            data = writer.opening() + data
        if told is not None:
            data += writer.closing(told)
        connection.send(data, told is not None)

    # what is asked beside

    def answer(self, method: str, target: str, data: bytes) -> tuple[int, str, bytes] | None:
        """(status, type, body) of what does not generate; None: it does."""
        path, _, query = target.partition("?")
        name, cache = self.engine.name, self.live.cache
        flush, telemetry = self.engine.flush, self.engine.telemetry
        if method == "GET" and path in self.pages:
            return 200, *self.pages[path]
        if method == "GET" and telemetry is not None and path.rstrip("/") == telemetry.path.rstrip("/"):
            told = wire.exposition(self.engine, self.model, self._values(), self._settings, self._finished)
            return 200, wire.PLAIN, told
        if isinstance(cache, Slots) and name == "llamacpp" and re.fullmatch(r"/slots(/\d+)?", path):
            return self._slots(cache, method, path, query)
        if flush is not None and method == flush.method and path == flush.path and not flush.body:
            return self._flushed(cache.flush())
        if name == "ollama" and path == "/api/generate" and _unloads(data):
            cache.flush()
            return _json({"model": self.model, "response": "", "done": True, "done_reason": "unload"})
        if method == "POST" and path in self.ways:
            return None
        if MANNERS[name].server == "uvicorn":
            return _json({"detail": "Not Found"}, 404)
        return _json(wire.error(name, 404, "not found", "not_found_error"), 404)

    def _values(self) -> dict[str, float]:
        """By meaning, as `traceprof.engines.base.MEANINGS`."""
        live, counts = self.live, self.live.counts
        return {
            "prompt_tokens": counts.prompt_tokens, "cached_tokens": counts.cached_tokens, "queries": counts.prompt_tokens,
            "hits": counts.cached_tokens, "generated": counts.generated, "requests": counts.requests,
            "preemptions": counts.preemptions, "running": len(live.running), "waiting": len(live.waiting),
            "kv_usage": min(1.0, live.cache.used() / self._settings["capacity"]),
        }  # fmt: skip

    def _flushed(self, done: bool) -> tuple[int, str, bytes]:
        told = self.engine.flush
        assert told is not None
        if told.success is not None:
            return _json({told.success: told.success_value if done else False})
        if done:
            return 200, wire.PLAIN, b"Cache flushed.\n"
        return 400, wire.PLAIN, b"Flush cache failed: requests are running or waiting.\n"

    def _slots(self, cache: Slots, method: str, path: str, query: str) -> tuple[int, str, bytes]:
        """llama.cpp's slots: what they do, and to erase one."""
        if method == "GET":
            told = enumerate(slot.job is not None for slot in cache.slots)
            return _json([{"id": i, "n_ctx": self.context, "is_processing": busy} for i, busy in told])
        number = path.removeprefix("/slots").removeprefix("/")
        if parse_qs(query).get("action") != ["erase"] or not number or int(number) >= len(cache.slots):
            return _json(wire.error("llamacpp", 400, "Invalid action or slot", "invalid_request_error"), 400)
        gone = cache.erase(int(number))
        if gone is None:  # llama.cpp itself puts it off until the slot is idle
            return _json(wire.error("llamacpp", 503, "the slot is busy", "unavailable_error"), 503)
        return _json({"id_slot": int(number), "n_erased": gone})


def _json(body: Any, status: int = 200) -> tuple[int, str, bytes]:
    return status, wire.JSON, orjson.dumps(body)


def _of_scheduler(engine: str, scheduler: Scheduler) -> dict[str, int]:
    """Options of its cache that the scheduler decides."""
    if engine == "llamacpp":
        return {"slots": scheduler.max_seqs}
    return {"num_parallel": scheduler.max_seqs} if engine == "ollama" else {}


def _unloads(data: bytes) -> bool:
    """Whether a request to Ollama wants nothing but that the model goes."""
    body = wire.loaded(data)
    return isinstance(body, dict) and not body.get("prompt") and body.get("keep_alive") == 0


# ---- HTTP


class _Connection(asyncio.Protocol):
    """One client's connection: HTTP/1.1, one request at a time."""

    def __init__(self, server: _Server) -> None:
        self._server = server
        self._buffer = bytearray()
        self._exchange: _Exchange | None = None
        self._closes = self._continued = False
        self.gone = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client is there."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._server.connections.add(self)

    def connection_lost(self, _: Exception | None) -> None:
        """It has left."""
        self.gone = True
        self._server.connections.discard(self)
        if self._exchange is not None:
            self._server.cancel(self._exchange)

    def abort(self) -> None:
        """The server ends."""
        self._transport.abort()

    def data_received(self, data: bytes) -> None:
        """Some of a request."""
        self._buffer += data
        self._read()

    def _read(self) -> None:
        """The next request, once it is whole and the one before is answered."""
        if self._exchange is not None or self.gone:
            return
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            if len(self._buffer) > 65_536:
                self._transport.abort()
            return
        method, target, headers = _head(bytes(self._buffer[:end]))
        if method is None:
            self._closes = True
            self.answer(400, wire.PLAIN, b"no request of HTTP/1.1\n")
            return
        self._closes = headers.get("connection", "").lower() == "close"
        if headers.get("expect", "").lower() == "100-continue" and not self._continued:
            self._continued = True
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        body, after = _body(self._buffer, end + 4, headers)
        if after == _TOO_LARGE:
            self._closes = True
            self.answer(413, wire.PLAIN, b"too large\n")
        elif body is not None:
            del self._buffer[:after]
            self._continued = False
            self._take(method, target, body)

    def _take(self, method: str, target: str, body: bytes) -> None:
        found = self._server.answer(method, target, body)
        if found is not None:
            self.answer(*found)
            return
        path = target.partition("?")[0]
        try:
            asked = self._server.reader.read(path, self._server.ways[path], body)
        except Refused as no:
            self.refuse(no)
            return
        self._exchange = self._server.ask(self, asked)

    def refuse(self, no: Refused) -> None:
        """An error as the answer."""
        self.answer(no.status, wire.JSON, orjson.dumps(no.body))

    def answer(self, status: int, kind: str, body: bytes) -> None:
        """All of an answer."""
        if not self.gone:
            self._transport.write(self._status(status, kind, f"Content-Length: {len(body)}") + body)
            self._over()

    def begin(self, kind: str) -> None:
        """The head of a stream."""
        if not self.gone:
            self._transport.write(self._status(200, kind, "Transfer-Encoding: chunked"))

    def send(self, data: bytes, last: bool) -> None:
        """Some of a stream."""
        if not self.gone:
            self._transport.write(b"%x\r\n%s\r\n" % (len(data), data) + (b"0\r\n\r\n" if last else b""))
            if last:
                self._over()

    def _status(self, status: int, kind: str, length: str) -> bytes:
        server = MANNERS[self._server.engine.name].server
        close = "Connection: close\r\n" if self._closes else ""
        reason = _REASONS.get(status, "Error")
        return f"HTTP/1.1 {status} {reason}\r\nServer: {server}\r\nContent-Type: {kind}\r\n{length}\r\n{close}\r\n".encode()

    def _over(self) -> None:
        self._exchange = None
        if self._closes:
            self._transport.close()
        elif self._buffer:
            asyncio.get_running_loop().call_soon(self._read)


_TOO_LARGE = -1


def _head(head: bytes) -> tuple[str | None, str, dict[str, str]]:
    """Method, target and headers by their names in lower case; no method where it is none of HTTP.

    >>> _head(b"GET /v1/models HTTP/1.1\\r\\nHost: a")
    ('GET', '/v1/models', {'host': 'a'})
    """
    first, *lines = head.decode("latin-1").split("\r\n")
    words = first.split(" ")
    if len(words) != 3 or not words[2].startswith("HTTP/1."):
        return None, "", {}
    pairs = (line.partition(":") for line in lines)
    headers = {name.strip().lower(): value.strip() for name, _, value in pairs}
    if words[2] == "HTTP/1.0":
        headers.setdefault("connection", "close")
    return words[0], words[1], headers


def _body(data: bytearray, begin: int, headers: Mapping[str, str]) -> tuple[bytes | None, int]:
    """(a request's body, where the next one begins); None: it is not whole yet; (None, _TOO_LARGE)."""
    if headers.get("transfer-encoding", "").lower() != "chunked":
        told = headers.get("content-length", "0")
        size = int(told) if told.isdecimal() else LARGEST + 1
        if size > LARGEST:
            return None, _TOO_LARGE
        return (bytes(data[begin : begin + size]), begin + size) if len(data) >= begin + size else (None, 0)
    at = begin
    parts: list[bytes] = []
    while (end := data.find(b"\r\n", at)) >= 0:
        try:
            size = int(data[at:end].split(b";")[0], 16)
        except ValueError:
            return None, _TOO_LARGE
        if not 0 <= size <= LARGEST:
            return None, _TOO_LARGE
        if len(data) < end + size + 4:
            break
        if not size:
            return b"".join(parts), end + 4
        parts.append(bytes(data[end + 2 : end + 2 + size]))
        at = end + size + 4
    return (None, _TOO_LARGE) if len(data) > begin + LARGEST else (None, 0)
