"""The verdict as people read it, and as a pipeline may rely on it."""

from __future__ import annotations

import copy
import io
from collections.abc import Iterator
from typing import Any

import jsonschema
import profile_example
import pytest
from rich.console import Console
from test_verdict import SHARING, comparison, part, profile, simulation

from traceprof import contracts
from traceprof.report.document import document
from traceprof.report.markdown import render_markdown
from traceprof.report.terminal import summary
from traceprof.verdict import Constraints, verdict

BAD = profile_example.HOSTILE + profile_example.INVISIBLE
PARTS = [part("chat", 0.6, vllm=10.0, sglang=5.0), part(BAD, 0.4, vllm=8.0, sglang=16.0)]


def full() -> dict[str, Any]:
    """A verdict with everything in it."""
    told = simulation({"vllm": 10.0, "sglang": 8.0, "ollama": None}, sharing=SHARING, parts=PARTS)
    return verdict(
        {**profile(rate=0.02), "simulation": told}, constraints=Constraints("nvidia", True, {"ttft": 2.0})
    )


def text_of(found: dict[str, Any]) -> str:
    console = Console(file=io.StringIO(), width=80)
    summary({**profile_example.example(), "verdict": found}, console)
    told = console.file.getvalue()
    assert max(map(len, told.splitlines())) <= 80
    return told


@pytest.mark.parametrize(
    "found",
    [
        full(),
        verdict(profile()),
        verdict(profile(requests=0)),
        verdict(profile(users=None, rate=None)),
        verdict(profile(), comparison("sglang")),
        verdict({**profile(), "simulation": simulation({"vllm": None})}),
    ],
    ids=["full", "rules", "no_request", "nothing_known", "replay", "none_holds"],
)
def test_every_verdict_keeps_the_contract(found):
    """The `verdict` of schemas/profile.schema.json."""
    schema = contracts.profile_schema()["properties"]["verdict"]
    jsonschema.Draft202012Validator(schema).validate(found)


def test_the_terminal_tells_what_to_do():
    """Headline, reasons, flips, split and advice, in 80 columns."""
    told = " ".join(text_of(full()).split())
    for words in (
        "Verdict vLLM, moderate confidence",
        "vLLM holds the objectives up to 10.0x of the recorded rate, SGLang up to 8.0x.",
        "flips: shared prefixes from 8.5 %: vLLM and SGLang level",
        "split: Split by model: 38 % more traffic on the same machines than all of it on vLLM.",
        "verdict.split.config in profile.json",
        "* Prove it on your hardware",
    ):
        assert words in told, words


def test_the_page_tells_every_input_and_where_it_flips():
    """The same, and the table of all inputs."""
    told = render_markdown({**profile_example.example(), "verdict": full()})
    for words in (
        "| shared prefixes | from 8.5 %: vLLM and SGLang level",
        "| objectives | TTFT 2 s |",
        "| operations | a team that builds and tunes engines |",
        "| chat | vLLM | 60.0 % | 10 x its rate |",
    ):
        assert words in told, words
    assert "\x1b" not in told and "\u202e" not in told


def paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in a value of mappings and lists; of a list the first entry only."""
    items = (
        value.items() if isinstance(value, dict) else enumerate(value[:1]) if isinstance(value, list) else ()
    )
    for key, item in items:
        yield (*path, key)
        yield from paths(item, (*path, key))


@pytest.mark.parametrize("path", list(paths(full())), ids=lambda p: ".".join(map(str, p)))
def test_any_key_may_be_null_or_hostile(path):
    """A report never fails on a verdict of another version."""
    for bad in (None, BAD, {BAD: [BAD]}):
        found = copy.deepcopy(full())
        inner = found
        for key in path[:-1]:
            inner = inner[key]
        inner[path[-1]] = bad
        changed = {**profile_example.example(), "verdict": found}
        assert document(changed).answer
        assert "\x1b" not in render_markdown(changed) + text_of(found)
