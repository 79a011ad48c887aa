"""Prompt caches of API providers: kept for a time, as large as need be, and priced.

Rules and prices, each with its source, are in `prices.toml`. Two kinds:

* marks (Anthropic, Bedrock, OpenAI since GPT-5.6, DeepSeek): an entry is a whole prefix that ends at a breakpoint of an
  earlier request; the longest live one that a prompt begins with is read. What lies between it and the last breakpoint
  is written, and writing may cost more than plain input.
* prefixes (OpenAI before, Gemini's implicit caching): whatever two prompts begin with in common can be read, in steps.

An entry is there once its request's first token came, and lives from its last write or read for the lifetime that was
paid for. Nothing is thrown out before that.
"""

from __future__ import annotations

import datetime
import functools
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from traceprof.caches.traffic import I64, Traffic

TAIL_TOKENS = 64
MOST_BREAKPOINTS = 4  # Anthropic's and OpenAI's
PRICES = Path(__file__).parent / "prices.toml"
MILLION = 1_000_000
ASSUMPTIONS = (
    "breakpoints stand behind the last message and where a prompt parts from all other sessions' (behind system prompt and tools, as a rule)",
    "the last message ends where the next request goes on from it, if that is within the prompt's last 64 tokens or last block",
    "no more blocks lie between two requests of a session than the provider looks back (20 at Anthropic)",
    "a lifetime is exact and starts again with every read; nothing goes before, nothing stays longer",
    "all requests come from one account or workspace, and reach the machine that has the entry",
    "tokens are counted by the trace's tokenizer; list prices, no batch or priority tier",
)


class Offer(NamedTuple):
    """A model at a provider: what is cached and what it costs, dollars per million tokens."""

    name: str
    provider: str
    label: str
    kind: str  # marks or prefixes
    minimum_tokens: int  # of the shortest prefix that is cached
    input: float
    output: float
    read: float  # cached input
    write: dict[int, float]  # by lifetime in seconds, the default one first
    source: list[str]
    unverified: list[str]  # figures that were not found on the provider's own page
    note: str | None
    step_tokens: int = 1  # prefixes: in which they are read
    outputs: bool = False  # marks: one more entry where the answer ends
    joins: bool = (
        False  # marks: one more where a prompt parted from those before it, as no client can set any
    )
    long_tokens: int | None = None  # prompts above cost more, as a whole
    long_input_times: float = 1.0
    long_output_times: float = 1.0


class Reuse(NamedTuple):
    """What a provider's cache did, one entry a request."""

    hit_tokens: I64  # of the prompt, read from the cache
    written_tokens: I64  # of the prompt, new in the cache


@functools.cache
def offers() -> dict[str, Offer]:
    """All that are known, by name."""
    return {
        name: Offer(
            name=name,
            write={int(ttl): float(price) for ttl, price in given.pop("write").items()},
            unverified=given.pop("unverified", []),
            note=given.pop("note", None),
            **given,
        )
        for name, given in _read().items()
        if name != "as_of"
    }


def as_of() -> datetime.date:
    """When the prices were read."""
    day: datetime.date = _read()["as_of"]
    return day


def _read() -> dict[str, Any]:
    return tomllib.loads(PRICES.read_text("utf-8"))


def opening_tokens(traffic: Traffic, sessions: I64 | None = None) -> I64:
    """How much of each prompt some request of another session begins with too: where a careful client sets a breakpoint.

    sessions  [request]  a number for each session, -1 for a request without one: a session of its own

    >>> chats = Traffic.of_lists([([1, 2, 3], [], 0, 1), ([1, 2, 3, 4, 5], [], 2, 3), ([1, 2, 9], [], 4, 5)])
    >>> opening_tokens(chats, np.array([0, 0, 1])).tolist(), opening_tokens(chats).tolist()
    ([2, 2, 2], [3, 3, 2])
    """
    from traceprof.kernels.prompt_paths import prompt_paths
    from traceprof.kernels.providers import openings

    own = traffic.requests + np.arange(traffic.requests)
    group = own if sessions is None else np.where(sessions < 0, own + sessions.max(initial=0), sessions)
    p = prompt_paths(traffic.paths(), traffic.prompt)
    node = openings(p, group)
    depth = np.zeros(traffic.requests, np.int64)
    depth[node >= 0] = p.end[node[node >= 0]]
    return depth


def last_message_tokens(traffic: Traffic, tail_tokens: int = TAIL_TOKENS) -> I64:
    """Where the last message of each prompt ends: where some other request parts from it, if that is in its tail.

    What a chat template sets behind the last message to begin the answer, and tokens that merge with what follows, are
    part of the prompt but of no next request.

    >>> chat = Traffic.of_lists([([1, 2, 3, 90], [], 0, 1), ([1, 2, 3, 4, 90], [], 2, 3), ([1, 7, 8, 9, 9, 90], [], 4, 5)])
    >>> last_message_tokens(chat, 2).tolist()
    [3, 3, 6]
    """
    parted = opening_tokens(traffic)
    return np.where(parted >= traffic.prompt - tail_tokens, parted, traffic.prompt)


def simulate(
    traffic: Traffic, offer: Offer, ttl_s: float | None = None, *, breakpoints: Sequence[I64] = ()
) -> Reuse:
    """The traffic through a provider's cache, where entries live that long (the offer's default when left out).

    breakpoints  [request], at most three: tokens of the prompt behind which there is one, besides that at its end; 0 for none

    >>> offer = offers()["anthropic-claude-opus-5"]._replace(minimum_tokens=2)
    >>> chat = Traffic.of_lists([([1, 2, 3], [], 0, 2), ([1, 2, 3, 4], [], 9, 9), ([1, 2, 5], [], 400_000_000, 400_000_000)])
    >>> simulate(chat, offer, 300), simulate(chat, offer, 3600, breakpoints=[np.array([2, 2, 2])]).hit_tokens.tolist()
    (Reuse(hit_tokens=array([0, 3, 0]), written_tokens=array([3, 1, 3])), [0, 3, 2])
    """
    from traceprof.kernels import providers as kernels
    from traceprof.kernels.prompt_paths import cut_paths, prompt_paths

    ttl = int((next(iter(offer.write)) if ttl_s is None else ttl_s) * MILLION)
    n = traffic.requests
    who = np.arange(n)
    if offer.kind == "prefixes":
        order = np.lexsort((who, traffic.first_us))
        p = prompt_paths(traffic.paths(), traffic.prompt)
        writes = kernels.Writes(traffic.first_us[order], order, np.zeros(n, np.int64))
        hits = kernels.prefixes(p, traffic.arrival_us, writes, ttl, offer.minimum_tokens, offer.step_tokens)
        kept = traffic.prompt // offer.step_tokens * offer.step_tokens
    else:
        assert len(breakpoints) <= MOST_BREAKPOINTS - 1
        marks = [traffic.prompt, *(np.minimum(depth, traffic.prompt) for depth in breakpoints)]
        times = [traffic.first_us] * len(marks)
        if offer.outputs:
            marks.append(traffic.total)
            times.append(traffic.end_us)
        p, nodes = cut_paths(traffic.paths(), tuple(marks))
        if offer.joins:
            nodes.append(np.full(n, kernels.JOIN, np.int64))
            times.append(traffic.first_us)
        at, request = np.concatenate(times), np.tile(who, len(times))
        order = np.lexsort((request, at))
        writes = kernels.Writes(at[order], request[order], np.concatenate(nodes)[order])
        hits = kernels.marked(p, traffic.arrival_us, writes, ttl, offer.minimum_tokens)
        kept = traffic.prompt
    written = np.where(traffic.prompt >= offer.minimum_tokens, np.maximum(kept - hits, 0), 0)
    return Reuse(hits, written)


def bill(traffic: Traffic, offer: Offer, reuse: Reuse, ttl_s: int) -> dict[str, Any]:
    """What the requests cost with the cache and without; dollars.

    >>> offer = offers()["anthropic-claude-opus-5"]
    >>> one = Traffic.of_lists([(range(1000), range(10), 0, 1)])
    >>> spent = bill(one, offer, Reuse(np.array([600]), np.array([300])), 300)
    >>> round(spent["input_usd_without_cache"], 6), round(spent["input_usd"], 6)  # 600 * 0.50 + 300 * 6.25 + 100 * 5
    (0.005, 0.002675)
    """
    output = traffic.total - traffic.prompt
    long = traffic.prompt > (offer.long_tokens or 1 << 62)
    times = np.where(long, offer.long_input_times, 1.0)
    output_times = np.where(long, offer.long_output_times, 1.0)
    plain = traffic.prompt - reuse.hit_tokens - reuse.written_tokens
    without = float((traffic.prompt * times).sum()) * offer.input / MILLION
    spent = (
        float((plain * times).sum()) * offer.input
        + float((reuse.hit_tokens * times).sum()) * offer.read
        + float((reuse.written_tokens * times).sum()) * offer.write[ttl_s]
    ) / MILLION
    input_tokens = int(traffic.prompt.sum())
    hits = int(reuse.hit_tokens.sum())
    return {
        "input_tokens": input_tokens,
        "hit_tokens": hits,
        "hit_rate": hits / input_tokens if input_tokens else None,
        "written_tokens": int(reuse.written_tokens.sum()),
        "input_usd_without_cache": without,
        "input_usd": spent,
        "output_usd": float((output * output_times).sum()) * offer.output / MILLION,
        "saving_usd": without - spent,
        "saving": 1 - spent / without if without else None,
        "input_usd_per_request": spent / traffic.requests if traffic.requests else None,
    }


def compare(
    traffics: Sequence[Traffic],
    sessions: Sequence[I64 | None] | None = None,
    names: Sequence[str] | None = None,
    *,
    tail_tokens: int = TAIL_TOKENS,
) -> list[dict[str, Any]]:
    """Every offer with every lifetime, one row each; `cheapest` marks an offer's cheapest (and shortest) lifetime, `pays` one that saves.

    traffics     parts that share nothing (of different models), each with the sessions of its requests
    tail_tokens  how far before a prompt's end its last message may end; no less than a block, where the trace knows blocks
    """
    told = sessions or [None] * len(traffics)
    breakpoints = [
        (opening_tokens(one, of), last_message_tokens(one, tail_tokens))
        for one, of in zip(traffics, told, strict=True)
    ]
    rows: list[dict[str, Any]] = []
    for offer in (offers()[name] for name in (names or offers())):
        of_offer = []
        for ttl in offer.write:
            bills = [
                bill(one, offer, simulate(one, offer, ttl, breakpoints=at[offer.joins :]), ttl)
                for one, at in zip(traffics, breakpoints, strict=True)
            ]
            of_offer.append({**_facts(offer, ttl), **_together(bills, sum(one.requests for one in traffics))})
        least = min(row["input_usd"] for row in of_offer)
        cheapest = next(row for row in of_offer if row["input_usd"] == least)
        for row in of_offer:
            row["cheapest"] = row is cheapest
            row["pays"] = row["saving_usd"] > 0
        rows += of_offer
    return rows


def _facts(offer: Offer, ttl_s: int) -> dict[str, Any]:
    return {
        "offer": offer.name,
        "provider": offer.provider,
        "label": offer.label,
        "ttl_s": ttl_s,
        "minimum_tokens": offer.minimum_tokens,
        "usd_per_million": {
            "input": offer.input, "read": offer.read, "write": offer.write[ttl_s], "output": offer.output,
        },
        "source": offer.source,
        "unverified": offer.unverified,
        "note": offer.note,
    }  # fmt: skip


def _together(bills: Sequence[dict[str, Any]], requests: int) -> dict[str, Any]:
    """Bills of parts as one."""
    total: dict[str, Any] = {
        key: sum(one[key] for one in bills)
        for key in ("input_tokens", "hit_tokens", "written_tokens", "input_usd_without_cache", "input_usd", "output_usd")
    }  # fmt: skip
    without, spent = total["input_usd_without_cache"], total["input_usd"]
    return {
        **total,
        "hit_rate": total["hit_tokens"] / total["input_tokens"] if total["input_tokens"] else None,
        "saving_usd": without - spent,
        "saving": 1 - spent / without if without else None,
        "input_usd_per_request": spent / requests if requests else None,
    }
