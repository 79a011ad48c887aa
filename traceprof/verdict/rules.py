"""What the field agrees on: which engines a traffic favours by its numbers alone, the first one first.

Rules are the weakest evidence: they say where to look first. `choose` is a pure function of `Facts`, so that what would flip it can
be found by asking it again with one number changed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from traceprof import engines, latency
from traceprof.errors import UsageError

SHARED = 0.5  # hit rate from which prefix reuse decides
FEW_USERS = 4  # requests in flight that a slot-based server holds side by side
MANY_MODELS = 4
ROUNDING = 0.05  # of the hit rate: what whole blocks may lose before single tokens decide
STRUCTURED = 0.05  # share of requests with a schema from which an engine that ignores it is out
FEW_REQUESTS = 100
TOO_FEW_REQUESTS = 10  # below, no engine is favoured

HARDWARE = ("nvidia", "amd", "apple", "cpu")


class Server(NamedTuple):
    """What rules must know of an engine."""

    hardware: tuple[str, ...]  # that it runs on
    cold_start_s: float | None = None  # until the first answer, where it was published
    builds: bool = False  # whether a build per model and GPU comes before
    simple: bool = False  # one program, models by name
    schema: bool = True  # whether it holds answers to a JSON schema


SERVERS: Mapping[str, Server] = {
    "vllm": Server(("nvidia", "amd", "cpu"), 62),
    "sglang": Server(("nvidia", "amd", "cpu"), 58),
    "tensorrt_llm": Server(("nvidia",), 28 * 60, builds=True),
    "lmdeploy": Server(("nvidia",)),
    "tgi": Server(("nvidia", "amd")),
    "llamacpp": Server(HARDWARE, simple=True),
    "ollama": Server(HARDWARE, simple=True),
    "mlx_lm": Server(("apple",), simple=True, schema=False),
    "vllm_mlx": Server(("apple",)),
    "vllm_metal": Server(("apple",)),
    "omlx": Server(("apple",)),
}
"""In the order in which a tie that nothing else decides is broken: the widest support of models and hardware first."""


def label(name: str) -> str:
    """An engine as its makers write it; a name of the user's own as it is.

    >>> label("tensorrt_llm"), label("production")
    ('TensorRT-LLM', 'production')
    """
    try:
        return engines.engine(name).label
    except UsageError:
        return name


@dataclass(frozen=True)
class Constraints:
    """What the team says: what it runs on, whether it can look after an engine that needs care, and what is fast enough."""

    hardware: str | None = None
    ops_team: bool = False
    slo: Mapping[str, float] | None = None  # seconds by metric

    @classmethod
    def of(cls, hardware: str | None = None, ops_team: bool = False, slo: str | None = None) -> Constraints:
        """From the words of the command line.

        >>> Constraints.of("nvidia", slo="ttft=500ms,tpot=50ms").slo
        {'ttft': 0.5, 'tpot': 0.05}
        """
        if hardware is not None and hardware not in HARDWARE:
            raise UsageError(f"no hardware is called {hardware!r}", remedy=f"one of {', '.join(HARDWARE)}")
        return cls(hardware, ops_team, None if slo is None else latency.parse_slo(slo))


class Facts(NamedTuple):
    """What the rules look at; None where the log does not say."""

    requests: int = 0
    users: float | None = None  # in flight, p99 of the time in which anything is
    hit_rate: float | None = None  # at the finest unit that the trace knows
    rounding: float | None = None  # of it, what whole blocks of 16 lose
    models: int = 1
    structured: float | None = None  # share of requests with a schema for the answer
    hardware: str | None = None
    ops_team: bool = False

    @classmethod
    def of(cls, profile: Mapping[str, Any], constraints: Constraints) -> Facts:
        """From a profile and what the team says."""
        load, told = profile.get("concurrency"), profile.get("structured")
        rates = (profile.get("prefix") or {}).get("hit_rate") or {}
        fine, coarse = rates.get("1"), rates.get("16")
        return cls(
            profile["trace"]["requests"],
            None if load is None else load["busy"]["p99"],
            next((r for r in rates.values() if r is not None), None),
            None if fine is None or coarse is None else fine - coarse,
            len(profile["trace"]["models"]),
            told["response_format"] / told["requests"] if told and told["requests"] else None,
            constraints.hardware,
            constraints.ops_team,
        )


def choose(of: Facts) -> tuple[str, ...]:
    """The engines to look at, the first one first; none where neither load nor sharing is known.

    >>> choose(Facts(users=40, hit_rate=0.9, rounding=0.01)), choose(Facts(users=40, hit_rate=0.1))
    (('sglang', 'vllm'), ('vllm',))
    >>> choose(Facts(users=3, hit_rate=0.9, hardware="apple")), choose(Facts(users=3, hit_rate=0.9))
    (('llamacpp', 'ollama', 'mlx_lm'), ('llamacpp', 'ollama'))
    """
    if of.users is None and of.hit_rate is None:
        return ()
    few = of.users is not None and of.users <= FEW_USERS
    if few or of.hardware in ("apple", "cpu"):
        return tuple(name for name in _small(of, few) if allowed(name, of) is None)
    if of.models >= MANY_MODELS:
        return ("vllm",)
    if of.hit_rate is not None and of.hit_rate >= SHARED:
        return ("sglang",) if (of.rounding or 0.0) > ROUNDING else ("sglang", "vllm")
    if of.hardware == "nvidia" and of.models == 1:  # raw speed, for a model that stays
        return ("tensorrt_llm", "vllm") if of.ops_team else ("vllm", "tensorrt_llm")
    return ("vllm",)


def deciding(of: Facts) -> tuple[str, ...]:
    """The inputs that `choose` turned on, the strongest first.

    >>> deciding(Facts(users=3, hit_rate=0.9)), deciding(Facts(users=40, hit_rate=0.9, models=8))
    (('users', 'hardware'), ('models', 'swaps', 'users'))
    """
    if of.users is not None and of.users <= FEW_USERS:
        return "users", "hardware"
    if of.hardware in ("apple", "cpu"):
        return "hardware", "users"
    if of.models >= MANY_MODELS:
        return "models", "swaps", "users"
    if of.hit_rate is not None and of.hit_rate >= SHARED:
        return "hit_rate", "rounding", "users"
    return "hit_rate", "users"


def _small(of: Facts, few: bool) -> tuple[str, ...]:
    """Few users, or no data-centre GPU: what runs as one program."""
    if not few:
        return ("mlx_lm", "llamacpp") if of.hardware == "apple" else ("llamacpp", "vllm")
    one_by_one = of.users is not None and of.users <= 1
    slots = ("ollama", "llamacpp") if one_by_one else ("llamacpp", "ollama")
    return (*slots, "mlx_lm") if of.hardware == "apple" else slots


def allowed(name: str, of: Facts) -> str | None:
    """Why an engine is out; None where nothing is against it.

    >>> allowed("tensorrt_llm", Facts(hardware="amd"))
    'does not run on AMD'
    """
    server = SERVERS.get(name)
    if server is None:
        return None
    if of.hardware is not None and of.hardware not in server.hardware:
        where = {"nvidia": "NVIDIA", "amd": "AMD", "apple": "Apple silicon", "cpu": "a CPU"}[of.hardware]
        return f"does not run on {where}"
    if server.builds and of.models >= MANY_MODELS and not of.ops_team:
        return f"wants a build for each of {of.models} models, 28 min by a published figure (not in releases since July 2026)"
    if not server.schema and of.structured is not None and of.structured >= STRUCTURED:
        return "does not hold answers to a JSON schema"
    return None


def builds(name: str) -> bool:
    """Whether an engine wants a build, and a team that looks after it."""
    return name in SERVERS and SERVERS[name].builds


def in_order(names: Iterable[str], of: Facts) -> list[str]:
    """Engines that numbers cannot part, the one to take first: what needs no build, then what rules say, then the wider support.

    >>> in_order(["tensorrt_llm", "lmdeploy", "vllm", "sglang"], Facts(users=40, hit_rate=0.9))
    ['sglang', 'vllm', 'lmdeploy', 'tensorrt_llm']
    """
    chosen, known = choose(of), list(SERVERS)

    def rank(name: str) -> tuple[bool, int, int]:
        at = chosen.index(name) if name in chosen else len(chosen)
        return builds(name) and not of.ops_team, at, known.index(name) if name in known else len(known)

    return sorted(names, key=rank)
