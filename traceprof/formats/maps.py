"""The file that names the fields of a log of one's own (`--format mapping --map FILE`): read, checked, and its paths followed.

`traceprof.formats.mapping` reads records by it; docs/formats.md says what may stand in it. Every mistake is one line that names the
file, the key and what to write instead.
"""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone, tzinfo
from pathlib import Path
from typing import Any

from traceprof import bodies
from traceprof.errors import TraceprofError

TIMES = ("arrival", "end", "first_token")
DURATIONS = ("duration", "ttft", "queue", "delay")
PROMPTS = ("request", "messages", "system", "tools", "prompt", "token_ids", "block_hashes")
ANSWERS = ("answer", "output_ids", "usage", "error", "finish_reason")
COUNTS = (
    "input_tokens", "cached_input_tokens", "cache_write_tokens", "output_tokens", "reasoning_tokens", "max_output_tokens",
    "turn", "block_size",
)  # fmt: skip
NAMES = {
    "request_id": "request_id", "provider_request_id": "provider_request_id", "session": "session_id",
    "parent": "parent_request_id", "trace": "trace_id", "attempts_of": "attempt_group", "tenant": "tenant_id", "user": "user_id",
    "app": "app", "model": "model_requested", "model_served": "model_served", "provider": "provider", "tokenizer": "tokenizer",
    "hash_scope": "hash_scope", "cache_salt": "cache_salt",
}  # fmt: skip
FLAGS = ("status", "stream", "response_cache")
FIELDS = (*TIMES, *DURATIONS, *PROMPTS, *ANSWERS, *COUNTS, *NAMES, *FLAGS)
CONSTANTS = (*NAMES, "block_size", "status", "stream")
STATUS = ("ok", "error", "cancelled", "rejected", "incomplete", "unknown")
UNITS = {"s": 1e6, "ms": 1e3, "us": 1.0, "ns": 1e-3}
_SETTINGS = {
    **dict.fromkeys(TIMES, ("moment", "unit", "zero", "zone")), **dict.fromkeys(DURATIONS, ("unit",)), "status": ("words",),
    "input_tokens": ("excludes_cached",),
}  # fmt: skip
_STEP = re.compile(r"([^.\[\]]+)|\[(-?\d{1,9})\]")
_PATH = re.compile(r"(?:\^\.)?(?:[^.\[\]]+|\[-?\d{1,9}\])(?:\.[^.\[\]]+|\[-?\d{1,9}\])*")


@dataclass(frozen=True, slots=True)
class Field:
    """Where a field lies in a record, and how its value is meant."""

    path: str
    unit: str | None = None  # s, ms, us, ns, iso, or a pattern of strptime
    zone: str | None = None  # of times that name none
    zero: str | None = (
        None  # start: numbers count from the log's start; epoch: from 1970; None: by their size
    )
    moment: str | None = None  # logged: the time is when the line was written
    words: dict[str, str] | None = None
    excludes_cached: bool = False
    optional: bool = False


@dataclass(frozen=True, slots=True)
class Condition:
    """Records to leave out: those whose value is one of `is_`, is none of `not_`, or is missing."""

    path: str
    is_: tuple[Any, ...] = ()
    not_: tuple[Any, ...] = ()
    missing: bool = False

    def holds(self, value: Any) -> bool:
        """Whether a record with this value is left out; a table's cells are text, so 1 is "1" and true is "true"."""
        if value is None or value == "":
            return self.missing
        word = _word(value)
        return word in map(_word, self.is_) or (bool(self.not_) and word not in map(_word, self.not_))


def _word(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) or str(value) in ("True", "False") else str(value)


@dataclass(frozen=True, slots=True)
class Map:
    """What a map file says."""

    file: str
    fields: dict[str, Field]
    constants: dict[str, Any]
    each: str | None
    skip: tuple[Condition, ...]
    extra: tuple[str, ...]


# -- reading the file ---------------------------------------------------------------------------------------


def load(file: str | os.PathLike[str] | Map) -> Map:
    """The map in a TOML file; TraceprofError, which names file and key, when something in it is wrong."""
    if isinstance(file, Map):
        return file
    name = os.fspath(file)
    try:
        words = Path(name).read_text("utf-8")
        found = tomllib.loads(words)
    except OSError as bad:
        raise TraceprofError(
            f"the map cannot be read: {bad.strerror}",
            path=name,
            remedy="give the path of a TOML file to --map",
        ) from None
    except UnicodeDecodeError:
        raise TraceprofError("the map is not UTF-8 text", path=name, remedy="save it as UTF-8") from None
    except tomllib.TOMLDecodeError as bad:
        line = re.search(r"line (\d+)", str(bad))
        said = str(bad).partition(" (at")[0]
        raise TraceprofError(
            f"not TOML: {said}",
            path=name,
            line=int(line[1]) if line else None,
            remedy="texts stand in quotes",
        ) from None
    read = _Reader(name)
    read.known(found, ("fields", "constants", "each", "skip", "extra"), "at the top")
    fields = {key: read.field(key, value) for key, value in read.table(found, "fields").items()}
    if not fields.keys() & {*PROMPTS, "input_tokens", "usage"} - {"system", "tools"}:
        raise read.wrong("[fields]", "names no prompt", "give request, messages, prompt, token_ids, block_hashes, or input_tokens")  # fmt: skip
    constants = read.table(found, "constants")
    read.constants(constants)
    if "block_hashes" in fields and "block_size" not in (*fields, *constants):
        raise read.wrong(
            "[fields] block_hashes", "has no block_size", "add block_size = 16 (say) to [constants]"
        )
    for key in ("request", "messages", "prompt"):
        if key in fields and "block_hashes" in fields:
            raise read.wrong("[fields] block_hashes", f"stands beside {key}", "give one of them")
    each = found.get("each")
    return Map(
        name,
        fields,
        constants,
        None if each is None else read.path("each", each),
        tuple(read.condition(one) for one in read.listed(found, "skip")),
        tuple(read.path("extra", one) for one in read.listed(found, "extra")),
    )


class _Reader:
    """Takes a map apart; what is wrong is told with the file's name."""

    def __init__(self, file: str) -> None:
        self.file = file

    def wrong(self, key: str, said: str, remedy: str) -> TraceprofError:
        return TraceprofError(f"{key} {said}", path=self.file, remedy=remedy)

    def known(self, keys: Iterable[str], names: Iterable[str], where: str) -> None:
        names = list(names)
        for key in keys:
            if key not in names:
                near = difflib.get_close_matches(key, names, 1)
                remedy = f"did you mean {near[0]}?" if near else f"one of: {', '.join(names)}"
                raise self.wrong(where, f"has no key {key!r}", remedy)

    def table(self, found: dict[str, Any], key: str) -> dict[str, Any]:
        value = found.get(key, {})
        if not isinstance(value, dict):
            raise self.wrong(key, "is no table", f"write [{key}] on a line of its own, and its keys below")
        return value

    def listed(self, found: dict[str, Any], key: str) -> list[Any]:
        value = found.get(key, [])
        return value if isinstance(value, list) else [value]

    def path(self, key: str, value: Any) -> str:
        if not isinstance(value, str) or not _PATH.fullmatch(value):
            raise self.wrong(
                key, f"has no path ({str(value)[:60]!r})", 'write it as "meta.ts" or "choices[0].text"'
            )
        return value

    def field(self, key: str, value: Any) -> Field:
        self.known([key], FIELDS, "[fields]")
        where = f"[fields] {key}"
        if isinstance(value, str):
            value = {"path": value}
        if not isinstance(value, dict) or "path" not in value:
            raise self.wrong(where, "is neither a path nor a table with one", f'write {key} = "a.b" or {key} = {{path = "a.b"}}')  # fmt: skip
        self.known(value, ("path", "optional", *_SETTINGS.get(key, ())), where)
        path = self.path(where, value["path"])
        for flag in ("optional", "excludes_cached"):
            if not isinstance(value.get(flag, False), bool):
                raise self.wrong(
                    where, f"has a {flag} that is neither true nor false", f"write {flag} = true"
                )
        unit, zone = value.get("unit"), value.get("zone")
        self._unit(where, key, unit)
        if zone is not None and zone_of(str(zone)) is None:
            raise self.wrong(where, f"has no known zone ({str(zone)[:40]!r})", 'write zone = "+02:00" or "Europe/Berlin"')  # fmt: skip
        for name, words in (("zero", ("start", "epoch")), ("moment", ("arrived", "logged"))):
            if value.get(name) not in (None, *words):
                raise self.wrong(where, f"has a {name} that is neither {words[0]} nor {words[1]}", f'write {name} = "{words[1]}"')  # fmt: skip
        return Field(
            path,
            unit,
            zone,
            value.get("zero"),
            value.get("moment"),
            self._words(where, value.get("words")),
            value.get("excludes_cached", False),
            value.get("optional", False),
        )

    def _unit(self, where: str, key: str, unit: Any) -> None:
        if unit is None and key in DURATIONS:
            raise self.wrong(where, "has no unit", 'add unit = "s", "ms", "us" or "ns"')
        if unit is None:
            return
        known = isinstance(unit, str) and (unit in UNITS or (key in TIMES and (unit == "iso" or "%" in unit)))
        if not known:
            more = ', "iso" or a pattern such as "%d/%b/%Y:%H:%M:%S %z"' if key in TIMES else ""
            raise self.wrong(where, f"has an unknown unit ({str(unit)[:40]!r})", f'one of: "s", "ms", "us", "ns"{more}')  # fmt: skip
        if "%" in unit and not re.search("%[Yycx]", unit):
            raise self.wrong(where, "has a pattern without a year", "such times cannot be placed; log the year too")  # fmt: skip
        if "%" in unit:
            try:
                datetime.strptime("", unit)  # refuses the empty text, or the pattern
            except ValueError as bad:
                if "does not match" not in str(bad):
                    raise self.wrong(where, f"has a pattern that is none: {bad}", "see strptime") from None

    def _words(self, where: str, words: Any) -> dict[str, str] | None:
        if words is None:
            return None
        if not isinstance(words, dict):
            raise self.wrong(where, "has words that are no table", 'write words = {done = "ok"}')
        for meant in words.values():
            if meant not in STATUS:
                raise self.wrong(where, f"has no status {str(meant)[:40]!r}", f"one of: {', '.join(STATUS)}")
        return dict(words)

    def constants(self, found: dict[str, Any]) -> None:
        self.known(found, CONSTANTS, "[constants]")
        for key, value in found.items():
            if key == "block_size":
                right, kind = type(value) is int and value > 0, "a whole number above 0"
            elif key == "stream":
                right, kind = isinstance(value, bool), "true or false"
            elif key == "status":
                right, kind = value in STATUS, f"one of {', '.join(STATUS)}"
            else:
                right, kind = isinstance(value, str) and bool(value), "a text in quotes"
            if not right:
                raise self.wrong(f"[constants] {key}", f"is not {kind}", f"change {key}")

    def condition(self, found: Any) -> Condition:
        where = "[[skip]]"
        if not isinstance(found, dict) or "path" not in found:
            raise self.wrong(where, "has no path", 'write [[skip]] with path = "kind" and is = ["health"]')
        self.known(found, ("path", "is", "not", "missing"), where)
        if not {"is", "not", "missing"} & found.keys():
            raise self.wrong(where, "says no value", 'add is = ["health"], not = ["chat"] or missing = true')
        values = {
            key: tuple(v if isinstance(v := found.get(key, []), list) else [v]) for key in ("is", "not")
        }
        return Condition(
            self.path(where, found["path"]), values["is"], values["not"], found.get("missing") is True
        )


def zone_of(name: str) -> tzinfo | None:
    """A zone by its offset or its name; None when there is none."""
    found = re.fullmatch(r"([+-])(\d\d):?(\d\d)", name)
    if found is not None and int(found[2]) < 24 and int(found[3]) < 60:
        offset = timedelta(hours=int(found[2]), minutes=int(found[3]))
        return timezone(-offset if found[1] == "-" else offset)
    import zoneinfo

    try:
        return zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        return None


# -- following paths ----------------------------------------------------------------------------------------


def find(record: Any, path: str) -> Any:
    """The value at a path; None when there is none. JSON in a text on the way is read, and keys may have dots in them.

    >>> find({"a": '[{"b.c": 1}]'}, "a[0].b.c"), find({"a.b": 2}, "a.b"), find({"a": [3, 4]}, "a[-1]"), find({}, "a")
    (1, 2, 4, None)
    """
    found = record.get(path) if isinstance(record, dict) else None
    if found is not None or path.isalnum():
        return found
    return _follow(record, _steps(path), 0)


_known_steps: dict[str, tuple[str | int, ...]] = {}


def _steps(path: str) -> tuple[str | int, ...]:
    steps = _known_steps.get(path)
    if steps is None:
        steps = tuple(m[1] if m[1] is not None else int(m[2]) for m in _STEP.finditer(path))
        _known_steps[path] = steps
    return steps


def _follow(value: Any, steps: tuple[str | int, ...], at: int) -> Any:
    if at == len(steps):
        return value
    if isinstance(value, (str, bytes)):
        value = bodies.decoded(value)
    step = steps[at]
    if isinstance(step, int):
        inside = isinstance(value, list) and -len(value) <= step < len(value)
        return _follow(value[step], steps, at + 1) if inside else None
    if not isinstance(value, dict):
        return None
    found = _follow(value[step], steps, at + 1) if step in value else None
    while found is None and at + 1 < len(steps) and isinstance(more := steps[at + 1], str):
        at, step = at + 1, f"{step}.{more}"
        if step in value:
            found = _follow(value[step], steps, at + 1)
    return found


def paths(record: Any, depth: int = 4) -> list[str]:
    """The paths of a record, for a hint at what a wrong one may have meant."""
    record = bodies.decoded(record) if isinstance(record, str) else record
    if not isinstance(record, dict) or not depth:
        return []
    out: list[str] = []
    for key, value in list(record.items())[:50]:
        out.append(str(key))
        out.extend(f"{key}.{inner}" for inner in paths(value, depth - 1))
    return out[:500]
