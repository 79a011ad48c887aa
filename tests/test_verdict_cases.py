"""The worked cases of the field, each as a log of its own through the whole pipeline, and the verdict that an expert would give.

The verdicts stand in golden/verdict_NAME.json, and as the report says them in golden/verdict_NAME.md (--update rewrites both).
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from traceprof.ingest import Options, ingest
from traceprof.profiler import Virtual, profile
from traceprof.report.markdown import render_markdown
from traceprof.simulate.host import Host
from traceprof.tokens import tokenize
from traceprof.verdict import Constraints, verdict

GOLDEN = Path(__file__).parent / "golden"
Request = tuple[list[int], float, float, str, int]  # prompt, arrival, end, model, output tokens


def ids(rng: random.Random, n: int) -> list[int]:
    return [rng.randrange(5_000) for _ in range(n)]


def users(
    rng: random.Random,
    n: int,
    each: int,
    takes: float,
    thinks: float,
    prompt: Callable[[int], list[int]],
    model: str = "m",
) -> Iterator[Request]:
    """So many users who ask, wait for the answer, think, and ask again."""
    for user in range(n):
        at = rng.uniform(0, takes + thinks)
        for _ in range(each):
            took = takes * rng.uniform(0.7, 1.3)
            yield prompt(user), at, at + took, model, round(took * 30)
            at += took + thinks * rng.uniform(0.5, 1.5)


def system_prompt() -> Iterator[Request]:
    """500 tokens that begin nine queries in ten; 40 users."""
    rng = random.Random(1)
    shared = ids(rng, 500)
    return users(
        rng, 40, 20, 6, 1,
        lambda _: (shared if rng.random() < 0.9 else ids(rng, 500)) + ids(rng, rng.randrange(50, 150)),
    )  # fmt: skip


def unique_prompts() -> Iterator[Request]:
    """The same lengths and users, and nothing is shared."""
    rng = random.Random(2)
    return users(rng, 40, 20, 6, 1, lambda _: ids(rng, 500 + rng.randrange(50, 150)))


def mac_mini() -> Iterator[Request]:
    """Five people who chat: each turn carries the conversation before it."""
    rng = random.Random(3)
    said: dict[int, list[int]] = {}

    def turn(user: int) -> list[int]:
        before = said.get(user, ids(rng, 40))
        said[user] = (before if len(before) < 1500 else before[:40]) + ids(rng, rng.randrange(40, 120))
        return said[user]

    return users(rng, 5, 40, 8, 40, turn)


def agent() -> Iterator[Request]:
    """An agent with 4,000 tokens of instructions and tools, and 1,000 users; the second turn carries what the first one found."""
    rng = random.Random(4)
    shared = ids(rng, 4000)
    asked: dict[int, list[int]] = {}

    def turn(user: int) -> list[int]:
        asked[user] = asked.get(user, shared) + ids(rng, rng.randrange(300, 900))
        return asked[user]

    return users(rng, 1000, 2, 20, 40, turn)


def eight_models() -> Iterator[Request]:
    """Eight models on one cluster, asked in turns."""
    for model in range(8):
        rng = random.Random(50 + model)
        yield from users(
            rng, 6, 12, 5, 10, lambda _, rng=rng: ids(rng, rng.randrange(200, 900)), f"model-{model}"  # type: ignore[misc]
        )  # fmt: skip


class Case(NamedTuple):
    """A traffic, what the team says, and what an expert would say: by rules, and with engines simulated."""

    requests: Callable[[], Iterator[Request]]
    constraints: Constraints
    engines: list[str]  # by rules, the first one first
    headline: str  # part of it, by rules
    card: str
    simulated: tuple[str, ...]
    favoured: str  # with them
    says: str  # part of that headline


GPU = ("vllm", "sglang", "tensorrt_llm", "ollama")
CASES = {
    "system_prompt": Case(
        system_prompt, Constraints(), ["sglang", "vllm"], "SGLang first, vLLM close to it",
        "h100", GPU, "SGLang or vLLM", "No practical difference between SGLang, vLLM",
    ),
    "unique_prompts": Case(
        unique_prompts, Constraints("nvidia"), ["vllm", "tensorrt_llm"], "vLLM first, TensorRT-LLM close",
        "h100", GPU, "vLLM or TensorRT-LLM", "No practical difference between vLLM",
    ),
    "mac_mini": Case(
        mac_mini, Constraints("apple"), ["llamacpp", "ollama", "mlx_lm"], "llama.cpp first, Ollama and mlx-lm",
        "apple-m4-pro", ("llamacpp", "ollama", "mlx_lm"), "llama.cpp or mlx-lm", "Light load: llama.cpp holds",
    ),
    "agent": Case(
        agent, Constraints("nvidia"), ["sglang", "vllm"], "SGLang first, vLLM close to it",
        "h100", GPU[:3], "SGLang or vLLM", "replicas",
    ),
    "eight_models": Case(
        eight_models, Constraints("nvidia"), ["vllm"], "TensorRT-LLM wants a build for each of 8 models",
        "h100", GPU, "vLLM", "Take vLLM, by rule",
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def profiles(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], dict[str, Any]]:
    """The profile of a case, made once."""
    made: dict[str, dict[str, Any]] = {}

    def of(name: str) -> dict[str, Any]:
        if name not in made:
            folder, case = tmp_path_factory.mktemp(name), CASES[name]
            with (folder / "log.jsonl").open("w") as log:
                for request in case.requests():
                    log.write(line(*request))
            trace = ingest([folder / "log.jsonl"], folder / "trace", Options())
            tokenize(trace)
            virtual = Virtual(Host.of(case.card), engines=case.simulated)
            made[name] = profile(trace, folder / "profile", name=name, virtual=virtual)
        return made[name]

    return of


def line(prompt: list[int], at: float, end: float, model: str, output: int) -> str:
    """One text completion, with token ids."""
    start = 1_780_000_000
    answer = {"text": "x", "token_ids": [7] * output, "finish_reason": "stop"}
    record = {
        "timestamp": start + at,
        "end_time": start + end,
        "request": {"model": model, "prompt": prompt},
        "response": {"model": model, "choices": [answer]},
    }
    return json.dumps(record, separators=(",", ":")) + "\n"


def rounded(value: Any) -> Any:
    """Floats to six digits, so that a golden file is the same on every machine."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {k: rounded(v) for k, v in value.items()}
    return [rounded(v) for v in value] if isinstance(value, list | tuple) else value


def section(found: dict[str, Any]) -> str:
    """What the report says of the verdict."""
    told = render_markdown(found)
    return "## Verdict" + told.split("\n## Verdict")[1].split("\n## ")[0] + "\n"


@pytest.mark.parametrize("name", CASES)
def test_by_rules_the_verdict_is_an_experts(name, profiles, update):
    """The engines in order, the reasons with numbers, the flips, word by word."""
    case, told = CASES[name], {**profiles(name), "simulation": None}
    found = verdict(told, constraints=case.constraints)
    assert found["engines"] == case.engines and case.headline in found["headline"]
    kept, shown = GOLDEN / f"verdict_{name}.json", GOLDEN / f"verdict_{name}.md"
    words = section({**told, "verdict": found})
    if update:
        kept.write_text(json.dumps(rounded(found), indent=1, ensure_ascii=False) + "\n", "utf-8")
        shown.write_text(words, "utf-8")
    assert rounded(found) == json.loads(kept.read_text("utf-8"))
    assert words == shown.read_text("utf-8")


@pytest.mark.parametrize("name", CASES)
def test_with_engines_simulated_it_still_is(name, profiles):
    """The figures are the simulator's and move with it; the engines that an expert would name do not."""
    case = CASES[name]
    found = verdict(profiles(name), constraints=case.constraints)
    assert (found["checked_by"], found["favoured"]) == ("simulation", case.favoured)
    assert case.says in found["headline"] and found["disagreements"] == []
    assert found["reasons"][0]["source"].startswith("simulation: Llama-3.1-8B on ")


def test_an_agents_cache_is_short_and_routing_by_prefix_pays(profiles):
    """What its users add to the shared prompt does not fit; replicas that share by prefix keep what round robin scatters."""
    found = verdict(profiles("agent"), constraints=CASES["agent"].constraints)
    cache = next(one for one in found["inputs"] if one["input"] == "cache_tokens")
    assert cache["decides"] and cache["means"].startswith("One machine's cache forgets what is shared")
    assert any(
        text.startswith("With more than one replica route by prefix: 8 replicas") for text in found["advice"]
    )


def test_one_slot_is_too_few_for_five_people(profiles):
    """Ollama as it comes is out on the Mac, and the verdict says what to set."""
    found = verdict(profiles("mac_mini"), constraints=CASES["mac_mini"].constraints)
    assert "ollama" not in found["engines"]
    assert any("OLLAMA_NUM_PARALLEL=4" in text for text in found["advice"])
