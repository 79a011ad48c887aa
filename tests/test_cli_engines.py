"""`traceprof engines` as people and programs see it."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from traceprof import engines
from traceprof.cli.main import cli


def said(*words: str) -> str:
    """What the verb prints."""
    result = CliRunner().invoke(cli, ["engines", *words], catch_exceptions=False)
    assert result.exit_code == 0
    return result.output


def test_the_list_has_a_line_for_each_engine():
    """With what decides whether a comparison can be fair."""
    lines = said().splitlines()
    assert [line.split()[0] for line in lines] == ["engine", *engines.NAMES]
    vllm = next(line for line in lines if line.startswith("vllm "))
    assert "forced" in vllm and "flush, salt" in vllm and "with a flag" in vllm
    ollama = next(line for line in lines if line.startswith("ollama "))
    assert "bounded" in ollama and "no" in ollama.split()


@pytest.mark.parametrize("name", engines.NAMES)
def test_a_page_says_all_that_the_record_holds(name):
    """Every path, flag, counter, note and doubt."""
    one = engines.engine(name)
    page = said(name)
    for endpoint in one.endpoints.values():
        assert endpoint.path in page
    for text in (one.checked, one.ready, *one.flags, *one.notes, *one.unverified):
        assert text in page
    if one.telemetry is not None:
        for choices in one.telemetry.series.values():
            assert all(series.name in page for series in choices)
        assert all(text in page for text in one.telemetry.misleading)


def test_json_is_the_same_for_programs():
    """One engine is an object, all are a list."""
    rows = json.loads(said("--json"))
    assert [row["name"] for row in rows] == list(engines.NAMES)
    assert json.loads(said("mlx-lm", "--json")) == next(row for row in rows if row["name"] == "mlx_lm")
    assert rows[0]["endpoints"]["chat"]["pins"] == {"ignore_eos": True, "min_tokens": "the recorded length"}
