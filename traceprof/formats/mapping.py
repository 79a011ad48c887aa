"""A log of one's own, by a map: a TOML file that names its fields (`--map FILE`), for JSON, JSON lines, CSV and Parquet.

What the map file may say is in docs/formats.md, what checks it in `maps`. Bodies are read in the dialects of `traceprof.bodies`.
"""

from __future__ import annotations

import difflib
import functools
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from traceprof import bodies
from traceprof.bodies import anthropic, openai, responses
from traceprof.errors import TraceprofError
from traceprof.formats import maps
from traceprof.formats.base import (
    BadRecord,
    Has,
    Read,
    Request,
    Skip,
    attempt,
    count,
    cut_state,
    dumps,
    elapsed,
    finish,
    hashes,
    http_code,
    offset_us,
    parse_time,
    text,
)
from traceprof.formats.maps import Field, Map, find

has = Has.ARRIVALS | Has.ENDS | Has.LENGTHS | Has.TEXT | Has.OUTPUTS | Has.SESSIONS
summary = "any other log whose fields a map names, `--format mapping --map FILE` (JSON, JSONL, CSV, Parquet)"
options = {"map": None}
hash_scope = "file"
as_it_stands = True  # paths begin at the line as it is, not at what a collector wrapped

_STATUS = {
    **dict.fromkeys(("ok", "success", "succeeded", "successful", "completed", "complete", "done", "finished", "true"), "ok"),
    **dict.fromkeys(("error", "failed", "failure", "fail", "timeout", "exception", "false"), "error"),
    **dict.fromkeys(("cancelled", "canceled", "aborted", "abort", "disconnected"), "cancelled"),
    **dict.fromkeys(("rejected", "denied", "throttled", "rate_limited"), "rejected"),
    "incomplete": "incomplete", "unknown": "unknown",
}  # fmt: skip
_SCALES = (
    ("s", 1e9, 4e9),
    ("ms", 1e12, 4e12),
    ("us", 1e15, 4e15),
    ("ns", 1e18, 4e18),
)  # of 2001 to 2096, since 1970
_FAR = 4_102_444_800_000_000  # us: the year 2100


def detect(record: Any) -> bool:
    """Never: a map is given, not found."""
    return False


def read(record: dict[str, Any], plan: Map) -> Any:
    """One request, or one for each element of the list that the map names under `each`."""
    if plan.each is None:
        return _Row(plan, record, record).read()
    found = bodies.decoded(find(record, plan.each))
    if not isinstance(found, list):
        raise BadRecord("missing_field", f"no list under {plan.each}")
    out: list[Any] = []
    for one in found:
        made = attempt(_Row(plan, one, record).read)
        out.extend(made if isinstance(made, list) else (made,))
    return out or Skip("empty_list")


class _Row:
    """One element of a log under a map."""

    def __init__(self, plan: Map, value: Any, record: dict[str, Any]) -> None:
        self.map, self.value, self.record = plan, bodies.decoded(value), record
        self.out = Request()

    def at(self, path: str) -> Any:
        """The value at a path, of the record around the element where the path begins with ^; an empty cell is none."""
        found = find(self.record, path[2:]) if path.startswith("^.") else find(self.value, path)
        return None if found == "" else found

    def of(self, key: str) -> Any:
        """The value of a mapped field; None where the map or the record has none."""
        field = self.map.fields.get(key)
        return None if field is None else self.at(field.path)

    def read(self) -> Read:
        if not isinstance(self.value, (dict, list)):
            raise BadRecord(
                "wrong_type", f"an element of {self.map.each} is {_shape(self.value)}, not an object"
            )
        if any(condition.holds(self.at(condition.path)) for condition in self.map.skip):
            return Skip("skipped_by_map")
        self._times()
        given = self.of("answer")
        reply = bodies.answer(given)
        if reply is not None and bodies.of_response(reply) is None and not reply.get("error"):
            reply = None  # a text that is JSON, or an object that is no answer
        body = self._prompt(reply)
        if isinstance(body, Skip):
            return body
        dialect, sent = body
        self._answer(given, reply, dialect)
        self._counts()
        self._names()
        self._outcome(reply)
        if dialect is openai and sent is not None:
            return openai.sequences(self.out, sent, reply)
        return cut_state(self.out)

    # -- prompt

    def _prompt(self, reply: dict[str, Any] | None) -> Skip | tuple[Any, dict[str, Any] | None]:
        """Fill the prompt; (dialect of the body, the body where it is one)."""
        out = self.out
        given = self.of("request")
        if given is not None:
            body = bodies.as_object(given)
            dialect = None if body is None else bodies.of_request(body)
            if body is None or dialect is None:
                kind = bodies.other_kind(body)
                if kind is not None:
                    return Skip(kind)
                raise BadRecord(
                    "unsupported", f"request is {_shape(given)}, not a request body of a known API"
                )
            dialect = bodies.of_pair(dialect, reply)
            dialect.read_request(out, body)
            return dialect, body
        said, prompt = bodies.decoded(self.of("messages")), self.of("prompt")
        system, tools = bodies.decoded(self.of("system")), bodies.decoded(self.of("tools"))
        if said is None and system is not None and isinstance(prompt, str):
            said, prompt = [{"role": "user", "content": prompt}], None
        if said is not None:
            body = {
                "messages": said,
                **({"system": system} if system else {}),
                **({"tools": tools} if tools else {}),
            }
            dialect = bodies.of_request(body) or openai
            dialect.read_request(out, body)
            return dialect, None
        if prompt is not None:
            if not isinstance(prompt, str):
                raise BadRecord("wrong_type", f"prompt is {_shape(prompt)}, not a text")
            out.operation, out.prompt_text = "text", prompt
        self._ids()
        return openai, None

    def _ids(self) -> None:
        """Token ids or block hashes; without them and without a text, what is known of the prompt is its length."""
        out = self.out
        ids = bodies.decoded(self.of("token_ids"))
        if ids is not None:
            if not openai.is_ids(ids):
                raise BadRecord("wrong_type", f"token_ids is {_shape(ids)}, not a list of token ids")
            out.input_ids, out.content_level, out.operation = ids, "tokens", "text"
        blocks = bodies.decoded(self.of("block_hashes"))
        if blocks is not None:
            size = count(self.of("block_size"), "block_size") or self.map.constants.get("block_size")
            if not size:
                raise BadRecord("missing_field", "no block_size")
            out.block_hashes, out.block_size = hashes(blocks, "block_hashes"), size
            out.content_level, out.hash_scheme = "hashes", "mapped"
        if out.prompt_text is None and ids is None and blocks is None:
            out.content_level, out.content_state = "lengths", "absent"

    # -- answer

    def _answer(self, given: Any, reply: dict[str, Any] | None, dialect: Any) -> None:
        out = self.out
        if reply is not None:
            bodies.read_response(out, reply, dialect or openai)
        elif isinstance(given, str):
            out.output_json, out.status = dumps({"role": "assistant", "content": given}), "ok"
        elif given is not None:
            out.quality.append("bad_answer")
        ids = bodies.decoded(self.of("output_ids"))
        if ids is not None:
            if openai.is_ids(ids):
                out.output_ids = ids
            else:
                out.quality.append("bad_output_ids")
        usage = bodies.as_object(self.of("usage"))
        if usage is not None:
            of = openai if "prompt_tokens" in usage or "completion_tokens" in usage else responses
            if {"cache_read_input_tokens", "cache_creation_input_tokens"} & usage.keys():
                of = anthropic
            of.read_usage(out, usage)

    def _counts(self) -> None:
        out = self.out
        found: dict[str, int | None] = {}
        for key in maps.COUNTS:
            if key not in ("turn", "block_size") and self.of(key) is not None:
                found[key] = count(self.of(key), key, out.quality)
                setattr(out, key, found[key])
        fresh = found.get("input_tokens")
        if fresh is not None and self.map.fields["input_tokens"].excludes_cached:
            beside = (out.cached_input_tokens or 0) + (out.cache_write_tokens or 0)
            if beside:
                out.input_tokens = count(fresh + beside, "input_tokens", out.quality)
                out.quality.append("usage_excludes_cache_fixed")
        if out.cached_input_tokens is not None and out.cached_input_tokens > (out.input_tokens or 0):
            out.cached_input_tokens = None
            out.quality.append("bad_cached_input_tokens")
        if {"input_tokens", "output_tokens"} & found.keys():
            out.tokens_source = "usage"
        out.turn_index = count(self.of("turn"), "turn", out.quality)
        if out.content_level == "lengths" and out.input_tokens is None and out.arrival_us is None:
            raise BadRecord(
                "missing_field", "the record has none of the fields that the map names for the prompt"
            )
        if out.block_hashes is not None and out.input_tokens is not None and out.block_size:
            if len(out.block_hashes) > -(-out.input_tokens // out.block_size):
                raise BadRecord("length_mismatch", f"{len(out.block_hashes)} blocks of {out.block_size} tokens for a prompt of {out.input_tokens}")  # fmt: skip
            out.last_block_partial = len(out.block_hashes) == -(-out.input_tokens // out.block_size)
            if not out.last_block_partial:
                out.quality.append("tail_without_hash")

    def _names(self) -> None:
        out, constants = self.out, self.map.constants
        for key in maps.NAMES.keys() & (self.map.fields.keys() | constants.keys()):
            column, name = maps.NAMES[key], text(self.of(key)) or constants.get(key)
            if name is not None:
                setattr(out, column, name)
                if key == "session":
                    out.session_kind = "explicit"
        stream = _truth(self.of("stream"))
        out.stream = stream if stream is not None else constants.get("stream", out.stream)
        out.served_from_response_cache = _truth(self.of("response_cache"))
        kept = {path: self.at(path) for path in self.map.extra}
        kept = {k: v for k, v in kept.items() if isinstance(v, (str, int, float))}
        if kept:
            out.extra_json = dumps(kept)

    def _outcome(self, reply: dict[str, Any] | None) -> None:
        out, given = self.out, self.of("status")
        out.finish_reason = finish(_scalar(self.of("finish_reason"))) or out.finish_reason
        error = bodies.decoded(self.of("error"))
        out.http_status = http_code(given) or out.http_status
        bodies.settle(out, error if error not in (None, False, 0, {}, []) else (reply or {}).get("error"))
        if given is not None and out.http_status is None:
            field = self.map.fields["status"]
            word = str(_scalar(given))
            meant = (field.words or {}).get(word) or _STATUS.get(word.lower())
            if meant is None:
                out.quality.append("bad_status")
                out.status = "unknown"
            else:
                out.status = meant
        elif given is None and out.status == "unknown":
            out.status = self.map.constants.get("status", "unknown")

    # -- times

    def _times(self) -> None:
        out = self.out
        spans = {
            key: elapsed(self.of(key), key, maps.UNITS[field.unit or "s"], out.quality)
            for key in maps.DURATIONS
            if (field := self.map.fields.get(key)) is not None
        }
        out.e2e_us, out.ttft_us = spans.get("duration"), spans.get("ttft")
        out.queue_us, out.delay_after_parent_us = spans.get("queue"), spans.get("delay")
        stamps: dict[str, int] = {}
        for key in maps.TIMES:
            field, value = self.map.fields.get(key), self.of(key)
            if field is None or value is None:
                continue
            clock, stamp, naive = instant(value, key, field)
            if out.clock not in ("none", clock):
                out.quality.append(f"{key}_on_another_clock")
                continue
            out.clock, stamps[key] = clock, stamp
            if naive and "tz_assumed" not in out.quality:
                out.quality.append("tz_assumed")
        out.end_us, out.first_token_us = stamps.get("end"), stamps.get("first_token")
        if "arrival" in stamps:
            field = self.map.fields["arrival"]
            out.arrival_us = stamps["arrival"]
            out.arrival_quality = "log_time" if field.moment == "logged" else "measured"
            if field.unit and "%" in field.unit and "%f" not in field.unit:
                out.arrival_resolution_us = 1_000_000
        elif out.end_us is not None and out.e2e_us is not None:
            out.arrival_us, out.arrival_quality = out.end_us - out.e2e_us, "derived"
            out.quality.append("arrival_is_end_minus_duration")
        if out.arrival_us is not None and out.end_us is None and out.e2e_us is not None:
            out.end_us = out.arrival_us + out.e2e_us
            out.quality.append("end_is_arrival_plus_duration")
        if out.arrival_us is not None and out.first_token_us is None and out.ttft_us is not None:
            out.first_token_us = out.arrival_us + out.ttft_us


def instant(value: Any, key: str, field: Field) -> tuple[str, int, bool]:
    """(clock, us on it, whether the zone was assumed) of a time as the map says it is written; raises BadRecord."""
    unit = field.unit or "iso"
    if isinstance(value, datetime):  # Parquet's own times
        unit = "iso"
    if unit in maps.UNITS:
        us = offset_us(value, key, maps.UNITS[unit])
        start = field.zero == "start" or (field.zero is None and us < 1e8 * 1e6)
        return "relative" if start else "absolute", us, False
    if unit == "iso" and not isinstance(value, datetime) and _number(value):
        raise BadRecord("bad_time", f"{key} is a number, and the map gives it no unit")
    if unit != "iso":
        try:
            value = datetime.strptime(str(_scalar(value)), unit)
        except ValueError:
            raise BadRecord("bad_time", f"{key} is not written as {unit}") from None
    us, naive = parse_time(value, key)
    zone = _zone(field.zone)
    if naive and zone is not None:
        at = value if isinstance(value, datetime) else datetime.fromisoformat(str(value).strip())
        try:
            us, naive = parse_time(at.replace(tzinfo=zone).astimezone(UTC), key)[0], False
        except OverflowError:
            raise BadRecord("bad_time", f"{key} is beyond any clock") from None
    return "absolute", us, naive


@functools.cache
def _zone(name: str | None) -> Any:
    return None if name is None else maps.zone_of(name)


def _number(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError, OverflowError):
        return isinstance(value, int)
    return not isinstance(value, bool)


def _scalar(value: Any) -> Any:
    return value if isinstance(value, (str, int, float, bool)) else None


def _truth(value: Any) -> bool | None:
    if isinstance(value, str):
        return {"true": True, "1": True, "false": False, "0": False}.get(value.lower())
    return bool(value) if value in (0, 1) else None


def _shape(value: Any) -> str:
    if isinstance(value, dict):
        return f"an object of {', '.join(map(str, list(value)[:5])) or 'nothing'}"
    return "a text" if isinstance(value, str) else f"a {type(value).__name__}"


# -- a map against the first records of a log ---------------------------------------------------------------


def check(plan: Map, sample: Iterable[Any], log: str) -> None:
    """Raise TraceprofError when the first records of a log say that the map is wrong: a path none has, a unit that is another's."""
    records = [record for record in sample if isinstance(record, dict)]
    if not records:
        raise TraceprofError(
            "no JSON, JSON lines, CSV or Parquet, so a map names nothing in it",
            path=log,
            remedy="turn its lines into JSON",
        )
    rows = [_Row(plan, one, record) for record in records for one in _elements(plan, record, log)]
    rows = [r for r in rows if not any(c.holds(r.at(c.path)) for c in plan.skip)]
    if not rows:
        return  # all are skipped, which is counted
    known = list(dict.fromkeys(path for row in rows[:20] for path in maps.paths(row.value)))
    for key, field in plan.fields.items():
        values = [value for row in rows if (value := row.at(field.path)) is not None]
        if not values and not field.optional:
            near = difflib.get_close_matches(field.path, known, 1)
            hint = (
                f'did you mean "{near[0]}"?' if near else f"they have {', '.join(known[:8]) or 'no fields'}"
            )
            raise _wrong(plan, key, f'no record in the first {len(rows)} of {log} has "{field.path}"', f"{hint} (or add optional = true)")  # fmt: skip
        if key in maps.TIMES and values:
            _check_time(plan, key, field, values, log)
    results = [attempt(row.read) for row in rows]
    bad = [result for result in results if isinstance(result, BadRecord)]
    if len(bad) == len(results):
        raise TraceprofError(
            f"none of the first {len(rows)} records of {log} can be read by it: {bad[0].detail}",
            path=plan.file,
            remedy="see docs/formats.md, Your own format",
        )


def _elements(plan: Map, record: dict[str, Any], log: str) -> list[Any]:
    if plan.each is None:
        return [record]
    found = bodies.decoded(find(record, plan.each))
    if not isinstance(found, list):
        near = difflib.get_close_matches(plan.each, maps.paths(record), 1)
        raise TraceprofError(
            f'each: a record of {log} has no list under "{plan.each}"',
            path=plan.file,
            remedy=f'did you mean "{near[0]}"?' if near else "name the list that holds the requests",
        )
    return found


def _check_time(plan: Map, key: str, field: Field, values: list[Any], log: str) -> None:
    first = values[0]
    results = [attempt(instant, value, key, field) for value in values]
    failed = [r for r in results if isinstance(r, BadRecord)]
    shown = first if isinstance(first, (int, float)) else f'"{str(first)[:40]}"'
    if len(failed) == len(results):
        raise _wrong(plan, key, f"in {log} {failed[0].detail} ({shown})", _unit_for(first))
    number = float(first) if _number(first) else 0.0
    fits = next((unit for unit, low, high in _SCALES if low <= number < high), None)
    far = any(not isinstance(r, BadRecord) and r[0] == "absolute" and r[1] > _FAR for r in results)
    if field.unit in maps.UNITS and field.zero is None and fits not in (None, field.unit):
        raise _wrong(plan, key, f"in {log} {shown} {field.unit} is no time of these years", f'write unit = "{fits}", or zero = "start" when it counts from the start of the log')  # fmt: skip
    if far:
        raise _wrong(plan, key, f"in {log} {shown} lies after the year 2100", _unit_for(first))


def _unit_for(value: Any) -> str:
    if _number(value):
        fits = next((unit for unit, low, high in _SCALES if low <= float(value) < high), None)
        return f'write unit = "{fits}"' if fits else 'write unit = "s", "ms", "us" or "ns"'
    made = attempt(parse_time, value, "time")
    if not isinstance(made, BadRecord):
        return 'write unit = "iso", or leave it out'
    return 'write unit as a pattern, such as "%d/%b/%Y:%H:%M:%S %z"'


def _wrong(plan: Map, key: str, said: str, remedy: str) -> TraceprofError:
    return TraceprofError(f"[fields] {key}: {said}", path=plan.file, remedy=remedy)
