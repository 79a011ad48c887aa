"""Engines started for a run, from recipes: replay/engines/NAME.toml.

    engine = "vllm"                     # its name in traceprof engines
    about = "..."
    checked = "..."                     # what was run with it, or that nothing was
    default = "gpu"                     # the variant that is taken where none is named

    [variables]                         # what {names} in the rest stand for; "" must be given, {port} and {folder} always are
    model = ""

    [gpu]                               # a variant: a command, or a docker compose file beside the recipe
    command = ["vllm", "serve", "{model}", "--port", "{port}"]
    compose = "vllm.compose.yaml"       # instead of command; it sees the variables in its environment, in capitals
    options = {capacity_tokens = ["--max-total-tokens", "{capacity_tokens}"]}  # words added where the variable is given
    capacity = {variable = "blocks", unit = 16, more = 1}  # which variable pins its KV, in units of so many tokens, and how many more
    cache = {unified = false}           # options of the model of its cache (docs/engines.md) that this way of starting it means
    beside = [["...", "..."]]           # commands that run beside it, started first
    environment = {NAME = "value"}
    files = {"config.yaml" = "..."}     # written into {folder} first
    load = {path = "/api/generate", body = '{"model": "{model}"}'}  # asked once it is ready, so that the model is loaded
    ready_s = 600                       # longest wait
    stop_s = 30                         # between SIGTERM and SIGKILL

A command is a list of words; no shell sees it. What it prints goes into a log file.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import threading
import time
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, NamedTuple

import traceprof
from traceprof import engines
from traceprof.engines.asking import asker
from traceprof.engines.base import Engine
from traceprof.errors import TraceprofError, UsageError
from traceprof.replay import server
from traceprof.replay.guard import guard

_PACKAGE = Path(traceprof.__file__).parent
RECIPES = next(
    (f for f in (_PACKAGE / "recipes" / "engines", _PACKAGE.parent / "replay" / "engines") if f.is_dir()),
    _PACKAGE / "recipes" / "engines",
)
"""Where the recipes are: in an installed package, or in a checkout."""
LEFT_BEHIND_S = 3.0  # what a process that has ended leaves running may take to end, too
LAST_LINES = 4  # of its log, in the error of an engine that did not start
_UNSEEN = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|[\x00-\x1f\x7f\u2500-\u257f]")
_FRAME = re.compile(r'File ".*", line \d+|Traceback \(most recent call last\)')
GIVEN = ("port", "folder")  # variables that every recipe has
_PLACE = re.compile(r"\{([a-z_][a-z0-9_]*)\}")
_TOP = ("engine", "about", "checked", "default", "variables")
_VARIANT = ("about", "command", "compose", "options", "capacity", "cache", "beside", "environment", "files", "load", "ready_s", "stop_s")  # fmt: skip


class Pin(NamedTuple):
    """What fixes how many tokens of KV an engine has."""

    variable: str
    unit: int  # tokens that 1 of it stands for
    more: int  # that the engine keeps for itself


@dataclass(frozen=True)
class Variant:
    """One way to start an engine."""

    command: tuple[str, ...] = ()
    compose: Path | None = None
    about: str = ""
    options: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    capacity: Pin | None = None
    cache: Mapping[str, Any] = field(default_factory=dict)
    beside: tuple[tuple[str, ...], ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    load: Mapping[str, str] = field(default_factory=dict)
    ready_s: float = 600.0
    stop_s: float = 30.0


@dataclass(frozen=True)
class Recipe:
    """How to start an engine; `read` finds it by its name or path."""

    path: Path
    engine: Engine
    about: str
    checked: str
    default: str
    variables: Mapping[str, str]
    variants: Mapping[str, Variant]

    @classmethod
    def read(cls, name: str | os.PathLike[str]) -> Recipe:
        """From a file, or by the name of an engine; raises TraceprofError that names file and key."""
        path = Path(name)
        if path.suffix != ".toml":
            path = RECIPES / f"{engines.engine(os.fspath(name)).name}.toml"
        return _recipe(path, _load(path))

    def variant(self, name: str | None = None) -> Variant:
        """The variant of that name, the default one without it."""
        found = self.variants.get(name or self.default)
        if found is None:
            raise UsageError(
                f"no variant is called {name}", path=self.path, remedy=f"take {', '.join(self.variants)}"
            )
        return found

    def pinned(self, tokens: int, name: str | None = None) -> dict[str, str]:
        """The variables that give an engine so many tokens of KV, rounded up to what it counts in."""
        pin = self.variant(name).capacity
        if pin is None:
            raise UsageError(
                f"{self.engine.label} cannot be given a number of KV tokens",
                path=self.path,
                remedy="leave capacity_tokens out, and compare with that in mind",
            )
        return {pin.variable: str(-(-tokens // pin.unit) + pin.more)}


class Started(NamedTuple):
    """An engine that serves."""

    url: str
    cold_start_s: float  # from the start of its process until it was ready, and its model loaded where that is asked for


# ---- recipes


def names() -> list[str]:
    """Engines that there is a recipe for."""
    return sorted(path.stem for path in RECIPES.glob("*.toml"))


def _load(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise UsageError("no such recipe", path=path, remedy=f"there are {', '.join(names())}") from None
    except (OSError, UnicodeDecodeError) as bad:
        raise TraceprofError(f"unreadable: {bad}", path=path) from None
    except tomllib.TOMLDecodeError as bad:
        raise TraceprofError(f"not TOML: {bad}", path=path, remedy="correct it") from None


def _recipe(path: Path, told: dict[str, Any]) -> Recipe:
    for key, value in told.items():
        if key not in _TOP and not isinstance(value, dict):
            raise _bad(path, key, "is no key of a recipe")
    variables = _texts(path, "variables", told.get("variables", {}))
    known = {*variables, *GIVEN}
    variants = {name: _variant(path, name, value, known) for name, value in told.items() if name not in _TOP}
    if not variants:
        raise TraceprofError("has no variant", path=path, remedy="add a table with a command: [gpu]")
    default = told.get("default", next(iter(variants)))
    if default not in variants:
        raise _bad(path, "default", f"names no variant; there are {', '.join(variants)}")
    name = told.get("engine", path.stem)
    if not isinstance(name, str):
        raise _bad(path, "engine", "is no name")
    try:
        engine = engines.engine(name)
    except UsageError as bad:
        raise TraceprofError(f"engine: {bad.message}", path=path, remedy=bad.remedy) from None
    return Recipe(
        path, engine, str(told.get("about", "")), str(told.get("checked", "")), default, variables, variants
    )


def _bad(path: Path, key: str, what: str) -> TraceprofError:
    return TraceprofError(f"{key} {what}", path=path, remedy="correct the file")


def _variant(path: Path, name: str, told: dict[str, Any], known: set[str]) -> Variant:
    for key in told:
        if key not in _VARIANT:
            raise _bad(path, f"{name}.{key}", f"is not known; a variant has {', '.join(_VARIANT)}")
    if ("command" in told) == ("compose" in told):
        raise _bad(path, name, "needs a command, or a compose file, and not both")
    compose = told.get("compose")
    if compose is not None:
        if not isinstance(compose, str) or not (path.parent / compose).is_file():
            raise _bad(path, f"{name}.compose", "is no file beside the recipe")
        compose = path.parent / compose
    options = told.get("options", {})
    if not isinstance(options, dict) or not options.keys() <= known:
        raise _bad(path, f"{name}.options", "is to hold words by the name of a variable")
    beside = told.get("beside", [])
    if not isinstance(beside, list):
        raise _bad(path, f"{name}.beside", "is to be a list of commands")
    made = Variant(
        _words(path, f"{name}.command", told.get("command", [])),
        compose,
        str(told.get("about", "")),
        {key: _words(path, f"{name}.options.{key}", words) for key, words in options.items()},
        _pin(path, f"{name}.capacity", told.get("capacity"), known),
        _table(path, f"{name}.cache", told.get("cache", {})),
        tuple(_words(path, f"{name}.beside", words) for words in beside),
        _texts(path, f"{name}.environment", told.get("environment", {})),
        _texts(path, f"{name}.files", told.get("files", {})),
        _texts(path, f"{name}.load", told.get("load", {})),
        _seconds(path, f"{name}.ready_s", told.get("ready_s", Variant.ready_s)),
        _seconds(path, f"{name}.stop_s", told.get("stop_s", Variant.stop_s)),
    )
    if "command" in told and not made.command:
        raise _bad(path, f"{name}.command", "is empty")
    if any("/" in file for file in made.files):
        raise _bad(path, f"{name}.files", "is to hold names without folders")
    if made.load and "path" not in made.load:
        raise _bad(path, f"{name}.load", "has no path")
    for key, text in _all_texts(made):
        for variable in _PLACE.findall(text):
            if variable not in known:
                raise _bad(path, f"{name}.{key}", f"names {{{variable}}}, which [variables] does not have")
    return made


def _table(path: Path, key: str, told: Any) -> dict[str, Any]:
    if not isinstance(told, dict):
        raise _bad(path, key, "is to be a table")
    return told


def _pin(path: Path, key: str, told: Any, known: set[str]) -> Pin | None:
    if told is None:
        return None
    if not isinstance(told, dict) or not told.keys() <= set(Pin._fields) or told.get("variable") not in known:
        raise _bad(
            path,
            key,
            "is to hold the name of a variable, its unit in tokens, and how many more there must be",
        )
    unit, more = told.get("unit", 1), told.get("more", 0)
    if not all(isinstance(n, int) and not isinstance(n, bool) for n in (unit, more)) or unit < 1 or more < 0:
        raise _bad(path, key, "is to hold whole numbers")
    return Pin(told["variable"], unit, more)


def _all_texts(made: Variant) -> Iterator[tuple[str, str]]:
    yield from (("command", word) for word in made.command)
    yield from ((f"options.{key}", word) for key, words in made.options.items() for word in words)
    yield from (("beside", word) for words in made.beside for word in words)
    for name in ("environment", "files", "load"):
        yield from ((f"{name}.{key}", text) for key, text in getattr(made, name).items())


def _words(path: Path, key: str, told: Any) -> tuple[str, ...]:
    if not isinstance(told, list) or not all(isinstance(word, str) for word in told):
        raise _bad(path, key, "is to be a list of words, each a string")
    return tuple(told)


def _texts(path: Path, key: str, told: Any) -> dict[str, str]:
    if not isinstance(told, dict) or not all(isinstance(text, str) for text in told.values()):
        raise _bad(path, key, "is to hold strings")
    return dict(told)


def _seconds(path: Path, key: str, told: Any) -> float:
    if not isinstance(told, int | float) or isinstance(told, bool) or not told > 0:
        raise _bad(path, key, "is to be seconds, above 0")
    return float(told)


# ---- processes


@contextlib.contextmanager
def started(
    recipe: Recipe,
    variables: Mapping[str, str | int],
    *,
    log: Path,
    variant: str | None = None,
    ready_s: float | None = None,
    stop: threading.Event | None = None,
) -> Iterator[Started]:
    """An engine from its start until the block ends; all that its processes print goes to `log`, their {folder} is gone with them.

    Should this process be killed, a guard does the same.

    `variables` may hold a `port`; without one a free port is taken.
    """
    plan = recipe.variant(variant)
    port = _port(recipe, variables.get("port"))
    folder = log.parent / f"{log.stem}.files"
    values = _values(recipe, plan, {**variables, "port": port, "folder": folder.resolve()})
    _write_files(plan, values, folder)
    environment = {**os.environ, **{name: _fill(text, values) for name, text in plan.environment.items()}}
    if plan.compose is not None:
        environment |= {name.upper(): value for name, value in values.items()}
    command, clean = _commands(plan, values)
    url = f"http://127.0.0.1:{port}"
    running: list[subprocess.Popen[bytes]] = []
    with guard(folder.resolve(), plan.stop_s, clean, environment) as guarded:
        try:
            with log.open("wb") as out:
                begun = time.monotonic()
                for words in (*(_filled(words, values) for words in plan.beside), command):
                    process = _start(recipe, words, environment, out)
                    running.append(process)
                    guarded.watch(process.pid)
                _wait(recipe, url, ready_s or plan.ready_s, running, log, stop)
                if plan.load:
                    _load_model(recipe, url, plan, values, begun + (ready_s or plan.ready_s), log)
                cold_s = time.monotonic() - begun
            yield Started(url, cold_s)
        finally:
            for process in reversed(running):
                _stop(process, plan.stop_s)
            if clean and running:
                with log.open("ab") as out, contextlib.suppress(OSError, subprocess.TimeoutExpired):
                    subprocess.run(
                        clean, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=environment, timeout=120, check=False
                    )  # fmt: skip
            shutil.rmtree(folder, ignore_errors=True)  # engines keep what they were sent in it


def check(recipe: Recipe, variables: Mapping[str, str | int], variant: str | None = None) -> None:
    """Raise where it cannot be started with these variables: one is missing or not known, or there is no such program."""
    plan = recipe.variant(variant)
    values = _values(recipe, plan, {**variables, "port": 1, "folder": "."})
    for words in (*plan.beside, _commands(plan, values)[0]):
        _program(recipe, _fill(words[0], values), {**os.environ, **plan.environment})


def _port(recipe: Recipe, asked: str | int | None) -> int:
    """The port that was asked for, if it is free, or a free one."""
    try:
        port = int(asked or 0)
    except ValueError:
        raise UsageError(f"{asked} is no port", remedy="give a number") from None
    if not 0 <= port < 65536:
        raise UsageError(f"{asked} is no port", remedy="give a number below 65536")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            raise TraceprofError(
                f"port {port} is in use: {recipe.engine.label} cannot be started there",
                remedy="stop what listens on it, or give another port",
            ) from None
        return int(probe.getsockname()[1])


def _values(recipe: Recipe, plan: Variant, given: Mapping[str, Any]) -> dict[str, str]:
    """What the names stand for; raises where one that the variant uses is not given and has no default."""
    unknown = sorted(given.keys() - recipe.variables.keys() - set(GIVEN))
    if unknown:
        raise UsageError(
            f"has no variable {unknown[0]}", path=recipe.path, remedy=f"it has {', '.join(recipe.variables)}"
        )
    values = dict(recipe.variables) | {name: str(value) for name, value in given.items()}
    used = {
        name
        for key, text in _all_texts(plan)
        if not key.startswith("options.")
        for name in _PLACE.findall(text)
    }
    if plan.compose is not None:
        text = plan.compose.read_text("utf-8")
        used |= {name for name in values if f"${{{name.upper()}}}" in text}
    missing = [name for name, value in values.items() if name in used and not value]
    if missing:
        raise UsageError(f"needs {missing[0]}", path=recipe.path, remedy=f"give it: --set {missing[0]}=...")
    return values


def _fill(text: str, values: Mapping[str, str]) -> str:
    return _PLACE.sub(lambda place: values[place[1]], text)


def _filled(words: Sequence[str], values: Mapping[str, str]) -> list[str]:
    return [_fill(word, values) for word in words]


def _write_files(plan: Variant, values: Mapping[str, str], folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)  # no cache or registration of an earlier start
    folder.mkdir(parents=True)  # which makes the log's, too
    for name, text in plan.files.items():
        (folder / name).write_text(_fill(text, values), encoding="utf-8")


def _commands(plan: Variant, values: Mapping[str, str]) -> tuple[list[str], list[str]]:
    """What starts it, and what cleans up behind it."""
    if plan.compose is None:
        words = list(plan.command)
        for name, more in plan.options.items():
            if values.get(name):
                words += more
        return _filled(words, values), []
    compose = ["docker", "compose", "-f", str(plan.compose), "-p", f"traceprof-{values['port']}"]
    return [*compose, "up", "--no-color"], [*compose, "down", "--volumes", "--remove-orphans"]


def _program(recipe: Recipe, name: str, environment: Mapping[str, str]) -> None:
    if shutil.which(name, path=environment.get("PATH")) is None:
        raise TraceprofError(
            f"{recipe.engine.label} cannot be started: there is no {name}",
            path=recipe.path,
            remedy=f"install it, or name another variant: {', '.join(recipe.variants)}",
        )


def _start(
    recipe: Recipe, words: list[str], environment: dict[str, str], out: IO[bytes]
) -> subprocess.Popen[bytes]:
    _program(recipe, words[0], environment)
    return subprocess.Popen(
        words, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=environment, start_new_session=True
    )


def _wait(
    recipe: Recipe,
    url: str,
    ready_s: float,
    running: Sequence[subprocess.Popen[bytes]],
    log: Path,
    stop: threading.Event | None,
) -> None:
    dead: list[subprocess.Popen[bytes]] = []

    def alive() -> bool:
        dead.extend(process for process in running if process.poll() is not None)
        return not dead

    try:
        server.ready(recipe.engine, url, ready_s, alive=alive, stop=stop)
    except server.StoppedError:
        raise
    except TraceprofError as bad:
        if not alive():
            ended = f"{recipe.engine.label} {_ended(dead[0].returncode)} before it was ready"
            raise _failed(ended, log) from None
        raise _failed(bad.message, log) from None


def _ended(code: int) -> str:
    """How a process ended.

    >>> _ended(3), _ended(-9)
    ('ended with 3', 'was killed (SIGKILL)')
    """
    if code >= 0:
        return f"ended with {code}"
    with contextlib.suppress(ValueError):
        return f"was killed ({signal.Signals(-code).name})"
    return f"was killed ({-code})"


def _failed(what: str, log: Path) -> TraceprofError:
    """An error that says what the engine printed last."""
    said = last_lines(log)
    return TraceprofError(
        f"{what}; it said last: {said}" if said else f"{what}, and said nothing",
        path=log,
        remedy="the file holds all of it" if said else None,
    )


def last_lines(log: Path, lines: int = LAST_LINES, characters: int = 500) -> str:
    """The end of a log in one line, as much as is read at a glance; without colours, boxes and the frames of tracebacks."""
    with log.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - (64 << 10)))
        text = file.read().decode("utf-8", "replace")
    told = (_UNSEEN.sub("", line).strip(" |+-=") for line in _without_frames(text.splitlines()))
    said = " | ".join([line for line in told if line][-lines:])
    return said if len(said) <= characters else "..." + said[-characters:]


def _without_frames(lines: Iterable[str]) -> Iterator[str]:
    """Lines of a log without the frames of Python's tracebacks, also where something stands before each line.

    >>> list(_without_frames(['a', 'Traceback (most recent call last):', '  File "x.py", line 1, in f', '    g()', '    ^^^', 'Error: b']))
    ['a', 'Error: b']
    """
    within = False
    for line in lines:
        within = bool(_FRAME.search(line)) or (within and "    " in line)
        if not within:
            yield line


def _load_model(
    recipe: Recipe, url: str, plan: Variant, values: Mapping[str, str], deadline: float, log: Path
) -> None:
    ask = asker(url, timeout_s=max(1.0, deadline - time.monotonic()))
    body = _fill(plan.load.get("body", "{}"), values).encode()
    reply = ask("POST", plan.load["path"], body)
    if not reply.ok:
        answered = f"answered {reply.status}" if reply.status else "did not answer"
        raise _failed(
            f"{recipe.engine.label} did not load the model: {plan.load['path']} {answered}, check its name",
            log,
        )


def _stop(process: subprocess.Popen[bytes], stop_s: float) -> None:
    """End a process and all that it started: first asked, then made to."""
    _signal(process, signal.SIGTERM)
    end = time.monotonic() + stop_s
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(stop_s)
    end = min(end, time.monotonic() + LEFT_BEHIND_S)
    while _signal(process, 0) and time.monotonic() < end:
        time.sleep(0.05)
    _signal(process, signal.SIGKILL)  # those that it left behind, too
    process.wait()


def _signal(process: subprocess.Popen[bytes], number: int) -> bool:
    """Send a signal to the group of a process; whether there is still something in it."""
    try:
        os.killpg(process.pid, number)
    except (ProcessLookupError, PermissionError):
        return False
    return True
