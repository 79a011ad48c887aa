"""Words for numbers, and reading a profile of which every key may be missing or null.

Formatting of numbers lives here and nowhere else in the package.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

MISSING = "n/a"
PREVIEW_LENGTH = 160  # characters of a prompt that a report ever shows


def finite(value: object) -> float | None:
    """The value as a finite float, or None: null, NaN, text and booleans are no numbers."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def number(value: object) -> str:
    """A measured value with as many decimals as its size deserves, thousands separated.

    >>> [number(x) for x in (1234567, 1234.5, 23.44, 8.8, 1.0, 0.00312, 0, None)]
    ['1,234,567', '1,234', '23.4', '8.8', '1', '0.0031', '0', 'n/a']
    """
    real = finite(value)
    if real is None:
        return MISSING
    if isinstance(value, int) or real == 0:
        return f"{int(real) if not isinstance(value, int) else value:,}"
    if abs(real) < 1e-4:
        return "under 0.0001" if real > 0 else f"{real:.2g}"
    if abs(real) < 0.1:
        return f"{real:.2g}"
    text = f"{real:,.{0 if abs(real) >= 100 else 1 if abs(real) >= 10 else 2}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def count(value: object) -> str:
    """A number of things, rounded to a whole one.

    >>> count(1234567), count(99.6), count(None)
    ('1,234,567', '100', 'n/a')
    """
    real = finite(value)
    return MISSING if real is None else f"{value if isinstance(value, int) else round(real):,}"


def short(value: object) -> str:
    """A large number for prose.

    >>> short(999), short(12_000), short(999_960), short(41_234_567)
    ('999', '12.0 k', '1.0 M', '41.2 M')
    """
    real = finite(value)
    if real is None:
        return MISSING
    if abs(real) < 1000:
        return number(value)
    for suffix in "kMGT":
        real /= 1000
        if abs(real) < 999.95 or suffix == "T":
            break
    return f"{real:,.1f} {suffix}"


def percent(value: object) -> str:
    """A ratio as a percentage with one decimal; what is not quite nothing or all says so.

    >>> percent(0.6243), percent(0.0001), percent(0.99999), percent(0), percent(1)
    ('62.4 %', '<0.1 %', '>99.9 %', '0.0 %', '100.0 %')
    """
    real = finite(value)
    if real is None:
        return MISSING
    if 0 < real < 0.0005:
        return "<0.1 %"
    if 0.9995 <= real < 1:
        return ">99.9 %"
    return f"{100 * real:,.1f} %"


def dollars(value: object) -> str:
    """An amount of US dollars in three digits.

    >>> dollars(1234.5), dollars(0.0423), dollars(-2), dollars(0), dollars(0.00001)
    ('$1,234', '$0.0423', '-$2.00', '$0', '<$0.0001')
    """
    real = finite(value)
    if real is None:
        return MISSING
    if real == 0:
        return "$0"
    if abs(real) < 0.0001:
        return f"{'-' if real < 0 else '<'}$0.0001"
    digits = 0 if abs(real) >= 100 else 2 if abs(real) >= 1 else 4
    return f"{'-' if real < 0 else ''}${abs(real):,.{digits}f}"


def duration(seconds: object) -> str:
    """A length of time in the two units that matter.

    >>> [duration(s) for s in (0.00025, 0.35, 12.34, 260, 11_520, 187_200)]
    ['250 µs', '350 ms', '12.3 s', '4 min 20 s', '3 h 12 min', '2 d 4 h']
    """
    real = finite(seconds)
    if real is None:
        return MISSING
    if real == 0:
        return "0 s"
    if abs(real) < 59.95:
        scale, unit = (1, "s") if abs(real) >= 1 else (1e3, "ms") if abs(real) >= 1e-3 else (1e6, "µs")
        return f"{real * scale:.1f} {unit}" if unit == "s" else f"{real * scale:.3g} {unit}"
    whole = round(real)
    for big, big_unit, small, small_unit in (
        (86400, "d", 3600, "h"),
        (3600, "h", 60, "min"),
        (60, "min", 1, "s"),
    ):
        if whole >= big:
            rest = whole % big // small
            return f"{whole // big:,} {big_unit}" + (f" {rest} {small_unit}" if rest else "")
    return f"{whole} s"


def size(n_bytes: object) -> str:
    """A size in binary units.

    >>> size(512), size(8_053_063_680)
    ('512 B', '7.5 GiB')
    """
    real = finite(n_bytes)
    if real is None:
        return MISSING
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if abs(real) < 1024 or unit == "TiB":
            break
        real /= 1024
    return f"{real:.0f} {unit}" if unit == "B" else f"{real:,.1f} {unit}"


def plural(n: object, noun: str) -> str:
    """A count and its noun.

    >>> plural(1, "request"), plural(12_345, "request")
    ('1 request', '12,345 requests')
    """
    return f"{count(n)} {noun}{'' if n == 1 else 's'}"


def clock(timestamp: object) -> str | None:
    """An instant as people write it; None for logs whose clock starts at zero.

    >>> clock("2026-05-04T09:00:00.123456Z"), clock("1970-01-01T00:00:00Z")
    ('2026-05-04 09:00:00 UTC', None)
    """
    text = clean(timestamp)
    if len(text) < 19 or text.startswith("1970-01-01"):
        return None
    return f"{text[:10]} {text[11:19]} UTC"


_ESCAPES = re.compile(
    r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\^_]|[ -/]+[0-~])|\x9b[0-?]*[ -/]*[@-~]"
)
_JOINERS = (
    "\u200c\u200d"  # needed to spell Persian, Hindi and others; every other format character is dropped
)


def clean(text: object, limit: int = PREVIEW_LENGTH) -> str:
    """Text from a log, fit to be shown: one line, no control, escape or direction characters, cut to a length.

    >>> clean("You are\\n\\x1b[31mred\\x1b[0m \\u202eevil"), clean("abcdef", 4)
    ('You are red evil', 'abc…')
    """
    if text is None:
        return ""
    head = _ESCAPES.sub("", str(text)[: 8 * limit + 64])
    shown = []
    for character in head:
        category = unicodedata.category(character)
        if character.isspace() or category in ("Cc", "Zl", "Zp"):
            shown.append(" ")
        elif category == "Cs":
            shown.append("\ufffd")
        elif category != "Cf" or character in _JOINERS:
            shown.append(character)
    line = " ".join("".join(shown).split())
    return line if len(line) <= limit else line[: limit - 1].rstrip() + "…"


Profile = Mapping[str, Any]
"""profile.json, parsed."""


def at(profile: Profile, *keys: str) -> Any:
    """The value under nested keys, None where any of them is missing or null.

    >>> at({"prefix": None}, "prefix", "hit_rate")
    """
    value: Any = profile
    for key in keys:
        if not isinstance(value, Mapping):
            return None
        value = value.get(key)
    return value


def table_of(profile: Profile, *keys: str) -> dict[str, Any]:
    """The mapping under nested keys, empty where there is none."""
    value = at(profile, *keys)
    return dict(value) if isinstance(value, Mapping) else {}


def rows_of(profile: Profile, *keys: str) -> list[Any]:
    """The list under nested keys, empty where there is none."""
    value = at(profile, *keys)
    return list(value) if isinstance(value, Sequence) and not isinstance(value, str) else []


class BlockRate(NamedTuple):
    """Hit rate when only whole blocks are reused."""

    block: int
    rate: float  # prompts against earlier prompts
    with_outputs: float | None  # outputs of finished requests count too
    hit_tokens: int | None


def block_rates(profile: Profile) -> list[BlockRate]:
    """Hit rates by block size, smallest block first; sizes that the trace cannot give are not there."""
    tokens, outputs = (
        table_of(profile, "prefix", "hit_tokens"),
        table_of(profile, "prefix", "with_outputs", "hit_rate"),
    )
    found = []
    for key, value in table_of(profile, "prefix", "hit_rate").items():
        rate = finite(value)
        if rate is not None and str(key).isdigit():
            found.append(BlockRate(int(key), rate, finite(outputs.get(key)), tokens.get(key)))
    return sorted(found)


def about(profile: Profile) -> str:
    """ "about " where token counts are estimates, else nothing."""
    return "about " if at(profile, "tokenizer", "exact") is False else ""


_ENGINES = {
    "sglang": "SGLang",
    "vllm": "vLLM",
    "mini-sglang": "mini-sglang",
    "tensorrt-llm": "TensorRT-LLM",
    "trtllm": "TensorRT-LLM",
    "tgi": "TGI",
    "lmdeploy": "LMDeploy",
    "llama.cpp": "llama.cpp",
    "llamacpp": "llama.cpp",
}
_NO_FAVOURITE = {
    "",
    "none",
    "neither",
    "either",
    "unclear",
    "undecided",
    "undetermined",
    "tie",
    "no difference",
    "unknown",
}


def engine_name(name: object) -> str:
    """An engine's name as its makers write it.

    >>> engine_name("vllm"), engine_name("my-engine")
    ('vLLM', 'my-engine')
    """
    text = clean(name, 60)
    return _ENGINES.get(text.lower(), text)


def favourite(profile: Profile) -> str | None:
    """The engine the verdict favours, None where it favours none."""
    name = clean(at(profile, "verdict", "favoured"), 60)
    return None if name.lower() in _NO_FAVOURITE else engine_name(name)


def block_label(block: int) -> str:
    """A block size in words.

    >>> block_label(1), block_label(16), block_label(64)
    ('1 (any length)', '16 (vLLM default)', '64')
    """
    return {1: "1 (any length)", 16: "16 (vLLM default)"}.get(block, count(block))
