"""What a span means: a call of a model, told in one of the families of conventions, or something else; each call once.

A framework's span, an SDK's and a server's may all describe one call, one within the other: the innermost counts, or the one
around it when only that holds the prompt. What lies under a tool or an agent is a call of its own.
"""

from __future__ import annotations

from array import array
from types import ModuleType
from typing import Any

from traceprof.bodies import aisdk, genai, openinference
from traceprof.bodies.otel import Span
from traceprof.bodies.spans import Rows
from traceprof.formats.base import BadRecord, Request, Skip, attempt

RECENT = 1 << 17  # spans that are remembered, to tell which lies within which
_APART = (
    "agent",
    "tool",
    "workflow",
    "chain",
    "retriever",
    "guardrail",
    "evaluator",
)  # calls below them are others


def other_kind(span: Span) -> str | None:
    """Why a span is no call of a model; None for one that is."""
    return _family(span).other_kind(span)  # type: ignore[no-any-return]


def read(span: Span) -> Rows | Skip | BadRecord:
    """What a call's span becomes."""
    found: Rows | Skip | BadRecord = attempt(_read, span)
    return found


def _read(span: Span) -> Any:
    try:
        return _family(span).read(span)
    except RecursionError:
        raise BadRecord("unsupported", "nested too deep") from None


def _family(span: Span) -> ModuleType:
    if isinstance(span.attributes.get(aisdk.KIND), str):
        return aisdk
    kind = span.attributes.get(openinference.KIND)
    return openinference if isinstance(kind, str) and kind.upper() != "UNKNOWN" else genai


def lacks(span: Span) -> str | None:
    """What a call's span may lack: its prompt, which may stand in log records, or the client whose call an engine served."""
    if _family(span) is not genai:
        return None
    if genai.is_engine(span):
        return "client" if span.parent_id else None
    return None if genai.holds_prompt(span) else "prompt"


def key_of(trace_id: str | None, span_id: str | None) -> int:
    """A span as 64 bits, for this process."""
    return hash((trace_id, span_id))


def flat(found: list[Any]) -> list[Request | Skip | BadRecord]:
    """The results of one record in a row, those of several prompts one by one."""
    return [one for result in found for one in (result if isinstance(result, list) else (result,))]


class Calls:
    """The calls taken so far, and which of the last spans lies within which: a call is taken once."""

    def __init__(self) -> None:
        self.seen = array("q")  # keys of all spans of models, tools and agents; what else is kept is bounded
        self._taken: dict[int, Times] = {}  # of the last calls
        self._above: dict[int, int] = {}  # of the last spans that stand between calls: the span around each
        self._below: dict[int, Times] = {}  # of the last spans: when a call within them was

    def take_all(self, spans: list[Span]) -> list[Request | Skip | BadRecord]:
        """What each of some spans becomes, in their order; they may lie within one another in any order."""
        others = [other_kind(span) for span in spans]
        for span, other in zip(spans, others, strict=True):
            if other != "other_span":
                self.seen.append(key_of(span.trace_id, span.span_id))
            if other is not None and other not in _APART:
                self._pass(span)
        calls = [i for i, other in enumerate(others) if other is None]
        late = _without_text(spans, calls)
        calls.sort(key=lambda i: (i in late, _inner_first(spans[i])))
        found: list[Any] = [None if other is None else Skip(other) for other in others]
        for i in calls:
            found[i] = self._nested(spans[i]) or read(spans[i])
        return flat(found)

    def _pass(self, span: Span) -> None:
        """Note a span that is no call, but may stand between two that tell of one."""
        if span.parent_id is None:
            return
        key, up = key_of(span.trace_id, span.span_id), key_of(span.trace_id, span.parent_id)
        _note(self._above, key, up)
        if key in self._below:
            self._mark(up, self._below[key])

    def _nested(self, span: Span) -> Skip | None:
        """Why a call's span is not taken: it lies around or within one that was; None when it is taken.

        A child that begins when its parent has ended is the next turn of a conversation, and a call of its own.
        """
        if span.span_id is None:
            return None
        key, times = key_of(span.trace_id, span.span_id), _times(span)
        up = None if span.parent_id is None else key_of(span.trace_id, span.parent_id)
        if key in self._below and _overlap(times, self._below[key]):
            self._mark(up, times)
            return Skip("wraps_another_call")
        if self._mark(up, times):
            return Skip("part_of_another_call")
        _note(self._taken, key, times)
        return None

    def _mark(self, up: int | None, times: Times) -> bool:
        """Note that a call lies within a span and those around it; whether one of them is a call that was taken."""
        for _ in range(64):
            if up is None:
                break
            if up in self._taken:
                return _overlap(self._taken[up], times)
            _note(self._below, up, times)
            up = self._above.get(up)
        return False


Times = tuple[int, int]  # start and end, us since 1970


def _times(span: Span) -> Times:
    start = span.start if isinstance(span.start, int) else 0
    return start, span.end if isinstance(span.end, int) else start


def _overlap(one: Times, other: Times) -> bool:
    return one[0] < other[1] and other[0] < one[1]


def _inner_first(span: Span) -> tuple[int, int]:
    """Order in which the span of a call comes before those around it: it begins later and ends earlier."""
    start, end = _times(span)
    return -start, end


def _without_text(spans: list[Span], calls: list[int]) -> set[int]:
    """Calls without a prompt that are the only one within a call that holds it."""
    ids: dict[tuple[str | None, str | None], int] = {}
    ids.update({(s.trace_id, s.span_id): i for i, s in enumerate(spans) if s.span_id is not None})
    told = {i for i in calls if _holds_prompt(spans[i])}
    within: dict[int, list[int]] = {}
    for i in calls if told else ():
        up = ids.get((spans[i].trace_id, spans[i].parent_id))
        for _ in range(64):
            if up is None or up == i or up in told or other_kind(spans[up]) in _APART:
                break
            up = ids.get((spans[up].trace_id, spans[up].parent_id))
        if up in told and up != i:
            within.setdefault(up, []).append(i)
    return {inner[0] for inner in within.values() if len(inner) == 1 and inner[0] not in told}


def _holds_prompt(span: Span) -> bool:
    if _family(span) is genai:
        return genai.holds_prompt(span)
    return any(
        k.startswith(("llm.input_messages", "llm.prompts", "input.value", "ai.prompt.messages"))
        for k in span.attributes
    )


def _note(kept: dict[int, Any], key: int, value: Any) -> None:
    if len(kept) >= RECENT and key not in kept:
        del kept[next(iter(kept))]
    kept[key] = value
