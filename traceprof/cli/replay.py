"""`traceprof replay`: workloads against live engines."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import click

from traceprof.cli import options as opt
from traceprof.cli.options import F

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Iterator

    from traceprof.engines.base import Engine
    from traceprof.replay.campaign import Said
    from traceprof.replay.scenario import Contender, Scenario
    from traceprof.replay.settings import Options


def _options(function: F) -> F:
    """What is to be done, in the order of --help."""
    for option in reversed((
        click.option("--engine", "engines", multiple=True, metavar="NAME=URL", help="An engine and where it answers (repeatable). NAME is what `traceprof engines` lists, and may have a suffix: vllm-a=URL. A URL alone: it is found out which engine answers."),
        click.option("--metrics-url", "metrics", multiple=True, metavar="NAME=URL", help="Where an engine's counters are, if not at its own URL (repeatable): at another port, or those of each engine behind a router. A URL alone is for the only engine."),
        click.option("--launch", "launches", multiple=True, metavar="NAME|FILE", help="Start an engine from its recipe for each of its runs, and stop it (repeatable)."),
        click.option("--set", "variables", multiple=True, metavar="KEY=VALUE", help="A variable of the recipes: model=./my-model, port=8001, ..."),
        click.option("--scenario", metavar="FILE", default=None, help="A file that says all of this; WORKLOADs given here go before its own."),
        click.option("-o", "--out", metavar="RESULTS", required=True, type=click.Path(file_okay=False), help="The results folder."),
        click.option("--mode", type=click.Choice(["partly-open", "open", "closed"]), default="partly-open", show_default=True, help="Sessions at their times and later turns when their user has read the answer; all requests at their times; so many at once."),
        click.option("--concurrency", type=click.IntRange(0), default=0, help="Requests at once, with --mode closed."),
        click.option("--speed", type=click.FloatRange(0, min_open=True), default=1.0, show_default=True, help="So many times as fast, think times included."),
        click.option("--repeats", type=click.IntRange(1), default=1, show_default=True, help="Runs of each engine on each workload."),
        click.option("--order", type=click.Choice(["interleaved", "mirrored", "random", "blocked"]), default="interleaved", show_default=True, help="Of the engines in repeats: A B A B, A B B A, drawn anew in each, A A B B."),
        click.option("--cache", type=click.Choice(["auto", "flush", "salt", "restart", "keep"]), default="auto", show_default=True, help="What keeps a run's prefix cache from earlier runs."),
        click.option("--warmup-runs", type=click.IntRange(0), default=0, show_default=True, help="Runs of each engine before all others, in no figure."),
        click.option("--capacity-tokens", type=click.IntRange(1), default=None, help="KV tokens that every engine which is launched is to have."),
        click.option("--model", default=None, metavar="NAME", help="Model to ask for.  [default: the one that is served, else the trace's]"),
        click.option("--api", default=None, metavar="NAME", help="Another API of the engine than the one that fits: responses, messages, native."),
        click.option("--history", type=click.Choice(["recorded", "live"]), default="recorded", show_default=True, help="Whose answers later turns carry: the trace's, the same for every engine, or the engine's own."),
        click.option("--stream/--no-stream", default=True, show_default=True, help="Ask for answers token by token."),
        click.option("--pin-output/--free-output", default=True, show_default=True, help="Make engines generate as many tokens as were recorded, where they can be made to."),
        click.option("--api-key-env", metavar="VARIABLE", default=None, help="Environment variable that holds the key; the key is written nowhere."),
        click.option("--ca", metavar="FILE", type=click.Path(dir_okay=False, exists=True), default=None, help="Certificates to trust, in place of the system's."),
        click.option("--processes", type=click.IntRange(1), default=1, show_default=True, help="Sending processes; a session stays with one."),
        click.option("--max-connections", type=click.IntRange(1), default=None, help="Never more at once; requests wait, and the wait counts."),
        click.option("--connections-ahead", type=click.IntRange(0), default=0, show_default=True, help="Connections to open before the clock runs, so that no request waits for one."),
        click.option("--first-byte", "first_byte_s", type=click.FloatRange(0, min_open=True), default=600.0, show_default=True, help="Seconds until an answer must begin."),
        click.option("--stall", "stall_s", type=click.FloatRange(0, min_open=True), default=120.0, show_default=True, help="Seconds that it may pause."),
        click.option("--total", "total_s", type=click.FloatRange(0, min_open=True), default=3600.0, show_default=True, help="Seconds that it may take."),
        click.option("--retries", type=click.IntRange(0), default=0, show_default=True, help="Of refused, reset, 429 and 5xx: each attempt is recorded, and latencies count from the first."),
        click.option("--ready", "ready_s", type=click.FloatRange(0, min_open=True), default=None, help="Seconds that an engine may take to be ready.  [default: what its recipe says; 60 where it runs already]"),
        click.option("--scrape", "scrape_s", type=click.FloatRange(0), default=5.0, show_default=True, help="Seconds between readings of an engine's counters; 0: only before and after."),
        click.option("--calibrate/--no-calibrate", default=True, show_default=True, help="Measure what this client itself adds, before and after, against a server that does nothing."),
        click.option("--keep-text", is_flag=True, help="Keep the answers' text in the results."),
        click.option("--resume", is_flag=True, help="Go on with a replay that was stopped."),
    )):  # fmt: skip
        function = option(function)
    return function


@click.command(name="replay")
@click.argument("workloads", metavar="WORKLOAD...", nargs=-1)
@_options
@opt.json_option
@opt.quiet_option
def command(
    workloads: tuple[str, ...], out: str, resume: bool, as_json: bool, quiet: bool, **words: Any
) -> int:
    """Send workloads to live engines at their true times, and record what each request saw.

    Latencies count from the time at which a request was to be sent. Every request is recorded as it ends: a replay that was stopped
    says so, and goes on with --resume. Cached tokens that an engine tells are held against the model of its cache.

    \b
    traceprof replay shared.parquet unique.parquet --engine vllm=http://localhost:8000 -o results
    traceprof replay shared.parquet --engine vllm=http://a:8000 --engine sglang=http://b:30000 --repeats 3 -o results
    traceprof replay shared.parquet --launch vllm --set model=./my-model -o results
    traceprof replay shared.parquet --scenario fair.toml -o results
    """  # fmt: skip
    import threading
    from pathlib import Path

    from traceprof.replay.campaign import Watching, replay

    watching = Watching(**{name: words.pop(name) for name in ("ready_s", "scrape_s", "calibrate")})
    scenario = _scenario(workloads, words)
    stop = threading.Event()
    with _interruptible(stop), _shown(quiet or as_json) as say:
        results = replay(scenario, Path(out), watching, resume=resume, stop=stop, say=say)
    if as_json:
        opt.print_json({**results.manifest, "results": [run.told() for run in results.runs]})
    elif not quiet:
        from rich.console import Console

        from traceprof.report.replayed import replayed

        replayed(results, Console())
    return 130 if stop.is_set() else 0


_CLIENT = (
    "mode", "concurrency", "speed", "api", "history", "stream", "pin_output", "ca", "processes", "max_connections", "connections_ahead",
    "first_byte_s", "stall_s", "total_s", "retries", "keep_text",
)  # fmt: skip
_PROTOCOL = ("repeats", "order", "cache", "warmup_runs", "capacity_tokens")


def _scenario(workloads: tuple[str, ...], words: dict[str, Any]) -> Scenario:
    """What is to be done: as a file says, with the workloads that are given here, or as the options say."""
    import dataclasses
    from pathlib import Path

    from traceprof.errors import UsageError
    from traceprof.replay import scenario as scenarios
    from traceprof.replay.settings import Options
    from traceprof.workloads import Workload

    paths = tuple(map(Path, workloads))
    file = words.pop("scenario")
    if file is not None:
        context = click.get_current_context()
        given = [
            one.opts[0]
            for one in context.command.params
            if one.name in words
            and context.get_parameter_source(one.name) is not click.core.ParameterSource.DEFAULT
        ]
        if given:
            raise UsageError(f"{given[0]} stands beside --scenario", remedy="say it in the file")
        found = scenarios.read(file)
        return dataclasses.replace(found, workloads=paths) if paths else found
    if not paths:
        raise UsageError("no workload", remedy="make one: traceprof workload TRACE -o FILE")
    options = {name: words[name] for name in _CLIENT}
    options |= {"ca": None if words["ca"] is None else Path(words["ca"])}
    how = Options(**options, api_key_env=words["api_key_env"])
    if not words["engines"] and not words["launches"]:
        raise UsageError("no engine", remedy="--engine NAME=URL, or --launch NAME")
    if words["variables"] and not words["launches"]:
        raise UsageError("--set is for engines that are launched", remedy="--launch NAME")
    told = [_told(word, "--engine") for word in words["engines"]]
    named = [None if name is None else _named(name) for name, _ in told]
    launched = [_launched(word, words) for word in words["launches"]]
    elsewhere = [_told(word, "--metrics-url") for word in words["metrics"]]
    for path in paths:
        Workload(path)  # what is wrong with it is said before anybody is asked anything
    engines = (
        *(
            _at(name, engine, url, how, words["model"])
            for (name, url), engine in zip(told, named, strict=True)
        ),
        *launched,
    )
    if len({one.name for one in engines}) < len(engines):
        raise UsageError("two engines have one name", remedy="give them a suffix: vllm-a=URL, vllm-b=URL")
    return scenarios.Scenario(
        Path(),
        paths,
        _with_metrics(engines, elsewhere),
        **{name: words[name] for name in _PROTOCOL},
        options=options,
    )


def _told(word: str, option: str) -> tuple[str | None, str]:
    """The name, where there is one, and the URL of `NAME=URL`; what is wrong with the URL is said without it: it may hold a key."""
    from traceprof import engines
    from traceprof.errors import UsageError
    from traceprof.replay.settings import Target

    name, sign, url = word.partition("=")
    if "://" in name or not sign:
        name, url = "", word
    if not sign and option == "--engine" and engines.named(word) is not None:
        raise UsageError(
            f"--engine {word}: no URL", remedy=f"--engine {word}=http://HOST:PORT, or --launch {word}"
        )
    try:
        Target.of(url)
    except UsageError as bad:
        raise UsageError(f"{option}{' ' + name if name else ''}: {bad.message}", remedy=bad.remedy) from None
    return name or None, url


def _named(name: str) -> Engine | None:
    """The engine that a name means; None where it is all the user's own, so that it must be found out."""
    from traceprof import engines
    from traceprof.errors import UsageError
    from traceprof.replay.scenario import NAME

    if not NAME.fullmatch(name):
        raise UsageError(f"{name} is no name for a folder", remedy="use letters, digits, . _ and -")
    if near := engines.mistyped(name):
        raise UsageError(
            f"no engine is called {name}",
            remedy=f"did you mean {near}? A name of your own goes behind it: {near}-a=URL",
        )
    return engines.named(name)


def _at(name: str | None, engine: Engine | None, url: str, how: Options, model: str | None) -> Contender:
    """A running engine; which one it is, is found out where its name does not say it."""
    from traceprof.errors import TraceprofError
    from traceprof.replay import server
    from traceprof.replay.scenario import Contender

    if engine is None:
        try:
            engine = server.find(url, how.api_key(), how.ca)
        except TraceprofError as bad:
            if name is None:
                raise
            raise TraceprofError(
                f"{bad.message} that would tell which engine {name} is",
                remedy=f"start it, check the URL, or name the engine: vllm-{name}=URL",
            ) from None
    return Contender(name or engine.name, engine, url, model=model, api_key_env=how.api_key_env)


def _with_metrics(
    engines: tuple[Contender, ...], elsewhere: list[tuple[str | None, str]]
) -> tuple[Contender, ...]:
    """The engines with the places of their counters."""
    import dataclasses

    from traceprof.errors import UsageError

    names = [one.name for one in engines]
    at: dict[str, list[str]] = {}
    for name, url in elsewhere:
        if name is None and len(names) > 1:
            raise UsageError("--metrics-url: of which engine?", remedy=f"--metrics-url {names[0]}=URL")
        name = name or names[0]
        if name not in names:
            raise UsageError(
                f"--metrics-url {name}: no engine here is called that",
                remedy=f"there {'is' if len(names) == 1 else 'are'} {', '.join(names)}",
            )
        at.setdefault(name, []).append(url)
    return tuple(dataclasses.replace(one, metrics=tuple(at.get(one.name, ()))) for one in engines)


def _launched(word: str, words: dict[str, Any]) -> Contender:
    """A recipe's name or file, with a variant behind a colon: an engine that is started for each run."""
    from traceprof.errors import UsageError
    from traceprof.replay.launch import Recipe
    from traceprof.replay.scenario import Contender

    name, _, variant = word.partition(":")
    recipe = Recipe.read(name)
    recipe.variant(variant or None)
    variables = {}
    for pair in words["variables"]:
        key, sign, value = pair.partition("=")
        if not sign:
            raise UsageError(f"--set {pair}: no value", remedy="--set KEY=VALUE")
        if key in (*recipe.variables, "port"):
            variables[key] = value
        elif not any(key in Recipe.read(other.partition(":")[0]).variables for other in words["launches"]):
            raise UsageError(
                f"--set {key}: no recipe has it",
                remedy=f"{recipe.path.name} has {', '.join(recipe.variables)}",
            )
    return Contender(
        recipe.path.stem,
        recipe.engine,
        None,
        name,
        variant or None,
        variables,
        model=words["model"],
        api_key_env=words["api_key_env"],
    )


@contextlib.contextmanager
def _interruptible(stop: threading.Event) -> Iterator[None]:
    """The first Ctrl-C or SIGTERM ends the replay and keeps what it has; the second ends the process."""
    import signal

    def heard(number: int, frame: Any) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        click.echo("stopping: answers under way are cut, what there is is kept", err=True)
        stop.set()

    before = {number: signal.signal(number, heard) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _shown(quiet: bool) -> Iterator[Callable[[Said], None] | None]:
    """A bar a run, with what failed, and one for what else takes time."""
    with opt.bars(quiet) as bars:
        if bars is None:
            yield None
            return
        known: dict[tuple[int | None, str, str], Any] = {}

        def show(said: Said) -> None:
            what, at, key = _doing(said), said.progress, (said.number, said.name, said.workload)
            if key not in known:
                waits = [old for old in known if not old[2]]  # what was waited for is there
                for old in waits or list(known)[: len(known) + 1 - _BARS]:
                    bars.remove_task(known.pop(old))
                known[key] = bars.add_task(what, total=None)
            bars.update(known[key], description=what)
            if at is not None:
                bars.update(known[key], completed=at.ended, total=at.requests)

        yield show


_BARS = 8  # at most, so that the last one is seen


def _doing(said: Said) -> str:
    """What goes on, in a few words."""
    if said.number is None:
        return f"measuring the client, {said.name} the runs" if said.workload else f"waiting for {said.name}"
    run = f"run {said.number + 1}" + (f" of {said.of}" if said.of else "")
    failed = f", {said.progress.failed:,} failed" if said.progress and said.progress.failed else ""
    return f"{run}: {said.name}, {said.workload}{'' if said.progress else ', getting ready'}{failed}"
