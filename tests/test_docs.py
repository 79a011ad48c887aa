"""Docs that are tested: generated pages are fresh, and every command, format and link is there."""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from traceprof import contracts
from traceprof.cli.main import VERBS

ROOT = Path(__file__).parent.parent
PAGES = sorted([*(ROOT / "docs").glob("*.md"), *ROOT.glob("*.md"), ROOT / "samples" / "README.md"])


def test_cli_page_is_what_the_commands_say():
    """docs/cli.md is generated: run `make docs`."""
    page = runpy.run_path(str(ROOT / "docs" / "generate.py"))["cli_page"]()
    assert (ROOT / "docs" / "cli.md").read_text("utf-8") == page


def test_schemas_are_those_of_the_code():
    """schemas/ is generated: run `make schemas`."""
    kept = {p.name: p.read_text("utf-8") for p in (ROOT / "schemas").glob("*.json")}
    assert kept == contracts.files()


@pytest.mark.parametrize("verb", VERBS)
def test_every_command_is_in_the_readme_and_has_an_example(verb):
    """A command that nobody can find is not there."""
    assert f"traceprof {verb}" in (ROOT / "README.md").read_text("utf-8")
    run = subprocess.run(
        [sys.executable, "-m", "traceprof.cli.main", verb, "--help"], capture_output=True, text=True
    )
    assert run.returncode == 0
    assert f"  traceprof {verb}" in run.stdout


def test_formats_page_is_what_the_readers_say():
    """The list in docs/formats.md is generated: run `make docs`."""
    page = runpy.run_path(str(ROOT / "docs" / "generate.py"))["formats_page"]()
    assert (ROOT / "docs" / "formats.md").read_text("utf-8") == page


def test_engines_page_is_what_the_records_say():
    """The table in docs/replay-engines.md is generated: run `make docs`."""
    page = runpy.run_path(str(ROOT / "docs" / "generate.py"))["engines_page"]()
    assert (ROOT / "docs" / "replay-engines.md").read_text("utf-8") == page


def test_every_reject_reason_is_documented():
    """A reason in rejects/ can be looked up."""
    told = (ROOT / "docs" / "formats.md").read_text("utf-8")
    for path in (ROOT / "traceprof").rglob("*.py"):
        for reason in re.findall(r'BadRecord\(\s*"([a-z0-9_]+)"', path.read_text("utf-8")):
            assert f"`{reason}`" in told, f"{path.name}: {reason}"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_links_between_pages_lead_somewhere(page):
    """Relative links name files that exist."""
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text("utf-8")):
        assert (page.parent / target).exists(), target


def test_python_example_of_the_quickstart_runs(tmp_path, monkeypatch):
    """The example is executed as it stands."""
    code = re.search(r"```python\n(.*?)```", (ROOT / "docs" / "quickstart.md").read_text("utf-8"), re.S)
    assert code is not None
    monkeypatch.chdir(ROOT)
    exec(code[1].replace('"out/', f'"{tmp_path}/'), {})
