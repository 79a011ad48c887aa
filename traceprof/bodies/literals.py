"""Python values as loggers print them: `repr` of strings, lists, dicts and calls such as `SamplingParams(n=1, stop=[])`.

They are scanned, never evaluated: a call becomes the dict of its keyword arguments, a tuple or a set a list, numpy's `array([...])`
its list, and what is no literal (`<RequestOutputKind.DELTA: 1>`) its text. Time is linear in the text, depth is bounded.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import orjson

_DEPTH = 60
_TEXT = re.compile(r"""[bBrRuU]{0,2}('[^'\\]*+(?:\\.[^'\\]*+)*+'|"[^"\\]*+(?:\\.[^"\\]*+)*+")""", re.DOTALL)
_ESCAPE = re.compile(r"\\(?:x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|(.))", re.DOTALL)
_LETTERS = {"n": "\n", "t": "\t", "r": "\r", "a": "\a", "b": "\b", "f": "\f", "v": "\v", "0": "\0"}
_NUMBERS = re.compile(r"[\[(]([\d, ]*+)[\])]")
_WORD = re.compile(r"-?(?:\d[\d._]*+(?:e[-+]?\d++)?+|[^\W\d][\w.]*+)")
_ODD = re.compile(r"<[^<>]{0,300}>")
_GAP = re.compile(r"[\s,]*+")
_KEY = re.compile(r"(\w++)=(?!=)")
_DULL = re.compile(r"(?:(?!stream=)\w++=(?:None|False)(?:, |(?=\))))++")  # most arguments of most calls
_NAMED = {"None": None, "True": True, "False": False}
_CLOSE = {"[": "]", "(": ")", "{": "}"}


class Cut(NamedTuple):
    """A text or a list that a logger cut in its middle: `'head' ... 'tail'`."""

    head: Any
    tail: Any


class BadLiteral(ValueError):  # noqa: N818  a value of a log, not an error of the program
    """What stands at a place is no Python value, is cut off, or is nested too deep."""


def value(text: str, at: int = 0, depth: int = 0) -> tuple[Any, int]:
    """(the value that stands at a place of a text, where it ends); raises BadLiteral.

    What was cut in its middle is a `Cut`.

    Keyword arguments that are None or False are left out, except `stream`.

    >>> value("params: P(n=1, seed=None, stop=['a, b'])", 8)
    ({'n': 1, 'stop': ['a, b']}, 40)
    """
    found, end = _whole(text, at, depth)
    if text.startswith(" ... ", end):
        tail, end = _whole(text, end + 5, depth)
        return Cut(found, tail), end
    return found, end


def _whole(text: str, at: int, depth: int) -> tuple[Any, int]:
    first = text[at : at + 1]
    if depth > _DEPTH:
        raise BadLiteral("nested too deep")
    if first in _CLOSE:
        found = _NUMBERS.match(text, at) if first != "{" else None
        if found is not None:
            return _numbers(found[1]), found.end()
        return _items(text, at + 1, _CLOSE[first], depth)
    found = _TEXT.match(text, at)
    if found is not None:
        return unescaped(found[1][1:-1]), found.end()
    found = _WORD.match(text, at)
    if found is None:
        found = _ODD.match(text, at)
        if found is None:
            raise BadLiteral(f"no value at character {at + 1}")
        return found[0], found.end()
    word, end = found[0], found.end()
    if text[end : end + 1] == "(":
        return _items(text, end + 1, ")", depth, called=word)
    return (_NAMED[word] if word in _NAMED else _scalar(word)), end


def unescaped(body: str) -> str:
    """What stands between the quotes of a string's `repr`, as the string; lone surrogates, which none can encode, as U+FFFD.

    >>> unescaped(r"it\\'s\\n\\u00e9")
    "it's\\né"
    """
    if "\\" not in body:
        return body
    return _ESCAPE.sub(_character, body)


def _character(found: re.Match[str]) -> str:
    letter = found[4]
    if letter is not None:
        return _LETTERS.get(letter, letter)
    code = int(found[1] or found[2] or found[3], 16)
    return "\ufffd" if 0xD800 <= code < 0xE000 or code > 0x10FFFF else chr(code)


def _numbers(body: str) -> Any:
    try:
        return orjson.loads(f"[{body.rstrip(', ')}]")
    except orjson.JSONDecodeError:
        raise BadLiteral("a list of no numbers") from None


def _scalar(word: str) -> Any:
    try:
        return int(word)
    except ValueError:
        try:
            return float(word)
        except ValueError:
            return word  # a name: an enum's, say


def _items(text: str, at: int, close: str, depth: int, *, called: str = "") -> tuple[Any, int]:
    """Elements up to the closing bracket: a list, or a dict when they have keys."""
    listed: list[Any] = []
    keyed: dict[str, Any] = {}
    while True:
        found = _GAP.match(text, at)
        assert found is not None
        at = found.end()
        if called:
            dull = _DULL.match(text, at)
            if dull is not None:
                at = dull.end()
                continue
        if text[at : at + 1] == close:
            break
        key = _KEY.match(text, at) if called else None
        if key is not None:
            keyed[key[1]], at = value(text, key.end(), depth + 1)
            continue
        element, at = value(text, at, depth + 1)
        if close == "}" and text[at : at + 1] == ":":
            start = at + 2 if text[at + 1 : at + 2] == " " else at + 1
            keyed[element if isinstance(element, str) else str(element)], at = value(text, start, depth + 1)
        else:
            listed.append(element)
    if called == "array" and listed and isinstance(listed[0], list):
        return listed[0], at + 1
    return (keyed if keyed or called or (close == "}" and not listed) else listed), at + 1
