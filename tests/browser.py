"""A real browser looks at a report: headless Chromium, at two widths, light and dark.

`check_report(path)` is all that a test needs; it fails with every fault it saw, and returns what it measured.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import itertools
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

WIDE, PHONE = (1280, 900), (390, 844)
DRAWN = "return document.documentElement.dataset.charts === 'drawn' || document.querySelectorAll('.chart').length === 0"
MEASURE = """
const box = document.documentElement;
return {
  scroll: box.scrollWidth, height: box.scrollHeight,
  charts: [...document.querySelectorAll('.chart')].map(c => ({
    id: c.id, label: c.getAttribute('aria-label') || '',
    shapes: [...c.querySelectorAll('svg [role="graphics-symbol"], svg .role-mark path, svg .role-mark line, svg .role-mark text')].length,
    width: c.querySelector('svg') ? c.querySelector('svg').getBoundingClientRect().width : 0,
    box: c.getBoundingClientRect().width,
    bad: [...c.querySelectorAll('svg path')].filter(p => /NaN|undefined|Infinity/.test(p.getAttribute('d') || '')).length,
  })),
  resources: performance.getEntriesByType('resource').map(e => e.name),
  headings: [...document.querySelectorAll('h1,h2,h3,h4')].map(h => +h.tagName[1]),
  scripts: document.querySelectorAll('script').length,
  background: getComputedStyle(document.body).backgroundColor,
  smallest: Math.min(...[...document.querySelectorAll('body *')].filter(e => !e.children.length && !e.closest('svg, script, noscript') && e.textContent.trim()).map(e => parseFloat(getComputedStyle(e).fontSize))),
};
"""


class Seen(NamedTuple):
    """What one look at the page showed."""

    width: int
    dark: bool
    charts: list[dict[str, Any]]
    page: dict[str, Any]


def _found(*names: str) -> str | None:
    return next((path for name in names if (path := shutil.which(name))), None)


@functools.cache
def programs() -> tuple[str, str] | None:
    """Where Chromium and its driver are, None where either is missing."""
    chromium = _found("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    driver = _found("chromedriver", "chromium.chromedriver")
    return (chromium, driver) if chromium and driver else None


@contextlib.contextmanager
def browser() -> Iterator[Any]:
    """A fresh headless Chromium that is offline as far as it can be told; skips the test where there is none."""
    found = programs()
    if found is None:
        pytest.skip("needs chromium and chromedriver on PATH (apt install chromium chromium-driver)")
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = found[0]
    with tempfile.TemporaryDirectory(prefix="traceprof-browser-", ignore_cleanup_errors=True) as profile:
        for flag in (
            "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking",
            "--disable-component-update", "--disable-sync", "--no-first-run", "--no-default-browser-check",
            "--disable-extensions", "--hide-scrollbars", f"--user-data-dir={profile}",
        ):  # fmt: skip
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        driver = webdriver.Chrome(options=options, service=Service(found[1]))
        try:
            yield driver
        finally:
            driver.quit()


def look(
    driver: Any, path: Path, size: tuple[int, int], *, dark: bool, shot: Path | None = None
) -> tuple[Seen, list[str]]:
    """Load the page at a size and colour scheme; what was seen, and every fault as one line."""
    from selenium.webdriver.support.ui import WebDriverWait

    width, height = size
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
    for log in ("browser", "performance"):
        driver.get_log(log)  # what earlier pages said
    url = Path(path).resolve().as_uri()
    driver.get(url)
    WebDriverWait(driver, 20, poll_frequency=0.05).until(lambda d: d.execute_script(DRAWN))
    page = driver.execute_script(MEASURE)
    if shot is not None:
        _shoot(driver, shot, width, page["height"])
    console = [
        entry["message"] for entry in driver.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")
    ]
    events = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    asked = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
    seen = Seen(width, dark, page["charts"], page)
    return seen, [
        f"{width}px {'dark' if dark else 'light'}: {fault}"
        for fault in _faults(page, width, console, asked, url)
    ]


def _faults(
    page: dict[str, Any], width: int, console: list[str], asked: list[str], url: str
) -> Iterator[str]:
    yield from (f"console: {line}" for line in console)
    yield from (f"request: {name}" for name in page["resources"])
    yield from (f"request: {name}" for name in asked if name != url and not name.startswith("data:"))
    if page["scroll"] > width:
        yield f"the page is {page['scroll']} px wide"
    for chart in page["charts"]:
        if not chart["shapes"]:
            yield f"{chart['id']} has no marks"
        if chart["bad"]:
            yield f"{chart['id']} has {chart['bad']} broken paths"
        if not chart["label"]:
            yield f"{chart['id']} has no aria-label"
        if not 0.6 * chart["box"] <= chart["width"] <= chart["box"] + 1:
            yield f"{chart['id']} is {chart['width']} px wide in a box of {chart['box']}"
    levels = page["headings"]
    if levels[:1] != [1] or levels.count(1) != 1 or any(b > a + 1 for a, b in itertools.pairwise(levels)):
        yield f"headings out of order: {levels}"
    if page["smallest"] < 11:
        yield f"text of {page['smallest']} px"


def _shoot(driver: Any, shot: Path, width: int, height: int) -> None:
    clip = {"x": 0, "y": 0, "width": width, "height": height, "scale": 1}
    image = driver.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": True, "clip": clip})
    shot.parent.mkdir(parents=True, exist_ok=True)
    shot.write_bytes(base64.b64decode(image["data"]))


def check_report(
    path: Path, *, driver: Any = None, shots: Path | None = None, quick: bool = False
) -> list[Seen]:
    """Look at a report wide and narrow, light and dark; AssertionError names every fault.

    `quick` looks twice in place of four times: wide and light, narrow and dark.
    `shots` (or the environment's TRACEPROF_SHOTS) is a folder for screenshots of the whole page.
    """
    shots = shots or (Path(os.environ["TRACEPROF_SHOTS"]) if os.environ.get("TRACEPROF_SHOTS") else None)
    with contextlib.nullcontext(driver) if driver is not None else browser() as it:
        looks, faults = [], []
        for size, dark in (
            ((WIDE, False), (PHONE, True)) if quick else itertools.product((WIDE, PHONE), (False, True))
        ):
            name = f"{Path(path).stem}-{size[0]}-{'dark' if dark else 'light'}.png"
            seen, found = look(it, Path(path), size, dark=dark, shot=shots / name if shots else None)
            looks.append(seen)
            faults += found
    light, dark_too = (looks[i].page["background"] for i in (0, -1))
    if light == dark_too:
        faults.append(f"dark mode changes nothing: {light}")
    assert not faults, "\n".join(faults)
    return looks
