"""The clerk of a sending process: reads the workload and makes bodies ahead of their time, reads the answers, writes the results.

One thread reads ahead: requests go to the client while they are in the window, so that a workload larger than memory is sent
and no body is made while a clock runs for it. Another takes the attempts that ended, and appends each to the shard's own file of
lines as soon as it is read, so that a run that was killed keeps what it has.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import orjson
from numpy.typing import NDArray

import traceprof
from traceprof.engines.answers import ABSENT, Answer, Received, message_of, output_hash, read_answer
from traceprof.engines.base import Engine
from traceprof.engines.bodies import endpoint_of, request_of
from traceprof.errors import TraceprofError
from traceprof.replay.frames import Attempt, Frames, frame, pack_request, unpack_attempt
from traceprof.replay.pacing import Pacer, Planned
from traceprof.replay.settings import Options, Target
from traceprof.workloads import Workload

SYNC_S = 1.0  # what a failing machine may take
SLICE = 64  # rows that are made into Python objects at once
COLUMNS = (
    "index", "request_id", "session_id", "parent", "arrival_us", "think_us", "warmup", "model", "cache_salt", "endpoint",
    "messages_json", "tools_json", "prompt_text", "prompt_ids", "output_tokens", "params_json",
)  # fmt: skip


class Shard(NamedTuple):
    """What one clerk and its client are to do."""

    workload: Path
    engine: Engine
    target: Target
    options: Options
    folder: Path  # of the run
    number: int
    of: int
    from_us: int  # where a run that was cut off goes on; 0 for a new one


class Recorded(NamedTuple):
    """What the lines of a run that was cut off say."""

    ended_us: dict[int, int]  # by index, of requests that are not to be sent again
    attempts: dict[int, int]  # by index, of requests that are to be sent again: attempts made
    last_us: int  # latest time in them

    @classmethod
    def of(cls, folder: Path) -> Recorded:
        """From all files of lines in a run's folder; a line that was cut counts as nothing.

        The last attempt of a request says what becomes of it: it is sent again where that was cancelled, or was not to be the last.
        """
        latest: dict[int, tuple[int, int | None]] = {}  # attempt, and its end where that was the request's
        last = 0
        for file in sorted(folder.glob("requests-*.jsonl")):
            with file.open("rb") as lines:
                for line in lines:
                    if not line.endswith(b"\n"):
                        break
                    row = orjson.loads(line)
                    index = row["index"]
                    last = max(last, row["end_us"])
                    if index not in latest or row["attempt"] >= latest[index][0]:
                        ended = row["outcome"] != "cancelled" and row.get("final", True)
                        latest[index] = row["attempt"], row["end_us"] if ended else None
        return cls(
            {i: end for i, (_, end) in latest.items() if end is not None},
            {i: attempt + 1 for i, (attempt, end) in latest.items() if end is None},
            last,
        )


def mend(folder: Path) -> None:
    """Take away the last line of each file of a killed run where it was not written whole."""
    for file in folder.glob("requests-*.jsonl"):
        with file.open("rb+") as lines:
            at = end = lines.seek(0, os.SEEK_END)
            while at > 0:
                step = min(at, 1 << 16)
                lines.seek(at - step)
                found = lines.read(step).rfind(b"\n")
                if found >= 0:
                    at += found + 1 - step
                    break
                at -= step
            if at < end:
                lines.truncate(at)


class _Meta(NamedTuple):
    """What of a row goes into its result."""

    request_id: str
    session_id: str | None
    warmup: bool
    scheduled_us: int
    dialect: str
    size: int  # bytes of the request


class Clerk:
    """Starts a client, feeds it and writes down what it says."""

    def __init__(self, shard: Shard) -> None:
        self._shard = shard
        self._options = shard.options
        self.primed = threading.Event()  # the client is up, and the first requests are with it
        self.facts: dict[str, Any] = {}
        self.ended = self.failed = 0  # requests
        self.chunks = 0  # of answers, with content
        self.cpu_s = 0.0  # of the clerk's own threads
        self._error: BaseException | None = None
        self._lock = threading.Condition()
        self._sending = threading.Lock()
        self._zero_ns = 0
        self._stopped = self._up = self._filled = self._all_read = self._told_end = False
        self._pending: dict[int, _Meta] = {}
        self._pending_bytes = 0
        self._ahead: deque[tuple[int, int]] = (
            deque()
        )  # (scheduled, bytes) of what is with the client before its time
        self._ahead_bytes = 0
        closed = shard.options.mode == "closed"
        self._turns = Pacer("partly-open", from_us=shard.from_us) if closed else None  # whose time comes when
        self._may_go = 0  # closed: requests with the client whose time has come
        self._history = _History() if shard.options.history == "live" else None
        self._known = Recorded.of(shard.folder)
        self._key = shard.options.api_key()
        settings = self._settings()
        self._file = shard.folder / f"requests-{shard.number:02}.jsonl"
        with _said_of(self._file):
            self._lines = os.open(
                self._file, os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o644
            )
        self._synced = time.monotonic()
        ours, theirs = socket.socketpair()
        for end in (ours, theirs):
            for side in (socket.SO_SNDBUF, socket.SO_RCVBUF):
                end.setsockopt(socket.SOL_SOCKET, side, 4 << 20)
        self._sock = ours
        self._client = subprocess.Popen(
            [sys.executable, "-m", "traceprof.replay.client", str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            process_group=0,  # Ctrl-C is heard here
        )
        theirs.close()
        self._tell(b"C", settings)
        self._threads = [
            threading.Thread(target=self._guarded, args=(work,), daemon=True)
            for work in (self._read_ahead, self._write_down)
        ]
        for thread in self._threads:
            thread.start()

    def _settings(self) -> dict[str, Any]:
        options, target, shard = self._options, self._shard.target, self._shard
        return {
            "mode": options.mode,
            "concurrency": _part(options.concurrency, shard.number, shard.of),
            "from_us": shard.from_us,
            "addresses": target.addresses(),
            "tls": target.tls,
            "server_name": target.host,
            "ca": None if options.ca is None else str(options.ca),
            "connect_s": options.connect_s,
            "first_byte_s": options.first_byte_s,
            "stall_s": options.stall_s,
            "total_s": options.total_s,
            "retries": options.retries,
            "connections_ahead": _part(options.connections_ahead, shard.number, shard.of),
            "max_connections": None
            if options.max_connections is None
            else max(1, _part(options.max_connections, shard.number, shard.of)),
        }

    # ---- what the run says

    def go(self, zero_ns: int) -> None:
        """The clock runs from this time of the monotonic clock."""
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # a thread says why
            self._tell(b"G", zero_ns)
        with self._lock:
            self._zero_ns = zero_ns
            self._lock.notify_all()

    def stop(self, drain_s: float) -> None:
        """Send nothing more."""
        with self._lock:
            self._stopped = True
            self._lock.notify_all()
        with contextlib.suppress(OSError):
            self._tell(b"S", drain_s)

    def wait(self, seconds: float) -> bool:
        """Whether all is over, after this time at the latest. Raises what went wrong."""
        deadline = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        if any(thread.is_alive() for thread in self._threads):
            return False
        if self._error is not None:
            raise self._error
        return True

    def close(self) -> None:
        """End the client and the threads where they still run, and close what is open."""
        with self._lock:
            self._stopped = True
            self._lock.notify_all()
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._client.wait(5)
        if self._client.poll() is None:
            self._client.kill()
            self._client.wait()
        for thread in self._threads:
            thread.join()
        self._sock.close()
        os.close(self._lines)

    def _guarded(self, work: Any) -> None:
        try:
            _step_aside()
            work()
            self.cpu_s += time.thread_time()
        except BaseException as bad:
            if self._error is None:
                self._error = bad
            self.primed.set()
            self.stop(0.0)
            if work == self._write_down:  # nobody listens to the client any more
                with contextlib.suppress(OSError):
                    self._sock.shutdown(socket.SHUT_RDWR)

    def _tell(self, letter: bytes, told: Any) -> None:
        self._send(frame(letter, json.dumps(told).encode()))

    def _send(self, data: bytes) -> None:
        with self._sending:
            self._sock.sendall(data)

    # ---- ahead of time

    def _read_ahead(self) -> None:
        for planned, row in self._rows():
            if self._history is not None:
                if not self._wait_for_history():
                    return
                if self._history.holds(planned, row):
                    continue
            if not self._hand_over(planned, row, wait=True):
                return
        with self._lock:
            self._all_read = self._filled = True
        self._look_primed()
        self._tell_end()

    def _wait_for_history(self) -> bool:
        """Read no further while many requests wait for the answers that go into them; False when the run was stopped."""
        assert self._history is not None
        with self._lock:
            while self._history.held_bytes > self._options.window_bytes and self._pending:
                self._filled = True
                self._look_primed()
                if self._stopped:
                    return False
                self._lock.wait(0.02)
        return True

    def _rows(self) -> Iterator[tuple[Planned, dict[str, Any]]]:
        """The shard's requests that are still to be sent."""
        workload = Workload(self._shard.workload)
        speed, known = self._options.speed, self._known
        mine, children = _family(workload, self._shard.of)
        for batch in workload.batches(list(COLUMNS)):
            for start in range(0, batch.num_rows, SLICE):
                for row in batch.slice(start, SLICE).to_pylist():
                    index, parent = row["index"], row["parent"]
                    if (mine is not None and mine[index] != self._shard.number) or index in known.ended_us:
                        continue
                    planned = Planned(
                        index,
                        int(row["arrival_us"] / speed),
                        int((row["think_us"] or 0) / speed),
                        parent,
                        int(children[index]),
                        None if parent is None else known.ended_us.get(parent),
                    )
                    yield planned, row

    def _hand_over(self, planned: Planned, row: dict[str, Any], wait: bool) -> bool:
        """Make a request and give it to the client, once there is room; False when the run was stopped."""
        wire, dialect = self._wire(row)
        with self._lock:
            while wait and not self._room(len(wire)):
                self._filled = True
                self._look_primed()
                if self._stopped:
                    return False
                self._lock.wait(0.02)
            if self._stopped:
                return False
            index = planned.index
            if self._turns is not None:
                self._turns.add(planned._replace(scheduled_us=0))
            else:
                self._ahead.append((planned.scheduled_us, len(wire)))
                self._ahead_bytes += len(wire)
            self._pending[index] = _Meta(
                row["request_id"],
                row["session_id"],
                row["warmup"],
                planned.scheduled_us,
                dialect,
                len(wire),
            )
            self._pending_bytes += len(wire)
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the other thread says why
            self._send(pack_request(planned, self._known.attempts.get(index, 0), wire))
        return True

    def _room(self, size: int) -> bool:
        """Whether the client may be given one more request. What is past its scheduled time is no longer ahead of it."""
        options = self._options
        if self._pending and self._pending_bytes + size > 4 * options.window_bytes:
            return False
        now_us = (time.monotonic_ns() - self._zero_ns) // 1000 if self._zero_ns else -1
        if self._turns is not None:  # those of users who think do not count: others could go meanwhile
            while self._turns.pop(max(now_us, self._shard.from_us)) is not None:
                self._may_go += 1
            return self._may_go < 2 * options.concurrency + 64
        while self._ahead and self._ahead[0][0] <= now_us:
            self._ahead_bytes -= self._ahead.popleft()[1]
        return not self._ahead or (
            len(self._ahead) < options.window_requests and self._ahead_bytes + size <= options.window_bytes
        )

    def _wire(self, row: dict[str, Any]) -> tuple[bytes, str]:
        """The bytes of a request, and the dialect of its answer."""
        options, engine, target = self._options, self._shard.engine, self._shard.target
        if self._history is not None:
            self._history.put_in(row)
        model = options.model or row["model"]
        if not model:
            raise TraceprofError(
                "the workload does not say which model to ask for", remedy="name it: --model NAME"
            )
        path, extra, body = request_of(
            engine,
            row,
            model=model,
            stream=options.stream,
            salt=options.salt,
            pin_output=options.pin_output,
            api=options.api,
        )
        dialect = endpoint_of(engine, row, options.api).dialect
        headers = {
            "Host": target.authority,
            "User-Agent": f"traceprof/{traceprof.__version__}",
            "Content-Type": "application/json",
            "Accept": "text/event-stream, application/json" if options.stream else "application/json",
            "Accept-Encoding": "identity",
            **extra,
            "Content-Length": str(len(body)),
        }
        if self._key is not None:
            headers["Authorization"] = f"Bearer {self._key}"
            if dialect == "messages":
                headers["x-api-key"] = self._key
        head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        return f"POST {target.path(path)} HTTP/1.1\r\n{head}\r\n".encode() + body, dialect

    def _look_primed(self) -> None:
        if self._up and self._filled:
            self.primed.set()

    def _tell_end(self) -> None:
        """Say that there are no more requests, once that is so."""
        with self._lock:
            owed = self._history is not None and self._history.owed > 0
            if not self._all_read or owed or self._told_end:
                return
            self._told_end = True
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self._tell(b"E", None)

    # ---- what came back

    def _write_down(self) -> None:
        frames = Frames()
        while not self.facts:
            try:
                data = self._sock.recv(1 << 20)
            except ConnectionResetError:
                break
            if not data:
                break
            for letter, payload in frames.feed(data):
                if letter == b"A":
                    self._take(unpack_attempt(payload))
                elif letter == b"U":
                    self._up = True
                    self._look_primed()
                elif letter == b"D":
                    self.facts = json.loads(payload)
        with _said_of(self._file):
            os.fsync(self._lines)
        if not self.facts and self._error is None:
            raise TraceprofError(
                "the sending process ended before its work was done: killed from outside, or out of memory",
                remedy="go on with --resume",
            )

    def _take(self, attempt: Attempt) -> None:
        """One attempt ended."""
        meta = self._pending[attempt.index]
        answer = self._answer(attempt, meta)
        row = self._row(attempt, meta, answer)
        with _said_of(self._file):
            _write_all(self._lines, orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE))
            now = time.monotonic()
            if now - self._synced > SYNC_S:
                os.fsync(self._lines)
                self._synced = time.monotonic()
        if not attempt.final:
            return
        self.ended += row["outcome"] != "cancelled"
        self.failed += row["outcome"] != "ok"
        self.chunks += len(row["chunk_us"] or ())
        with self._lock:
            del self._pending[attempt.index]
            self._pending_bytes -= meta.size
            if self._turns is not None:
                self._turns.ended(attempt.index, row["end_us"])
                self._may_go -= 1
            self._lock.notify_all()
        if self._history is not None:
            for planned, row in self._history.answered(attempt.index, answer):
                self._hand_over(planned, row, wait=False)
                with self._lock:
                    self._history.owed -= 1
            self._tell_end()

    def _answer(self, attempt: Attempt, meta: _Meta) -> Answer | None:
        """What was said, as far as it came; None where nothing did."""
        if not attempt.status:
            return None
        zero = self._zero_ns
        received = [
            Received(piece, (at - zero) // 1000)
            for piece, at in zip(attempt.pieces, attempt.at_ns, strict=True)
        ]
        return read_answer(meta.dialect, attempt.status, attempt.content_type, received)

    def _row(self, attempt: Attempt, meta: _Meta, answer: Answer | None) -> dict[str, Any]:
        """A line of results: columns of `schema.RESULT_REQUESTS`."""
        outcome, error_type = attempt.outcome, attempt.error_type or None
        output_tokens, source = None, "none"
        if answer is not None:
            if outcome == "whole":
                outcome, error_type = answer.outcome, answer.error_type
            output_tokens, source = answer.output_tokens, answer.tokens_source
            if output_tokens is None and self._options.count is not None and outcome == "ok":
                output_tokens, source = self._options.count(answer.reasoning + answer.text), "counted"
        return {
            "index": attempt.index,
            "request_id": meta.request_id,
            "session_id": meta.session_id,
            "warmup": meta.warmup,
            "attempt": attempt.attempt,
            "final": attempt.final,
            "scheduled_us": meta.scheduled_us,
            "intended_us": attempt.intended_us,
            "taken_up_us": self._us(attempt.started_ns),
            "sent_us": self._us(attempt.sent_ns),
            "first_byte_us": self._us(attempt.first_ns),
            "first_token_us": answer and answer.first_token_us,
            "last_token_us": answer and answer.last_token_us,
            "end_us": self._us(attempt.end_ns),
            "chunk_us": answer and answer.chunk_us,
            "chunk_chars": answer and answer.chunk_chars,
            "outcome": outcome,
            "http_status": attempt.status or None,
            "error_type": error_type,
            "finish_reason": answer and answer.finish_reason,
            "input_tokens": answer and answer.input_tokens,
            "output_tokens": output_tokens,
            "reasoning_tokens": answer and answer.reasoning_tokens,
            "cached_tokens": answer and answer.cached_tokens,
            "cached_state": ABSENT if answer is None else answer.cached_state,
            "tokens_source": source,
            "bytes_sent": attempt.bytes_sent if attempt.sent_ns else 0,
            "bytes_received": attempt.bytes_received,
            "output_hash": answer and output_hash(answer),
            "output_text": answer.text if answer is not None and self._options.keep_text else None,
        }

    def _us(self, ns: int) -> int | None:
        return (ns - self._zero_ns) // 1000 if ns else None

    @property
    def live_turns(self) -> dict[str, int]:
        """Recorded answers that were replaced by live ones, and those that could not be."""
        history = self._history
        return {} if history is None else {"replaced": history.replaced, "kept": history.kept}


class _History:
    """Live answers in place of the recorded ones, in the requests of later turns.

    A later turn's messages are those of the turn before, the assistant's answer, and what is new. The answer is replaced where it
    is words alone, recorded and live: results of tools that were recorded fit no other calls.
    """

    def __init__(self) -> None:
        self.held: dict[
            int, list[tuple[Planned, dict[str, Any]]]
        ] = {}  # by the parent whose answer they need
        self.held_bytes = 0
        self.owed = 0  # requests held and not yet with the client
        self.replaced = self.kept = 0
        self._asked: dict[int, tuple[int | None, dict[int, str], int]] = {}
        # by request under way: where its answer will stand, answers so far, children to come
        self._said: dict[
            int, tuple[dict[int, str], int]
        ] = {}  # answers by position, for the children to come
        self._lock = threading.Lock()

    def holds(self, planned: Planned, row: dict[str, Any]) -> bool:
        """Keep a request back whose parent has not been answered yet."""
        row["children"] = planned.children
        if planned.parent is None or planned.parent_ended_us is not None:
            return False
        with self._lock:
            if planned.parent in self._said:
                return False
            self.held.setdefault(planned.parent, []).append((planned, row))
            self.held_bytes += len(row["messages_json"] or "")
            self.owed += 1
            return True

    def put_in(self, row: dict[str, Any]) -> None:
        """Write the live answers into a row's messages."""
        messages = orjson.loads(row["messages_json"]) if row["endpoint"] == "chat" else []
        with self._lock:
            said = self._take(row["parent"])
            for position, text in said.items():
                turn = messages[position] if position < len(messages) else {}
                if turn.get("role") == "assistant" and not turn.get("tool_calls"):
                    turn["content"] = text
                    self.replaced += 1
                else:
                    self.kept += 1
            if row["children"]:
                here = len(messages) if messages else None
                self._asked[row["index"]] = (here, said, row["children"])
        if said:
            row["messages_json"] = json.dumps(messages, ensure_ascii=False)

    def _take(self, parent: int | None) -> dict[int, str]:
        """Answers up to the parent's, which are forgotten with its last child."""
        if parent is None:
            return {}
        if parent not in self._said:  # answered before the run was cut off
            self.kept += 1
            return {}
        said, left = self._said.pop(parent)
        if left > 1:
            self._said[parent] = (said, left - 1)
        return said

    def answered(self, index: int, answer: Answer | None) -> list[tuple[Planned, dict[str, Any]]]:
        """A request ended: the requests that waited for that."""
        with self._lock:
            if index in self._asked:
                position, said, children = self._asked.pop(index)
                message = {} if answer is None or answer.outcome != "ok" else message_of(answer)
                if position is not None and message.get("content") and not message.get("tool_calls"):
                    said = {**said, position: message["content"]}
                else:
                    self.kept += 1
                self._said[index] = (said, children)
            held = self.held.pop(index, [])
            self.held_bytes -= sum(len(row["messages_json"] or "") for _, row in held)
            return held


def _part(whole: int, number: int, of: int) -> int:
    """A shard's part of a number; the parts add up.

    >>> [_part(8, i, 3) for i in range(3)]
    [3, 3, 2]
    """
    return whole // of + (number < whole % of)


def _family(workload: Workload, of: int) -> tuple[bytearray | None, NDArray[np.int32]]:
    """The shard of each row, sessions kept whole (None: all are of this one), and its number of children."""
    import zlib

    shards = None if of == 1 else bytearray()
    children = np.zeros(workload.requests, np.int32)
    for batch in workload.batches(["session_id", "parent"]):
        parents = batch.column("parent")
        np.add.at(children, parents.drop_null().to_numpy(), 1)
        if shards is None:
            continue
        for session, parent in zip(batch.column("session_id").to_pylist(), parents.to_pylist(), strict=True):
            name = f"row {len(shards)}" if session is None else session
            shards.append(shards[parent] if parent is not None else zlib.crc32(name.encode()) % of)
    return shards, children


@contextlib.contextmanager
def _said_of(file: Path) -> Iterator[None]:
    """A file that cannot be written is told by its name."""
    try:
        yield
    except OSError as bad:
        raise TraceprofError(
            f"cannot be written: {bad.strerror}", path=file, remedy="go on with --resume once it can"
        ) from None


def _step_aside() -> None:
    """Where clerk and client must share a core, the client goes first: this thread's priority, on Linux."""
    if sys.platform.startswith("linux"):
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)


def _write_all(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]
