"""A routing rule as configuration: LiteLLM, Olla, nginx, Envoy. Names are from logs, so each is quoted as its file wants it.

Where a router cannot follow a rule there is none, and `notes` says why. A name that no header or file can carry (control characters,
line breaks) or that a router would take for something else (a wildcard, an environment variable) is left out, and counted.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

_PORTS = {
    "vllm": 8000, "sglang": 30000, "tensorrt_llm": 8000, "lmdeploy": 23333, "tgi": 80, "llamacpp": 8080, "ollama": 11434, "mlx_lm": 8080,
}  # fmt: skip
_OLLA_TYPES = {"vllm": "vllm", "sglang": "sglang", "lmdeploy": "lmdeploy", "llamacpp": "llamacpp", "ollama": "ollama", "vllm_mlx": "vllm-mlx"}  # fmt: skip
_HEADERS = {"model": "x-model", "tenant": "x-tenant"}


def snippets(by: str, routes: Mapping[str, str], default: str, models: Iterable[str]) -> dict[str, Any]:
    """The rule for each router: `routes` is value -> engine, everything else goes to `default`.

    >>> found = snippets("model", {"code": "sglang"}, "vllm", ["chat", "code"])
    >>> print(found["nginx"].split("upstream")[0])
    # nginx cannot see the model in the body: the client, or the gateway before it, names it in the header x-model.
    map $http_x_model $engine {
        default "vllm";
        "code" "sglang";
    }
    <BLANKLINE>
    """
    kept = {value: engine for value, engine in routes.items() if _plain(value)}
    named = [name for name in models if _plain(name)]
    notes = []
    if len(kept) < len(routes):
        left = len(routes) - len(kept)
        notes.append(
            f"{left} name{'s' if left > 1 else ''} with characters that no header or file can carry: left out"
        )
    found: dict[str, Any] = {"litellm": None, "olla": None, "nginx": None, "envoy": None}
    if by in ("model", "tenant"):
        tagged = {value: engine for value, engine in kept.items() if by == "model" or value != "default"}
        if len(tagged) < len(kept):
            notes.append(
                "LiteLLM takes the tag default for requests without one: a tenant of that name goes with those"
            )
        found["litellm"] = _litellm(by, tagged, default, named)
        found["olla"] = _olla(by, kept, default)
        found["envoy"] = _envoy(by, kept, default)
        found["nginx"] = _nginx(by, kept, default)
    elif by == "hour":
        found["nginx"] = _nginx_hours(kept, default)
        notes.append(
            "LiteLLM, Olla and Envoy have no rule by the clock: change their configuration at the hour"
        )
    else:
        notes.append(
            "no router tells prompts apart by how they begin: name the part in a header and route by that"
        )
    return found | {"notes": notes}


def _plain(name: str) -> bool:
    """Whether a name can stand in a header and a file, and means itself there."""
    whole = bool(name) and name.isprintable() and name == name.strip()
    return whole and "*" not in name and not name.startswith("os.environ/")


def hour(value: str) -> int:
    """The hour of the day that a part stands for.

    >>> hour("9"), hour("09:00")
    (9, 9)
    """
    return int(value.partition(":")[0])


def _yaml(text: str) -> str:
    """A string as YAML, which takes JSON's."""
    return json.dumps(text, ensure_ascii=False)


def _url(engine: str) -> str:
    return f"http://{engine.replace('_', '-')}:{_PORTS.get(engine, 8000)}"


# ---- LiteLLM: models by name, tenants by tag


def _litellm(by: str, routes: Mapping[str, str], default: str, models: list[str]) -> str:
    lines = ["model_list:"]
    if by == "model":
        for name in dict.fromkeys([*models, *routes]):
            lines += _deployment(name, routes.get(name, default))
        return "\n".join(lines) + "\n"
    for name in models or ["your-model"]:
        for engine in dict.fromkeys(routes.values()):
            lines += _deployment(name, engine, [v for v, e in routes.items() if e == engine])
        lines += _deployment(name, default, ["default"])
    lines += [
        "router_settings:",
        "  enable_tag_filtering: true  # the key's or the request's tags name the tenant",
    ]
    return "\n".join(lines) + "\n"


def _deployment(name: str, engine: str, tags: list[str] | None = None) -> Iterator[str]:
    yield f"  - model_name: {_yaml(name)}"
    yield "    litellm_params:"
    yield f"      model: {_yaml(f'openai/{name}')}"
    yield f"      api_base: {_yaml(f'{_url(engine)}/v1')}"
    yield '      api_key: "none"'
    if tags:
        yield f"      tags: [{', '.join(map(_yaml, tags))}]"


# ---- Olla: a request goes to an endpoint that has its model


def _olla(by: str, routes: Mapping[str, str], default: str) -> str:
    used = list(dict.fromkeys([default, *routes.values()]))
    if by == "model":
        lines = [
            "# Olla sends a request to an endpoint that lists its model: each engine serves its own models only."
        ]
        lines += [f"# {engine}: {_yaml(name)}" for name, engine in routes.items()]
        lines.append(f"# {default}: all others")
    else:
        lines = ["# Olla has no rule by tenant: give each tenant the base URL of its engine."]
        lines += [
            f"# {_yaml(name)}: /olla/{_OLLA_TYPES.get(engine, 'openai')}/v1"
            for name, engine in routes.items()
        ]
        lines.append(f"# all others: /olla/{_OLLA_TYPES.get(default, 'openai')}/v1")
    lines += ["discovery:", "  type: static", "  static:", "    endpoints:"]
    for engine in used:
        lines += [
            f"      - url: {_yaml(_url(engine))}",
            f"        name: {_yaml(engine)}",
            f"        type: {_yaml(_OLLA_TYPES.get(engine, 'openai-compatible'))}",
            '        model_url: "/v1/models"',
            '        health_check_url: "/v1/models"',
        ]
    return "\n".join(lines) + "\n"


# ---- nginx


def _nginx(by: str, routes: Mapping[str, str], default: str) -> str:
    header = _HEADERS[by]
    seen = "the model in the body" if by == "model" else "whose request it is"
    lines = [
        f"# nginx cannot see {seen}: the client, or the gateway before it, names it in the header {header}.",
        f"map $http_{header.replace('-', '_')} $engine {{",
        *_map(((_nginx_key(v, routes), e) for v, e in routes.items()), default),
    ]
    longest = max((len(value.encode()) for value in routes), default=0)
    if longest > 40:  # an entry takes the name and some pointers; a bucket holds 64 bytes unless told
        lines.insert(1, f"map_hash_bucket_size {1 << (longest + 24).bit_length()};")
    return "\n".join([*lines, *_upstreams([default, *routes.values()])]) + "\n"


def _nginx_hours(routes: Mapping[str, str], default: str) -> str:
    hours: dict[str, list[str]] = {}
    for value, engine in routes.items():
        hours.setdefault(engine, []).append(f"{hour(value):02d}")
    keys = ((f'"~T(?:{"|".join(of)}):"', engine) for engine, of in hours.items())
    lines = ["# Hours are UTC: run nginx with TZ=UTC.", "map $time_iso8601 $engine {", *_map(keys, default)]
    return "\n".join([*lines, *_upstreams([default, *routes.values()])]) + "\n"


def _map(keys: Iterable[tuple[str, str]], default: str) -> Iterator[str]:
    yield f'    default "{default}";'
    for key, engine in keys:
        yield f'    {key} "{engine}";'
    yield "}"


def _nginx_key(value: str, all_of: Iterable[str]) -> str:
    """A name as the key of a map: as it stands, or as an expression where two names differ in case only, which a map ignores."""
    if sum(other.lower() == value.lower() for other in all_of) > 1:
        return _nginx_quoted("~^" + re.escape(value) + "$")
    # a backslash before it keeps nginx from taking a name for one of its own words, or for an expression
    own = value in ("default", "hostnames", "include", "volatile") or value[0] in "~\\"
    return _nginx_quoted(("\\" if own else "") + value)


def _nginx_quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _upstreams(of: Iterable[str]) -> Iterator[str]:
    for engine in dict.fromkeys(of):
        yield f"upstream {engine} {{"
        yield f"    server {_url(engine).removeprefix('http://')};"
        yield "}"
    yield "server {"
    yield "    listen 8080;"
    yield "    location / {"
    yield "        proxy_pass http://$engine;"
    yield "        proxy_http_version 1.1;"
    yield "        proxy_buffering off;  # answers are streams"
    yield "        proxy_read_timeout 1h;"
    yield "    }"
    yield "}"


# ---- Envoy


def _envoy(by: str, routes: Mapping[str, str], default: str) -> str:
    header = _HEADERS[by]
    lines = [
        f"# of a filter envoy.filters.network.http_connection_manager; the header {header} names the {by}",
        "route_config:",
        "  name: engines",
        "  virtual_hosts:",
        "    - name: engines",
        '      domains: ["*"]',
        "      routes:",
    ]
    for value, engine in routes.items():
        lines += [
            "        - match:",
            '            prefix: "/"',
            "            headers:",
            f"              - name: {_yaml(header)}",
            "                string_match:",
            f"                  exact: {_yaml(value)}",
            f"          route: {{cluster: {_yaml(engine)}, timeout: 0s}}",
        ]
    lines += [
        "        - match:",
        '            prefix: "/"',
        f"          route: {{cluster: {_yaml(default)}, timeout: 0s}}",
    ]
    return "\n".join(lines) + "\n"
