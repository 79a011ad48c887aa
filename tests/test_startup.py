"""Starting is instant, and a bare import loads nothing heavy."""

from __future__ import annotations

import subprocess
import sys

HEAVY = ("numpy", "pyarrow", "polars", "numba", "tokenizers", "altair", "rich", "jinja2", "orjson")


def loaded_by(statement: str) -> set[str]:
    code = f"import sys; {statement}; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return {name.partition(".")[0] for name in run.stdout.splitlines()[-1].split()}


def test_help_loads_no_heavy_library():
    """`traceprof --help` imports click and the commands' heads, nothing else."""
    statement = "from traceprof.cli.main import main\ntry: main(['--help'])\nexcept SystemExit: pass"
    code = f"import sys\n{statement}\nprint(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in run.stdout.splitlines()[-1].split()}
    assert not loaded & set(HEAVY)


def test_import_traceprof_loads_no_heavy_library():
    """The package itself is free to import."""
    assert not loaded_by("import traceprof") & set(HEAVY)


def test_the_tree_is_imported_without_numba():
    """Kernels are compiled when first used, not when imported."""
    assert "numba" not in loaded_by("import traceprof.prefix.tree, traceprof.prefix.reuse")
