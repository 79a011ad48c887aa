"""Real servers on 127.0.0.1, each out of an environment of its own, and a small client that keeps what it was told.

`make test-interop` makes the environments under .engines/; every wait here has an end, and whatever cannot be had fails a test
with the end of its log.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
import subprocess
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import pytest

HERE = Path(__file__).parent
ENGINES = HERE.parent.parent / ".engines"
MODEL = ENGINES / "model" / "tiny"
NAMES = ("llamacpp", "litellm", "otel", "vllm")
# they read our exports, as vllm does
TOOLS = ("aiperf", "guidellm", "inference_perf", "sglang_bench", "dynamo")
# of the client's environment a server sees this much, so that no proxy, key or setting of the machine gets into a test
_PASSED_ON = ("PATH", "HOME", "TMPDIR", "LANG", "LD_LIBRARY_PATH", "OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")


def python(name: str) -> str:
    """The interpreter of an engine's environment; the test fails when it could not be installed."""
    if not (ENGINES / name / ".installed").exists():
        log = ENGINES / f"{name}.log"
        failed(f"{name} is not installed: run `make test-interop ENGINES={name}`", log)
    return str(ENGINES / name / "bin" / "python")


def failed(what: str, log: Path) -> NoReturn:
    """Fail the test with the last lines of a log."""
    said = log.read_text("utf-8", "replace").splitlines()[-60:] if log.exists() else ["(there is no log)"]
    pytest.fail("\n".join([what, f"-- {log}", *said]), pytrace=False)


def environment(**more: str) -> dict[str, str]:
    """The variables that a server is started with."""
    return {k: os.environ[k] for k in _PASSED_ON if k in os.environ} | {"PYTHONUNBUFFERED": "1"} | more


def free_port() -> int:
    """A port that nothing listened on just now."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port: int = s.getsockname()[1]
        return port


@contextlib.contextmanager
def serving(
    name: str, words: list[str], port: int, log: Path, ready: str, limit_s: float, **variables: str
) -> Iterator[int]:
    """A server from its first healthy answer until the block ends; its output goes to `log`."""
    with log.open("wb") as out:
        process = subprocess.Popen(
            words, stdout=out, stderr=out, stdin=subprocess.DEVNULL, env=environment(**variables), cwd=log.parent
        )  # fmt: skip
    try:
        end = time.monotonic() + limit_s
        while not _healthy(port, ready):
            if process.poll() is not None:
                failed(f"{name} ended with {process.returncode} before it was ready", log)
            if time.monotonic() > end:
                failed(f"{name} was not ready after {limit_s:.0f} s", log)
            time.sleep(0.2)
        yield port
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(20)


@contextlib.contextmanager
def llama_cpp(folder: Path) -> Iterator[int]:
    """A fresh llama.cpp server, nothing in its caches; it logs to llama-server.log in that folder."""
    port = free_port()
    words = [python("llamacpp"), str(HERE / "llamacpp_server.py"), f"{MODEL}.gguf", str(port)]
    with serving("llama.cpp", words, port, folder / "llama-server.log", "/health", limit_s=60):
        yield port


def _healthy(port: int, path: str) -> bool:
    line = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        line.request("GET", path)
        return line.getresponse().status < 300
    except (OSError, http.client.HTTPException):
        return False
    finally:
        line.close()


class Answer(NamedTuple):
    """What a client saw of one request: times are seconds since 1970."""

    path: str
    asked: dict[str, Any]
    status: int
    said: str  # the body as it came: JSON, or the text of the event stream
    headers: dict[str, str]
    sent: float
    first: float  # when the first event with text came; the end where nothing was streamed
    ended: float

    def events(self) -> list[dict[str, Any]]:
        """The JSON of a stream's events."""
        lines = (line.removeprefix("data: ") for line in self.said.splitlines() if line.startswith("data: {"))
        return [json.loads(line) for line in lines]

    def body(self) -> dict[str, Any]:
        """The answer of a request that was not streamed."""
        value: dict[str, Any] = json.loads(self.said)
        return value

    def id(self) -> str:
        """The id that the server gave the answer."""
        value: str = (self.events() or [self.body()])[0]["id"]
        return value

    def usage(self) -> dict[str, Any]:
        """The server's count of tokens; with it `cached`, None where it said nothing of a cache."""
        said = self.events() or [self.body()]
        found: dict[str, Any] = next(e["usage"] for e in reversed(said) if e.get("usage"))
        return found | {"cached": (found.get("prompt_tokens_details") or {}).get("cached_tokens")}

    def text(self) -> str:
        """What the model said, of the first choice."""
        if not self.asked.get("stream"):
            choice = self.body()["choices"][0]
            said: str = choice["message"]["content"] if "message" in choice else choice["text"]
            return said
        return "".join(_piece(c) for e in self.events() for c in e["choices"] if c["index"] == 0)


def _piece(choice: dict[str, Any]) -> str:
    return (choice["delta"].get("content") if "delta" in choice else choice.get("text")) or ""


def ask(port: int, path: str, body: dict[str, Any], headers: dict[str, str] | None = None) -> Answer:
    """Send one request and read its answer to the end."""
    line = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    try:
        sent = time.time()
        line.request("POST", path, json.dumps(body), {"Content-Type": "application/json"} | (headers or {}))
        reply = line.getresponse()
        said, first = [], 0.0
        for text in iter(lambda: reply.readline().decode("utf-8"), ""):
            said.append(text)
            if not first and body.get("stream") and text.startswith("data: {") and _speaks(text):
                first = time.time()
        ended = time.time()
    finally:
        line.close()
    got = {k.lower(): v for k, v in reply.getheaders()}
    return Answer(path, body, reply.status, "".join(said), got, sent, first or ended, ended)


def _speaks(line: str) -> bool:
    event = json.loads(line.removeprefix("data: "))
    return any(_piece(choice) for choice in event.get("choices") or [])


def hang_up(port: int, path: str, body: dict[str, Any], after: int) -> None:
    """Send a streamed request and close the connection after so many lines of its answer."""
    line = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    line.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
    reply = line.getresponse()
    for _ in range(after):
        reply.readline()
    if line.sock is not None:
        line.sock.shutdown(socket.SHUT_RDWR)
    reply.close()
    line.close()


def chat(messages: list[dict[str, Any]] | str, **more: Any) -> dict[str, Any]:
    """A chat request to the tiny model, greedy and short."""
    if isinstance(messages, str):
        messages = [{"role": "user", "content": messages}]
    return {"model": "tiny", "messages": messages, "max_tokens": 8, "temperature": 0} | more


def streamed(request: dict[str, Any]) -> dict[str, Any]:
    """The same request, its answer as a stream that ends with usage."""
    return request | {"stream": True, "stream_options": {"include_usage": True}}


def conversation(turns: int, ask_once: Any, **more: Any) -> list[Answer]:
    """Turns of one session: each sends what was said before, and a new question; all but the last are streamed."""
    messages: list[dict[str, Any]] = [
        {"role": "system", "content": "You are the help of a library of Python files. " * 8}
    ]
    seen: list[Answer] = []
    for turn in range(turns):
        messages.append(
            {"role": "user", "content": f"Question {turn}: what does « def read(self, {turn}) » return?"}
        )
        request = chat(list(messages), **more)
        seen.append(ask_once(request if turn == turns - 1 else streamed(request)))
        messages.append({"role": "assistant", "content": seen[-1].text()})
    return seen


def until(what: str, log: Path, found: Any, limit_s: float = 30) -> Any:
    """Wait until `found()` gives something: servers write their logs a little after they answer."""
    end = time.monotonic() + limit_s
    while not (value := found()):
        if time.monotonic() > end:
            failed(f"{what}: not seen after {limit_s:.0f} s", log)
        time.sleep(0.1)
    return value


def lines(path: Path) -> list[str]:
    """The lines of a file that may not be there yet."""
    return path.read_text("utf-8", "replace").splitlines() if path.exists() else []


def jsonl(path: Path, records: Iterable[Any]) -> Path:
    """Write records as JSON lines."""
    path.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in records), "utf-8")
    return path
