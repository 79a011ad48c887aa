"""A workload's requests as exports take them: one at a time, with what their prompts are as text, token ids or block hashes."""

from __future__ import annotations

import functools
import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from traceprof.errors import TraceprofError
from traceprof.tokenizer import Tokenizer, encode_requests
from traceprof.tokens import loaded

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from traceprof.workloads import Workload

FACTS = {
    "prompts": "prompts (hashes of their blocks, or their lengths, stand for them)",
    "token ids": "token ids (their text stands for them)",
    "messages": "messages (one text, as the chat template writes it, stands for them)",
    "texts": "texts of completions (each is put into a user message)",
    "endpoints": "which endpoint each request is for (the tool sends all to one)",
    "models": "which of several models each request is for",
    "tools": "tool definitions",
    "parameters": "sampling parameters",
    "salts": "cache salts",
    "tenants": "tenants",
    "times": "times of arrival",
    "sessions": "which requests belong to one session",
    "think times": "think times between turns",
    "warm-up": "which requests are warm-up",
}
"""What a workload may hold, and how to say that a file does not."""

ALL = frozenset(FACTS)
_SLICE = 256  # requests whose prompts are held at once
_SURROGATE = re.compile("[\ud800-\udfff]")
_LIGHT = (
    "index", "request_id", "session_id", "turn_index", "parent", "arrival_us", "think_us", "recorded_e2e_us", "warmup", "model",
    "tenant_id", "cache_salt", "endpoint", "input_tokens", "output_tokens", "params_json",
)  # fmt: skip
_PROMPTS = ("messages_json", "tools_json", "prompt_text", "prompt_ids")


class Row(NamedTuple):
    """One request."""

    number: int  # its index in the workload
    request_id: str
    session: str | None
    turn: int  # within the session, from 0
    parent: int | None  # index of the turn before
    place: str  # in its session: first, next (its parent is the latest), or aside
    arrival_us: int
    think_us: int | None
    end_us: int | None  # when it ended in the trace, on the same clock
    model: str | None
    tenant: str | None
    warmup: bool
    salt: str | None
    endpoint: str  # chat, completions or ids
    messages: str | None  # JSON
    tools: str | None  # JSON
    text: str | None
    ids: list[int] | None
    input_tokens: int
    output_tokens: int | None  # to be generated: as many as in the trace, else the client's own limit
    parameters: dict[str, Any]  # fields of an OpenAI body, without the limit

    @property
    def ms(self) -> int | float:
        """When it is to be sent: ms since the workload's start."""
        return milliseconds(self.arrival_us)


class Prompts:
    """The requests of a workload, and what was found and left out on the way."""

    def __init__(self, workload: Workload, *, block_size: int = 0, model: str | None = None) -> None:
        self.workload = workload
        self.block_size = block_size  # tokens of a block, where the file holds blocks
        self.asked_model = model
        self.taken = 0
        self.last_us = 0
        self.refused: Counter[str] = Counter()
        self.notes: Counter[str] = Counter()
        self._seen: set[str] = {"prompts"}
        self._models: dict[str, None] = {}
        self._endpoints: set[str] = set()
        self._last: dict[str, int] = {}  # of each session its latest request

    @property
    def model(self) -> str | None:
        """The model that the requests are for; None where they are for several, or none is named."""
        return next(iter(self._models)) if len(self._models) == 1 else None

    @property
    def chat(self) -> bool:
        """Whether prompts are messages."""
        return "chat" in self._endpoints

    @functools.cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer that the workload was made with."""
        told = self.workload.meta["tokenizer"]
        found = loaded(*(told["reload"] or (None, None)))
        if found.digest != told["digest"]:
            raise TraceprofError(
                f"{found.name} is not the tokenizer any more that it was made with",
                path=self.workload.path,
                remedy="make it again",
            )
        return found

    def left_out(self, carried: frozenset[str]) -> list[str]:
        """What there is and a file that carries only this does not say, in words."""
        seen = set(self._seen)
        if len(self._models) > 1:
            seen.add("models")
        if len(self._endpoints) > 1:
            seen.add("endpoints")
        if "prompts" not in carried:
            seen -= {"token ids", "messages", "texts", "tools", "endpoints"}
        words = [said for fact, said in FACTS.items() if fact in seen - carried]
        for counted in (self.refused, self.notes):
            words += [f"{why}: {number:,}" for why, number in sorted(counted.items())]
        return words

    # -- requests ----------------------------------------------------------------------------------------------

    def rows(self, *, lengths: bool = False, heavy: Sequence[str] = _PROMPTS) -> Iterator[Row]:
        """All requests in the order of arrival; with `lengths` those without a known length of output are refused."""
        for batch in self.workload.batches([*_LIGHT, *heavy]):
            for first in range(0, len(batch), _SLICE):
                for told in batch.slice(first, _SLICE).to_pylist():
                    row = self._row(told)
                    if lengths and not row.output_tokens:
                        self.refused["requests whose length of output the trace does not tell"] += 1
                        continue
                    self._take(row)
                    yield row

    def refuse(self, why: str) -> None:
        """The request that came last is not written."""
        self.taken -= 1
        self.refused[why] += 1

    def in_session(self, row: Row) -> dict[str, Any]:
        """`session_id` and `delay` (ms) as AIPerf's and Dynamo's traces have them, which take a session for a chain.

        A request that does not follow the latest of its session stands alone.
        """
        if row.session is None:
            return {}
        if row.place == "aside":
            self.notes["requests that stand alone, for they do not follow the latest of their session"] += 1
            return {}
        waits = row.place == "next" and row.think_us is not None
        return {"session_id": row.session, "delay": milliseconds(row.think_us or 0) if waits else None}

    def _row(self, told: dict[str, Any]) -> Row:
        parameters: dict[str, Any] = json.loads(told["params_json"] or "{}")
        limit = parameters.pop("max_tokens", None)
        e2e = told["recorded_e2e_us"]
        latest = None if told["session_id"] is None else self._last.get(told["session_id"])
        return Row(
            number=told["index"],
            request_id=told["request_id"],
            session=told["session_id"],
            turn=told["turn_index"],
            parent=told["parent"],
            place="first" if latest is None else "next" if latest == told["parent"] else "aside",
            arrival_us=told["arrival_us"],
            think_us=told["think_us"],
            end_us=None if e2e is None else told["arrival_us"] + e2e,
            model=told["model"],
            tenant=told["tenant_id"],
            warmup=told["warmup"],
            salt=told["cache_salt"],
            endpoint=told["endpoint"],
            messages=told.get("messages_json"),
            tools=told.get("tools_json"),
            text=told.get("prompt_text"),
            ids=told.get("prompt_ids"),
            input_tokens=told["input_tokens"],
            output_tokens=limit if told["output_tokens"] is None else told["output_tokens"],
            parameters=parameters,
        )

    def _take(self, row: Row) -> None:
        """Note what a request has."""
        self.taken += 1
        self.last_us = row.arrival_us
        self._endpoints.add(row.endpoint)
        if row.model is not None:
            self._models[row.model] = None
        if row.session is not None:
            self._last[row.session] = row.number
        there = {
            "token ids": row.endpoint == "ids",
            "messages": row.endpoint == "chat",
            "texts": row.endpoint == "completions",
            "tools": row.tools is not None,
            "parameters": bool(row.parameters),
            "salts": row.salt is not None,
            "tenants": row.tenant is not None,
            "times": row.arrival_us > 0,
            "sessions": row.place != "first",
            "think times": row.think_us is not None,
            "warm-up": row.warmup,
        }
        self._seen.update(fact for fact, holds in there.items() if holds)

    # -- token ids ---------------------------------------------------------------------------------------------

    def with_ids(self, *, lengths: bool = False) -> Iterator[tuple[Row, NDArray[np.uint32]]]:
        """Requests with the token ids of their prompts."""
        for group in _groups(self.rows(lengths=lengths)):
            yield from zip(group, self._ids(group), strict=True)

    def _ids(self, group: list[Row]) -> list[NDArray[np.uint32]]:
        """The prompts' tokens as an engine would make them."""
        written = [row for row in group if row.ids is None]
        made: Iterator[NDArray[np.uint32]] = iter(())
        if written:
            got = encode_requests(
                self.tokenizer,
                [row.messages for row in written],
                [row.tools for row in written],
                [row.text for row in written],
            )
            if bad := next((why for why in got.errors if why is not None), None):
                raise TraceprofError(f"a prompt cannot be rendered: {bad}", path=self.workload.path)
            made = iter(np.split(got.input.ids, got.input.offsets[1:-1]))
        return [next(made) if row.ids is None else np.array(row.ids, np.uint32) for row in group]

    def with_text(self, *, lengths: bool = False) -> Iterator[tuple[Row, str]]:
        """Requests with their prompts as text for a completions endpoint, which puts the tokenizer's own BOS before it.

        Token ids that no text stands for are refused; messages go by the template's text, and it is noted where that is read otherwise.
        """
        for group in _groups(self.rows(lengths=lengths)):
            made = [row for row in group if row.text is None]
            texts = iter(self._texts(self._ids(made)))
            for row in group:
                text, same = (row.text, True) if row.text is not None else next(texts)
                if not same and row.endpoint == "ids":
                    self.refuse("requests of token ids that no text stands for")
                    continue
                if not same:
                    self.notes["requests with messages whose text is read as other tokens"] += 1
                yield row, text

    def _texts(self, ids: list[NDArray[np.uint32]]) -> list[tuple[str, bool]]:
        """(text, whether a completions endpoint makes these very tokens of it) of each prompt."""
        if not ids:
            return []
        bos = self.tokenizer.special_tokens.get("bos_token") or ""
        whole = [self.tokenizer.decode(one) for one in ids]
        bare = [text.removeprefix(bos) for text in whole]
        found = []
        for planned, short, made, long, made_long in zip(
            ids, bare, self._encoded(bare), whole, self._encoded(whole), strict=True
        ):
            if np.array_equal(planned, made_long) and not np.array_equal(planned, made):
                found.append((long, True))
            else:
                found.append((short, np.array_equal(planned, made)))
        return found

    def _encoded(self, texts: list[str]) -> list[NDArray[np.uint32]]:
        got = self.tokenizer.encode(texts, add_special_tokens=True)
        return np.split(got.ids, got.offsets[1:-1])

    # -- blocks ------------------------------------------------------------------------------------------------

    def with_blocks(self) -> Iterator[tuple[Row, list[int]]]:
        """Requests of a known length of output with a number for each block of their prompts, the last one also where it is not full.

        Equal numbers mean equal prefixes, as far as the workload tells: of what one cache holds, under one salt.
        """
        shares = Shares.of(self.workload)
        numbers: dict[tuple[int, int], int] = {}
        for row in self.rows(lengths=True, heavy=()):
            ends = shares.blocks(row.number, self.block_size)
            yield row, [numbers.setdefault(one, len(numbers)) for one in ends]


class Shares(NamedTuple):
    """Whose tokens a prompt consists of: of the request that first had them, each.

    [7, 8, 9], then [7, 8, 5], then [7, 8, 5, 6]: the second has two of the first's and one of its own, the third has two of the first's,
    one of the second's and one of its own.
    """

    tokens: list[int]  # [request] of its prompt
    known: list[int]  # [request] of those, what an earlier one begins with
    whose: list[int]  # [request] who first had the last of those; -1 for none

    @classmethod
    def of(cls, workload: Workload) -> Shares:
        """From what a workload says of each request: an earlier one that shares most with it, and how much that is."""
        tokens: list[int] = []
        known: list[int] = []
        whose: list[int] = []
        for batch in workload.batches(["input_tokens", "prefix_of", "prefix_tokens"]):
            for length, like, shared in zip(*(column.to_pylist() for column in batch.columns), strict=True):
                if shared is None:
                    raise TraceprofError(
                        "does not tell what its prompts share", path=workload.path, remedy="make it again"
                    )
                owner = -1 if like is None or not shared else like
                while owner >= 0 and known[owner] >= shared:
                    owner = whose[owner]
                tokens.append(length)
                known.append(shared)
                whose.append(owner)
        return cls(tokens, known, whose)

    def blocks(self, request: int, size: int) -> list[tuple[int, int]]:
        """What tells a block from all others: who first had its last token, and where that stands.

        Example: blocks of 2 of the third prompt above -> [(0, 2), (2, 4)]
        """
        length = self.tokens[request]
        owner, found = request, []
        for end in (length, *range((length - 1) // size * size, 0, -size)):
            while end <= self.known[owner]:
                owner = self.whose[owner]
            found.append((owner, end))
        return found[::-1]


def _groups(rows: Iterator[Row]) -> Iterator[list[Row]]:
    """Rows, some at a time."""
    held: list[Row] = []
    for row in rows:
        held.append(row)
        if len(held) == _SLICE:
            yield held
            held = []
    if held:
        yield held


# -- what files are made of ------------------------------------------------------------------------------------


def json_line(value: dict[str, Any]) -> bytes:
    """An object on a line of its own; keys that are None are left out.

    >>> json_line({"a": 1, "b": None})
    b'{"a":1}\\n'
    """
    kept = {key: one for key, one in value.items() if one is not None}
    said = json.dumps(kept, ensure_ascii=False, separators=(",", ":")) + "\n"
    try:
        return said.encode()
    except UnicodeEncodeError:  # half of a pair, which UTF-8 cannot hold: tokenizers read it as U+FFFD
        return _SURROGATE.sub("\ufffd", said).encode()


def milliseconds(us: int) -> int | float:
    """Example: 1500 -> 1.5, 2000 -> 2"""
    return us // 1000 if us % 1000 == 0 else us / 1000


def body(row: Row, model: str | None) -> dict[str, Any]:
    """The request as it is sent to an OpenAI-compatible server."""
    said: dict[str, Any] = {}
    if (name := model or row.model) is not None:
        said["model"] = name
    if row.endpoint == "chat":
        said["messages"] = json.loads(row.messages or "[]")
        if row.tools is not None:
            said["tools"] = json.loads(row.tools)
    else:
        said["prompt"] = row.text if row.endpoint == "completions" else row.ids
    if row.output_tokens is not None:
        said["max_tokens"] = row.output_tokens
    said |= row.parameters
    if row.salt is not None:
        said["cache_salt"] = row.salt
    return said


def user_messages(row: Row) -> list[Any]:
    """Its messages; a text as the one message of a user."""
    if row.endpoint == "chat":
        messages: list[Any] = json.loads(row.messages or "[]")
        return messages
    return [{"role": "user", "content": row.text}]
