"""Reports in a real browser: every chart drawn, nothing fetched, nothing wider than the screen."""

from __future__ import annotations

import profile_example
import pytest
from browser import DRAWN, browser, check_report
from selenium.webdriver import ActionChains
from selenium.webdriver.support.ui import WebDriverWait

from traceprof.report.html import render_html


@pytest.fixture(scope="module")
def chromium():
    with browser() as driver:
        yield driver


@pytest.mark.parametrize(
    ("name", "charts"),
    [
        (
            "example",
            {
                "hit_rate",
                "top_prefixes",
                "hit_rate_over_time",
                "mrc",
                "input_lengths",
                "output_lengths",
                "concurrency",
                "arrivals",
            },
        ),
        ("lengths_only", {"input_lengths", "output_lengths", "concurrency", "arrivals"}),
        (
            "hash_trace",
            {
                "hit_rate",
                "top_prefixes",
                "hit_rate_over_time",
                "mrc",
                "input_lengths",
                "output_lengths",
                "arrivals",
            },
        ),
        ("single_request", set()),
        ("empty", set()),
        (
            "hostile",
            {
                "hit_rate",
                "top_prefixes",
                "hit_rate_over_time",
                "mrc",
                "input_lengths",
                "output_lengths",
                "concurrency",
                "arrivals",
            },
        ),
    ],
)
def test_report_draws_at_both_widths_in_light_and_dark_without_a_request(name, charts, chromium, tmp_path):
    profile = profile_example.VARIANTS[name]()
    page = tmp_path / f"{name}.html"
    page.write_text(
        render_html(profile, profile_example.write(tmp_path / "profile", profile)), encoding="utf-8"
    )
    for seen in check_report(page, driver=chromium, quick=name != "example"):
        assert {chart["id"].removeprefix("chart-") for chart in seen.charts} == charts


def test_hostile_text_runs_nothing(chromium, tmp_path):
    profile = profile_example.hostile()
    page = tmp_path / "hostile.html"
    page.write_text(
        render_html(profile, profile_example.write(tmp_path / "profile", profile)), encoding="utf-8"
    )
    chromium.get(page.as_uri())
    WebDriverWait(chromium, 20, poll_frequency=0.05).until(lambda d: d.execute_script(DRAWN))
    bar = chromium.find_element("css selector", "#chart-top_prefixes svg .mark-rect path")
    ActionChains(chromium).scroll_to_element(bar).move_to_element(bar).perform()
    tooltip = chromium.find_element("id", "vg-tooltip-element")
    assert "<script>alert(1)</script>" in tooltip.text
    assert (
        chromium.execute_script("return document.querySelectorAll('img, main script, td script').length") == 0
    )
    assert "alert(1)" in chromium.execute_script("return document.body.innerText")


def test_check_report_sees_faults(chromium, tmp_path):
    page = tmp_path / "bad.html"
    page.write_text(
        "<!doctype html><link rel=icon href='data:,'><h1>x</h1><h3>y</h3><div class=chart id=c></div><div style='width:2000px'>wide</div>"
        "<script>console.error('oh no'); document.documentElement.dataset.charts = 'drawn'</script><script src='missing.js'></script>",
        encoding="utf-8",
    )
    with pytest.raises(AssertionError) as told:
        check_report(page, driver=chromium)
    for fault in (
        "oh no",
        "missing.js",
        "c has no marks",
        "c has no aria-label",
        "1280px light: the page is 20",
        "390px dark: the page is 20",
        "headings out of order",
        "dark mode changes nothing",
    ):
        assert fault in str(told.value)
