"""The answer: a profile in a few sentences and figures, and what to know before trusting them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from traceprof.report.words import (
    BlockRate,
    Profile,
    about,
    at,
    block_rates,
    clean,
    clock,
    count,
    duration,
    favourite,
    finite,
    number,
    percent,
    plural,
    short,
    table_of,
)


class Figure(NamedTuple):
    """A headline number."""

    value: str
    label: str
    note: str


def subtitle(profile: Profile) -> str:
    """How much was looked at: requests, span, dates."""
    parts = []
    if at(profile, "trace", "requests") is not None:
        parts.append(plural(at(profile, "trace", "requests"), "request"))
    if finite(at(profile, "tokens", "input")):
        parts.append(f"{short(at(profile, 'tokens', 'input'))} input tokens")
    if finite(at(profile, "trace", "span_seconds")):
        parts.append(duration(at(profile, "trace", "span_seconds")))
    first, last = clock(at(profile, "trace", "first_arrival")), clock(at(profile, "trace", "last_arrival"))
    if first and last and first != last:
        parts.append(f"{first.removesuffix(' UTC')} to {last[11:] if last[:10] == first[:10] else last}")
    elif first:
        parts.append(first)
    return ", ".join(parts)


def answer(profile: Profile) -> Iterator[str]:
    """The answer in plain words: how much was seen before, how many at once, what that favours."""
    yield seen_before(profile)
    rates = block_rates(profile)
    if rates:
        yield _where_from(profile, rates)
    mean, peak = at(profile, "concurrency", "mean"), at(profile, "concurrency", "peak")
    if mean is not None:
        guess = "" if at(profile, "concurrency", "measured") is not False else " (an estimate)"
        at_peak = "" if peak is None else f", and {number(peak)} at the peak"
        verb = "is" if number(mean) == "1" else "are"
        yield f"On average {number(mean)} {'request' if verb == 'is' else 'requests'} {verb} in flight at once{at_peak}{guess}."
    elif at(profile, "trace", "requests"):
        yield "How many requests run at once cannot be told from this log."
    cached, told = (
        at(profile, "reported", "cached_hit_rate"),
        at(profile, "reported", "requests_with_cached_tokens"),
    )
    if cached is not None:
        yield (
            f"The log itself reports {percent(cached)} of the input as served from a prefix cache"
            f" ({plural(told, 'request')} that tell)."
        )
    if at(profile, "verdict") is not None:
        yield favours(profile)


def seen_before(profile: Profile) -> str:
    """The headline sentence: how much of what is sent has been seen before."""
    rates = block_rates(profile)
    if not at(profile, "trace", "requests") and not rates:
        return "There are no requests in this trace."
    if not rates:
        return "How much of what you send has been seen before cannot be told from this log."
    if rates[0].rate == 0:
        return "Nothing you send has been seen before."
    guess = about(profile)
    share = f"{guess}{percent(rates[0].rate)}"
    return f"{share[:1].upper()}{share[1:]} of what you send has been seen before."


def _where_from(profile: Profile, rates: list[BlockRate]) -> str:
    first, guess = rates[0], about(profile)
    if first.rate == 0:
        return "No prompt begins like an earlier prompt to the same model, so no prefix cache can spare any of it."
    whole = "" if first.block == 1 else f", counted in whole blocks of {count(first.block)} tokens"
    input_tokens, requests = at(profile, "tokens", "input"), at(profile, "trace", "requests")
    text = f"That is the share of input tokens that stood at the start of an earlier prompt to the same model{whole}"
    if first.hit_tokens is not None and input_tokens:
        of = f" in {plural(requests, 'request')}" if requests else ""
        text += f": {guess}{short(first.hit_tokens)} of {short(input_tokens)} input tokens{of}"
    text += ". A prefix cache that never forgets would not compute them again; one that forgets finds less."
    default = next((r for r in rates if r.block == 16 and first.block < 16), None)
    if default is not None:
        text += f" In blocks of 16 tokens, vLLM's default, it is {guess}{percent(default.rate)}."
    if first.with_outputs is not None and first.with_outputs > first.rate:
        text += f" With the model's own answers kept in the cache too, it is {guess}{percent(first.with_outputs)}."
    return text


def confidence_words(profile: Profile) -> str:
    """The verdict's confidence as a phrase: "moderate confidence"."""
    words = clean(at(profile, "verdict", "confidence"), 60)
    return (
        "" if not words else words if "confidence" in words.lower() or " " in words else f"{words} confidence"
    )


def favours(profile: Profile) -> str:
    """What the traffic favours and how sure that is, in one sentence."""
    engine, sure = favourite(profile), confidence_words(profile)
    how = f" ({sure})" if sure else ""
    text = f"That favours {engine}{how}" if engine else f"That favours no engine clearly{how}"
    checked = at(profile, "verdict", "checked_by")
    if checked == "replay":
        return f"{text}; a replay on live engines checked it."
    by = ", checked by simulation" if checked == "simulation" else ""
    return f"{text}{by}; only a replay on your hardware proves it."


def figures(profile: Profile) -> list[Figure]:
    """The headline figures, at most four."""
    found = []
    rates = block_rates(profile)
    if rates:
        unit = "any length" if rates[0].block == 1 else f"blocks of {count(rates[0].block)}"
        found.append(Figure(percent(rates[0].rate), "seen before", f"ceiling for any prefix cache, {unit}"))
    if at(profile, "concurrency", "mean") is not None:
        peaks = [
            f"{name} {number(at(profile, 'concurrency', name))}"
            for name in ("p95", "peak")
            if at(profile, "concurrency", name) is not None
        ]
        measured = "" if at(profile, "concurrency", "measured") is not False else ", estimated"
        found.append(
            Figure(
                number(at(profile, "concurrency", "mean")),
                "in flight on average",
                ", ".join(peaks) + measured,
            )
        )
    into, out = at(profile, "lengths", "input", "p50"), at(profile, "lengths", "output", "p50")
    if into is not None:
        late = [
            count(v) for side in ("input", "output") if (v := at(profile, "lengths", side, "p95")) is not None
        ]
        way = "input" if out is None else "in → out"
        value = count(into) if out is None else f"{count(into)} → {count(out)}"
        found.append(Figure(value, "median tokens", f"{way}, p95 {' → '.join(late)}" if late else way))
    if at(profile, "verdict") is not None:
        found.append(
            Figure(favourite(profile) or "No clear one", "favoured engine", confidence_words(profile))
        )
    return found


def notices(profile: Profile) -> Iterator[str]:
    """What a reader must know before trusting a number: what is estimated, what was not read."""
    tokenizer = table_of(profile, "tokenizer")
    if tokenizer.get("exact") is False:
        name, note = clean(tokenizer.get("name"), 80), clean(tokenizer.get("note"), 400)
        under = f" under the tokenizer {name}" if name else ""
        text = f"Token counts are estimates{under}, not your model's own."
        if note:
            text += f" {note.rstrip('.')}."
        yield f"{text} For the real ones name your model's tokenizer: `--tokenizer FILE|DIR|NAME`."
    if at(profile, "concurrency", "measured") is False:
        how = clean(at(profile, "concurrency", "how"), 300)
        missing = "" if how and "arrival time" in how else ": the log does not say when each request ended"
        yield f"Concurrency is an estimate{missing}." + (f" {how.rstrip('.')}." if how else "")
    rejects = at(profile, "trace", "rejects")
    if rejects:
        was, are = ("record was", "is") if rejects == 1 else ("records were", "are")
        yield f"{count(rejects)} input {was} set aside as unusable and {are} in no number here; the trace folder keeps each with its reason."
