"""A replay: what a scenario says, run after run, each from a state of the cache that favours nobody.

Every run is one workload against one engine, once. Before it the engine's prefix cache is emptied, or its prompts are salted so
that no earlier run can help it, or the engine is started anew from its recipe; its counters are read before, during and after;
what it tells of cached tokens is held against what the model of its cache has for the very times at which requests were sent. An
engine with a recipe is started for each of its runs and stopped behind it, so that engines which share a GPU never run side by side.

    RESULTS/manifest.json     the scenario, its workloads and engines, each run and where it stands, what a sweep found, what the
                              client itself adds
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import random
import shutil
import threading
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import polars as pl

from traceprof.engines.base import Engine
from traceprof.engines.bodies import endpoint_of
from traceprof.errors import TraceprofError, UsageError
from traceprof.replay import gpu, launch, scrape, server
from traceprof.replay import scenario as scenarios
from traceprof.replay.calibrate import WINDOW_S, busiest, calibrate
from traceprof.replay.predicted import Predicted, predicted
from traceprof.replay.run import Progress, replay_run, spelled
from traceprof.replay.scenario import Contender, Scenario, Turn
from traceprof.replay.settings import Options, Target
from traceprof.results import Results, Run, new_run, write_manifest
from traceprof.workloads import Workload, labels

READY_S = 60.0  # for an engine that runs already
UNLIMITED = 1 << 40  # tokens, where an engine does not tell what it holds


class Said(NamedTuple):
    """What is told while a replay goes on."""

    number: int | None  # of the run, from 0; None: none is under way
    of: int | None  # runs in all, where that is known ahead
    name: str  # of the engine; before or after, where the client is measured
    workload: str  # its label; empty where an engine that runs already is waited for
    progress: Progress | None  # None: the engine is made ready


@dataclasses.dataclass(frozen=True)
class Watching:
    """How engines are watched, and how long they are waited for; seconds."""

    ready_s: float | None = None  # None: what the recipe says, or READY_S
    scrape_s: float = 5.0  # between two readings during a run; 0: only before and after
    settle_s: float = 10.0  # longest wait for counters that follow the requests
    quiet_s: float = 1.0  # counters that stand still for so long are final
    calibrate: bool = True  # measure what the client itself adds


def replay(
    scenario: Scenario,
    folder: Path,
    watching: Watching | None = None,
    *,
    resume: bool = False,
    stop: threading.Event | None = None,
    say: Callable[[Said], None] | None = None,
) -> Results:
    """Make all runs and write them down; what was stopped or failed stands in the manifest and can be gone on with.

    Raises TraceprofError where the folder holds another replay, or where an engine cannot be had.
    """
    watched, ended = watching or Watching(), stop or threading.Event()
    workloads = {path: Workload(path) for path in scenario.workloads}
    _check_plan(scenario, workloads)
    told = _manifest(scenario, workloads)
    _check_folder(folder, told, resume)
    _check_engines(scenario, watched, ended, say)
    results = _open(folder, told, resume)
    manifest = results.manifest
    made = _Made(scenario, results, manifest, watched, ended, say)
    if watched.calibrate and manifest["calibration"]["before"] is None:
        made.calibrated("before", workloads)
        made.save()
    steps = _steps(scenario)
    whole = len(scenarios.plan(scenario)) if scenario.sweep is None else None
    number, ran = 0, None
    while True:
        try:
            step = steps.send(ran)
        except StopIteration:
            break
        if number and scenario.pause_s:
            ended.wait(scenario.pause_s)
        ran = None if ended.is_set() else made.run(number, whole, step, workloads[step.turn.workload], resume)
        if ran is None:
            return results
        number += 1
    if scenario.sweep is not None:
        manifest["sweep"] = _found(scenario, manifest["runs"])
    if watched.calibrate:
        made.calibrated("after", workloads)
    made.save()
    return Results(folder)


def _check_plan(scenario: Scenario, workloads: Mapping[Path, Workload]) -> None:
    """Say what cannot be done with these workloads and engines, before anybody is asked anything."""
    api = scenario.options.get("api")
    for workload in workloads.values():
        kinds = endpoints(workload)
        if not kinds:
            raise TraceprofError("has no requests", path=workload.path, remedy="make it of more")
        for one in scenario.engines:
            for kind in sorted(kinds):
                endpoint_of(one.engine, {"endpoint": kind}, api)
            _ways(scenario, one, kinds)
    for one in scenario.engines:
        Options(**scenario.options, api_key_env=one.api_key_env).api_key()
        if one.launch is not None:
            recipe = launch.Recipe.read(one.launch)
            launch.check(recipe, _variables(one, recipe, scenario), one.variant)


def _check_engines(
    scenario: Scenario, watching: Watching, stop: threading.Event, say: Callable[[Said], None] | None
) -> None:
    """Say what is wrong with an engine that runs, before anything is measured or written."""
    for one in scenario.engines:
        if one.url is None:
            continue
        if say is not None:
            say(Said(None, None, one.name, "", None))
        options = Options(**scenario.options, api_key_env=one.api_key_env)
        key, ca = options.api_key(), options.ca
        server.ready(one.engine, one.url, watching.ready_s or READY_S, api_key=key, ca=ca, stop=stop)
        chosen_model(one.model, server.models(one.engine, one.url, key, ca), one.engine.label)
        scrape.whose(one.engine, one.metrics, ca)


# ---- which runs


class Step(NamedTuple):
    """One run that is to be made."""

    turn: Turn
    speed: float  # on top of the options' own


Steps: TypeAlias = Generator[Step, "dict[str, Any] | None", None]


def _steps(scenario: Scenario) -> Steps:
    """The runs in their order: yields what to run, is sent what run.json then holds. A sweep needs that to know its next rate.

    A run whose client was late decides nothing, and a higher rate would not either: it ends the search of its engine.
    """
    if scenario.sweep is None:
        for turn in scenarios.plan(scenario):
            yield Step(turn, 1.0)
        return
    for turn in scenarios.plan(dataclasses.replace(scenario, repeats=0)):  # the warm-ups
        yield Step(turn, 1.0)
    assert scenario.slo is not None
    for workload in scenario.workloads:
        searches = {one.name: scenarios.sweep(scenario.sweep) for one in scenario.engines}
        rates = {name: next(search) for name, search in searches.items()}
        repeats = dict.fromkeys(searches, 0)
        while rates:
            for one in scenario.engines:
                if one.name not in rates:
                    continue
                told = yield Step(Turn(workload, one, repeats[one.name], False), rates[one.name])
                assert told is not None
                repeats[one.name] += 1
                held = scenarios.judge(scenario.slo, told["summary"]).holds
                if held is None:
                    del rates[one.name]
                    continue
                try:
                    rates[one.name] = searches[one.name].send(held)
                except StopIteration:
                    del rates[one.name]


def _found(scenario: Scenario, runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What the sweep found, by workload and engine, from its runs.

    speed           the highest that held
    failed_at       the lowest above it that did not; null where none was seen to fail
    client_late_at  the speed at which the client was late, so that nothing is known from there on
    """
    assert scenario.slo is not None and scenario.sweep is not None
    found = []
    for workload in range(len(scenario.workloads)):
        for one in scenario.engines:
            mine = [
                run
                for run in runs
                if (run["name"], run["workload"], run["warmup"]) == (one.name, workload, False)
            ]
            search = scenarios.sweep(scenario.sweep)
            next(search)
            decided = scenarios.Found(None, None, ())
            late = None
            for run in mine:
                if run["held"] is None:
                    late = run["speed"]
                    held = [other["speed"] for other in mine if other["held"]]
                    decided = scenarios.Found(max(held, default=None), None, ())
                    break
                try:
                    search.send(run["held"])
                except StopIteration as over:
                    decided = over.value
            found.append(
                {
                    "workload": workload, "name": one.name, "speed": decided.rate, "failed_at": decided.failed_at,
                    "client_late_at": late, "trials": [{k: run[k] for k in ("number", "speed", "held", "reasons")} for run in mine],
                }
            )  # fmt: skip
    return found


# ---- the manifest


def stated(path: Path, workload: Workload) -> dict[str, Any]:
    """What a manifest says of a workload."""
    kept = (
        "variant",
        "seed",
        "sessions",
        "span_us",
        "input_tokens",
        "output_tokens",
        "hit_rate",
        "machine",
        "expected",
    )
    return {
        "file": str(path), "digest": digest(path), "requests": workload.requests, "endpoints": dict(workload.endpoints()),
        **{key: workload.meta.get(key) for key in kept},
    }  # fmt: skip


def _manifest(scenario: Scenario, workloads: Mapping[Path, Workload]) -> dict[str, Any]:
    """What the manifest says before anything was sent."""
    slo, sweep = scenario.slo, scenario.sweep
    return {
        "scenario": {
            "about": scenario.about, "repeats": scenario.repeats, "order": scenario.order, "warmup_runs": scenario.warmup_runs,
            "cache": scenario.cache, "capacity_tokens": scenario.capacity_tokens, "pause_s": scenario.pause_s,
            "slo": None if slo is None else {"failed": slo.failed, **{f"{a}_{b}_s": v for (a, b), v in slo.limits.items()}},
            "sweep": None if sweep is None else dataclasses.asdict(sweep),
        },
        "options": spelled(Options(**scenario.options)),
        "workloads": [
            stated(path, one) for path, one in workloads.items()
        ],
        "engines": [
            {
                "name": one.name, "engine": one.engine.name, "at": None if one.url is None else Target.of(one.url).authority,
                "launch": one.launch, "variant": one.variant, "variables": dict(one.variables), "cache": dict(one.cache),
                "model": one.model, "counters_at": [server.Counters.of(url).authority for url in one.metrics],
            }
            for one in scenario.engines
        ],
        "runs": [],
        "sweep": None,
        "calibration": {"before": None, "after": None},
    }  # fmt: skip


def _check_folder(folder: Path, told: dict[str, Any], resume: bool) -> None:
    """Say where the folder cannot take this replay: one that is gone on with must be the same, a new one needs a folder without results."""
    there = (folder / "manifest.json").exists()
    if resume and not there:
        raise TraceprofError("holds nothing to go on with", path=folder, remedy="leave --resume out")
    if not there:
        return
    results = Results(folder)
    lines = (line for run in results.runs for line in run.path.glob("*.jsonl"))
    if not resume and any(line.stat().st_size for line in lines):
        raise TraceprofError("holds results", path=folder, remedy="give another -o, or go on with --resume")
    for part in ("workloads", "engines", "options", "scenario") if resume else ():
        if _same(results.manifest.get(part)) != _same(told[part]):
            raise TraceprofError(f"holds a replay with other {part}", path=folder, remedy="give another -o")


def _open(folder: Path, told: dict[str, Any], resume: bool) -> Results:
    """A new results folder, or the one that is gone on with."""
    if resume:
        return Results(folder)
    if (folder / "manifest.json").exists():
        for run in Results(folder).runs:  # of engines that did not start
            shutil.rmtree(run.path)
    return write_manifest(folder, told)


def _same(part: Any) -> Any:
    """Where a workload or an engine is does not matter, what it is does."""
    if isinstance(part, list):
        where = ("file", "at", "counters_at")
        return [{key: value for key, value in one.items() if key not in where} for one in part]
    return part


def digest(path: Path) -> str:
    """SHA-256 of a file, as hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _bound(calibration: dict[str, Any]) -> dict[str, Any]:
    """What the client adds at most: the worse of before and after."""
    found: dict[str, Any] = {}
    for name in ("ttft_p99_s", "itl_p99_s"):
        told = [part["adds_at_most"][name] for part in (calibration["before"], calibration["after"]) if part]
        values = [value for value in told if value is not None]
        found[name] = max(values) if values else None
    return found


# ---- one run


class _Made(NamedTuple):
    """Makes runs and keeps the manifest."""

    scenario: Scenario
    results: Results
    manifest: dict[str, Any]
    watching: Watching
    stop: threading.Event
    say: Callable[[Said], None] | None

    def save(self) -> None:
        """Write the manifest as it stands."""
        own = ("kind", "schema_version", "traceprof_version")
        write_manifest(self.results.path, {k: v for k, v in self.manifest.items() if k not in own})

    def calibrated(self, when: str, workloads: Mapping[Path, Workload]) -> None:
        """Measure the client itself, and put what it adds at most into the manifest: the worse of before and after.

        By the workload that asks most of it, at the highest speed that there will be.
        """
        options = Options(**self.scenario.options)
        if self.scenario.sweep is not None:
            options = dataclasses.replace(options, speed=options.speed * self.scenario.sweep.high)
        path = max(workloads, key=lambda one: busiest(workloads[one], options, WINDOW_S).tokens)
        label = self._label(path)
        found = calibrate(
            workloads[path],
            options,
            stop=self.stop,
            progress=lambda at: self.say(Said(None, None, when, label, at)) if self.say else None,
        )
        if not found["stopped"]:
            self.manifest["calibration"][when] = {"workload": label, **found}
            self.manifest["calibration"] |= _bound(self.manifest["calibration"])

    def _label(self, path: Path) -> str:
        """What a workload is called."""
        told = [(one["variant"] or "asis", one["file"]) for one in self.manifest["workloads"]]
        return labels(told)[self.scenario.workloads.index(path)]

    def run(
        self, number: int, of: int | None, step: Step, workload: Workload, resume: bool
    ) -> dict[str, Any] | None:
        """What run.json holds; None where the run was stopped."""
        turn, runs = step.turn, self.manifest["runs"]
        run = new_run(self.results, number, turn.engine.name)
        if number == len(runs):
            runs.append(
                {
                    "number": number, "name": turn.engine.name, "workload": self.scenario.workloads.index(turn.workload),
                    "repeat": turn.repeat, "warmup": turn.warmup, "speed": step.speed, "salt": None, "state": "begun", "error": None,
                    "held": None, "reasons": [],
                }
            )  # fmt: skip
        state = runs[number]
        told: dict[str, Any] | None = run.told()
        if not told:
            self.save()
            self._say(number, of, turn, None)
            try:
                told = _run(
                    self, step, workload, run, state, resume, lambda at: self._say(number, of, turn, at)
                )
            except server.StoppedError:
                told = None
            except TraceprofError as bad:
                state |= {"state": "failed", "error": str(bad)}
                self.save()
                raise
        if told is None:
            state["state"] = "stopped"
        else:
            state |= {"state": "done", "error": None}
            if self.scenario.slo is not None:
                held, reasons = scenarios.judge(self.scenario.slo, told["summary"])
                state |= {"held": held, "reasons": list(reasons)}
        self.save()
        return told

    def _say(self, number: int, of: int | None, turn: Turn, progress: Progress | None) -> None:
        if self.say is not None:
            self.say(Said(number, of, turn.engine.name, self._label(turn.workload), progress))


def _run(
    made: _Made,
    step: Step,
    workload: Workload,
    run: Run,
    state: dict[str, Any],
    resume: bool,
    say: Callable[[Progress], None],
) -> dict[str, Any] | None:
    """One run, from a fresh cache to what the engine's counters say; None where it was stopped."""
    scenario, watching, stop = made.scenario, made.watching, made.stop
    one = step.turn.engine
    engine = one.engine
    options = Options(**scenario.options, api_key_env=one.api_key_env)
    key, ca, kinds = options.api_key(), options.ca, endpoints(workload)
    with _served(one, scenario, run, watching, stop) as (url, cold_start_s):
        waited_s = server.ready(engine, url, watching.ready_s or READY_S, api_key=key, ca=ca, stop=stop)
        models = server.models(engine, url, key, ca)
        model = chosen_model(one.model, models, engine.label)
        if resume and any(run.path.glob("requests-*.jsonl")):
            isolation = _continued(state["salt"])
        else:
            isolation = _isolated(scenario, one, url, model, options, kinds, run)
        state["salt"] = isolation["salt"]
        made.save()
        counting = scrape.whose(engine, one.metrics, ca)
        own = one.metrics if counting is engine else ()
        held = server.capacity(engine, url, key, ca, own)
        if held.tokens is None and counting is not engine:
            held = server.capacity(counting, url, key, ca, one.metrics)
        settings = server.settings(engine, url, key, ca, own)
        facts = {
            "version": server.version(engine, url, key, ca), "models": models, "model": model,
            "capacity_tokens": held.tokens, "capacity_from": held.source, "settings": settings,
            "cold_start_s": cold_start_s, "ready_after_s": waited_s,
        }  # fmt: skip
        options = dataclasses.replace(
            options,
            model=model,
            salt=isolation["salt"],
            speed=options.speed * step.speed,
            count=_counter(workload),
        )
        scraper, watch = scrape.Scraper(url, counting, key, ca, metrics=one.metrics), gpu.Watch()
        scraper.before()

        def began(zero_ns: int) -> None:
            scraper.start(watching.scrape_s, zero_ns)
            watch.start(zero_ns)

        told: dict[str, Any] = {"stopped": True}
        try:
            told = replay_run(
                workload, engine, url, options, run, resume=resume, stop=stop, progress=say, began=began, finish=lambda told: None
            )  # fmt: skip
        finally:
            rows = scraper.after(0.0 if told["stopped"] else watching.settle_s, watching.quiet_s)
            gpus, samples = watch.stop()
    if told["stopped"]:
        return None
    scrape.write(run, rows)
    gpu.write(run, samples)
    requests = run.lines()
    from_us = told["resumed_at_us"]
    afresh = requests.filter(pl.col("sent_us") >= from_us) if from_us and one.launch is not None else requests
    expected = _predicted(
        workload, engine, afresh, held.tokens, {**_cache_options(one, kinds), **settings, **one.cache}
    )
    told |= {
        "name": one.name, "repeat": step.turn.repeat, "warmup_run": step.turn.warmup, "speed": step.speed,
        "workload": str(workload.path), "server": facts, "isolation": {k: isolation[k] for k in ("how", "ok", "why")},
        "counters": {
            "of": counting.name, **scrape.counted(counting, rows)._asdict(), "missed_scrapes": scraper.missed,
            "trouble": "the run was cut off: counters of its last part only" if from_us else scraper.trouble,
            "against_requests": [] if from_us else scrape.reconcile(counting, rows, requests),
        },
        "gpu": gpus,
        "cache": against(afresh, expected, engine.cache),
    }  # fmt: skip
    run.finish(told, None if expected is None else expected.cached)
    return told


class _Counter:
    """Tokens of an answer by the workload's own tokenizer, for engines that do not tell; loaded when it is first needed."""

    def __init__(self, reload: list[str | None]) -> None:
        self._reload = reload
        self._tokenizer: Any = None

    def __call__(self, text: str) -> int:
        """How many."""
        from traceprof.tokenizer import load

        if self._tokenizer is None:
            self._tokenizer = load(*self._reload)
        return len(self._tokenizer.encode([text], False).ids)


def _counter(workload: Workload) -> Callable[[str], int] | None:
    """None where the workload's tokenizer is none of a model, or cannot be had again."""
    told = workload.meta.get("tokenizer") or {}
    return _Counter(told["reload"]) if told.get("exact") and told.get("reload") else None


@contextlib.contextmanager
def _served(
    one: Contender, scenario: Scenario, run: Run, watching: Watching, stop: threading.Event
) -> Iterator[tuple[str, float | None]]:
    """Where the engine answers, and how long its start took where it is ours."""
    if one.url is not None:
        yield one.url, None
        return
    assert one.launch is not None
    recipe = launch.Recipe.read(one.launch)
    with launch.started(
        recipe,
        _variables(one, recipe, scenario),
        log=run.path / "engine.log",
        variant=one.variant,
        ready_s=watching.ready_s,
        stop=stop,
    ) as there:
        yield there.url, there.cold_start_s


def _variables(one: Contender, recipe: launch.Recipe, scenario: Scenario) -> dict[str, str]:
    """The recipe's variables, with what gives the engine the scenario's KV tokens."""
    pinned = {}
    if scenario.capacity_tokens is not None:
        pinned = recipe.pinned(scenario.capacity_tokens, one.variant)
    return {**one.variables, **pinned}


def _continued(salt: str | None) -> dict[str, Any]:
    return {"how": "none", "ok": False, "why": "the run goes on from where it was cut off", "salt": salt}


def _ways(scenario: Scenario, one: Contender, kinds: set[str]) -> tuple[str, ...]:
    """How its cache can be parted between runs; nothing may do it where there is but one run of it."""
    api = scenario.options.get("api")
    try:
        return scenarios.ways(scenario.cache, one, {api} if api else kinds)
    except UsageError:
        runs = len(scenario.workloads) * scenario.repeats + scenario.warmup_runs
        if scenario.cache == "auto" and scenario.sweep is None and runs == 1:
            return ()
        raise


def _isolated(
    scenario: Scenario,
    one: Contender,
    url: str,
    model: str | None,
    options: Options,
    kinds: set[str],
    run: Run,
) -> dict[str, Any]:
    """See that no earlier run's prompts are in the cache, and say how that was done."""
    why = f"nothing empties it: between runs, {one.engine.between_runs}"
    for way in _ways(scenario, one, kinds):
        if way == "restart" or one.launch is not None:
            return {"how": "restart", "ok": True, "why": None, "salt": None}
        if way == "flush":
            done = server.flush(one.engine, url, model=model, api_key=options.api_key(), ca=options.ca)
            if done.ok:
                return {"how": f"flush: {done.how}", "ok": True, "why": None, "salt": None}
            why = done.why or why
        elif way == "salt":
            salt = f"{run.path.name}-{random.SystemRandom().getrandbits(64):016x}"
            return {"how": "salt", "ok": True, "why": None, "salt": salt}
    if scenario.cache not in ("auto", "keep"):
        raise TraceprofError(
            f"the cache of {one.name} was not emptied: {why}",
            remedy="choose another cache, or launch the engine for each run",
        )
    return {"how": "none", "ok": scenario.cache == "keep", "why": why, "salt": None}


def _cache_options(one: Contender, kinds: set[str]) -> dict[str, Any]:
    """What the way in which an engine was started, and the kind of requests, mean for the model of its cache."""
    started = {} if one.launch is None else launch.Recipe.read(one.launch).variant(one.variant).cache
    asked = [one.engine.settings_of.get(kind, {}) for kind in kinds]
    return {**started, **(asked[0] if len(asked) == 1 else {})}


def _predicted(
    workload: Workload,
    engine: Engine,
    requests: pl.DataFrame,
    capacity: int | None,
    options: Mapping[str, Any],
) -> Predicted | None:
    if engine.cache is None:
        return None
    return predicted(workload, requests, engine.cache, capacity or UNLIMITED, options=options)


def endpoints(workload: Workload) -> set[str]:
    """Kinds of its requests: chat, completions, ids."""
    return set(workload.endpoints())


def chosen_model(asked: str | None, served: Sequence[str], label: str) -> str | None:
    """Which model to ask for: the one that was named, or the only one that is served; None leaves it to the trace's names.

    >>> chosen_model(None, ["tiny"], "vLLM"), chosen_model("tiny", [], "vLLM"), chosen_model(None, ["a", "b"], "vLLM")
    ('tiny', 'tiny', None)
    """
    if asked is not None:
        if served and asked not in served and not any(one.endswith(asked) for one in served):
            listed = ", ".join(served[:5])
            raise UsageError(f"{label} serves no model called {asked}", remedy=f"it serves {listed}")
        return asked
    return served[0] if len(served) == 1 else None


def against(requests: pl.DataFrame, expected: Predicted | None, cache: str | None) -> dict[str, Any] | None:
    """Cached tokens as the engine tells them, request by request, against those of its model.

    `prompts_of_other_length`: the engine counts other tokens than the workload, so its prompts are not quite the planned ones;
    Hit rates leave warm-up out, as `summary.hit_rate` does; `unexplained_tokens`: told beyond what any cache could have of this run's own prompts, so they are from before it.
    """
    if expected is None:
        return None
    ended = requests.filter(pl.col("outcome").cast(pl.String) == "ok")
    at = ended["index"].to_numpy()
    length = ended["input_tokens"].cast(pl.Int64)
    told = ended["cached_tokens"].cast(pl.Int64)
    model = pl.Series(expected.cached[at])
    known = told.is_not_null()
    off = (told - model).drop_nulls()
    measured = ~ended["warmup"]
    found: dict[str, Any] = {
        "model": cache,
        "requests": len(at),
        "prompts_of_other_length": int((length.is_not_null() & (length != pl.Series(expected.prompt[at]))).sum()),
        "predicted_tokens": int(model.sum()),
        "predicted_hit_rate": _rate(model, length, measured),
        "told_requests": int(known.sum()),
        "told_tokens": None, "told_hit_rate": None, "equal_requests": None, "largest_difference": None, "unexplained_tokens": None,
    }  # fmt: skip
    if known.any():
        beyond = (told - pl.Series(expected.ceiling[at])).drop_nulls()
        found |= {
            "told_tokens": int(told.sum()),
            "told_hit_rate": _rate(told, length, measured),
            "equal_requests": int((off == 0).sum()),
            "largest_difference": int(off.abs().max()),  # type: ignore[arg-type]
            "unexplained_tokens": int(beyond.clip(lower_bound=0).sum()),
        }
    return found


def _rate(cached: pl.Series, length: pl.Series, measured: pl.Series) -> float | None:
    """Cached to prompt tokens of the requests that are no warm-up and whose cached tokens are known."""
    mine = measured & cached.is_not_null() & length.is_not_null()
    whole = int(length.filter(mine).sum())
    return float(cached.filter(mine).sum() / whole) if whole else None
