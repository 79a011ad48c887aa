"""Virtual engines as live servers: replays against them, what they answer, when, and what they count."""

from __future__ import annotations

import asyncio
import json
import random
import socket
import threading
import time

import numpy as np
import pytest

from tests import replaying
from traceprof import engines
from traceprof.caches import engine
from traceprof.caches.traffic import Traffic
from traceprof.engines import exposition
from traceprof.engines.answers import Received, read_answer
from traceprof.engines.asking import asker
from traceprof.engines.base import Series
from traceprof.errors import TraceprofError, UsageError
from traceprof.replay import server
from traceprof.replay.campaign import Watching, replay
from traceprof.replay.scenario import Contender, Scenario
from traceprof.simulate.cost import Costs
from traceprof.simulate.live import Live
from traceprof.simulate.live_prompts import WORDS, Exact, Pieces
from traceprof.simulate.schedulers import ENGINES, scheduler
from traceprof.simulate.serve import _body, serve, served
from traceprof.tokenizer import encode_requests, load
from traceprof.workloads import Workload

QUICK = Watching(ready_s=20, scrape_s=0, settle_s=5, quiet_s=0.1, calibrate=False)
FAST = Costs(0.0005, 0.00002, 0.0005, 0.0, 0.5, 1e-5, 1e-8, 1e-10, 0.001)
TOKENS = 20_000


def virtual(name, capacity=TOKENS, costs=FAST, **how):
    return served(name, costs, scheduler(name), capacity, model="tiny", **how)


def workload(path, kind, n=50, seed=1):
    """Prompts that share beginnings: as token ids, or as text whose pieces are such tokens."""
    rng = random.Random(seed)
    prompts: list[list[int]] = []
    for _ in range(n):
        old = rng.choice(prompts) if prompts and rng.random() < 0.8 else []
        prompts.append(
            old[: rng.randrange(len(old) + 1)] + [rng.randrange(1000) for _ in range(rng.randrange(1, 90))]
        )
    like, shared = Traffic.of_lists([(p, (), 0, 0) for p in prompts]).shared()
    rows = []
    for i, prompt in enumerate(prompts):
        said = (
            {"prompt_text": None, "prompt_ids": prompt}
            if kind == "ids"
            else {"prompt_text": "".join(f" {t:04}" for t in prompt)}
        )
        rows.append(
            replaying.row(
                i, n=rng.randrange(1, 6), endpoint=kind, input_tokens=len(prompt), model="a",
                prefix_of=None if like[i] < 0 else int(like[i]), prefix_tokens=int(shared[i]), **said,
            )
        )  # fmt: skip
    return replaying.workload(path, rows).path


def run_of(tmp_path, name, url, kind):
    scene = Scenario(
        tmp_path, (workload(tmp_path, kind),), (Contender(name, server.find(url), url),), options={"mode": "closed", "concurrency": 1}
    )  # fmt: skip
    return replay(scene, tmp_path / "r", QUICK).runs[0]


@pytest.mark.parametrize("name", ["vllm", "sglang", "llamacpp", "tensorrt_llm"])
def test_every_hit_of_a_replay_is_as_predicted(tmp_path, name):
    """One request at a time; lengths as asked for, counters = sums, nothing left from before the run."""
    with virtual(name) as url:
        run = run_of(tmp_path, name, url, "ids")
    told = run.told()
    requests = run.requests()
    assert set(requests["outcome"]) == {"ok"}
    assert requests["cached_tokens"].to_list() == requests["predicted_cached_tokens"].to_list()
    assert told["cache"]["told_tokens"] > 400
    assert told["cache"]["unexplained_tokens"] == told["cache"]["prompts_of_other_length"] == 0
    checks = told["counters"]["against_requests"]
    assert all(check["agrees"] for check in checks if check["server"] is not None) and len(checks) >= 4
    assert told["server"]["models"] == ["tiny"] and told["server"]["version"].startswith("traceprof-")
    if name != "llamacpp":  # it tells the context of one slot
        assert told["server"]["capacity_tokens"] == pytest.approx(TOKENS, abs=31)
    if name in ("vllm", "sglang", "llamacpp"):
        assert told["isolation"]["how"].startswith("flush: ") and told["isolation"]["ok"]


@pytest.mark.parametrize("name", ["ollama", "tgi", "lmdeploy", "mlx_lm"])
def test_prompts_as_text_have_the_lengths_and_hits_that_were_planned(tmp_path, name):
    """Where nothing tells a request's hit, the time that its prompt took does: here only what is computed takes any."""
    costs = FAST._replace(step_s=0.0, weight_s=0.0, token_s=1e-5)
    with virtual(name, costs=costs) as url:
        run = run_of(tmp_path, name, url, "completions")
    requests, told = run.requests(), run.told()
    assert set(requests["outcome"]) == {"ok"}
    assert told["cache"]["prompts_of_other_length"] == 0
    assert told["cache"]["predicted_tokens"] > (60 if name == "lmdeploy" else 500)
    if name in ("lmdeploy", "mlx_lm"):
        assert requests["cached_tokens"].to_list() == requests["predicted_cached_tokens"].to_list()
    else:
        assert told["cache"]["told_tokens"] is None


def test_ollama_computes_what_its_model_does_not_find(tmp_path):
    """Its answers tell only how long a prompt took: here a tenth of a millisecond for each token that is computed."""
    costs = Costs(0.0, 0.0, 0.0, 0.0, 0.5, 1e-4, 0.0, 0.0, 0.0)
    rows = [
        row
        for batch in Workload(workload(tmp_path, "completions", 25)).batches(None)
        for row in batch.to_pylist()
    ]
    told = []
    with virtual("ollama", costs=costs) as url:
        ask = asker(url)
        for row in rows:
            body = {"prompt": row["prompt_text"], "raw": True, "stream": False, "options": {"num_predict": 2}}
            answer = ask("POST", "/api/generate", json.dumps(body).encode()).json()
            told.append(answer["prompt_eval_count"] - round(answer["prompt_eval_duration"] / 1e5))
    like = np.array([-1 if row["prefix_of"] is None else row["prefix_of"] for row in rows], np.int64)
    shared, prompt = (
        np.array([row[name] for row in rows], np.int64) for name in ("prefix_tokens", "input_tokens")
    )
    traffic = Traffic.of_shared(like, shared, prompt).answered(np.full(len(rows), 2))
    at = np.arange(len(rows))
    serial = traffic._replace(arrival_us=at, first_us=at, end_us=at)
    assert told == engine("ollama").simulate(serial, TOKENS).hit_tokens.tolist()
    assert sum(told) > 300


@pytest.mark.parametrize("name", ENGINES)
def test_every_engine_is_found_out_by_its_url(name):
    """And is ready, lists its model, and says what it holds where it says so."""
    with virtual(name) as url:
        found = server.find(url)
        assert found.name == name
        assert server.ready(found, url, 5) < 5
        assert server.models(found, url) == ["tiny"]
        if found.capacity:
            held = server.capacity(found, url).tokens
            assert held in (TOKENS, TOKENS // 32 * 32, TOKENS * scheduler(name).max_seqs)
        if found.flush is not None:
            assert server.flush(found, url, model="tiny").ok


PARTS = [
    (name, endpoint.path, endpoint.dialect)
    for name in ENGINES
    for endpoint in engines.engine(name).endpoints.values()
    if endpoint.dialect not in ("responses", "messages")
]


@pytest.mark.parametrize(("name", "path", "dialect"), sorted(set(PARTS)))
@pytest.mark.parametrize("stream", [True, False])
def test_every_way_to_ask_is_answered_in_its_own_dialect(name, path, dialect, stream):
    """Five tokens, their counts, the reason of the end; the same with and without a stream."""
    text = "What is an engine?"
    body = {"model": "tiny", "stream": stream, "max_tokens": 5, "stream_options": {"include_usage": True}}
    if path.endswith("/chat/completions") or path == "/api/chat":
        body["messages"] = [{"role": "user", "content": text}]
    elif dialect == "lmdeploy":
        body["input_ids"] = [1, 2, 3]
    else:
        body |= {"prompt": text, "inputs": text, "raw": True}
    body |= {"options": {"num_predict": 5}, "parameters": {"max_new_tokens": 5, "details": True}}
    if dialect == "tgi" and not stream:
        path = path.removesuffix("_stream")
    with virtual(name) as url:
        reply = asker(url)("POST", path, json.dumps(body).encode())
    answer = read_answer(dialect, reply.status, reply.headers["content-type"], [Received(reply.body, 1)])
    assert (answer.outcome, answer.output_tokens, answer.finish_reason) == ("ok", 5, "length")
    assert len(answer.chunk_chars) == (5 if stream else 1)
    assert answer.text == "".join(WORDS[WORDS.index(f" {word}")] for word in answer.text.split())
    prompts = Pieces()
    expected = prompts.chat(body["messages"], None) if "messages" in body else prompts.text(text)
    assert answer.input_tokens == (3 if dialect == "lmdeploy" else len(expected) // 8)
    tells = (
        engines.engine(name).cached != "never"
        and name != "vllm_mlx"
        and dialect not in ("lmdeploy", "ollama")
    )
    assert answer.cached_tokens == (0 if tells and name not in ("ollama", "tgi") else None)


@pytest.mark.parametrize(
    ("name", "status", "kind"),
    [
        ("vllm", 400, "BadRequestError"), ("sglang", 400, "BadRequestError"), ("llamacpp", 400, "exceed_context_size_error"),
        ("tgi", 422, "validation"), ("ollama", 200, None), ("mlx_lm", 200, None),
    ],
)  # fmt: skip
def test_prompts_that_are_too_long_are_refused_as_the_engine_does(name, status, kind):
    """Ollama cuts them, mlx-lm has no limit."""
    messages = [{"role": "user", "content": "word " * 900}]
    with virtual(name, 512) as url:
        reply = asker(url)(
            "POST", "/v1/chat/completions", json.dumps({"messages": messages, "max_tokens": 2}).encode()
        )
    answer = read_answer("chat", reply.status, "application/json", [Received(reply.body, 1)])
    assert (reply.status, answer.error_type) == (status, kind)
    if name == "ollama":
        assert answer.input_tokens == 510


@pytest.mark.parametrize(
    "body",
    [b"{bad", b"[]", b'{"max_tokens": 2}', b'{"prompt": "a", "max_tokens": -5}', b'{"prompt": ["a", "b"]}', b'{"prompt": [1, "x"]}',
     b'{"prompt": ""}', b'{"prompt": "a", "max_tokens": "many"}'],
)  # fmt: skip
def test_what_is_no_request_is_refused(body):
    """With a status of the client's fault, and the connection goes on."""
    with virtual("vllm") as url:
        ask = asker(url)
        assert ask("POST", "/v1/completions", body).status == 400
        assert ask("POST", "/v1/completions", b'{"prompt": "a", "max_tokens": 1}').status == 200
        assert ask("GET", "/nothing", None).status == 404


def test_models_that_are_not_there_are_answered_as_the_engine_does():
    """vLLM refuses, llama.cpp answers with the one that is loaded, SGLang under the name that was asked for."""
    body = b'{"prompt": "a", "max_tokens": 1, "model": "other"}'
    for name, status, said in (("vllm", 404, None), ("llamacpp", 200, "tiny"), ("sglang", 200, "other")):
        with virtual(name) as url:
            reply = asker(url)("POST", "/v1/completions", body)
            assert (reply.status, reply.json().get("model")) == (status, said)


def test_a_salt_parts_the_cache_and_a_flush_empties_it():
    """Equal prompts: found under their own salt only, and after a flush not at all."""
    with virtual("vllm") as url:
        ask = asker(url)

        def cached(**more):
            body = {"prompt": list(range(100)), "max_tokens": 1, **more}
            told = ask("POST", "/v1/completions", json.dumps(body).encode()).json()
            return told["usage"]["prompt_tokens_details"]["cached_tokens"]

        assert [
            cached(),
            cached(),
            cached(cache_salt="a"),
            cached(cache_salt="a"),
            cached(cache_salt="b"),
        ] == [0, 96, 0, 96, 0]
        assert ask("POST", "/reset_prefix_cache", b"").json() == {"success": True}
        assert cached() == 0


def test_a_chat_that_goes_on_finds_what_it_was_told():
    """What was answered stands in the next turn: all of the first turn is known, but for the template's end of it."""
    with virtual("sglang") as url:
        ask = asker(url)
        messages = [{"role": "user", "content": "Tell me something about engines."}]
        body = {"messages": messages, "max_tokens": 20}
        first = ask("POST", "/v1/chat/completions", json.dumps(body).encode()).json()
        messages += [first["choices"][0]["message"], {"role": "user", "content": "More!"}]
        second = ask("POST", "/v1/chat/completions", json.dumps(body).encode()).json()
    usage = first["usage"]
    assert second["usage"]["prompt_tokens_details"]["cached_tokens"] == usage["total_tokens"] - 1


def test_the_model_s_own_tokenizer_counts():
    """Prompts have the lengths of `traceprof.tokenizer`."""
    tokenizer = load()
    messages = [{"role": "user", "content": "Wie schnell ist eine Maschine, die es nicht gibt?"}]
    with virtual("vllm", tokenizer=Exact(tokenizer)) as url:
        body = {"messages": messages, "max_tokens": 3}
        told = asker(url)("POST", "/v1/chat/completions", json.dumps(body).encode()).json()
    assert told["usage"]["prompt_tokens"] == len(encode_requests(tokenizer, [json.dumps(messages)]).input.ids)


def test_a_client_that_leaves_makes_room():
    """Its request stops, and the next one runs though only one may."""
    slow = FAST._replace(step_s=0.01)
    with served("vllm", slow, scheduler("vllm", max_seqs=1), 5000, model="tiny") as url:
        host, port = url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as left:
            body = b'{"prompt": "a", "max_tokens": 4000, "stream": true}'
            left.sendall(
                b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%s"
                % (len(body), body)
            )
            assert b"200 OK" in left.recv(100)
        ask = asker(url, timeout_s=60)
        assert ask("POST", "/v1/completions", b'{"prompt": "b", "max_tokens": 1}').ok
        counted = exposition.parse(ask("GET", "/metrics", None).body.decode())
        assert 1 < exposition.total(Series("vllm:generation_tokens_total"), counted) < 4000
        assert exposition.total(Series("vllm:request_success_total"), counted) == 1


def test_no_step_is_over_before_its_time():
    """100 tokens of 5 ms, after 50 ms outside the engine."""
    costs = Costs(0.005, 0.0, 0.0, 0.0, 0.5, 0.0, 0.0, 0.0, 0.05)
    with virtual("vllm", costs=costs) as url:
        ask = asker(url)
        begun = time.monotonic()
        assert ask("POST", "/v1/completions", b'{"prompt": [1], "max_tokens": 100}').ok
        assert time.monotonic() - begun >= 0.55


def test_it_counts_while_requests_run():
    """Running, waiting and memory, as they are between two steps."""
    slow = FAST._replace(step_s=0.05)
    with served("llamacpp", slow, scheduler("llamacpp", max_seqs=1), 1000, model="tiny") as url:
        ask = asker(url, timeout_s=60)
        body = b'{"prompt": [1, 2, 3], "max_tokens": 40}'
        threads = [threading.Thread(target=ask, args=("POST", "/completion", body)) for _ in range(3)]
        for thread in threads:
            thread.start()
        end = time.monotonic() + 30
        said = ""
        while "requests_deferred 2" not in said and time.monotonic() < end:
            said = ask("GET", "/metrics", None).body.decode()
        assert "llamacpp:requests_processing 1" in said and "llamacpp:requests_deferred 2" in said
        assert [slot["is_processing"] for slot in ask("GET", "/slots", None).json()["items"]] == [True]
        assert ask("POST", "/slots/0?action=erase", b"").status == 503
        assert ask("POST", "/slots/1?action=erase", b"").status == ask("POST", "/slots/0", b"").status == 400
        for thread in threads:
            thread.join()


def test_it_ends_when_told_and_says_what_it_did():
    """Requests, steps, and by how much a step was late at most."""
    stop = threading.Event()

    def began(url):
        def ask():
            asker(url)("POST", "/v1/completions", b'{"prompt": [1], "max_tokens": 7}')
            stop.set()

        threading.Thread(target=ask).start()

    done = serve("vllm", FAST, scheduler("vllm"), 1000, stop=stop, began=began, speed=10)
    assert done.requests == 1 and done.steps == 7 and done.late_s >= 0


def test_what_cannot_be_served_is_said():
    """No engine of that name, a port that is taken, no room, no time."""
    with pytest.raises(UsageError, match="cannot be served"):
        serve("litellm", FAST, scheduler("vllm"), 1000)
    with pytest.raises(UsageError, match="no request has room"):
        serve("vllm", FAST, scheduler("vllm"), 16)
    with pytest.raises(UsageError, match="speed"):
        serve("vllm", FAST, scheduler("vllm"), 1000, speed=0)
    with pytest.raises(UsageError, match="no option page_size"):
        serve("vllm", FAST, scheduler("vllm"), 1000, cache={"page_size": 2})
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(TraceprofError, match=f"cannot listen on 127.0.0.1:{port}"):
            serve("vllm", FAST, scheduler("vllm"), 1000, port=port)


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_requests_are_read_however_they_are_cut(size):
    """Two in one piece, a body in chunks, byte by byte."""
    body = b'{"prompt": [1, 2], "max_tokens": 1}'
    whole = b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
    parts = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (body[:10], body[10:])) + b"0\r\n\r\n"
    chunked = (
        b"POST /v1/completions HTTP/1.1\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n" + parts
    )
    asks = whole.replace(b"Host: a", b"Expect: 100-continue")
    sent = whole + asks + chunked
    with virtual("vllm") as url:
        host, port = url.removeprefix("http://").split(":")

        async def ask():
            reader, writer = await asyncio.open_connection(host, int(port))
            for i in range(0, len(sent), size):
                writer.write(sent[i : i + size])
                await writer.drain()
            said = await reader.read()
            writer.close()
            return said

        said = asyncio.run(ask())
    assert (
        said.count(b"HTTP/1.1 200 OK") == 3
        and said.count(b"HTTP/1.1 100 Continue") == 1
        and said.count(b'"completion_tokens":1') == 3
    )


def test_bodies_that_are_no_bodies():
    """Too large, or chunks whose size is no number."""
    assert _body(bytearray(b"zz\r\n"), 0, {"transfer-encoding": "chunked"}) == (None, -1)
    assert _body(bytearray(), 0, {"content-length": "99999999999"}) == (None, -1)
    assert _body(bytearray(b"abc"), 0, {"content-length": "5"}) == (None, 0)


def test_when_slots_run_full_streams_end_with_an_error():
    """llama.cpp: the status was 200 already, so it stands in the stream; one that has not begun gets the status."""
    with served("llamacpp", FAST, scheduler("llamacpp", max_seqs=2), 60, model="tiny") as url:
        ask = asker(url)
        replies = []

        def one(n):
            body = {"prompt": [n] * 20, "max_tokens": 40, "stream": True}
            replies.append(ask("POST", "/v1/completions", json.dumps(body).encode()))

        threads = [threading.Thread(target=one, args=(n,)) for n in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        answers = [
            read_answer("completions", r.status, r.headers["content-type"], [Received(r.body, 1)])
            for r in replies
        ]
        assert {answer.error_type for answer in answers} == {"server_error"}
        assert ask("POST", "/v1/completions", b'{"prompt": [1], "max_tokens": 1}').ok


def test_texts_may_hold_halves_of_characters():
    """As traces do now and then."""
    with virtual("vllm") as url:
        body = b'{"messages": [{"role": "user", "content": "a \\ud83d b"}], "max_tokens": 1}'
        assert asker(url)("POST", "/v1/chat/completions", body).ok


def test_a_fault_of_its_own_ends_it(monkeypatch):
    """Instead of leaving clients without an answer."""

    def broken(_):
        raise ZeroDivisionError("a fault")

    monkeypatch.setattr(Live, "end", broken)
    with pytest.raises(ZeroDivisionError):
        serve(
            "vllm", FAST, scheduler("vllm"), 1000,
            began=lambda url: threading.Thread(
                target=asker(url), args=("POST", "/v1/completions", b'{"prompt": [1], "max_tokens": 7}'), daemon=True
            ).start(),
        )  # fmt: skip


@pytest.mark.parametrize("name", ENGINES)
def test_text_that_goes_on_has_tokens_that_go_on(name):
    """Pieces: what was answered is found again in a longer text, token by token."""
    prompts = Pieces()
    text = "Tell me:\n"
    answer = "".join(random.Random(name).choices(WORDS, k=30))
    begun = prompts.text(text) + b"".join(
        prompts.vocabulary[WORDS.index(f" {word}")] for word in answer.split()
    )
    assert prompts.text(text + answer + "<|im_end|>\n").startswith(begun)


def test_a_client_of_http_1_0_is_answered_and_left():
    """As `ab` is."""
    with virtual("vllm") as url:
        host, port = url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as client:
            client.sendall(b"GET /v1/models HTTP/1.0\r\n\r\n")
            said = b"".join(iter(lambda: client.recv(4096), b""))
    assert said.startswith(b"HTTP/1.1 200 OK") and b'"tiny"' in said
