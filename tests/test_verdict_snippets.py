"""Routing rules as configuration: what a router would read from it, whatever the names of a log are."""

from __future__ import annotations

import re

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from traceprof.verdict.snippets import snippets

HOSTILE = [
    'a"; } server { listen 9; } #', "back\\slash", "~^regex$", "default", "include", "hostnames", "$remote_addr", "x: y", "- a", "{b}",
    "it's", "#no comment", "émile", "模型", "😀", "null", "yes", "1.5", "a b", "Code", "code", "%n", "&a", "!t", "'", "os.environ/KEY", "*",
    "~*x", "w" * 120,
]  # fmt: skip
NAMES = st.text(min_size=1, max_size=20) | st.sampled_from(HOSTILE)
ROUTES = st.dictionaries(NAMES, st.sampled_from(["sglang", "ollama"]), min_size=1, max_size=6)


def routable(name: str) -> bool:
    """What a header carries as it is, and no router takes for something else."""
    return (
        name.isprintable()
        and name == name.strip()
        and bool(name)
        and "*" not in name
        and not name.startswith("os.environ/")
    )


def nginx_words(text: str) -> list[list[str]]:
    """Statements of an nginx file, as its own parser cuts and unescapes them; braces are statements of their own."""
    statements, words = [], []
    pattern = r'\s+|#[^\n]*|"((?:[^"\\]|\\.)*)"|([^\s;{}"]+)|([;{}])'
    at = 0
    while at < len(text):
        found = re.compile(pattern, re.S).match(text, at)
        assert found is not None, text[at : at + 40]
        quoted, plain, mark = found.groups()
        if mark:
            statements.append([*words, mark])
            words = []
        elif quoted is not None or plain is not None:
            words.append(re.sub(r"""\\(["'\\])""", r"\1", plain if quoted is None else quoted))
        at = found.end()
    assert not words
    return statements


def nginx_map(text: str) -> dict[str, str]:
    """Keys and values of its map."""
    statements = nginx_words(text)
    start = next(i for i, words in enumerate(statements) if words[0] == "map")
    end = next(i for i in range(start, len(statements)) if statements[i] == ["}"])
    return {words[0]: words[1] for words in statements[start + 1 : end]}


def looked_up(table: dict[str, str], value: str) -> str:
    """What nginx answers: plain keys whatever the case, then expressions, then the default."""
    plain = {
        k.removeprefix("\\").lower(): v for k, v in table.items() if k != "default" and not k.startswith("~")
    }
    if value.lower() in plain:
        return plain[value.lower()]
    for key, engine in table.items():
        if key.startswith("~") and re.search(key[1:], value):
            return engine
    return table["default"]


@pytest.mark.parametrize("by", ["model", "tenant"])
@given(routes=ROUTES)
@example(routes=dict.fromkeys(HOSTILE, "sglang"))
@example(routes={"Code": "sglang", "code": "ollama", "CODE": "sglang"})
def test_each_router_sends_every_name_where_the_rule_says(by, routes):
    """YAML parses to the very names; nginx finds each, and only each; what cannot be routed is counted."""
    found = snippets(by, routes, "vllm", [*routes, "other"])
    kept = {name: engine for name, engine in routes.items() if routable(name)}
    assert len(found["notes"]) == (len(kept) < len(routes)) + (by == "tenant" and "default" in kept)
    table = nginx_map(found["nginx"])
    for name, engine in kept.items():
        assert looked_up(table, name) == engine
    assert looked_up(table, "nobody's name") == "vllm" == table["default"]
    envoy = yaml.safe_load(found["envoy"])["route_config"]["virtual_hosts"][0]["routes"]
    assert [
        (r["match"]["headers"][0]["string_match"]["exact"], r["route"]["cluster"]) for r in envoy[:-1]
    ] == list(kept.items())
    assert envoy[-1] == {"match": {"prefix": "/"}, "route": {"cluster": "vllm", "timeout": "0s"}}
    models = yaml.safe_load(found["litellm"])["model_list"]
    if by == "model":
        sent = {m["model_name"]: m["litellm_params"]["api_base"] for m in models}
        assert {name: sent[name] for name in kept} == {
            n: f"http://{e}:{ {'sglang': 30000, 'ollama': 11434}[e] }/v1" for n, e in kept.items()
        }
        assert sent["other"] == "http://vllm:8000/v1"
    else:
        tags = {tag: m["litellm_params"]["api_base"] for m in models for tag in m["litellm_params"]["tags"]}
        assert set(tags) == {*kept, "default"}
        assert all(name == "default" or engine in tags[name] for name, engine in kept.items())
    olla = yaml.safe_load(found["olla"])["discovery"]["static"]["endpoints"]
    assert [e["name"] for e in olla] == list(dict.fromkeys(["vllm", *kept.values()]))


def test_hours_go_by_nginx_alone():
    """The clock is nginx's; the others say that they have no such rule."""
    found = snippets("hour", {"9": "sglang", "23": "sglang"}, "vllm", ["m"])
    key = next(k for k in nginx_map(found["nginx"]) if k != "default")
    assert re.search(key[1:], "2026-11-24T09:10:00+00:00") and re.search(key[1:], "2026-11-24T23:00:01+00:00")
    assert not re.search(key[1:], "2026-11-24T10:09:23+00:00")
    assert found["litellm"] is found["olla"] is found["envoy"] is None and "by the clock" in found["notes"][0]


def test_prompts_that_begin_alike_have_no_router():
    """A rule that no router can follow is told in words."""
    found = snippets("prefix", {"You are": "sglang"}, "vllm", ["m"])
    assert not any(found[name] for name in ("litellm", "olla", "nginx", "envoy"))
    assert "name the part in a header" in found["notes"][0]


def test_long_names_get_a_larger_bucket():
    """nginx refuses a map whose names do not fit into its buckets."""
    said = nginx_words(snippets("model", {"w" * 120: "sglang"}, "vllm", [])["nginx"])
    assert ["map_hash_bucket_size", "256", ";"] in said
    assert "map_hash_bucket_size" not in snippets("model", {"short": "sglang"}, "vllm", [])["nginx"]
