"""Counters of engines: the exposition's grammar, differences of real servers' counters, and what they are held against."""

from __future__ import annotations

import math
import time
from pathlib import Path

import polars as pl
import pytest
from answering import answering
from hypothesis import given
from hypothesis import strategies as st

from traceprof import engines, schema
from traceprof.engines.base import Series
from traceprof.engines.exposition import Sample, factor, labels_of, parse, present, total
from traceprof.replay import scrape
from traceprof.replay.scrape import AFTER, BEFORE, DURING, Row, Scraper, counted, reconcile
from traceprof.results import Run, new_run, write_manifest

DATA = Path(__file__).parent / "data" / "metrics"

# ---- the grammar

labels = st.dictionaries(
    st.from_regex(r"[a-z_][a-z0-9_]{0,6}", fullmatch=True),
    st.text(st.characters(exclude_characters="\r"), max_size=6),
    max_size=3,
)
samples = st.builds(
    Sample,
    st.from_regex(r"[a-z_:][a-z0-9_:]{0,8}", fullmatch=True),
    labels.map(lambda d: tuple(sorted(d.items()))),
    st.floats(allow_nan=False) | st.integers(0, 10**12).map(float),
)


@given(st.lists(samples, max_size=6), st.sampled_from(["", " 1700000000000"]))
def test_what_is_written_is_read(written, stamp):
    """Any labels, quotes, backslashes and line ends in them; with and without time stamps."""
    text = "".join(f"# HELP {s.name} x\n{s.name}{{{s.key}}} {s.value!r}{stamp}\n" for s in written)
    assert parse(text) == written
    assert [labels_of(s.key) for s in written] == [s.labels for s in written]


@pytest.mark.parametrize(
    "line, value",
    [
        ("a 1", 1.0),
        ("a{} 1", 1.0),
        ('a{b="c",} 1', 1.0),
        ("  a\t2e3  ", 2000.0),
        ("a +Inf", math.inf),
        ("a -Inf", -math.inf),
        ('a{b="c"} 4 # {trace_id="x"} 0.5', 4.0),  # an exemplar
        ("a 1\r", 1.0),
    ],
)
def test_every_form_of_a_sample_is_read(line, value):
    """As Prometheus's and OpenMetrics' texts have them."""
    assert [s.value for s in parse(line)] == [value]


@pytest.mark.parametrize(
    "line",
    [
        "",
        "# TYPE a gauge",
        "# HELP a counter",
        "a",
        "a b",
        "1a 2",
        'a{b="c" 1',
        "a{b=c} 1",
        "a 1.2.3",
        "a 1x",
        "{} 1",
    ],
)
def test_lines_that_are_no_samples_are_left_out(line):
    """Comments, cut lines, and what is no number."""
    assert parse(line) == []


def test_a_counter_that_is_announced_and_has_no_sample_has_counted_nothing():
    """As Prometheus's clients write one with labels before its first count; OpenMetrics leaves out `_total` in the announcement."""
    told = "# TYPE a_total counter\n# TYPE b counter\nb_total 2\n# TYPE c counter\nc 3\n# TYPE g gauge\n"
    assert [(s.name, s.value) for s in parse(told)] == [("b_total", 2.0), ("c", 3.0), ("a_total", 0.0)]


@given(st.sampled_from(sorted(DATA.glob("*.txt"))), st.data())
def test_damage_to_an_exposition_never_raises(path, data):
    """Characters changed, cut out and put in; lines that were not touched are read as before."""
    text = path.read_text()
    at = data.draw(st.integers(0, len(text) - 1))
    damaged = text[:at] + data.draw(st.text(max_size=3)) + text[at + data.draw(st.integers(0, 3)) :]
    assert len(parse(damaged)) >= len(parse(text)) - 3


@given(st.lists(samples, max_size=8))
def test_a_series_is_summed_over_labels_that_it_does_not_name(found):
    """Against a loop over dictionaries."""
    for one in found:
        for name, value in one.labels:
            series = Series(one.name, {name: (value,)})
            expected = sum(s.value for s in found if s.name == one.name and dict(s.labels).get(name) == value)
            assert total(series, found) == expected or math.isnan(expected)
    if found:
        assert present({"x": (Series("0"), Series(found[0].name))}, found)["x"].name == found[0].name


def test_a_factor_is_a_value_or_a_label_and_words_are_none():
    """vLLM's cache_config_info has numbers and None in its labels."""
    found = parse((DATA / "vllm.after.txt").read_text())
    assert factor("vllm:cache_config_info@kv_cache_size_tokens", found) == [524288.0]
    assert factor("vllm:cache_config_info@num_cpu_blocks", found) == []
    assert factor("vllm:prompt_tokens_total", found) == [1450.0]
    assert factor("vllm:none", found) == []


# ---- real servers' counters


def rows_of(name: str) -> list[Row]:
    """Rows of a scrape before and one after."""
    return [
        Row(at_us, phase, s.name, s.key, s.value)
        for at_us, phase in ((-1000, BEFORE), (9000, AFTER))
        for s in parse((DATA / f"{name}.{phase}.txt").read_text())
    ]


CACHED = {  # what the three requests were told, from prefix_summary.json of the same servers
    "vllm": (0, 384, 384),
    "sglang": (3, 423, 423),
    "llamacpp": (0, 423, 423),
    "dynamo": (0, 384, 384),
    "litellm": (0, 423, 423),
}


def requests_of(cached, **changes) -> pl.DataFrame:
    """The three requests of tests/data/metrics as a run would have recorded them."""
    rows = [
        {
            "index": i, "request_id": str(i), "warmup": False, "attempt": 0, "scheduled_us": 0, "intended_us": 0, "sent_us": 1, "end_us": 9,
            "chunk_us": [], "chunk_chars": [], "outcome": "ok", "input_tokens": asked, "output_tokens": 4, "cached_tokens": told,
            "cached_state": "absent" if told is None else "told", "tokens_source": "usage", "bytes_sent": 1, "bytes_received": 1,
        } | {name: values[i] for name, values in changes.items()}
        for i, (asked, told) in enumerate(zip((434, 435, 433), cached, strict=True))
    ]  # fmt: skip
    import pyarrow as pa

    frame = pl.from_arrow(pa.Table.from_pylist(rows, schema=schema.arrow(schema.RESULT_REQUESTS)))
    assert isinstance(frame, pl.DataFrame)
    return frame


@pytest.mark.parametrize("name", sorted(CACHED))
def test_real_counters_agree_with_what_the_requests_were_told(name):
    """Prompt tokens (llama.cpp leaves cached ones out), cached and generated tokens, requests; and the hit rate that follows."""
    engine = engines.engine(name)
    found = counted(engine, rows_of(name))
    cached = CACHED[name]
    assert found.deltas["prompt_tokens"] == 434 + 435 + 433
    assert found.deltas["cached_tokens"] == sum(cached)
    assert found.deltas["generated"] == 12
    assert found.hit_rate == sum(cached) / 1302
    checks = {check["what"]: check for check in reconcile(engine, rows_of(name), requests_of(cached))}
    for what in ("prompt tokens", "cached tokens", "generated tokens"):
        assert checks[what] == {
            "what": what,
            "client": checks[what]["server"],
            "server": checks[what]["server"],
            "agrees": True,
            "note": None,
        }
    if name == "llamacpp":
        assert checks["requests"]["agrees"] is None and "does not count" in checks["requests"]["note"]
    else:
        assert (checks["requests"]["server"], checks["requests"]["agrees"]) == (3, True)
    assert ("tokens found" in checks) == (name == "vllm")


def test_the_gauge_that_looks_like_a_hit_rate_is_not_taken():
    """SGLang's cache_hit_rate stood at 0.98 where 0.65 of the tokens were cached."""
    found = counted(engines.engine("sglang"), rows_of("sglang"))
    gauge = next(s.value for s in parse((DATA / "sglang.after.txt").read_text()) if "hit_rate" in s.name)
    assert found.hit_rate is not None and abs(found.hit_rate - gauge) > 0.3


def test_a_server_that_tells_no_cached_tokens_per_request_still_has_a_hit_rate():
    """vLLM without --enable-prompt-tokens-details: null, not zero, with what to do about it."""
    engine, rows = engines.engine("vllm"), rows_of("vllm_untold")
    assert counted(engine, rows).hit_rate == 768 / 1302
    check = next(c for c in reconcile(engine, rows, requests_of((None,) * 3)) if c["what"] == "cached tokens")
    assert (check["client"], check["server"], check["agrees"]) == (None, 768, None)
    assert "--enable-prompt-tokens-details" in check["note"]


def cached_check(rows, requests):
    """The line on cached tokens."""
    return next(c for c in reconcile(engines.engine("vllm"), rows, requests) if c["what"] == "cached tokens")


def test_disagreement_is_said_and_who_may_be_the_cause():
    """More on the server: others; less: something is wrong with its counters."""
    rows = rows_of("vllm")
    fewer = cached_check(rows, requests_of((0, 384, 0)))
    assert (fewer["client"], fewer["server"], fewer["agrees"]) == (384, 768, False)
    assert "something else uses it" in fewer["note"]
    more = cached_check(rows, requests_of((384, 384, 384)))
    assert more["agrees"] is False and "less than it told" in more["note"]


def test_failed_requests_and_silent_ones_leave_it_open():
    """The engine may have counted a request that was cut off; but it cannot have counted less."""
    rows = rows_of("vllm")
    failed = cached_check(rows, requests_of((0, 384, None), outcome=["ok", "ok", "reset"]))
    assert failed["agrees"] is None and failed["note"].startswith("1 attempts did not end well")
    silent = cached_check(rows, requests_of((0, 384, None)))
    assert silent["agrees"] is None and silent["note"].startswith("1 of 3 requests were not told")
    retried = cached_check(rows, requests_of((0, 384, 0), attempt=[0, 1, 0]))
    assert retried["agrees"] is None
    too_many = cached_check(rows, requests_of((384, 384, 384), outcome=["ok", "ok", "reset"]))
    assert too_many["agrees"] is False


def test_requests_that_were_never_sent_are_not_expected():
    """A run that was stopped."""
    frame = requests_of((0, 384, 384), sent_us=[1, 1, None], outcome=["ok", "ok", "cancelled"])
    check = next(
        c for c in reconcile(engines.engine("vllm"), rows_of("vllm"), frame) if c["what"] == "requests"
    )
    assert check["client"] == 2 and check["agrees"] is False


def test_counters_that_are_counted_by_us_are_no_word_of_the_engine():
    """A tokenizer's counts are not held against the engine's."""
    frame = requests_of((None,) * 3, tokens_source=["counted"] * 3)
    check = next(
        c
        for c in reconcile(engines.engine("vllm"), rows_of("vllm"), frame)
        if c["what"] == "generated tokens"
    )
    assert (check["client"], check["agrees"]) == (None, None)


def test_a_counter_that_fell_is_no_difference():
    """A server that was started anew during the run."""
    rows = [
        r._replace(value=1e6) if r.phase == BEFORE and "cached_total" in r.name else r
        for r in rows_of("vllm")
    ]
    found = counted(engines.engine("vllm"), rows)
    assert found.fell == ("vllm:prompt_tokens_cached_total",) and found.hit_rate is None
    note = cached_check(rows, requests_of((0, 384, 384)))["note"]
    assert note.startswith("vllm:prompt_tokens_cached_total fell during the run")


def test_a_counter_before_its_first_count_was_zero_if_the_server_was_asked():
    """Counters with labels appear with their first count."""
    rows = [r for r in rows_of("sglang") if not (r.phase == BEFORE and "cached" in r.name)]
    assert counted(engines.engine("sglang"), rows).deltas["cached_tokens"] == 889
    unasked = [r for r in rows if r.phase != BEFORE]
    assert counted(engines.engine("sglang"), unasked).deltas == {}


def test_an_old_llamacpp_that_does_not_count_cached_tokens_has_no_prompt_tokens_either():
    """Its counter leaves out how many were cached, so the sum is not known."""
    rows = [r for r in rows_of("llamacpp") if "cached" not in r.name]
    assert "prompt_tokens" not in counted(engines.engine("llamacpp"), rows).deltas


def test_an_engine_without_counters_says_so():
    """mlx-lm."""
    engine = engines.engine("mlx_lm")
    checks = reconcile(engine, [], requests_of((3, 423, 423)))
    assert [(c["server"], c["agrees"]) for c in checks] == [(None, None)] * 4
    assert all(c["note"] == "mlx-lm does not count them" for c in checks)


# ---- the scraper


def exposition(prompt: int, cached: int, running: int = 0) -> bytes:
    """vLLM's, in short."""
    return (
        f'vllm:prompt_tokens_total{{engine="0"}} {prompt}\nvllm:prompt_tokens_cached_total{{engine="0"}} {cached}\n'
        f'vllm:num_requests_running{{engine="0"}} {running}\nvllm:prompt_tokens_created 1.7e9\nprocess_open_fds 7\n'
    ).encode()


def test_a_scraper_reads_before_during_and_after_and_waits_for_counters_that_lag():
    """Times since the run's start; only what has a meaning during the run; the last count, though it comes late."""
    with answering({"GET /metrics": (200, exposition(100, 10))}) as server:
        scraper = Scraper(server.url, engines.engine("vllm"), api_key="secret")
        scraper.before()
        zero_ns = time.monotonic_ns()
        scraper.start(0.02, zero_ns)
        server.answers["GET /metrics"] = (200, exposition(150, 10, running=2))
        while sum(1 for one in server.asked) < 5:
            time.sleep(0.01)
        late = iter([exposition(150, 10)] * 2 + [exposition(300, 130)] * 1000)
        server.answers["GET /metrics"] = lambda: (200, next(late))
        rows = scraper.after(settle_s=20, quiet_s=0.3)
        assert all(headers["authorization"] == "Bearer secret" for *_, headers in server.asked)
    assert scraper.trouble is None and scraper.missed == 0
    phases = [row.phase for row in rows]
    assert phases == sorted(phases, key=[BEFORE, DURING, AFTER].index)
    assert all((row.at_us < 0) == (row.phase == BEFORE) for row in rows)
    assert "process_open_fds" in {r.name for r in rows if r.phase == BEFORE}
    assert "process_open_fds" not in {r.name for r in rows if r.phase == DURING}
    assert not any(row.name.endswith("_created") for row in rows)
    found = counted(engines.engine("vllm"), rows)
    assert found.deltas == {"prompt_tokens": 200, "cached_tokens": 120}
    assert found.gauges["running"]["max"] == 2


def test_counters_of_several_engines_behind_a_router_are_summed_and_shares_averaged():
    """At their own addresses and paths, without the router's key; each reading is of all of them or of none."""
    usage = b'vllm:kv_cache_usage_perc{engine="0"} 0.%d\n'
    with (
        answering({"GET /metrics": (200, exposition(100, 10, 1) + usage % 2)}) as a,
        answering({"GET /own/path": (200, exposition(7, 0, 2) + usage % 6)}) as b,
    ):
        scraper = Scraper(
            "http://127.0.0.1:9",
            engines.engine("vllm"),
            api_key="secret",
            metrics=(a.url, f"{b.url}/own/path"),
        )
        scraper.before()
        scraper.start(0.01, time.monotonic_ns())
        while len(b.asked) < 3:
            time.sleep(0.01)
        a.answers["GET /metrics"] = (200, exposition(150, 30))
        b.answers["GET /own/path"] = (200, exposition(57, 40))
        rows = scraper.after(settle_s=5, quiet_s=0.1)
        assert not any("authorization" in headers for *_, headers in a.asked + b.asked)
    found = counted(engines.engine("vllm"), rows)
    assert found.deltas == {"prompt_tokens": 100, "cached_tokens": 60}
    assert found.gauges["running"]["max"] == 3
    assert found.gauges["kv_usage"]["max"] == pytest.approx(0.4)
    instances = {dict(labels_of(row.labels))["instance"] for row in rows}
    assert {f"http://{one}" for one in instances} == {a.url, b.url}


def test_a_sum_over_some_of_several_engines_is_none():
    """One of two is not there."""
    with answering({"GET /metrics": (200, exposition(100, 10))}) as one:
        scraper = Scraper(one.url, engines.engine("vllm"), metrics=(one.url, "http://127.0.0.1:9"))
        scraper.before()
        assert "vLLM's /metrics at 127.0.0.1:9 did not answer" in (scraper.trouble or "")
        assert scraper.after(settle_s=1, quiet_s=0) == []


def test_a_server_without_counters_gives_no_rows_and_says_what_it_needs():
    """SGLang without --enable-metrics answers 404."""
    with answering() as server:
        scraper = Scraper(server.url, engines.engine("sglang"))
        scraper.before()
        scraper.start(0.01, time.monotonic_ns())
        assert scraper.after(settle_s=1, quiet_s=0) == []
    assert scraper.trouble is not None
    assert "404" in scraper.trouble and "--enable-metrics" in scraper.trouble
    assert len(server.asked) == 1


def test_an_engine_that_has_no_counters_is_not_asked():
    """And a run goes on without."""
    with answering() as server:
        scraper = Scraper(server.url, engines.engine("mlx_lm"))
        scraper.before()
        scraper.start(0.01, time.monotonic_ns())
        assert scraper.after() == []
        assert scraper.trouble == "mlx-lm has no counters" and scraper.missed == 0
        assert server.asked == []


def test_counters_behind_a_slash_are_found():
    """Where they are mounted, the path without it is redirected."""
    moved = (307, b"", {"Location": "/metrics/"})
    with answering({"GET /metrics": moved, "GET /metrics/": (200, exposition(1, 0))}) as server:
        scraper = Scraper(server.url, engines.engine("vllm"))
        scraper.before()
        scraper.start(0, time.monotonic_ns())
        assert {row.phase for row in scraper.after(settle_s=1, quiet_s=0)} == {BEFORE, AFTER}
        assert [path for _, path, *_ in server.asked][:3] == ["/metrics", "/metrics/", "/metrics/"]


def test_a_server_that_dies_during_a_run_leaves_what_was_read():
    """No exception, scrapes that were missed are counted, and nothing is called a difference."""
    with answering({"GET /metrics": (200, exposition(100, 10))}) as server:
        scraper = Scraper(server.url, engines.engine("vllm"))
        scraper.before()
        scraper.start(0.01, time.monotonic_ns())
        while len(server.asked) < 3:
            time.sleep(0.01)
    rows = scraper.after(settle_s=0.1, quiet_s=0)
    assert {row.phase for row in rows} == {BEFORE, DURING}
    assert scraper.missed >= 1 and "could not be read" in (scraper.trouble or "")
    assert counted(engines.engine("vllm"), rows).deltas == {}


def test_labels_that_say_who_asked_are_not_kept():
    """LiteLLM labels its counters with hashes of keys, users and addresses."""
    body = (DATA / "litellm.after.txt").read_bytes()
    assert b"hashed_api_key" in body
    with answering({"GET /metrics/": (200, body)}) as server:
        scraper = Scraper(server.url, engines.engine("litellm"))
        scraper.before()
        scraper.start(0, time.monotonic_ns())
        rows = scraper.after(settle_s=1, quiet_s=0)
    assert {row.phase for row in rows} == {BEFORE, AFTER}
    kept = {name for row in rows for name, _ in labels_of(row.labels)}
    assert "requested_model" in kept
    assert not kept & {"hashed_api_key", "user", "end_user", "client_ip", "team", "user_agent"}
    assert counted(engines.engine("litellm"), rows).deltas["prompt_tokens"] == 0


def test_rows_are_read_as_they_were_written(tmp_path):
    """scrapes.parquet with the columns of the schema; no file where there are no rows."""
    run = new_run(write_manifest(tmp_path / "results", {}), 0, "a")
    scrape.write(run, [])
    assert scrape.read(run) == []
    rows = rows_of("dynamo")
    scrape.write(run, rows)
    assert scrape.read(Run(run.path)) == rows
    assert pl.read_parquet(run.path / "scrapes.parquet").columns == [c.name for c in schema.RESULT_SCRAPES]
