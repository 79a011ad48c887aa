"""Engines in virtual time as people see them: the report's section, its chart, the lines on a console."""

from __future__ import annotations

import io
import math
from typing import Any

import profile_example
import pytest
from browser import browser, check_report
from rich.console import Console

from traceprof.report import charts, document
from traceprof.report.html import render_html
from traceprof.report.markdown import render_markdown
from traceprof.report.parts import Table
from traceprof.report.sections.simulated import simulated
from traceprof.report.terminal import summary


def engine(label: str, speed: float | None, **more: Any) -> dict[str, Any]:
    spread = dict.fromkeys(("mean", "p50", "p90", "p95", "p99", "max"), 0.25)
    return {
        "label": label, "requests": 100, "requests_per_s": 2.0, "hit_rate": 0.5, "ttft": {**spread, "p99": 7076.0}, "tpot": spread,
        "e2e": spread, "slo_share": 0.75, "max_speed": speed, "max_speed_capped": False,
        "max_rate_per_s": None if speed is None else 2.0 * speed, "replicas": None if speed is None else math.ceil(1 / speed),
        "usd_per_million_tokens": None if speed is None else 0.7, "cold_start_s": 62, "source": f"{label}'s figures", **more,
    }  # fmt: skip


def simulation() -> dict[str, Any]:
    return {
        "machine": {"card": "h100", "label": "Llama-3.1-8B on 2 x H100", "gpus": 2, "given": False},
        "slo": {"words": "TTFT 2 s", "quantile": 0.99, "given": False},
        "window": "all requests, 1.0 minutes",
        "engines": {
            "ollama": engine("Ollama", None),
            "vllm": engine("vLLM", 0.3),
            "sglang": engine("SGLang", 4.0, max_speed_capped=True),
        },
        "unique": {"ollama": {"max_speed": None}, "vllm": {"max_speed": 0.25}, "sglang": {"max_speed": 3.0}},
        "sweeps": {
            "users": [
                {
                    "speed": speed,
                    "concurrency": 3 * speed,
                    "engines": {"vllm": vllm, "sglang": 1.0, "ollama": ollama},
                }
                for speed, vllm, ollama in ((0.125, None, 0.5), (0.5, 0.9, 0.2), (1.0, 0.7, 0.1), (2.0, 0.4, None))
            ]
        },
        "parts": [
            {"by": "model", "value": f"<b>model {n}</b>", "requests": 60, "share": 0.5, "hit_rate": 0.4, "engines": {"vllm": 2.0, "ollama": None}}
            for n in range(2)
        ],
        "assumptions": ["each engine with its own defaults"],
    }  # fmt: skip


@pytest.fixture
def profile() -> dict[str, Any]:
    return {**profile_example.example(), "simulation": simulation()}


def section(profile: dict[str, Any]):
    return next((one for one in document.document(profile).sections if one.id == "virtual"), None)


def tables(profile: dict[str, Any]) -> list[Table]:
    return [part for part in section(profile).parts if isinstance(part, Table)]


def printed(print_it) -> list[str]:
    file = io.StringIO()
    print_it(Console(file=file, width=80))
    return file.getvalue().splitlines()


def test_engines_stand_by_what_they_carry_with_unique_beside_shared(profile):
    head, rows = tables(profile)[0].head, tables(profile)[0].rows
    shown = [[cell.text for cell in row] for row in rows]
    assert [row[0] for row in shown] == ["SGLang", "vLLM", "Ollama"]
    assert shown[0][1:5] == ["at least 8.00", "6.00", "2", "$0.7000"]
    assert shown[1][1:5] == ["0.600", "0.500", "8", "$0.7000"]  # 4 machines of 2 GPUs
    assert shown[2][1:5] == ["none holds", "none holds", "n/a", "n/a"]
    assert head[2] == "If no prompt shared anything"


def test_without_what_prompts_share_there_is_no_such_column(profile):
    profile["simulation"]["unique"] = {}
    profile["simulation"]["engines"]["vllm"]["hit_rate"] = None
    table = tables(profile)[0]
    assert "If no prompt shared anything" not in table.head
    assert [cell.text for cell in table.rows[1]][7] == "n/a"
    assert all(len(row) == len(table.head) for row in table.rows)


def test_parts_stand_with_each_engines_own_rate(profile):
    table = tables(profile)[1]
    assert table.head[4:] == ("Ollama", "vLLM")
    assert [cell.text for cell in table.rows[0]][3:] == ["40.0 %", "none holds", "2 x"]


def test_it_says_what_is_assumed_and_who_waits(profile):
    text = render_markdown(profile)
    assert "It is computed, not measured. That machine is assumed" in text
    assert "An engine that takes several falls behind on one machine" in text
    assert "Each engine with its own defaults." in text
    for one in profile["simulation"]["engines"].values():
        one["max_speed"] = 0.5
    assert "Every engine falls behind on one machine" in render_markdown(profile)
    for one in profile["simulation"]["engines"].values():
        one["max_speed"] = 1.0
    assert "falls behind" not in render_markdown(profile)


@pytest.mark.parametrize("nothing", [None, {}, {"engines": {}}, {"engines": None}])
def test_no_simulation_no_section(profile, nothing):
    profile["simulation"] = nothing
    assert section(profile) is None
    assert "slo_by_rate" not in charts.charts(profile)
    assert not any("virtual" in line for line in printed(lambda console: summary(profile, console)))


def test_chart_joins_only_speeds_that_were_tried_next_to_each_other(profile):
    spec = charts.charts(profile)["slo_by_rate"].to_dict()
    rows = next(data for data in spec["datasets"].values() if "engine" in data[0])
    pieces = {
        name: [(row["speed"], row["piece"]) for row in rows if row["engine"] == name]
        for name in ("Ollama", "vLLM")
    }
    assert pieces["Ollama"] == [(0.125, 0), (0.5, 1), (1.0, 1)]  # 1/8 to 1/2 skips 1/4
    assert pieces["vLLM"] == [(0.5, 0), (1.0, 0), (2.0, 0)]


def test_no_chart_where_all_shares_are_the_same(profile):
    for row in profile["simulation"]["sweeps"]["users"]:
        row["engines"] = dict.fromkeys(row["engines"], 1.0)
    assert "slo_by_rate" not in charts.charts(profile)


def test_lines_of_a_console_fit_80_columns(profile):
    slow = {"ttft": {"p50": 900.0, "p99": 7076.0}, "tpot": {"p50": 0.225}, "slo_share": 1.0}
    profile["simulation"]["engines"]["llamacpp"] = engine(
        "llama.cpp server", 0.001, replicas=1234, usd_per_million_tokens=1234.5, **slow
    )
    told = printed(lambda console: simulated(profile["simulation"], console))
    assert max(map(len, told)) <= 80
    assert next(line for line in told if "SGLang" in line).split() == [
        "SGLang", "50.0", "%", "250", "ms", "2.0", "h", "250", "ms", "75.0", "%", ">=8.00", "2", "0.70",
    ]  # fmt: skip
    short = printed(lambda console: summary(profile, console))
    assert [line for line in told if "llama.cpp" in line] == [
        line for line in short if "llama.cpp server 50" in line
    ]
    assert max(map(len, short)) <= 80


def test_report_draws_in_a_browser(profile, tmp_path):
    page = tmp_path / "simulated.html"
    page.write_text(
        render_html(profile, profile_example.write(tmp_path / "profile", profile)), encoding="utf-8"
    )
    with browser() as driver:
        for seen in check_report(page, driver=driver):
            assert "chart-slo_by_rate" in {chart["id"] for chart in seen.charts}
    assert "<b>model" not in page.read_text("utf-8").split("<main>")[1].split("<script")[0]
