"""Several replicas of an engine, each with a cache of its own, and a router before them.

What a router does is read in the source of two that are in use: `policies/` of SGLang's router (sglang-router 0.3.2,
sgl-model-gateway) and of vLLM's (vllm-router 0.1.17):

* cache_aware: the router keeps a tree of all prompts and to whom it sent them. If the longest prefix that it knows is
  more than `cache_threshold` of the prompt, the request goes there, else to the replica with the fewest requests in
  flight, of several the first. In SGLang a stretch of the tree belongs to whom it was sent first; in vLLM to everyone
  it was sent to, and the one with the fewest in flight is taken.
* The tree is cut back every 60 s (120 s in vLLM's) to 2^26 characters a replica (2^25, at 8 a token): the leaves that
  ended a prompt longest ago go first. A stretch whose owner lost it, SGLang's sends to any other who has it (here the first).
* Where loads differ by more than `balance_abs_threshold` and the highest is more than `balance_rel_threshold` times
  the lowest, the request goes to the lowest, whatever its prompt.
* prefix_hash: the first 256 tokens say where; one that has more than 1.25 times the mean load passes it on to the
  least loaded.

Replicas share nothing. A request is in flight from its arrival to its end as the log has it, whoever serves it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from traceprof.caches.traffic import I32, I64, Outcome, Traffic

if TYPE_CHECKING:
    from traceprof.kernels.paths import Paths

U64: TypeAlias = NDArray[np.uint64]

POLICIES = {
    "round_robin": "round robin",
    "random": "random",
    "least_loaded": "fewest requests in flight",
    "session_sticky": "by session",
    "prefix_hash": "by a hash of the first tokens",
    "cache_aware": "cache-aware (SGLang's router)",
    "cache_aware_vllm": "cache-aware (vLLM's router)",
}
"""Names of the policies, and in words."""

REPLICAS = (1, 2, 4, 8, 16)
PREFIX_TOKENS = 256
LOAD_FACTOR = 1.25
CACHE_THRESHOLD = 0.3
BALANCE_ABS_THRESHOLD = 64
BALANCE_REL_THRESHOLD = 1.5
TREE_TOKENS = {"cache_aware": (1 << 26) // 4, "cache_aware_vllm": (1 << 25) // 8}
TREE_CUT_S = {"cache_aware": 60.0, "cache_aware_vllm": 120.0}
TIMED = ("least_loaded", "cache_aware", "cache_aware_vllm")
"""Policies that mean nothing where it is not known what is in flight."""
ASSUMPTIONS = (
    "sglang-router 0.3.2 and vllm-router 0.1.17 with their defaults",
    "shares of a prompt are of its tokens, where SGLang's router counts characters; a token is 4 characters in its tree",
    "requests end when they ended in the log, however many replicas there are",
    "all replicas are healthy and of one kind",
)


class Options(NamedTuple):
    """What a router is told; the defaults are those of the routers' command lines."""

    prefix_tokens: int = PREFIX_TOKENS  # prefix_hash: tokens that are hashed
    load_factor: float = LOAD_FACTOR  # prefix_hash: times the mean load that a replica may have
    cache_threshold: float = CACHE_THRESHOLD  # cache_aware: share of the prompt that must be known
    balance_abs_threshold: int = BALANCE_ABS_THRESHOLD  # cache_aware: requests in flight
    balance_rel_threshold: float = BALANCE_REL_THRESHOLD  # cache_aware: times the lowest load
    tree_tokens: int | None = (
        None  # cache_aware: of one replica in the router's tree; None: the router's default
    )
    tree_cut_s: float | None = None  # cache_aware: how often the tree is cut back to that
    seed: int = 0


def route(
    traffic: Traffic,
    replicas: int,
    policy: str,
    *,
    sessions: I64 | None = None,
    options: Options | None = None,
) -> I32:
    """The replica of each request, 0 .. replicas - 1.

    sessions  [request]  a number for each session; -1 where a request belongs to none and goes its own way

    >>> three = Traffic.of_lists([([1, 2, 3], [], 0, 9), ([4], [], 1, 9), ([1, 2, 5], [], 2, 9)])
    >>> [route(three, 2, policy).tolist() for policy in ("round_robin", "cache_aware")]
    [[0, 1, 0], [0, 1, 0]]
    >>> route(three.subset(np.array([0, 2])), 2, "round_robin").tolist()
    [0, 1]
    """
    from traceprof.kernels import routing
    from traceprof.kernels.prompt_paths import prompt_paths

    assert policy in POLICIES, policy
    assert 1 <= replicas <= 64
    said = options or Options()
    n = traffic.requests
    if replicas == 1:
        return np.zeros(n, np.int32)
    if policy == "round_robin":
        return (np.arange(n) % replicas).astype(np.int32)
    if policy == "random":
        return np.random.default_rng(said.seed).integers(0, replicas, n).astype(np.int32)
    if policy == "session_sticky":
        return _by_hash(_session_keys(sessions, n), replicas)
    order = np.lexsort((np.arange(n), traffic.end_us))
    flights = routing.Flights(traffic.arrival_us, traffic.end_us, order)
    if policy == "least_loaded":
        return routing.least_loaded(flights, replicas)
    if policy == "prefix_hash":
        home = _by_hash(_prefix_keys(traffic, said.prefix_tokens), replicas)
        return routing.bounded(flights, replicas, home, said.load_factor)
    p = prompt_paths(traffic.paths(), traffic.prompt)
    known = (said.cache_threshold, said.balance_abs_threshold, said.balance_rel_threshold)
    room = TREE_TOKENS[policy] if said.tree_tokens is None else said.tree_tokens
    each = policy == "cache_aware_vllm"
    if _tree_tokens(p) > room:
        cut_s = TREE_CUT_S[policy] if said.tree_cut_s is None else said.tree_cut_s
        return routing.cache_aware_forgetful(p, flights, replicas, *known, int(each), room, int(cut_s * 1e6))
    rule = routing.cache_aware_each if each else routing.cache_aware
    return rule(p, flights, replicas, *known)


def _tree_tokens(p: Paths) -> int:
    """Tokens of a tree of all prompts."""
    from traceprof.kernels.paths import used

    passed = used(p) >= 0
    return int((p.end[passed] - p.begin[passed]).sum())


def replica_study(
    pools: Sequence[Traffic],
    simulate: Callable[[Traffic, int], Outcome],
    capacity_tokens_each: int,
    replicas: Sequence[int] = REPLICAS,
    policies: Sequence[str] = tuple(POLICIES),
    *,
    sessions: Sequence[I64] | None = None,
    options: Options | None = None,
    progress: Callable[[str, float, float], None] | None = None,
) -> list[dict[str, Any]]:
    """An engine's cache on every number of replicas under every policy, one row each.

    Each pool (the traffic of a model) has so many replicas of its own, which hold capacity_tokens_each. `hit_tokens` and
    `evicted_tokens` are of all replicas together, `hit_rate` is hits / input tokens, `load_imbalance` the input tokens of
    each pool's busiest replica over those of its mean one. With one replica all policies are the same. Where no request
    takes any time, the policies of TIMED are left out.

    >>> from traceprof.caches import lru
    >>> chats = Traffic.of_lists([([1, 2, 3, c], [], t, t + 1) for t, c in enumerate((4, 5, 6, 7))])
    >>> [row["hit_tokens"] for row in replica_study([chats], lru.simulate, 100, (1, 2), ["round_robin", "cache_aware"])]
    [9, 9, 6, 9]
    """
    if not any((pool.end_us > pool.arrival_us).any() for pool in pools):
        policies = [policy for policy in policies if policy not in TIMED]
    told: Sequence[I64 | None] = sessions or [None] * len(pools)
    asked = [(count, policy) for count in replicas for policy in policies]
    rows: list[dict[str, Any]] = []
    of_one: dict[str, Any] | None = None
    for done, (count, policy) in enumerate(asked, 1):
        if count == 1 and of_one is not None:
            found = of_one
        else:
            parts = [
                _served(
                    pool,
                    route(pool, count, policy, sessions=of, options=options),
                    count,
                    simulate,
                    capacity_tokens_each,
                )
                for pool, of in zip(pools, told, strict=True)
            ]
            found = _together(parts, count)
            of_one = found if count == 1 else of_one
        rows.append({"replicas": count, "policy": policy, "label": POLICIES[policy], **found})
        if progress is not None:
            progress("replicas", done, len(asked))
    return rows


class _Served(NamedTuple):
    """What the replicas of one pool did."""

    outcomes: list[Outcome]  # of those that got requests
    input_tokens: int
    busiest: int  # input tokens of the replica with most


def _served(
    traffic: Traffic,
    server: I32,
    replicas: int,
    simulate: Callable[[Traffic, int], Outcome],
    capacity_tokens: int,
) -> _Served:
    parts = [np.flatnonzero(server == one) for one in range(replicas)]
    return _Served(
        [simulate(traffic.subset(part), capacity_tokens) for part in parts if len(part)],
        int(traffic.prompt.sum()),
        max((int(traffic.prompt[part].sum()) for part in parts), default=0),
    )


def _together(pools: Sequence[_Served], replicas: int) -> dict[str, Any]:
    outcomes = [one for pool in pools for one in pool.outcomes]
    hits = sum(int(np.maximum(o.hit_tokens, 0).sum()) for o in outcomes)
    input_tokens = sum(pool.input_tokens for pool in pools)
    return {
        "hit_tokens": hits,
        "hit_rate": hits / input_tokens if input_tokens else None,
        "evicted_tokens": sum(int(o.evicted_tokens) for o in outcomes),
        "waited_requests": sum(int(o.waited) for o in outcomes),
        "preemptions": sum(int(o.preempted) for o in outcomes),
        "refused_requests": sum(int((o.hit_tokens < 0).sum()) for o in outcomes),
        "load_imbalance": sum(pool.busiest for pool in pools) * replicas / input_tokens
        if input_tokens
        else None,
    }


def _session_keys(sessions: I64 | None, n: int) -> I64:
    """A number for each session, and one of its own for each request without."""
    own = -1 - np.arange(n)
    return own if sessions is None else np.where(sessions < 0, own, sessions)


def _prefix_keys(traffic: Traffic, tokens: int) -> I64:
    """Equal numbers for requests whose first tokens are equal; a shorter prompt counts as a whole."""
    from traceprof.kernels.prompt_paths import nodes_at

    depth = np.minimum(traffic.prompt, tokens)
    node = nodes_at(traffic.paths(), depth)
    base = np.concatenate([[0], np.cumsum(traffic.end - traffic.begin)])
    keys = node.copy()  # an empty prompt: its root
    real = node >= 0
    keys[real] = base[node[real]] + depth[real] - traffic.begin[node[real]] - 1
    return keys


def _by_hash(keys: I64, replicas: int) -> I32:
    """Rendezvous hashing: the replica whose mix with the key is highest, so that one replica more moves few keys."""
    mixed = _mix(keys.astype(np.uint64))
    best, chosen = np.zeros(len(keys), np.uint64), np.zeros(len(keys), np.int32)
    for one in range(replicas):
        weight = _mix(mixed ^ _mix(np.array([one + 1], np.uint64)))
        higher = weight > best
        best[higher] = weight[higher]
        chosen[higher] = one
    return chosen


def _mix(x: U64) -> U64:
    """The finalizer of splitmix64 (Steele, Lea, Flood 2014)."""
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
