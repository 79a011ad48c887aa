"""The plan of the house in docs/architecture.md, held against the imports."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "traceprof"

# from the floor up: a module may import what stands in its own or a lower row, as its row allows
LAYERS = [
    {"errors", "schema", "trace", "workloads", "results", "envelopes", "stores", "__init__"},
    {"kernels"},
    {"formats", "bodies", "prefix", "load", "caches", "contracts", "engines", "latency"},
    {"sources", "templates", "tokenizer", "verdict", "workers"},
    {"runs"},
    {"ingest"},
    {"tokens", "lab"},
    {"remedies"},
    {"profiler", "privacy", "workload", "replay", "simulate", "compare"},
    {"report"},
    {"cli"},
]
HOMES = {
    "numba": {"kernels"},
    "datasketch": {"prefix/breakers"},
    "tokenizers": {"tokenizer"},
    "fastokens": {"tokenizer"},
    "huggingface_hub": {"tokenizer"},
    "jinja2": {"templates", "report"},
    "altair": {"report/charts"},
    "vl_convert": {"report/charts"},
    "scipy": {"simulate/calibrate"},
    "uvloop": {"replay"},
    "httptools": {"replay"},
    "click": {"cli"},
    "rich": {"cli", "report/terminal"},
}
HEAVY = ("polars", "pyarrow", "numpy", "numba", "altair", "tokenizers", "rich", "orjson", "jinja2")


def modules():
    return sorted(PACKAGE.rglob("*.py"))


def place(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").as_posix()


def imports(path: Path, top_only: bool = False):
    """(module imported, whether only for type checking) of every import statement in a file."""
    tree = ast.parse(path.read_text("utf-8"))
    guarded = {
        id(n)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and "TYPE_CHECKING" in ast.unparse(block.test)
        for n in ast.walk(block)
    }
    nodes = tree.body if top_only else ast.walk(tree)
    for node in nodes:
        if id(node) in guarded:
            continue
        if isinstance(node, ast.Import):
            yield from (a.name for a in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            if node.module == "traceprof":
                yield from (f"traceprof.{a.name}" for a in node.names)


def layer(name: str) -> int:
    return next(i for i, names in enumerate(LAYERS) if name in names)


@pytest.mark.parametrize("path", modules(), ids=place)
def test_arrows_point_down_only(path):
    """No module imports one that stands above it."""
    here = place(path).split("/")[0]
    for name in imports(path):
        parts = name.split(".")
        if parts[0] == "traceprof" and len(parts) > 1 and not parts[1].startswith("__"):
            assert layer(parts[1]) <= layer(here), f"{place(path)} imports {name}"


@pytest.mark.parametrize("path", modules(), ids=place)
def test_each_heavy_library_has_one_home(path):
    """numba in kernels/, altair in report/charts.py, and so on."""
    here = place(path)
    for name in imports(path):
        homes = HOMES.get(name.split(".")[0])
        if homes is not None:
            assert any(here == h or here.startswith(h + "/") for h in homes), f"{here} imports {name}"


@pytest.mark.parametrize("path", sorted((PACKAGE / "cli").glob("*.py")), ids=place)
def test_commands_import_nothing_heavy_at_their_top(path):
    """--help imports every command, so their heads stay light."""
    for name in imports(path, top_only=True):
        assert name.split(".")[0] not in HEAVY, f"{place(path)} imports {name}"


def test_a_kernel_is_compiled_anew_when_one_that_it_calls_changes(tmp_path):
    """numba's own cache on disk knows only the file of the kernel itself."""
    kernels = tmp_path / "traceprof" / "kernels"
    shutil.copytree(PACKAGE / "kernels", kernels, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "traceprof" / "__init__.py").touch()
    head = "from traceprof.kernels.jit import jit\n"
    outer = head + "from traceprof.kernels.inner import f\n@jit\ndef g(x):\n    return f(x) + 1\n"
    (kernels / "outer.py").write_text(outer)
    for times in (2, 30):
        (kernels / "inner.py").write_text(head + f"@jit\ndef f(x):\n    return x * {times}\n")
        for _ in range(2):  # the second run reads what the first one kept
            asked = "from traceprof.kernels.outer import g; print(g(3), len(g.stats.cache_hits))"
            run = subprocess.run(
                [sys.executable, "-c", asked], cwd=tmp_path, capture_output=True, text=True, check=True
            )
            value, hits = map(int, run.stdout.split())
            assert value == 3 * times + 1
        assert hits == 1
