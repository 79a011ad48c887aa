"""From results folders to the comparison as a dict, which is comparison.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import exp, log
from pathlib import Path
from typing import Any

import traceprof
from traceprof.compare import costs, figures, outcome, pairs, segments
from traceprof.compare.figures import under
from traceprof.compare.pairs import Groups, Rules
from traceprof.compare.runs import LATENCIES, Compared, read
from traceprof.compare.statistics import Draws
from traceprof.errors import TraceprofError, UsageError
from traceprof.simulate.hardware import Card
from traceprof.trace import write_json

SCHEMA_VERSION = 1
MARGIN, SIMULATED_MARGIN = 0.05, 0.10
MAIN = ("shared", "asis", "unique")  # whose outcome is the comparison's: the traffic as it is, if it is there


@dataclass(frozen=True)
class Options:
    """What a comparison is made by."""

    # seconds by ttft, tpot, e2e; empty: what the results' scenario says
    slo: Mapping[str, float] = field(default_factory=dict)
    margin: float | None = None  # below it nobody cares; None: MARGIN, or what a simulation can tell
    level: float = 0.05  # of error
    usd_per_hour: Mapping[str, float] = field(default_factory=dict)  # by engine
    gpu: str | None = None
    gpus: int = 1
    seed: int = 0


def compare(paths: Sequence[Path], options: Options | None = None) -> dict[str, Any]:
    """Hold the engines of results folders against each other."""
    said = options or Options()
    compared = read(paths)
    slo, given = _slo(said, compared)
    margin = said.margin
    if margin is None:
        margin = SIMULATED_MARGIN if any(one.simulated for one in compared) else MARGIN
    rules = Rules(margin, said.level, slo, Draws(said.seed))
    listed = costs.priced(said.gpu) if said.gpu else None
    names = list(dict.fromkeys(one.name for each in compared for one in each.contenders))
    for name in said.usd_per_hour:
        if name not in names:
            raise UsageError(
                f"--price {name}: no engine is called that", remedy=f"there are {', '.join(names)}"
            )
    prices = {name: _price(name, said, listed, compared) for name in names}
    parts = [_workload(one, rules, prices) for one in compared]
    pairs.settled([pair for part in parts for pair in part["pairs"]], rules)
    controls = pairs.settled([pair for part in parts for pair in part.pop("control")], rules)
    broken = [one for one in controls if pairs.winner(one)]
    for part, one in zip(parts, compared, strict=True):
        if part["decides"][0] == "max_rate":
            part["pairs"] += figures.by_rate(one, margin)
        found = outcome.conclude(
            part["decides"], [c.name for c in one.ranked if c.at(one.speed)], part["pairs"]
        )
        doubts = [*part["cautions"], *_of_control(broken)]
        part["outcome"] = {**found, "trust": "lowered" if doubts else "full", "doubts": doubts}
    main = min(range(len(parts)), key=lambda n: (_rank(parts[n]), n))
    chosen = parts[main]
    return {
        "schema_version": SCHEMA_VERSION,
        "traceprof_version": traceprof.__version__,
        "results": [str(path) for path in paths],
        "simulated": compared[main].simulated,
        "slo": {**{f"{name}_s": slo.get(name) for name in LATENCIES}, "given": given} if slo else None,
        "margin": margin,
        "level": said.level,
        "main_workload": main,
        "engines": chosen["engines"],
        "workloads": parts,
        "pairs": chosen["pairs"],
        "predictions": chosen["predictions"],
        "control": {"aa": controls, "ok": not broken if controls else None},
        "segments": chosen["segments"],
        "crossovers": chosen["crossovers"],
        "split_by_variant": outcome.split(parts),
        "warnings": list(dict.fromkeys(text for part in parts for text in (*part["outcome"]["doubts"], *part["warnings"]))),
        "outcome": {**chosen["outcome"], "workload": main},
        "prices": {
            "gpu": listed.name if listed else None,
            "gpus": said.gpus if listed else None,
            "as_of": listed.price_as_of.isoformat() if listed and listed.price_as_of else None,
            "source": listed.price_source if listed else None,
            "given": dict(said.usd_per_hour),
        },
    }  # fmt: skip


def write(told: Mapping[str, Any], path: Path) -> None:
    """comparison.json."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, dict(told))
    except OSError as bad:
        raise TraceprofError(
            f"cannot be written: {bad.strerror}", path=path, remedy="give another -o"
        ) from None


def _workload(compared: Compared, rules: Rules, prices: Mapping[str, float | None]) -> dict[str, Any]:
    """All of one workload but what needs the others: adjusted p-values and outcomes."""
    client_s = client(compared)
    groups = Groups.of(compared)
    found = segments.segmented(compared, groups, rules)
    return {
        **{key: compared.stated.get(key) for key in ("variant", "file", "digest", "requests")},
        "order": compared.order if compared.folders == 1 else "apart",
        "mode": compared.mode,
        "speed": compared.speed,
        "client_adds_at_most_s": client_s,
        "decides": outcome.deciding(compared, rules.objectives),
        "engines": {
            one.name: figures.of_engine(one, compared, rules.objectives, prices[one.name]) for one in compared.contenders
        },
        "pairs": pairs.tested(compared, groups, rules, client_s),
        "predictions": pairs.predictions(compared, groups, rules),
        "control": pairs.control(compared, groups, rules),
        "segments": found.segments,
        "crossovers": found.crossovers,
        "cautions": list(outcome.cautions(compared)),
        "warnings": list(outcome.notes(compared, client_s)),
    }  # fmt: skip


def client(compared: Compared) -> float | None:
    """Seconds that the client adds to TTFT at most, by its own calibration; None where that was not made."""
    told = [under(one.results.manifest, "calibration", "ttft_p99_s") for one in compared.contenders]
    known = [value for value in told if value is not None]
    return max(known) if known and not compared.simulated else None


def _slo(said: Options, compared: Sequence[Compared]) -> tuple[dict[str, float], bool]:
    """Seconds by latency, and whether the user gave them: of the scenario's limits each is taken for one request's, the strictest."""
    if said.slo:
        return dict(said.slo), True
    found: dict[str, float] = {}
    for one in compared:
        for key, limit in (under(one.contenders[0].results.manifest, "scenario", "slo") or {}).items():
            name = key.partition("_")[0]
            if name in LATENCIES:
                found[name] = min(limit, found.get(name, limit))
    return found, False


def _price(name: str, said: Options, listed: Card | None, compared: Sequence[Compared]) -> float | None:
    """Dollars an hour of an engine: as given, else of the GPUs that were named, else of the machine that was simulated."""
    if name in said.usd_per_hour:
        return said.usd_per_hour[name]
    if listed is not None and listed.usd_per_hour is not None:
        return listed.usd_per_hour * said.gpus
    for one in compared:
        for contender in one.contenders:
            if contender.name == name:
                told = under(contender.results.manifest, "simulated", "price_per_hour")
                return None if told is None else float(told)
    return None


def _of_control(broken: Sequence[Mapping[str, Any]]) -> list[str]:
    """What of a control that failed."""
    if not broken:
        return []
    worst = max(broken, key=_size)
    size = 100 * _size(worst)
    runs = f"runs {worst['block_a']} and {worst['block_b']} of {worst['a']}"
    what = f"{outcome.WORDS[worst['metric']]}, more than the margin: something besides the engine changes between runs"
    return [f"the control failed: {runs} differ by {size:.0f} % in {what}"]


def _size(one: Mapping[str, Any]) -> float:
    """Of a difference, as a share: the same for b over a and a over b."""
    return exp(abs(log(one["ratio"]))) - 1 if one["scale"] == "ratio" else abs(one["difference"])


def _rank(part: Mapping[str, Any]) -> int:
    variant = part["variant"]
    return MAIN.index(variant) if variant in MAIN else len(MAIN)
