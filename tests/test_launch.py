"""Engines started from recipes: a real process each time, ready, never ready, dead, stubborn; and recipes that are wrong."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import tomllib
import urllib.request
from pathlib import Path

import pytest

from traceprof import engines
from traceprof.errors import TraceprofError, UsageError
from traceprof.replay import guard, launch
from traceprof.replay.launch import Recipe, started

STAND_IN = Path(__file__).parent / "engine_stand_in.py"
PYTHON = json.dumps(sys.executable)
SCRIPT = json.dumps(str(STAND_IN))


def recipe(folder: Path, body: str) -> Recipe:
    """A recipe read from a file."""
    path = folder / "recipe.toml"
    path.write_text(body)
    return Recipe.read(path)


def stand_in(folder: Path, way: str, more: str = "") -> Recipe:
    """A recipe for the stand-in."""
    return recipe(
        folder,
        f"""
        engine = "vllm"
        [variables]
        alive = ""
        extra = ""
        [cpu]
        command = [{PYTHON}, {SCRIPT}, "{{port}}", "{way}", "{{alive}}"]
        ready_s = 20
        stop_s = 0.5
        {more}
        """,
    )


def grows(file: Path) -> bool:
    """Whether something still writes into a file."""
    before = file.stat().st_size
    time.sleep(0.2)
    return file.stat().st_size > before


def test_an_engine_runs_within_the_block_and_is_gone_behind_it(tmp_path):
    """Ready within, with the time that it took; its child is gone with it; what it printed is in the log."""
    log, alive = tmp_path / "logs" / "engine.log", tmp_path / "alive"
    one = stand_in(tmp_path, "ready", 'environment = {STAND_IN = "port {port}"}')
    begun = time.monotonic()
    with started(one, {"alive": str(alive)}, log=log) as (url, cold_start_s):
        with urllib.request.urlopen(f"{url}/health") as answer:
            assert answer.status == 200
        assert 0.3 <= cold_start_s <= time.monotonic() - begun
        assert grows(alive)
    assert not grows(alive)
    with pytest.raises(OSError):
        urllib.request.urlopen(f"{url}/health", timeout=2)
    assert log.read_text() == f"starting ready port {url.rpartition(':')[2]}\n"


def test_one_that_ignores_its_end_is_killed_with_its_children(tmp_path):
    """SIGTERM, then SIGKILL."""
    alive = tmp_path / "alive"
    with started(stand_in(tmp_path, "stubborn"), {"alive": str(alive)}, log=tmp_path / "log"):
        assert grows(alive)
    assert not grows(alive)


def test_it_is_stopped_when_the_block_raises(tmp_path):
    """Whatever goes wrong in a run."""
    alive = tmp_path / "alive"
    with (
        pytest.raises(KeyError),
        started(stand_in(tmp_path, "ready"), {"alive": str(alive)}, log=tmp_path / "log"),
    ):
        raise KeyError
    assert not grows(alive)


def test_it_is_stopped_when_the_command_is_terminated(tmp_path):
    """SIGTERM to the process that started it, as the command line handles it."""
    alive = tmp_path / "alive"
    stand_in(tmp_path, "ready")
    code = f"""
import signal, sys, time
from pathlib import Path
from traceprof.replay.launch import Recipe, started
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
with started(Recipe.read({str(tmp_path / "recipe.toml")!r}), {{"alive": {str(alive)!r}}}, log=Path({str(tmp_path / "log")!r})):
    print("up", flush=True)
    time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "up\n"
        assert grows(alive)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 143
    assert not grows(alive)


@pytest.mark.parametrize("way", ["ready", "stubborn"])
def test_it_does_not_outlive_a_launcher_that_was_killed(tmp_path, way):
    """SIGKILL to all of the launcher's group: engine, child and folder are gone, whatever ran beside it too."""
    alive, beside = tmp_path / "alive", tmp_path / "beside"
    child = "import sys, time\nwhile True:\n    open(sys.argv[1], 'a').write('x')\n    time.sleep(0.02)\n"
    helper = f'beside = [[{PYTHON}, "-c", {json.dumps(child)}, {json.dumps(str(beside))}]]\nfiles = {{"a.txt" = "b"}}'
    stand_in(tmp_path, way, helper)
    code = f"""
import sys, time
from pathlib import Path
from traceprof.replay.launch import Recipe, started
with started(Recipe.read({str(tmp_path / "recipe.toml")!r}), {{"alive": {str(alive)!r}}}, log=Path({str(tmp_path / "log")!r})):
    print("up", flush=True)
    time.sleep(600)
"""
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        assert process.stdout is not None and process.stdout.readline() == "up\n"
        assert grows(alive) and grows(beside) and (tmp_path / "log.files" / "a.txt").exists()
        os.killpg(process.pid, signal.SIGKILL)
    while grows(alive) or grows(beside) or (tmp_path / "log.files").exists():
        time.sleep(0.05)


def test_a_guard_cleans_up_behind_what_no_signal_ends(tmp_path):
    """Its command runs when the launcher is gone without a word, and not when all is over."""
    touched = tmp_path / "cleaned"
    for said, there in (("over\n", False), ("", True)):
        told = {"folder": str(tmp_path / "folder"), "stop_s": 1, "clean": ["touch", str(touched)]}
        subprocess.run(
            [sys.executable, "-I", "-S", guard.__file__, json.dumps(told)],
            input=f"{2**22 + 1}\n{said}",
            text=True,
            check=True,
        )
        assert touched.exists() == there


def test_one_that_is_never_ready_is_given_up_and_stopped(tmp_path):
    """With the log named."""
    alive, log = tmp_path / "alive", tmp_path / "log"
    with (
        pytest.raises(TraceprofError, match=r"was not ready after 0\.5 s") as caught,
        started(stand_in(tmp_path, "never"), {"alive": str(alive)}, log=log, ready_s=0.5),
    ):
        pytest.fail("it is not ready")
    assert caught.value.path == str(log) and "it said last: starting never" in str(caught.value)
    assert not alive.exists() or not grows(alive)


def test_one_that_dies_early_is_told_by_its_exit_code(tmp_path):
    """At once, not at the deadline."""
    log = tmp_path / "log"
    with (
        pytest.raises(TraceprofError, match="vLLM ended with 3 before it was ready") as caught,
        started(stand_in(tmp_path, "dies"), {"alive": "x"}, log=log),
    ):
        pytest.fail("it is not ready")
    assert caught.value.path == str(log)
    assert log.read_text().startswith("starting dies")
    assert str(caught.value).endswith(
        "before it was ready; it said last: starting dies; the file holds all of it"
    )


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        (b"", ""),
        (b"\n \n", ""),
        (b"one\n\ntwo\nthree\n\nfour\nfive\n", "two | three | four | five"),
        (b"\x1b[31mred\x1b[0m\r\n\xe2\x94\x82 boxed \xe2\x94\x82\n\xff\n", "red | boxed | \ufffd"),
        (
            b'why\n(A pid=1) ERROR [a.py:7]   File "a.py", line 7, in f\n(A pid=1) ERROR [a.py:7]     g()\n(A pid=1) ERROR [a.py:7] E: x\n',
            "why | (A pid=1) ERROR [a.py:7] E: x",
        ),
        (b"x" * 2000, "..." + "x" * 500),
        (b"old\n" * 100_000 + b"last", "old | old | old | last"),
    ],
)
def test_the_end_of_a_log_is_told_in_one_line(tmp_path, said, shown):
    """The last lines that hold something, without what a terminal would not show."""
    (tmp_path / "log").write_bytes(said)
    assert launch.last_lines(tmp_path / "log") == shown


def test_an_engine_that_is_killed_and_one_that_says_nothing_are_told_as_such(tmp_path):
    """As the kernel does when memory is short."""
    one = recipe(
        tmp_path,
        f'engine = "vllm"\n[gpu]\ncommand = [{PYTHON}, "-c", "import os; os.kill(os.getpid(), 9)"]\n',
    )
    with (
        pytest.raises(
            TraceprofError, match=r"vLLM was killed \(SIGKILL\) before it was ready, and said nothing"
        ),
        started(one, {}, log=tmp_path / "log"),
    ):
        pytest.fail("it is not ready")


def test_a_port_in_use_is_said_before_anything_is_started(tmp_path):
    """Or another server would be taken for the engine."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with (
            pytest.raises(TraceprofError, match=f"port {port} is in use: vLLM cannot be started there"),
            started(stand_in(tmp_path, "ready"), {"alive": "x", "port": port}, log=tmp_path / "log"),
        ):
            pytest.fail("nothing may start")
    assert not (tmp_path / "log").exists()
    for bad in ("http", 70000):
        with (
            pytest.raises(UsageError, match="is no port"),
            started(stand_in(tmp_path, "ready"), {"alive": "x", "port": bad}, log=tmp_path / "log"),
        ):
            pytest.fail("nothing may start")


def test_a_command_that_is_not_there_is_named(tmp_path):
    """Not a traceback of the operating system's."""
    one = recipe(tmp_path, 'engine = "vllm"\n[gpu]\ncommand = ["vllm-that-is-not-here"]\n')
    with (
        pytest.raises(TraceprofError, match="there is no vllm-that-is-not-here; install it"),
        started(one, {}, log=tmp_path / "log"),
    ):
        pytest.fail("nothing may start")


def test_what_runs_beside_it_starts_first_and_ends_with_it(tmp_path):
    """And an engine whose helper dies is not waited for."""
    beside, alive = tmp_path / "beside", tmp_path / "alive"
    helper = f'beside = [[{PYTHON}, "-c", "import sys, time; open(sys.argv[1], \'w\'); time.sleep(60)", {json.dumps(str(beside))}]]'
    with started(stand_in(tmp_path, "ready", helper), {"alive": str(alive)}, log=tmp_path / "log"):
        assert beside.exists()
    assert not grows(alive)
    dead = f'beside = [[{PYTHON}, "-c", "import sys; sys.exit(4)"]]'
    with (
        pytest.raises(TraceprofError, match="ended with 4 before it was ready"),
        started(stand_in(tmp_path, "never", dead), {"alive": str(alive)}, log=tmp_path / "log"),
    ):
        pytest.fail("it is not ready")


def test_options_are_added_for_variables_that_are_given_and_files_are_written_first(tmp_path):
    """No shell: words with spaces and quotes arrive as they are."""
    said = tmp_path / "said"
    code = "import json, sys; open(sys.argv[1], 'w').write(json.dumps(sys.argv[2:] + [open(sys.argv[2]).read()]))"
    one = recipe(
        tmp_path,
        f"""
        engine = "vllm"
        [variables]
        said = ""
        extra = ""
        other = ""
        [cpu]
        command = [{PYTHON}, "-c", {json.dumps(code)}, "{{said}}", "{{folder}}/my.yaml", '$HOME "{{extra}}"; ls']
        options = {{extra = ["--extra", "{{extra}}"], other = ["--other", "{{other}}"]}}
        files = {{"my.yaml" = 'a: {{port}} # {{"json": 1}}'}}
        """,
    )
    with (
        pytest.raises(TraceprofError, match="ended with 0"),
        started(one, {"said": str(said), "extra": "a b", "port": 0}, log=tmp_path / "log"),
    ):
        pytest.fail("it is not ready")
    assert not (tmp_path / "log.files").exists()  # gone with the engine
    file, word, *options, text = json.loads(said.read_text())
    assert word == '$HOME "a b"; ls' and options == ["--extra", "a b"]
    assert text.startswith("a: ") and text.endswith('# {"json": 1}')
    assert Path(file).is_absolute()


def test_a_model_that_is_loaded_on_demand_is_loaded_before_the_run(tmp_path):
    """Ollama loads with the first request; the cold start holds it."""
    log = tmp_path / "log"
    load = """load = {path = "/load", body = '{"model": "{extra}"}'}"""
    one = stand_in(tmp_path, "ready", load)
    with started(one, {"alive": str(tmp_path / "alive"), "extra": "tiny"}, log=log):
        pass
    assert 'asked /load {"model": "tiny"}' in log.read_text()
    bad = stand_in(tmp_path, "ready", load.replace("/load", "/nowhere"))
    with (
        pytest.raises(
            TraceprofError,
            match=r"did not load the model: /nowhere answered 404, check its name; it said last: .*asked /nowhere",
        ),
        started(bad, {"alive": str(tmp_path / "alive"), "extra": "tiny"}, log=log),
    ):
        pytest.fail("it is not ready")


def test_a_compose_file_goes_up_with_the_variables_and_comes_down_again(tmp_path, monkeypatch):
    """A `docker` on the path that writes down what it is told, and runs the stand-in for `up`."""
    told = tmp_path / "told"
    docker = tmp_path / "bin" / "docker"
    docker.parent.mkdir()
    docker.write_text(
        f'#!/bin/sh\necho "$MODEL $PORT $*" >> {told}\ncase "$*" in *" up "*) exec {sys.executable} {STAND_IN} "$PORT" ready;; esac\n'
    )
    docker.chmod(0o755)
    monkeypatch.setenv("PATH", f"{docker.parent}{os.pathsep}{os.environ['PATH']}")
    (tmp_path / "it.yaml").write_text("services: {it: {image: 'x:${MODEL}', ports: ['${PORT}:80']}}\n")
    one = recipe(tmp_path, 'engine = "vllm"\n[variables]\nmodel = ""\n[docker]\ncompose = "it.yaml"\n')
    with pytest.raises(UsageError, match="needs model"), started(one, {}, log=tmp_path / "log"):
        pytest.fail("nothing may start")
    with started(one, {"model": "m"}, log=tmp_path / "log") as (url, _):
        port = url.rpartition(":")[2]
    up, down = told.read_text().splitlines()
    head = f"m {port} compose -f {tmp_path / 'it.yaml'} -p traceprof-{port}"
    assert up == f"{head} up --no-color"
    assert down == f"{head} down --volumes --remove-orphans"


# ---- recipes

WRONG = [
    ("engine = ", "not TOML"),
    ('engine = "nope"\n[a]\ncommand = ["x"]', "engine: no engine is called 'nope'"),
    ('engine = "vllm"', "has no variant"),
    ('engine = "vllm"\nport = 3\n[a]\ncommand = ["x"]', "port is no key of a recipe"),
    ('engine = "vllm"\ndefault = "b"\n[a]\ncommand = ["x"]', "default names no variant; there are a"),
    ('engine = "vllm"\n[a]\ncomand = ["x"]', "a.comand is not known"),
    ('engine = "vllm"\n[a]\nready_s = 3', "a needs a command, or a compose file"),
    ('engine = "vllm"\n[a]\ncommand = "vllm serve"', "a.command is to be a list of words"),
    ('engine = "vllm"\n[a]\ncommand = []', "a.command is empty"),
    ('engine = "vllm"\n[a]\ncommand = ["{model}"]', "a.command names {model}, which .variables. does not have"),
    ('engine = "vllm"\n[a]\ncommand = ["x"]\nenvironment = {A = 1}', "a.environment is to hold strings"),
    ('engine = "vllm"\n[a]\ncommand = ["x"]\noptions = {b = ["c"]}', "a.options is to hold words by the name"),
    ('engine = "vllm"\n[a]\ncommand = ["x"]\nready_s = 0', "a.ready_s is to be seconds, above 0"),
    ('engine = "vllm"\n[a]\ncommand = ["x"]\nstop_s = true', "a.stop_s is to be seconds, above 0"),
    ('engine = "vllm"\n[a]\ncommand = ["x"]\nload = {body = "x"}', "a.load has no path"),
    ('engine = "vllm"\n[a]\ncommand = ["x"]\nfiles = {"../x" = "y"}', "a.files is to hold names without folders"),
    ('engine = "vllm"\n[a]\ncommand = ["x"]\ncapacity = {variable = "b"}', "a.capacity is to hold the name of a variable"),
    ('engine = "vllm"\n[variables]\nb = ""\n[a]\ncommand = ["x"]\ncapacity = {variable = "b", unit = 0}', "a.capacity is to hold whole"),
    ('engine = "vllm"\n[a]\ncompose = "none.yaml"', "a.compose is no file beside the recipe"),
]  # fmt: skip


@pytest.mark.parametrize("body, message", WRONG, ids=[message[:30] for _, message in WRONG])
def test_a_recipe_that_is_wrong_is_refused_with_file_and_key(tmp_path, body, message):
    """No traceback, no half-started engine."""
    with pytest.raises(TraceprofError, match=message) as caught:
        recipe(tmp_path, body)
    assert caught.value.path == str(tmp_path / "recipe.toml")


@pytest.mark.parametrize("name", launch.names())
def test_with_every_variable_given_a_recipe_lacks_at_most_its_program(name):
    """Each variant, looked at before anything is started."""
    recipe = Recipe.read(name)
    given = {key: sys.executable if key == "python" else "x" for key in recipe.variables}
    for variant in recipe.variants:
        try:
            launch.check(recipe, given, variant)
        except TraceprofError as bad:
            assert "cannot be started: there is no " in bad.message, (variant, bad)


def test_what_is_not_there_is_said(tmp_path):
    """Recipes, variants and variables, each with those that there are."""
    with pytest.raises(UsageError, match="no such recipe"):
        Recipe.read(tmp_path / "none.toml")
    one = stand_in(tmp_path, "ready")
    with pytest.raises(UsageError, match="no variant is called gpu; take cpu"):
        one.variant("gpu")
    for variables, message in (
        ({}, "needs alive; give it: --set alive="),
        ({"alive": "x", "mode": "y"}, "has no variable mode"),
    ):
        with pytest.raises(UsageError, match=message), started(one, variables, log=tmp_path / "log"):
            pytest.fail("nothing may start")


@pytest.mark.parametrize("name", [name for name in engines.NAMES if name != "openai"])
def test_every_engine_has_a_recipe_that_starts_it_as_its_record_asks(name):
    """The flags that a measured run needs are in its commands, or in its files."""
    one = Recipe.read(name)
    assert one.engine.name == name and one.about and one.checked
    assert one.path.parent == launch.RECIPES
    for variant in one.variants.values():
        words = " ".join(
            [*variant.command, *variant.files.values(), *(f"{k}={v}" for k, v in variant.environment.items())]
            + [word for words in variant.beside for word in words]
            + ([variant.compose.read_text()] if variant.compose else [])
        )
        assert "{port}" in words or "${PORT}" in words
        for flag in one.engine.flags:
            assert flag.split()[0] in words, (flag, words)
        if one.engine.flush is not None and "=" in one.engine.flush.needs.split()[0]:
            assert one.engine.flush.needs.split()[0] in words or "VLLM_SERVER_DEV_MODE" in words


def test_equal_kv_tokens_are_given_in_what_each_engine_counts_in():
    """vLLM: blocks of 16, and one that it keeps for itself."""
    assert Recipe.read("vllm").pinned(1000) == {"blocks": "64"}
    assert Recipe.read("vllm").pinned(1024) == {"blocks": "65"}
    assert Recipe.read("sglang").pinned(1000) == {"tokens": "1000"}
    assert Recipe.read("lmdeploy").pinned(65) == {"blocks": "2"}
    assert Recipe.read("tensorrt_llm").pinned(1000, "pinned") == {"tokens": "1000"}
    with pytest.raises(UsageError, match="mlx-lm cannot be given a number of KV tokens"):
        Recipe.read("mlx_lm").pinned(1000)


def test_all_recipes_are_of_engines_and_compose_files_belong_to_recipes():
    """Nothing lies about that nobody reads."""
    assert set(launch.names()) == set(engines.NAMES) - {"openai"}
    used = {v.compose for name in launch.names() for v in Recipe.read(name).variants.values() if v.compose}
    assert used == set(launch.RECIPES.glob("*.yaml"))
    for path in launch.RECIPES.glob("*.toml"):
        tomllib.loads(path.read_text())
