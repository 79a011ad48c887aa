"""What is known of engines, the bodies that it makes, and the questions that servers are asked."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from answering import answering, certificate_in

from traceprof import caches, engines
from traceprof.engines.answers import DIALECTS
from traceprof.engines.asking import asker
from traceprof.engines.base import GAUGES, MEANINGS, OUTPUT
from traceprof.engines.bodies import constrained, endpoint_of, request_of
from traceprof.errors import TraceprofError, UsageError
from traceprof.replay import server
from traceprof.replay.scrape import Scraper

DATA = Path(__file__).parent / "data"
ALL = [engines.engine(name) for name in engines.NAMES]
by_name = pytest.mark.parametrize("engine", ALL, ids=lambda engine: engine.name)


# ---- the records


@by_name
def test_every_record_is_whole(engine):
    """Names, dialects, models of caches, and sentences without an end of line."""
    assert engine.checked and engine.label
    assert "chat" in engine.endpoints
    for name, endpoint in engine.endpoints.items():
        assert endpoint.dialect in DIALECTS
        assert endpoint.path.startswith("/") and engine.ready.startswith("/")
        assert name in ("chat", "completions", "ids", "responses", "messages", "native", "generate")
    assert engine.cache is None or engine.cache in caches.ENGINES
    for sentence in (*engine.notes, *engine.unverified):
        assert sentence == sentence.strip() and not sentence.endswith(".") and "\n" not in sentence
    if engine.telemetry is not None:
        assert engine.telemetry.series.keys() <= set(MEANINGS)
        named = {series.name for choices in engine.telemetry.series.values() for series in choices}
        assert not any(text.split()[0] in named for text in engine.telemetry.misleading)


@by_name
def test_what_was_not_run_says_so(engine):
    """Facts are from a running server, or their record says that they are not."""
    ran = " run" in engine.checked
    assert ran or engine.name == "openai" or any(text.startswith("not run") for text in engine.unverified)


def test_the_engines_are_those_that_were_asked_for():
    """Issue and README name them."""
    assert {e.name for e in ALL} == {
        "vllm", "sglang", "tensorrt_llm", "ollama", "llamacpp", "tgi", "lmdeploy", "mlx_lm", "vllm_mlx", "omlx", "vllm_metal",
        "lemonade", "docker_model_runner", "dynamo", "litellm", "olla", "openai",
    }  # fmt: skip


@pytest.mark.parametrize(
    "given, name",
    [("vLLM", "vllm"), ("llama.cpp", "llamacpp"), ("mlx-lm", "mlx_lm"), ("trt-llm", "tensorrt_llm"), ("DMR", "docker_model_runner")],
)  # fmt: skip
def test_names_may_be_written_as_people_write_them(given, name):
    """Case, dashes, dots, short names."""
    assert engines.engine(given).name == name


def test_a_name_that_is_none_gets_the_list():
    """A usage error with all names."""
    with pytest.raises(UsageError, match="no engine is called 'production'; give one of vllm, sglang"):
        engines.engine("production")


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("vlm", "vllm"), ("vlm-a", "vllm"), ("olama", "ollama"), ("sglng", "sglang"), ("mlx-ml", "mlx_lm"), ("vllm1", "vllm"),
        ("trtlm", "tensorrt_llm"), ("production", None), ("a", None), ("gpu-0", None), ("candidate", None), ("router", None),
    ],
)  # fmt: skip
def test_a_mistyped_name_is_told_from_one_of_the_users_own(given, meant):
    """And said where an engine is asked for."""
    assert engines.mistyped(given) == meant and engines.named(given) is None
    if meant and "-" not in given:
        with pytest.raises(UsageError, match=f"no engine is called '{given}'; did you mean {meant}?"):
            engines.engine(given)


@pytest.mark.parametrize("name", engines.NAMES)
def test_no_engine_is_a_mistyped_one(name):
    """Nor one with a suffix."""
    for given in (name, name.replace("_", "-"), f"{name}-a", f"{name}-1"):
        assert engines.mistyped(given) is None and engines.named(given).name == name


# ---- bodies

CHAT = {
    "endpoint": "chat",
    "messages_json": '[{"role":"system","content":"be  brief"},{"role":"user","content":"h\\u00e9"}]',
    "tools_json": '[{"type":"function","function":{"name":"f","parameters":{}}}]',
    "output_tokens": 7,
    "params_json": '{"temperature":0,"max_tokens":999,"stop":["x"]}',
    "cache_salt": None,
}
TEXT = {"endpoint": "completions", "prompt_text": "Once", "output_tokens": 7, "params_json": None}
IDS = {"endpoint": "ids", "prompt_ids": [5, 6, 7], "output_tokens": 7, "params_json": '{"temperature":0}'}


def made(name, row, **options):
    """Path, headers and body of a request."""
    settings = {"model": "m", "stream": True, "salt": None, "pin_output": True} | options
    path, headers, body = request_of(engines.engine(name), row, **settings)
    return path, headers, json.loads(body)


def test_messages_and_tools_go_out_byte_for_byte():
    """Every engine is sent the same prompt: spaces, escapes and the order of keys as they are."""
    _, _, body = request_of(engines.engine("vllm"), CHAT, model="m", stream=True, salt=None, pin_output=True)
    assert b'"messages":' + CHAT["messages_json"].encode() in body
    assert b'"tools":' + CHAT["tools_json"].encode() in body


@by_name
@pytest.mark.parametrize("row", [CHAT, TEXT, IDS], ids=["chat", "text", "ids"])
def test_each_engine_is_told_the_length_and_pinned_only_where_it_can_be(engine, row):
    """The row's length is the only bound, the trace's own goes; stop words go where the length is pinned."""
    if row["endpoint"] not in engine.endpoints:
        with pytest.raises(UsageError, match="takes no prompts as"):
            endpoint_of(engine, row)
        return
    endpoint = engine.endpoints[row["endpoint"]]
    path, _, body = made(engine.name, row)
    assert path == endpoint.path
    flat = body | body.get("options", {}) | body.get("parameters", {})
    bounds = [flat.get(k) for k in ("max_tokens", "max_completion_tokens", "num_predict", "max_new_tokens")]
    assert [b for b in bounds if b is not None] == [7]
    for key, value in endpoint.pin.items():
        assert flat[key] == (7 if value == OUTPUT else value)
    assert ("stop" in flat) == (row is CHAT and not endpoint.pin)
    assert not {
        key for key in ("ignore_eos", "min_tokens") if key in made(engine.name, row, pin_output=False)[2]
    }


def test_a_stream_is_asked_for_its_counts():
    """Only streams have stream_options; TRT-LLM refuses them otherwise."""
    assert made("vllm", CHAT)[2]["stream_options"] == {"include_usage": True}
    assert "stream_options" not in made("vllm", CHAT, stream=False)[2]
    assert "stream_options" not in made("ollama", TEXT)[2]


@pytest.mark.parametrize(
    "params",
    [
        {"response_format": {"type": "json_object"}},
        {"guided_json": {"type": "object"}},
        {"structured_outputs": {"regex": "a"}},
        {"tool_choice": "required"},
        {"tool_choice": {"type": "function", "function": {"name": "f"}}},
        {"grammar": "root ::= x"},
    ],
)
def test_a_length_is_never_forced_on_an_answer_that_a_grammar_ends(params):
    """Behind the end of the JSON nothing valid is left to generate."""
    assert constrained(params)
    body = made("vllm", CHAT | {"params_json": json.dumps(params | {"stop": ["x"]})})[2]
    assert "ignore_eos" not in body and "min_tokens" not in body
    assert body["stop"] == ["x"] and body["max_tokens"] == 7


@pytest.mark.parametrize(
    "params", [{}, {"response_format": {"type": "text"}}, {"tool_choice": "auto"}, {"guided_json": None}]
)
def test_free_answers_are_pinned(params):
    """These bind nothing."""
    assert not constrained(params)
    assert made("vllm", CHAT | {"params_json": json.dumps(params)})[2]["min_tokens"] == 7


def test_a_salt_parts_runs_and_rows_and_is_refused_where_nothing_takes_it():
    """The run's and the row's own, both."""
    assert "cache_salt" not in made("vllm", CHAT)[2]
    assert made("vllm", CHAT, salt="r1")[2]["cache_salt"] == "r1"
    assert made("vllm", CHAT | {"cache_salt": "t"}, salt="r1")[2]["cache_salt"] == "r1/t"
    assert made("vllm", CHAT | {"cache_salt": "t"})[2]["cache_salt"] == "t"
    assert "cache_salt" not in made("llamacpp", CHAT | {"cache_salt": "t"})[2]
    with pytest.raises(UsageError, match=r"llama\.cpp has no cache salt on /v1/chat/completions; flush"):
        made("llamacpp", CHAT, salt="r1")
    with pytest.raises(UsageError, match=r"mlx-lm has no cache salt .*; between runs, restart it"):
        made("mlx_lm", CHAT, salt="r1")
    with pytest.raises(UsageError, match="TensorRT-LLM has no cache salt on /v1/completions"):
        made("tensorrt_llm", TEXT, salt="r1")


def test_token_ids_go_where_they_are_taken():
    """As a prompt of integers, or as input_ids."""
    assert made("vllm", IDS)[2]["prompt"] == [5, 6, 7]
    path, _, body = made("lmdeploy", IDS)
    assert (path, body["input_ids"], body["ignore_eos"]) == ("/generate", [5, 6, 7], True)


def test_ollama_and_tgi_take_text_their_own_way():
    """Raw, so that no template is put around it."""
    path, _, body = made("ollama", TEXT | {"params_json": '{"temperature":0,"seed":3}'})
    assert (path, body["raw"], body["prompt"]) == ("/api/generate", True, "Once")
    assert body["options"] == {"temperature": 0, "seed": 3, "num_predict": 7}
    path, _, body = request_of(
        engines.engine("tgi"), TEXT | {"params_json": '{"temperature":0}'},
        model="m", stream=False, salt=None, pin_output=True, api="generate",
    )  # fmt: skip
    assert path == "/generate"
    assert json.loads(body) == {"inputs": "Once", "parameters": {"details": True, "max_new_tokens": 7}}


CALLS = json.dumps(
    [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": [{"type": "text", "text": "look"}]},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}}
            ],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "found"},
        {"role": "user", "content": "and?"},
    ]
)


def test_a_chat_with_tools_as_anthropic_and_as_responses():
    """Calls and results become blocks and items; the prompt of the system stands apart."""
    row = CHAT | {"messages_json": CALLS}
    path, headers, body = made("vllm", row, api="messages")
    assert path == "/v1/messages" and headers == {"anthropic-version": "2023-06-01"}
    assert (body["system"], body["max_tokens"], body["stop_sequences"]) == ("be brief", 7, ["x"])
    assert body["messages"] == [
        {"role": "user", "content": [{"type": "text", "text": "look"}]},
        {"role": "assistant", "content": [{"type": "tool_use", "id": "c1", "name": "f", "input": {"a": 1}}]},
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "c1", "content": "found"},
                {"type": "text", "text": "and?"},
            ],
        },
    ]
    assert body["tools"] == [{"name": "f", "description": "", "input_schema": {}}]
    path, _, body = made("vllm", row, api="responses")
    assert path == "/v1/responses" and (body["max_output_tokens"], body["store"]) == (7, False)
    assert body["input"] == [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": [{"type": "input_text", "text": "look"}]},
        {"type": "function_call", "call_id": "c1", "name": "f", "arguments": '{"a":1}'},
        {"type": "function_call_output", "call_id": "c1", "output": "found"},
        {"role": "user", "content": "and?"},
    ]
    assert body["tools"] == [{"type": "function", "name": "f", "parameters": {}}]
    with pytest.raises(UsageError, match="prompts as text cannot be sent as messages"):
        made("vllm", TEXT, api="messages")


def test_lone_halves_of_characters_in_prompts_are_sent_as_they_are():
    """Traces hold them now and then."""
    assert made("vllm", TEXT | {"prompt_text": "a\ud83d"})[2]["prompt"] == "a\ud83d"


# ---- which engine it is

LISTED = '{{"data":[{{"id":"tiny","owned_by":"{0}"}}]}}'


def listed(owner: str) -> tuple[int, bytes]:
    """A list of models."""
    return 200, LISTED.format(owner).encode()


METRICS = {
    name: (DATA / "metrics" / f"{name}.after.txt").read_bytes() for name in ("dynamo", "llamacpp", "vllm")
}
SERVERS = {
    "vllm": {"GET /v1/models": listed("vllm"), "GET /version": (200, b'{"version":"0.32.0"}'), "GET /metrics": (200, METRICS["vllm"])},
    "sglang": {"GET /server_info": (200, b'{"max_total_num_tokens":65536,"version":"0.5.23"}'), "GET /v1/models": listed("sglang")},
    "llamacpp": {
        "GET /v1/models": listed("llamacpp"),
        "GET /props": (200, b'{"total_slots":2,"build_info":"b1-abc","default_generation_settings":{"n_ctx":4096}}'),
    },
    "mlx_lm": {"GET /health": (200, b'{"status": "ok"}', {"Server": "BaseHTTP/0.6 Python/3.11.7"})},
    "dynamo": {"GET /v1/models": listed("nvidia"), "GET /metrics": (200, METRICS["dynamo"])},
    "litellm": {"GET /health/liveliness": (200, b'"I\'m alive!"'), "GET /v1/models": listed("openai"), "GET /metrics": (200, METRICS["vllm"])},
    "ollama": {"GET /": (200, b"Ollama is running"), "GET /v1/models": listed("library"), "GET /api/version": (200, b'{"version":"0.33.0"}')},
    "tgi": {"GET /info": (200, b'{"max_batch_total_tokens":70000,"version":"3.3.5"}')},
    "openai": {"GET /v1/models": listed("me")},
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(SERVERS))
def test_an_engine_is_known_by_what_it_answers(name):
    """Each of them, asked with GET alone; the plain one where nothing tells."""
    with answering(SERVERS[name]) as told:
        assert server.find(told.url).name == name
        assert server.find(f"{told.url}/v1/").name == name
        assert {method for method, *_ in told.asked} == {"GET"}


def test_a_proxy_is_known_before_the_engine_behind_it():
    """Olla passes on the list of models."""
    with answering(SERVERS["vllm"] | {"GET /internal/health": (200, b'{"status":"healthy"}')}) as told:
        assert server.find(told.url).name == "olla"


def test_where_nothing_answers_that_is_said():
    """Not taken for a plain server."""
    with answering() as told:
        url = told.url
    with pytest.raises(TraceprofError, match=r"nothing answers at 127\.0\.0\.1:"):
        server.find(url)
    with pytest.raises(UsageError, match="not the URL of a server"):
        server.find("localhost:8000")


# ---- questions


def test_versions_models_and_capacity_are_what_the_server_says():
    """Of three that say them in three ways."""
    for name, version, tokens, source in (
        ("vllm", "0.32.0", 524288, "/metrics: vllm:cache_config_info@kv_cache_size_tokens"),
        ("sglang", "0.5.23", 65536, "/server_info: max_total_num_tokens"),
        ("llamacpp", "b1-abc", 8192, "/props: default_generation_settings.n_ctx x total_slots"),
        ("tgi", "3.3.5", 70000, "/info: max_batch_total_tokens"),
        ("dynamo", None, 4096 * 64, "/metrics: dynamo_frontend_model_total_kv_blocks x dynamo_frontend_model_kv_cache_block_size"),
        ("mlx_lm", None, None, None),
    ):  # fmt: skip
        engine = engines.engine(name)
        with answering(SERVERS[name]) as told:
            assert server.version(engine, told.url) == version
            assert server.capacity(engine, told.url) == (tokens, source)
            expected = ["tiny"] if "GET /v1/models" in SERVERS[name] else []
            assert server.models(engine, told.url) == expected


def test_the_capacity_of_replicas_is_added():
    """vLLM under data parallelism has a line for each engine; an older one tells blocks."""
    line = b'vllm:cache_config_info{engine="%d",block_size="16",num_gpu_blocks="100"} 1.0\n'
    with answering({"GET /metrics": (200, line % 0 + line % 1)}) as told:
        assert server.capacity(engines.engine("vllm"), told.url).tokens == 2 * 1600
        assert server.settings(engines.engine("vllm"), told.url) == {"block_size": 16}


def test_settings_of_its_cache_are_what_it_says():
    """llama.cpp its slots; what is not told is not there."""
    with answering(SERVERS["llamacpp"]) as told:
        assert server.settings(engines.engine("llamacpp"), told.url) == {"slots": 2}
        assert server.settings(engines.engine("sglang"), told.url) == {}
        assert server.settings(engines.engine("mlx_lm"), told.url) == {}


def test_ready_waits_for_it_and_asks_nothing_that_generates():
    """503 while the model is loaded, then 200."""
    states = iter([(503, b"loading"), (503, b"loading"), (200, b"{}")])
    with answering({"GET /health": lambda: next(states)}) as told:
        assert server.ready(engines.engine("llamacpp"), told.url, 30) >= 0
        assert [one[:2] for one in told.asked] == [("GET", "/health")] * 3


def test_a_frontend_is_ready_when_it_lists_a_model():
    """Dynamo answers before a worker is there."""
    states = iter([(200, b'{"data":[]}'), (200, b'{"data":[{"id":"tiny"}]}')])
    with answering({"GET /v1/models": lambda: next(states)}) as told:
        server.ready(engines.engine("dynamo"), told.url, 30)
        assert len(told.asked) == 2


def test_an_engine_that_is_never_ready_wants_a_key_or_ended_is_an_error_at_once_or_in_time():
    """Each with what to do."""
    vllm = engines.engine("vllm")
    with answering({"GET /health": (503, b"")}) as told:
        with pytest.raises(TraceprofError, match=r"was not ready after 0\.2 s: /health answered 503"):
            server.ready(vllm, told.url, 0.2)
        with pytest.raises(TraceprofError, match="ended before it was ready"):
            server.ready(vllm, told.url, 30, alive=lambda: False)
        told.answers["GET /health"] = (401, b"")
        with pytest.raises(TraceprofError, match="wants a key"):
            server.ready(vllm, told.url, 30)


def test_a_key_is_sent_and_a_plain_server_without_a_list_of_models_is_ready():
    """404 from /v1/models still means that a server is there."""
    with answering() as told:
        server.ready(engines.engine("openai"), told.url, 5, api_key="k")
        assert told.asked[0][3]["authorization"] == "Bearer k"


# ---- emptying the cache


def test_a_flush_is_done_when_the_server_says_so():
    """vLLM says it in JSON, SGLang by its status, vllm-mlx with a word."""
    for name, key, answer in (
        ("vllm", "POST /reset_prefix_cache", (200, b'{"success":true}')),
        ("sglang", "POST /flush_cache", (200, b"Cache flushed.")),
        ("vllm_mlx", "DELETE /v1/cache/prefix", (200, b'{"status":"cleared"}')),
    ):
        with answering({key: answer}) as told:
            found = server.flush(engines.engine(name), told.url)
            assert (found.supported, found.ok, found.why) == (True, True, None)
            assert f"{told.asked[0][0]} {told.asked[0][1]}" == key == found.how


def test_a_busy_engine_is_asked_again():
    """vLLM refuses while blocks are in use."""
    states = iter([(200, b'{"success":false}'), (200, b'{"success":true}')])
    with answering({"POST /reset_prefix_cache": lambda: next(states)}) as told:
        assert server.flush(engines.engine("vllm"), told.url).ok
    with answering({"POST /flush_cache": (400, b"busy")}) as told:
        found = server.flush(engines.engine("sglang"), told.url, deadline_s=0.3)
        assert (found.supported, found.ok) == (True, False)
        assert found.why is not None and found.why.startswith("answered 400")
        assert len(told.asked) >= 2


def test_a_server_that_was_not_started_for_it_is_not_supported():
    """vLLM without its development mode: 404; llama.cpp without a folder for slots: 501."""
    with answering() as told:
        found = server.flush(engines.engine("vllm"), told.url)
        assert (found.supported, found.ok) == (False, False)
        assert found.why == "answered 404: it needs VLLM_SERVER_DEV_MODE=1 in its environment"
    with answering(SERVERS["llamacpp"] | {"POST /slots/0?action=erase": (501, b"{}")}) as told:
        found = server.flush(engines.engine("llamacpp"), told.url)
        assert not found.supported and "--slot-save-path" in (found.why or "")


@pytest.mark.parametrize("status", [404, 405, 501])
def test_a_path_that_is_not_there_is_no_support_whichever_way_it_is_said(status):
    """At once, without asking again."""
    with answering({"POST /flush_cache": (status, b"")}) as told:
        found = server.flush(engines.engine("sglang"), told.url)
        assert (found.supported, found.ok, len(told.asked)) == (False, False, 1)


@pytest.mark.parametrize("status", [401, 403])
def test_a_flush_that_wants_a_key_and_slots_that_are_not_told_are_said(status):
    """Neither is taken for done."""
    with answering({"POST /flush_cache": (status, b"")}) as told:
        found = server.flush(engines.engine("sglang"), told.url)
        assert (found.supported, found.ok) == (True, False) and "wants a key" in (found.why or "")
        found = server.flush(engines.engine("llamacpp"), told.url)
        assert (found.supported, found.ok) == (False, False) and "how many slots" in (found.why or "")
        told.answers["GET /health"] = (status, b"")
        with pytest.raises(TraceprofError, match=f"wants a key .{status}."):
            server.ready(engines.engine("vllm"), told.url, 30)


def test_every_slot_of_llamacpp_is_erased():
    """One request a slot; one that fails is a failure."""
    done = (200, b'{"id_slot":0,"n_erased":3}')
    both = {f"POST /slots/{slot}?action=erase": done for slot in (0, 1)}
    with answering(SERVERS["llamacpp"] | both) as told:
        assert server.flush(engines.engine("llamacpp"), told.url).ok
        assert [path for method, path, *_ in told.asked if method == "POST"] == [
            "/slots/0?action=erase",
            "/slots/1?action=erase",
        ]
        told.answers["POST /slots/1?action=erase"] = (500, b"")
        assert not server.flush(engines.engine("llamacpp"), told.url, deadline_s=0.1).ok


def test_ollama_unloads_the_model_that_is_named():
    """Without a name nothing is sent."""
    with answering({"POST /api/generate": (200, b'{"done":true}')}) as told:
        assert not server.flush(engines.engine("ollama"), told.url).ok
        assert told.asked == []
        assert server.flush(engines.engine("ollama"), told.url, model="tiny").ok
        assert json.loads(told.asked[0][2]) == {"model": "tiny", "keep_alive": 0}


def test_an_engine_that_cannot_be_emptied_says_what_can_be_done():
    """mlx-lm must be restarted, oMLX's folder deleted."""
    found = server.flush(engines.engine("mlx_lm"), "http://127.0.0.1:9")
    assert (found.how, found.supported, found.ok) == ("restart it", False, False)
    assert "SSD" in server.flush(engines.engine("omlx"), "http://127.0.0.1:9").how


# ---- asking


def test_a_question_never_raises_for_what_a_server_does():
    """No server, garbage, a redirect, a list instead of an object."""
    with answering(
        {
            "GET /list": (200, b"[1]"),
            "GET /away": (302, b"", {"Location": "/list"}),
            "GET /bad": (200, b"\xff{"),
        }
    ) as told:
        ask = asker(told.url)
        assert ask("GET", "/list", None).json() == {"items": [1]}
        assert ask("GET", "/away", None).status == 302
        assert ask("GET", "/bad", None).json() == {}
        assert ask("POST", "/list", b"{}").status == 404
        assert told.asked[-1][3]["content-type"] == "application/json"
    gone = ask("GET", "/list", None)
    assert (gone.status, gone.ok, gone.json()) == (0, False, {})


def test_an_answer_that_breaks_off_is_no_answer():
    """Fewer bytes than were announced, on a success and on an error."""
    cut = {"Content-Length": "99"}
    with answering({"GET /a": (200, b"{}", cut), "GET /b": (500, b"{}", cut)}) as told:
        ask = asker(told.url, timeout_s=1)
        assert ask("GET", "/a", None).status == ask("GET", "/b", None).status == 0


def test_questions_are_asked_over_tls_with_the_certificates_that_are_given(tmp_path):
    """Without them the server is not trusted, and nothing of it is believed."""
    ca = certificate_in(tmp_path)
    vllm = engines.engine("vllm")
    routes = SERVERS["vllm"] | {
        "GET /health": (200, b""),
        "POST /reset_prefix_cache": (200, b'{"success":true}'),
    }
    with answering(routes, ca) as told:
        assert server.find(told.url, ca=ca).name == "vllm"
        server.ready(vllm, told.url, 5, ca=ca)
        assert server.models(vllm, told.url, None, ca) == ["tiny"]
        assert server.version(vllm, told.url, None, ca) == "0.32.0"
        assert server.capacity(vllm, told.url, None, ca).tokens == 524288
        assert server.settings(vllm, told.url, None, ca) == {"block_size": 128}
        assert server.flush(vllm, told.url, ca=ca).ok
        scraper = Scraper(told.url, vllm, ca=ca)
        scraper.before()
        assert scraper.trouble is None
        with pytest.raises(TraceprofError, match="/health did not answer"):
            server.ready(vllm, told.url, 0.2)
        assert server.models(vllm, told.url) == []


def test_gauges_are_among_the_meanings():
    """And the rest are counters."""
    assert set(GAUGES) < set(MEANINGS)
