"""What a report says about a profile, in each of its forms."""

from __future__ import annotations

import ast
import doctest
import importlib
import io
import json
import re
import sys
from html.parser import HTMLParser
from pathlib import Path

import profile_example
import pytest
from rich.console import Console

from traceprof import lab
from traceprof.caches import routing
from traceprof.errors import UsageError
from traceprof.report import answer, charts, document, parts, words
from traceprof.report.html import render_html
from traceprof.report.json import render_json
from traceprof.report.markdown import render_markdown
from traceprof.report.sections import over_time, serving
from traceprof.report.terminal import caches, summary

VARIANTS = sorted(profile_example.VARIANTS)
VOID = {"meta", "link", "br", "img", "hr", "input"}


class Page(HTMLParser):
    """A page as a browser would cut it up: balanced tags, what scripts hold, what text is shown."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.text = ""
        self.feed(page)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.text += " " if tag in ("td", "th", "p", "h1", "h2", "h3", "dt", "dd", "li") else ""
        if tag not in VOID:
            self.open.append(tag)
        if tag == "script":
            self.scripts.append((dict(attrs), ""))

    def handle_endtag(self, tag):
        assert self.open and self.open[-1] == tag, f"</{tag}> inside {self.open}"
        self.open.pop()

    def handle_data(self, data):
        if self.open and self.open[-1] == "script":
            self.scripts[-1] = (self.scripts[-1][0], self.scripts[-1][1] + data)
        elif self.open and self.open[-1] != "style":
            self.text += data

    @property
    def words(self) -> str:
        return " ".join(self.text.split())


def text_of(
    profile, *, width=80, folder=None, color=None, encoding="utf-8", path="out/document.html", tty=False
):
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding=encoding, newline="\n")
    console = Console(file=file, width=width, color_system=color, force_terminal=tty)
    summary(profile, console, path, folder)
    file.flush()
    return raw.getvalue().decode(encoding)


@pytest.fixture(scope="module", params=VARIANTS)
def variant(request, tmp_path_factory):
    profile = profile_example.VARIANTS[request.param]()
    return request.param, profile, profile_example.write(tmp_path_factory.mktemp(request.param), profile)


@pytest.fixture(scope="module")
def example_page(tmp_path_factory):
    profile = profile_example.example()
    return Page(render_html(profile, profile_example.write(tmp_path_factory.mktemp("example"), profile)))


# --- every form renders every variant ----------------------------------------------------------------


def test_every_variant_renders_as_a_page_that_holds_everything_it_needs(variant):
    name, profile, folder = variant
    source = render_html(profile, folder)
    page = Page(source)
    assert len(source.encode()) < 2_000_000
    assert sum(tag == "h1" for tag, _ in page.tags) == 1
    assert not any(
        a.get("src") or not (a.get("href") or "#").startswith(("#", "data:,")) for _, a in page.tags
    ), "loads something"
    assert all(attrs.get("scope") in ("col", "row") for tag, attrs in page.tags if tag == "th")
    assert all(attrs.get("aria-label") for _, attrs in page.tags if attrs.get("class") == "chart")
    ids = [attrs["id"] for _, attrs in page.tags if attrs.get("id")]
    assert len(ids) == len(set(ids))
    assert {a["href"][1:] for tag, a in page.tags if tag == "a"} <= set(ids)
    assert {a["data-spec"] for _, a in page.tags if "data-spec" in a} == {
        i for i in ids if i.startswith("spec-")
    }
    if name != "hostile":
        assert not re.search(r"\b(None|nan|NaN|inf|undefined)\b", page.words)


def test_every_variant_renders_as_markdown_json_and_text(variant):
    name, profile, folder = variant
    told = render_markdown(profile)
    for block in re.findall(r"(?:^\|.*\n)+", told, re.M):
        cells = {len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}
        assert len(cells) == 1, f"ragged table in {name}: {block[:200]}"
    plain = text_of(profile, folder=folder)
    assert "\x1b" not in plain and "out/document.html" in plain
    if name != "hostile":
        assert json.loads(render_json(profile))["schema_version"] == 1
        assert not re.search(r"\b(None|nan)\b", told + plain)


def test_every_chart_of_every_variant_is_valid_vega_lite(variant):
    _, profile, folder = variant
    for chart in charts.charts(profile, folder).values():
        assert chart.to_dict(validate=True)["width"] == "container"


@pytest.mark.parametrize("key", sorted(profile_example.example()))
def test_any_top_level_key_may_be_missing_or_null(key):
    drawn = key in ("prefix", "cache", "lengths", "tokenizer")
    for lack in ({}, {key: None}):
        profile = {k: v for k, v in profile_example.example().items() if k != key} | lack
        assert document.document(profile).answer
        assert render_markdown(profile).startswith("# ")
        assert not drawn or charts.charts(profile)
        assert "\x1b" not in text_of(profile)


def _paths(value, path=()):
    for key, item in value.items():
        yield (*path, key)
        if isinstance(item, dict):
            yield from _paths(item, (*path, key))


@pytest.mark.parametrize("path", list(_paths(profile_example.example())), ids=".".join)
def test_any_nested_key_may_be_null(path):
    profile = profile_example.example()
    inner = profile
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = None
    told = document.document(profile)
    assert all(
        isinstance(cell.text, str)
        for s in told.sections
        for p in s.parts
        if isinstance(p, parts.Table)
        for row in p.rows
        for cell in row
    )
    if path[0] in ("cache", "lengths") or path[:2] in (
        ("prefix", "hit_rate"),
        ("prefix", "with_outputs"),
        ("prefix", "top_prefixes"),
    ):
        charts.charts(profile)
    text_of(profile)


@pytest.mark.parametrize("key", ["top_prefixes", "memory_marks", "reasons", "left_out", "breakers"])
def test_entries_of_lists_may_lack_any_key(key):
    profile = profile_example.example()
    place = {"top_prefixes": "prefix", "memory_marks": "cache", "reasons": "verdict"}.get(key)
    (profile[place] if place else profile)[key] = [{}]
    document.document(profile)
    charts.charts(profile)
    text_of(profile)


# --- what it says --------------------------------------------------------------------------------------


def test_the_page_answers_first_and_warns_of_estimates_before_any_table(example_page):
    words = example_page.words.replace("\u00a0", " ")
    order = [
        "About 62.4 % of what you send has been seen before.",
        "38.2 M of 61.2 M input tokens in 12,345 requests",
        "In blocks of 16 tokens, vLLM's default, it is about 61.8 %",
        "On average 23.4 requests are in flight at once, and 187 at the peak",
        "That favours SGLang (moderate confidence); only a replay on your hardware proves it.",
        "Token counts are estimates under the tokenizer cl100k_base",
        "--tokenizer FILE|DIR|NAME",
        "12 input records were set aside as unusable",
        "Your number beside each threshold",
        "A large part of the input repeats 62.4 % 50 % SGLang paper, figure 5",
        "Hit rate by block size",
        "earlier turns of the same session 40.2 %",
        "Hit rate against cache capacity",
        "Llama-3.1-8B on one 80 GB GPU 455.0 k",
        "What breaks sharing",
        "Input lengths",
        "Concurrency over time",
        "time to first token the log has no first-token times",
        "truncated json 12",
        "embedding 410",
        "tz assumed 9,000",
        "notes.txt text lines of no known format",
        "Sum of hit tokens / sum of input tokens",
        "in arrival order, per model",
    ]
    at = 0
    for text in order:
        found = words.find(text, at)
        assert found >= 0, f"{text!r} is not in the page, or not in its place"
        at = found


def test_what_a_trace_lacks_is_said_and_nothing_is_made_up():
    told = document.document(profile_example.lengths_only())
    assert told.answer[0] == "How much of what you send has been seen before cannot be told from this log."
    assert told.answer[-1].startswith("That favours no engine clearly (low confidence)")
    assert any(notice.startswith("Concurrency is an estimate") for notice in told.notices)
    assert {"sharing", "cache", "sessions", "breakers"}.isdisjoint(s.id for s in told.sections)
    assert "left-out" in [s.id for s in told.sections]


def test_a_trace_of_hashes_tells_its_own_block_size():
    told = document.document(profile_example.hash_trace())
    assert told.answer[0] == "46.9 % of what you send has been seen before."
    assert "in whole blocks of 512 tokens" in told.answer[1]
    assert told.figures[0].note == "ceiling for any prefix cache, blocks of 512"
    assert any(
        "Block sizes 1, 16, 32, 64, 128, 256 cannot be told" in p
        for s in told.sections
        for p in s.parts
        if isinstance(p, str)
    )
    assert "1970" not in told.subtitle


def test_one_request_is_told_in_the_singular():
    told = document.document(profile_example.single_request())
    assert told.answer[0] == "Nothing you send has been seen before."
    assert told.subtitle.startswith("1 request, 812 input tokens")
    assert "On average 1 request is in flight at once" in told.answer[2]


def test_a_checked_verdict_says_by_what():
    profile = profile_example.example()
    profile["verdict"]["checked_by"] = "replay"
    assert "a replay on live engines checked it" in answer.favours(profile)
    profile["verdict"]["checked_by"] = "simulation"
    assert "checked by simulation; only a replay" in answer.favours(profile)


def test_charts_come_with_the_numbers_they_need_and_not_without(tmp_path):
    profile = profile_example.example()
    folder = profile_example.write(tmp_path, profile)
    all_of_them = [
        "hit_rate",
        "top_prefixes",
        "hit_rate_over_time",
        "mrc",
        "input_lengths",
        "output_lengths",
        "concurrency",
        "arrivals",
    ]
    assert list(charts.charts(profile, folder)) == all_of_them
    assert list(charts.charts(profile)) == all_of_them[:6]
    assert charts.charts(profile_example.empty()) == {}


def test_sharing_over_time_in_sentences():
    """What a cold cache takes, and what a restart, walls and model swaps cost."""
    profile = profile_example.example()
    warm, restart, walls, churn = over_time.time_facts(profile)
    assert warm.startswith("A cold cache is warm after 1,976 requests, 40 min 11 s")
    assert "loses 811.0 k hit tokens, 1.3 points of the hit rate, made up for within 10 min 11 s" in restart
    assert "every 1 h loses 4.8 points" in restart
    assert walls.endswith("would hit 60.1 % in place of 62.4 %.")
    assert "would be loaded 811 times, which loses 39.6 points" in churn
    profile["prefix"]["warm_up"]["requests"] = 6172
    profile["prefix"]["isolation"]["hit_rate_isolated"] = 0.6243
    slow, _, free, _ = over_time.time_facts(profile)
    assert "never hits as often" in slow
    assert free.endswith("would hit as often, 62.4 %.")
    assert list(over_time.time_facts(profile_example.empty())) == []


def test_replicas_say_how_uneven_they_are_loaded():
    """A hit rate that is kept by sending everything to one replica must not look like a gain."""
    rows = next(
        p for p in serving.replica_parts(profile_example.example()) if isinstance(p, parts.Table)
    ).rows
    assert [[c.text for c in row] for row in rows] == [
        ["round robin", "38.2 %", "19.1 %", "9.6 %", "1.03"],
        ["cache-aware (SGLang's router)", "39.2 %", "40.2 %", "42.2 %", "1.3"],
    ]


def told_of_caches(part):
    console = Console(file=io.StringIO(), width=80)
    caches(part, console)
    return console.file.getvalue()


def test_replicas_fit_80_columns_with_all_policies_and_numbers():
    """No line is broken, no name is cut."""
    rows = [
        {"replicas": n, "policy": policy, "label": label, "hit_rate": 1.0, "load_imbalance": 11.25}
        for policy, label in routing.POLICIES.items()
        for n in lab.REPLICAS
    ]
    told = told_of_caches({"replicas": {"engine": "vllm", "capacity_tokens_each": 477_742, "rows": rows}})
    assert max(map(len, told.splitlines())) == 80
    assert all(f"  {label} " in told for label in routing.POLICIES.values())
    assert told.count(" 11.2 x mean\n") == len(routing.POLICIES)


def test_a_cache_above_the_ceiling_is_explained_where_there_is_one():
    """vllm-mlx and mlx-lm keep one token of an answer more."""
    engines = {
        "infinite": {"hit_rate": 0.5},
        "mlx_lm": {"label": "mlx-lm", "hit_rate": 0.5001},
        "vllm_mlx": {"label": "vllm-mlx", "hit_rate": 0.501},
    }
    assert "mlx-lm and vllm-mlx have more than the infinite cache" in told_of_caches({"engines": engines})
    engines["mlx_lm"]["hit_rate"] = None
    assert "  vllm-mlx has more than the infinite cache" in told_of_caches({"engines": engines})
    engines["vllm_mlx"]["hit_rate"] = 0.5
    assert "more than the infinite" not in told_of_caches({"engines": engines})


def test_charts_are_saved_as_svg_and_png(tmp_path):
    drawn = charts.charts(profile_example.example())
    charts.save_chart(drawn["mrc"], tmp_path / "mrc.svg")
    charts.save_chart(drawn["hit_rate"], tmp_path / "hit.png")
    svg = (tmp_path / "mrc.svg").read_text(encoding="utf-8")
    assert (
        svg.startswith("<svg")
        and "Llama-3.1-8B on one 80 GB GPU" in svg
        and "Hit rate against cache capacity" in svg
    )
    assert (tmp_path / "hit.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(UsageError, match=r"\.svg or \.png"):
        charts.save_chart(drawn["mrc"], tmp_path / "mrc.gif")


def test_json_keeps_the_order_of_the_keys_and_ends_in_a_newline():
    profile = profile_example.example()
    raw = render_json(profile)
    assert raw.endswith(b"}\n") and list(json.loads(raw)) == list(profile) and json.loads(raw) == profile


def test_markdown_says_what_the_page_says():
    told = render_markdown(profile_example.example())
    assert told.startswith("# Traffic profile of assistant-2026-05-04\n")
    assert "\n**About 62.4 % of what you send has been seen before.**\n" in told
    assert "\n> Token counts are estimates" in told
    assert "| 16 (vLLM default) | 37,830,715 | 61.8 % | 69.1 % |" in told
    assert "| --- | ---: | ---: | ---: |" in told


# --- the terminal --------------------------------------------------------------------------------------


def test_the_summary_fits_80_columns_and_is_plain_in_a_pipe(tmp_path):
    profile = profile_example.example()
    told = text_of(profile, folder=profile_example.write(tmp_path, profile))
    lines = told.splitlines()
    assert max(map(len, lines)) <= 80
    assert "\x1b" not in told and not any(line != line.rstrip() for line in lines)
    for text in (
        "About 62.4 % of what you send has been seen before.",
        "  1 (any length)       62.4 %  ███████████████                 69.7 %",
        "     18.2 M     4.8 k     3.8 k  You are a senior software engineer",
        "  mean 23.4  p50 19  p95 80  p99 110  peak 187",
        "Verdict  SGLang, moderate confidence",
        "  - time to first token: the log has no first-token times",
        "Report  out/document.html",
    ):
        assert text in told
    assert re.search(r"^  [▁▂▃▄▅▆▇█]{76}$", told, re.M), "no line of arrivals over time"
    assert re.search(r"^  input +[\d,]+ .* [▁▂▃▄▅▆▇█]{18}$", told, re.M), "no shape of the lengths"


@pytest.mark.parametrize("width", [40, 60, 80, 120, 200])
@pytest.mark.parametrize("name", VARIANTS)
def test_prose_never_runs_over_the_console(name, width):
    console = Console(file=io.StringIO(), width=width)
    summary(profile_example.VARIANTS[name](), console)
    lines = console.file.getvalue().splitlines()
    table = 76  # the tables need this much
    from rich.cells import cell_len

    assert max((cell_len(line) for line in lines), default=0) <= max(width, table)


def test_the_summary_has_colour_on_a_terminal_and_none_under_no_color(monkeypatch):
    assert "\x1b[1m" in text_of(profile_example.example(), color="standard", tty=True)
    monkeypatch.setenv("NO_COLOR", "1")
    file = io.StringIO()
    summary(profile_example.example(), Console(file=file, width=80))
    assert "\x1b" not in file.getvalue()


@pytest.mark.parametrize("name", VARIANTS)
def test_an_ascii_console_gets_ascii(name):
    told = text_of(profile_example.VARIANTS[name](), encoding="ascii")
    assert told.isascii()


def test_a_long_report_path_stays_in_one_piece():
    path = "/very" + "/long" * 40 + "/document.html"
    assert f"Report  {path}\n" in text_of(profile_example.example(), path=path)


# --- text from a log is only ever text -------------------------------------------------------------------


def test_hostile_text_stays_text_in_the_page(tmp_path):
    profile = profile_example.hostile()
    page = Page(render_html(profile, profile_example.write(tmp_path, profile)))
    calm = Page(render_html(profile_example.example(), tmp_path))
    assert {tag for tag, _ in page.tags} == {tag for tag, _ in calm.tags}
    assert len(page.scripts) == len(calm.scripts)
    assert not any(name.startswith("on") for _, attrs in page.tags for name in attrs)
    assert "</script><script>alert(1)</script>" in page.text
    assert not set(page.text) & set("\x1b\x00\x07\x08\u202e\u202c\u2066\u200b\ufeff\x9b")
    assert max(map(len, page.text.split())) < 200
    for attrs, text in page.scripts:
        if attrs.get("type") == "application/json":
            json.loads(text)


def test_only_the_scripts_of_the_page_may_run_and_nothing_may_load(example_page):
    import base64
    import hashlib

    policy = next(
        a["content"] for tag, a in example_page.tags if a.get("http-equiv") == "Content-Security-Policy"
    )
    runnable = [text for attrs, text in example_page.scripts if "type" not in attrs]
    hashes = {f"'sha256-{base64.b64encode(hashlib.sha256(t.encode()).digest()).decode()}'" for t in runnable}
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert set(rules["script-src"].split()) == hashes
    assert rules["default-src"] == "'none'" and "connect-src" not in rules and rules["img-src"] == "data:"


def _strings(value, path=()):
    if isinstance(value, dict):
        for key, item in value.items():
            yield (*path, "key"), key
            yield from _strings(item, (*path, key))
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item, path)
    elif isinstance(value, str):
        yield path, value


def test_charts_take_hostile_text_as_data_values_only(tmp_path):
    profile = profile_example.hostile()
    for chart in charts.charts(profile, profile_example.write(tmp_path, profile)).values():
        for path, text in _strings(chart.to_dict()):
            if "alert" in text or "datum[" in text or "WWWW" in text:
                assert "values" in path or any("data" in str(p) for p in path), f"{path}: {text[:60]}"
                assert path[-1] == "label" and len(text) <= words.PREVIEW_LENGTH


def test_hostile_text_is_plain_on_a_terminal_and_in_markdown():
    profile = profile_example.hostile()
    told = text_of(profile)
    assert "[red]markup[/red]" in told, "read as markup"
    assert not set(told) & set("\x1b\x00\x07\x08\u202e\u2066\x9b")
    marked = render_markdown(profile)
    for line in marked.splitlines():
        outside = re.sub(r"`[^`]*`", "", line)
        assert not re.search(r"(?<!\\)\]\(", outside), "a link"
        assert "<script" not in outside, "markup"
    marked.encode()


# --- the house's rules ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["", ".charts", ".parts", ".words", ".answer", ".html", ".json", ".markdown", ".terminal"]
)
def test_examples_in_docstrings_hold(name):
    module = importlib.import_module(f"traceprof.report{name}")
    assert doctest.testmod(module).failed == 0


def test_altair_and_vl_convert_have_one_home_and_heavy_imports_are_lazy():
    home = Path(document.__file__).parent
    heavy = {"altair", "vl_convert", "polars", "jinja2", "markupsafe", "rich", "orjson"}
    for path in home.rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            names = (
                [a.name for a in node.names]
                if isinstance(node, ast.Import)
                else [node.module or ""]
                if isinstance(node, ast.ImportFrom)
                else []
            )
            if {n.split(".")[0] for n in names} & {"altair", "vl_convert"}:
                assert path.parent.name == "charts"
        top = {
            n.split(".")[0]
            for node in tree.body
            if isinstance(node, ast.Import)
            for n in (a.name for a in node.names)
        }
        assert not top & (heavy - ({"altair"} if path.parent.name == "charts" else set())), path.name


def test_importing_the_forms_imports_nothing_heavy():
    import subprocess

    code = (
        "import sys, traceprof.report.html, traceprof.report.json, traceprof.report.markdown, traceprof.report.terminal\n"
        "print([m for m in ('altair', 'vl_convert', 'polars', 'jinja2', 'rich', 'orjson') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
