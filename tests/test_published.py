"""Figures that others published about public traces, reproduced through the product's own pipeline.

The data is the project's collection beside the repository, or else the excerpts in tests/published; a test whose data
is not there is not defined. docs/validation.md has the table of all figures, ours beside theirs.
"""

import csv
import gzip
import json
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
import pytest

from tests import llama3
from traceprof.errors import TraceprofError
from traceprof.ingest import Options, ingest
from traceprof.load.concurrency import in_flight
from traceprof.prefix.tree import RadixTree
from traceprof.profiler import profile
from traceprof.tokens import chunks, tokenize

EXCERPTS = Path(__file__).parent / "published"
COLLECTION = Path(__file__).parents[2] / "shared" / "data"
DATA = COLLECTION if COLLECTION.is_dir() else EXCERPTS


def needs(name):
    """Only where that file of the data is: what is None is no test."""
    return (lambda test: test) if (DATA / name).exists() else (lambda test: None)


def printed(value, digits=0):
    """Equal to what was printed with that many digits, whichever way its author rounds a half."""
    return pytest.approx(value, abs=0.5 * 10**-digits + 1e-9, rel=0)


def values(lengths, keys):
    return [lengths[key] for key in keys.split()]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    """Llama 3's tokenizer.json, at one path, so that a process loads it once."""
    path = tmp_path_factory.mktemp("llama3") / "tokenizer.json"
    text = llama3.tokenizer_json()
    assert text is not None, "the tests need the package llama-models"
    path.write_text(text, "utf-8")
    return str(path)


# -- LMCache agent traces: text in, hit rate out ------------------------------------------------------------------

AGENTS = DATA / "lmcache-agent-traces"
TOKENS_PER_GB = 8_200


def sessions(agent):
    """The published rows whose log is there."""
    with (AGENTS / f"published_{agent}.csv").open() as file:
        rows = list(csv.DictReader(file))
    logs = [AGENTS / agent / f"{row['file']}.gz" for row in rows]
    return [(log, row) for log, row in zip(logs, rows, strict=True) if log.exists()]


def hit_rate_of_whole_requests(lengths, common, pool_tokens):
    """LMCache's finite pool: it holds whole requests and drops the least recently matched ones until the next one fits.

    common[k][i] is the common prefix of requests k and i. A request takes its prefix from the first of the best held ones,
    and only that one becomes recent. One that does not fit into an empty pool has emptied it, and is not held.
    """
    held = OrderedDict()  # request -> its length, the next to go first
    hits = 0
    for i, length in enumerate(lengths):
        best = max(held, key=lambda k: common[k][i], default=None)
        if best is not None and common[best][i]:
            hits += common[best][i]
            held.move_to_end(best)
        while held and sum(held.values()) + length > pool_tokens:
            held.popitem(last=False)
        if length <= pool_tokens:
            held[i] = length
    return hits / sum(lengths)


def common_prefix(a, b):
    """[1, 2, 3], [1, 2, 9, 9] -> 2"""
    n = min(len(a), len(b))
    differ = a[:n] != b[:n]
    return int(differ.argmax()) if differ.any() else n


@pytest.mark.parametrize(
    ("log", "row"),
    [
        pytest.param(*one, id=f"{agent}-{one[0].name[:8]}")
        for agent in ("miniswe", "taubench")
        for one in sessions(agent)
    ],
)
def test_lmcache_session(log, row, tokenizer, tmp_path):
    """Calls, mean prompt and hit rate of every session, and the hit rates of eleven finite pools, to the last printed digit."""
    trace = ingest([log], tmp_path / "trace", Options(order="file"))
    tokenize(trace, tokenizer)
    found = profile(trace, tmp_path / "profile")
    assert found["trace"]["requests"] == int(row["llm_calls"])
    assert found["lengths"]["input"]["mean"] == printed(float(row["avg_prompt_tokens_llama3.1"]), 1)
    assert 100 * found["prefix"]["hit_rate"]["1"] == printed(float(row["prefix_hit_pct_unlimited"]), 1)

    (prompts,) = [np.split(c.symbols, c.offsets[1:-1]) for c in chunks(trace)]
    assert {int(prompt[0]) for prompt in prompts} == {128_000}  # <|begin_of_text|>
    lengths = list(map(len, prompts))
    common = [[common_prefix(a, b) for b in prompts] for a in prompts]
    pools = {
        key: float(key.removeprefix("prefix_hit_pct_").removesuffix("GB"))
        for key in row
        if key.endswith("GB")
    }
    assert len(pools) == 11
    for key, gb in pools.items():
        rate = hit_rate_of_whole_requests(lengths, common, int(gb * TOKENS_PER_GB))
        assert 100 * rate == printed(float(row[key]), 1), key


def test_lmcache_empty_log(tmp_path):
    """One of the tau-bench agent's logs is empty, and has no published figure."""
    with pytest.raises(TraceprofError, match="the file is empty"):
        ingest([AGENTS / "taubench/ea09a0dc475dbe00b56101ef665b8c03.jsonl.gz"], tmp_path / "trace")
    assert not (tmp_path / "trace").exists()


@needs("lmcache-agent-traces/miniswe/ba443702286bd3610b74b264aaf2b6a3.jsonl.gz")
@pytest.mark.parametrize(
    ("agent", "logs", "calls", "input_tokens", "percent", "digits"),
    [("miniswe", 20, 402, 2_480_402, 93.45, 2), ("taubench", 25, 471, 78_345, 86.2, 1)],  # one is empty
)
def test_lmcache_all_sessions_in_one_trace(
    agent, logs, calls, input_tokens, percent, digits, tokenizer, tmp_path
):
    """What a request finds of its own session's earlier prompts, over all sessions of one agent."""
    files = sorted((AGENTS / agent).glob("*.gz"))
    assert len(files) == logs
    trace = ingest(files, tmp_path / "trace", Options(order="file"))
    tokenize(trace, tokenizer)
    found = profile(trace, tmp_path / "profile")
    assert (found["trace"]["requests"], found["tokens"]["input"]) == (calls, input_tokens)
    assert 100 * found["prefix"]["by_origin"]["same_session"], digits == printed(percent)


# -- Mooncake, FAST'25: the conversation trace ---------------------------------------------------------------------

BLOCK = 512


class Mooncake(NamedTuple):
    profile: dict
    requests: pl.DataFrame  # requests.parquet
    curve: pl.DataFrame  # mrc.parquet
    blocks: np.ndarray  # hash ids of all prompts
    offsets: np.ndarray
    block_runs: object  # reuse distances in blocks, each block weighing 1

    @property
    def input_tokens(self):
        return self.requests["input_tokens"].to_numpy()

    def hit_blocks(self, capacity):
        """Per request, in a leaf-first LRU cache of that many blocks: a block of distance D hits if capacity >= D."""
        runs = self.block_runs
        hits = np.clip(capacity - runs.start + 1, 0, runs.length)
        return np.bincount(runs.request, hits, len(self.requests)).astype(np.int64)

    def hit_tokens(self, capacity):
        """The same in tokens: a last, partial block counts with its true length."""
        return np.minimum(self.hit_blocks(capacity) * BLOCK, self.input_tokens)


@pytest.fixture(scope="module")
def mooncake(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mooncake")
    trace = ingest([DATA / "mooncake-fast25/conversation_trace.jsonl"], folder / "trace")
    found = profile(trace, folder / "profile")
    read = list(chunks(trace, "block_hashes"))
    blocks = np.concatenate([c.symbols for c in read])
    offsets = np.concatenate([[0], np.cumsum(np.concatenate([np.diff(c.offsets) for c in read]))])
    tree = RadixTree(reuse=True, dtype=np.uint64)  # unit 1: a block weighs 1, full or not
    runs = tree.insert(blocks, offsets).runs
    requests, curve = (
        pl.read_parquet(folder / "profile" / f"{name}.parquet") for name in ("requests", "mrc")
    )
    return Mooncake(found, requests, curve, blocks, offsets, runs)


@needs("mooncake-fast25")
def test_mooncake_counts_and_lengths(mooncake):
    """The paper's Table 2 (12,031 requests of 12,035 and 343 tokens), and what the collection's README adds."""
    found = mooncake.profile
    assert found["trace"]["requests"] == 12_031
    assert found["trace"]["span_seconds"] == printed(3_537.0, 1)
    assert found["tokens"]["input"] == 144_793_823
    assert values(found["lengths"]["input"], "mean p50 p90 p99 max") == printed(
        [
            12_035,
            6_909,
            27_367,
            85_400,
            126_195,
        ]
    )
    assert values(found["lengths"]["output"], "mean p50 p90 p99 max") == printed(
        [343, 350, 597, 1_119, 2_000]
    )
    assert found["lengths"]["input"]["mean"] == printed(12_035.06, 2)
    assert (len(mooncake.blocks), len(np.unique(mooncake.blocks))) == (288_500, 182_790)


@needs("mooncake-fast25")
def test_mooncake_five_hit_rates(mooncake):
    """One file, one infinite cache: 36.6 to 40.9 % by definition alone."""
    prefix = mooncake.profile["prefix"]
    value = {name: one["value"] for name, one in prefix["definitions"].items()}
    assert value["block_weighted"] == printed(0.36641, 5)
    assert value["block_weighted"] == 1 - 182_790 / 288_500
    assert value["full_blocks_only"] == printed(0.38190, 5)
    assert value["token_weighted"] == prefix["hit_rate"]["512"] == printed(0.37362, 5)
    assert prefix["mean_of_requests"]["512"] == printed(0.40938, 5)  # of each request's token rate
    assert value["mean_of_requests"] == printed(0.40938, 5)
    assert value["mean_of_requests_in_blocks"] == printed(
        0.3843, 4
    )  # of each request's block rate: what aiperf prints
    assert value["last_half"] == printed(0.3981, 4)
    assert 100 * value["requests_with_hit"] == printed(99.99, 2)


@needs("mooncake-fast25")
def test_mooncake_paper_says_approximately_40_percent(mooncake):
    """Table 2's ratio names no definition: every whole-trace one rounds to 0.4, none is 40.0 %, 38.2 % is the nearest cold one."""
    value = {name: one["value"] for name, one in mooncake.profile["prefix"]["definitions"].items()}
    cold = ("block_weighted", "full_blocks_only", "token_weighted", "mean_of_requests_in_blocks")
    assert [value[name] for name in cold] == printed([0.4] * 4, 1)
    assert 0.36 < min(value[name] for name in cold) < max(value[name] for name in cold) < 0.385


@needs("mooncake-fast25")
def test_mooncake_ceiling_of_kvcache_simulator(mooncake):
    """Its JSON: hitRateCeiling 0.3981127342350043, hitTokens 27038068, totalMeasuredTokens 67915607."""
    half = mooncake.requests[len(mooncake.requests) // 2 :]
    assert (half["hit_tokens_512"].sum(), half["input_tokens"].sum()) == (27_038_068, 67_915_607)
    assert mooncake.profile["prefix"]["definitions"]["last_half"]["value"] == 0.3981127342350043


@needs("mooncake-fast25")
@pytest.mark.parametrize(
    ("blocks", "hit_tokens", "rate"),
    [
        (32, None, 0.0454),
        (36, 3_080_192, 0.04535322786704976),
        (585, 3_103_846, 0.04570151305575462),
        (2_048, 3_833_192, 0.0564),
        (2_340, 3_939_567, 0.058006799526948205),
        (8_192, 12_781_765, 0.1882),
        (18_724, 20_189_975, 0.29728034382435836),
        (32_768, 24_161_208, 0.3558),
        (74_898, 26_170_740, 0.38534206136153654),
    ],
)
def test_mooncake_lru_of_kvcache_simulator(mooncake, blocks, hit_tokens, rate):
    """Leaf-first LRU at every size from one pass, last half: kvcache-simulator 0.1.3 simulates each size apart.

    32, 2,048, 8,192 and 32,768 blocks are 16K, 1M, 4M and 16M tokens: llmtrafficlens prints 5.6, 18.8, 35.6 % for the last three.
    """
    half = len(mooncake.requests) // 2
    ours = mooncake.hit_tokens(blocks)[half:].sum()
    assert hit_tokens is None or ours == hit_tokens
    assert ours / 67_915_607 == printed(rate, len(str(rate)) - 2)


def lru_hit_blocks(mooncake, capacity, *, leaf_first):
    """Hits of a block LRU that really evicts. Head first, as plain caches do, a prefix goes before what continues it."""
    cache = OrderedDict()
    hits = 0
    for begin, end in zip(mooncake.offsets[:-1].tolist(), mooncake.offsets[1:].tolist(), strict=True):
        prompt = mooncake.blocks[begin:end].tolist()
        if leaf_first:
            hits += sum(block in cache for block in prompt)
            prompt.reverse()
        for block in prompt:
            if block in cache:
                hits += not leaf_first
                cache.move_to_end(block)
            else:
                cache[block] = None
                if not leaf_first and len(cache) > capacity:
                    cache.popitem(last=False)
        while len(cache) > capacity:
            cache.popitem(last=False)
    return hits


@needs("mooncake-fast25")
@pytest.mark.parametrize(
    ("tokens_held", "published", "leaf_first"),
    [(1e6, 0.0532, 0.0533), (3e6, 0.1355, 0.1361), (10e6, 0.2852, 0.2852), (50e6, 0.3635, 0.3635)],
)
def test_mooncake_block_lru(mooncake, tokens_held, published, leaf_first):
    """The published rates are of an LRU that evicts heads first; a prefix cache is leaf first, which is what our tree measures.

    Ours equals a leaf-first cache that really evicts to the block, is never below the published rate, and at most 0.06 points
    above it. The product's curve lets a capacity cut a block and counts a partial one as what it is: it has at least the hit
    tokens of whole blocks, and at most half a point more of the input.
    """
    capacity = int(tokens_held) // BLOCK
    assert lru_hit_blocks(mooncake, capacity, leaf_first=False) / 288_500 == printed(published, 4)
    ours = mooncake.hit_blocks(capacity).sum()
    assert ours == lru_hit_blocks(mooncake, capacity, leaf_first=True)
    assert ours / 288_500 == printed(leaf_first, 4)
    assert published - 0.0001 < ours / 288_500 < published + 0.0007

    curve = np.interp(tokens_held, mooncake.curve["capacity_tokens"], mooncake.curve["hit_tokens"])
    assert 0 <= (curve - mooncake.hit_tokens(capacity).sum()) / 144_793_823 < 0.005


@needs("mooncake-fast25")
def test_mooncake_figure_9(mooncake):
    """At 50M tokens the maximum is (nearly) reached, as in the paper; at 3M we have 37 % of it, where the paper has 41 %."""
    most = mooncake.hit_blocks(len(mooncake.blocks)).sum()
    assert most == 105_710
    assert 100 * mooncake.hit_blocks(50_000_000 // BLOCK).sum() / most == printed(99.2, 1)
    assert 100 * mooncake.hit_blocks(3_000_000 // BLOCK).sum() / most == printed(37)


# -- WEKA: Claude Code sessions --------------------------------------------------------------------------------------


class Weka(NamedTuple):
    profile: dict
    requests: pl.DataFrame
    trace: object


@pytest.fixture(scope="module")
def weka(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weka")
    trace = ingest([DATA / "weka-claude-code/traces.jsonl.zst"], folder / "trace")
    columns = ["session_id", "app", "input_tokens"]
    return Weka(profile(trace, folder / "profile"), trace.scan("requests").select(columns).collect(), trace)


@needs("weka-claude-code")
def test_weka_counts_and_lengths(weka):
    """473 traces, 34,294 requests; 14 of the traces have sub-agents."""
    found = weka.profile
    assert weka.trace.manifest["source_records"] == found["sessions"]["count"] == 473
    assert found["trace"]["requests"] == 34_294
    assert values(found["lengths"]["input"], "mean p50 p90 max") == printed(
        [122_256, 103_540, 231_623, 894_371]
    )
    assert values(found["lengths"]["output"], "mean p50 p90") == printed([444, 219, 914])
    assert weka.requests.filter(pl.col("app").is_not_null())["session_id"].n_unique() == 14
    turns = weka.requests.filter(pl.col("app").is_null()).group_by("session_id").len()["len"]
    # published: 33,838 top-level entries, mean 71.5: 44 of them are the sub-agents, which are no requests
    entries = turns.sum() + 44
    assert entries == 33_838
    assert entries / 473 == printed(71.5, 1)
    assert (turns.median(), turns.max(), found["sessions"]["turns_max"]) == (51, 514, 514)


@needs("weka-claude-code")
def test_weka_infinite_cache(weka):
    """0.9636 when a session's models share; ours keeps them apart, and is 0.9635."""
    roots = weka.requests["session_id"].rank("dense").to_numpy().astype(np.int64) - 1
    tree = RadixTree(dtype=np.uint64)
    blocks = hits = 0
    for chunk in chunks(weka.trace, "block_hashes"):
        among = roots[chunk.first : chunk.first + len(chunk.known)]
        hits += tree.insert(chunk.symbols, chunk.offsets, among).matched.sum()
        blocks += len(chunk.symbols)
    assert hits / blocks == printed(0.9636, 4)
    ours = weka.profile["prefix"]["definitions"]["full_blocks_only"]["value"]
    assert ours == printed(0.9635, 4)
    assert ours <= hits / blocks
    assert weka.profile["prefix"]["by_origin"]["other_sessions"] == 0


@needs("weka-claude-code")
def test_weka_overlap_with_the_previous_request(weka):
    """Per session, top level: blocks shared with the request just before / all blocks, the first request's included.

    What begins at reuse distance 1 is what the request just before touched last: the tree knows the overlap.
    """
    top = weka.requests["app"].is_null().to_numpy()
    roots = weka.requests["session_id"].rank("dense").to_numpy().astype(np.int64) - 1
    tree = RadixTree(reuse=True, dtype=np.uint64)
    blocks, overlap = np.zeros(473), np.zeros(473)
    for chunk in chunks(weka.trace, "block_hashes"):
        wanted = top[chunk.first : chunk.first + len(chunk.known)]
        length = np.diff(chunk.offsets)
        symbols = chunk.symbols[np.repeat(wanted, length)]
        among = roots[chunk.first : chunk.first + len(chunk.known)][wanted]
        before = tree.requests
        runs = tree.insert(symbols, np.concatenate([[0], np.cumsum(length[wanted])]), among).runs
        blocks += np.bincount(among, length[wanted], 473)
        just_before = runs.start == 1
        overlap += np.bincount(among[runs.request[just_before] - before], runs.length[just_before], 473)
    percent = 100 * overlap / blocks
    assert np.round(np.percentile(percent, (0, 25, 50, 75, 100)), 2).tolist() == [
        60.57,
        92.21,
        95.56,
        97.16,
        99.17,
    ]
    assert percent.mean() == printed(93.05, 2)


# -- Azure: the coding service -----------------------------------------------------------------------------------------


def test_azure_code(tmp_path):
    """Lengths, span and bursts; the README says 11 November, the rows say 16 November, and so do we."""
    (log,) = (DATA / "azure-llm-2023-code").glob("*.csv*")
    trace = ingest([log], tmp_path / "trace")
    found = profile(trace, tmp_path / "profile")
    assert found["trace"]["requests"] == 8_819
    assert found["trace"]["first_arrival"] == "2023-11-16T18:17:03.979960Z"
    assert found["trace"]["last_arrival"] == "2023-11-16T19:14:19.928016Z"
    assert found["trace"]["span_seconds"] == printed(3_435.948, 3)
    assert values(found["lengths"]["input"], "mean p50 p90 p99 max") == printed(
        [
            2_047.85,
            1_469,
            5_187.6,
            7_436,
            7_437,
        ],
        2,
    )
    assert values(found["lengths"]["output"], "mean p50 p90 p99 max") == printed(
        [27.9, 13, 55, 251.5, 1_899], 1
    )
    assert found["arrivals"]["rate_mean"] == printed(2.567, 3)
    assert found["arrivals"]["rate_peak_1s"] == 67
    assert found["arrivals"]["cv"] == printed(13.15, 2)
    minutes = trace.scan("requests").select(pl.col("arrival_offset_us") // 60_000_000).collect().to_series()
    assert minutes.value_counts()["count"].max() == 632


# -- measured runs: concurrency from start and end ----------------------------------------------------------------------


@needs("vtc-arena-real")
@pytest.mark.parametrize(("scheduler", "latency", "peak"), [("VTC", 51.2057, 233), ("FCFS", 58.2192, 274)])
def test_vtc_concurrency(scheduler, latency, peak):
    """The file's own avg_latency is the mean of its rows; the sweep finds the most requests in flight."""
    result = json.loads((DATA / f"vtc-arena-real/all_results_real_{scheduler}.jsonl").read_text())["result"]
    start, took = (np.array([r[key] for r in result["responses"]]) for key in ("req_time", "request_latency"))
    assert len(start) == 1_500
    assert took.mean() == pytest.approx(result["avg_latency"], rel=1e-12)
    assert took.mean() == printed(latency, 4)
    assert in_flight(microseconds(start), microseconds(start + took)).level.max() == peak


@needs("aibrix-bench")
def test_aibrix_concurrency():
    """455 measured requests of 365 users at 4.1 requests a second; times are unix seconds."""
    with zipfile.ZipFile(DATA / "aibrix-bench/benchmark_output_20250519.zip") as archive:
        table = pl.read_csv(archive.read("benchmark_output/ps_stack_output_4.1.csv"))
    assert (len(table), table["user_id"].n_unique()) == (455, 365)
    start, end = (microseconds(table[key].to_numpy()) for key in ("launch_time", "finish_time"))
    assert in_flight(start, end).level.max() == 123


def microseconds(seconds):
    return np.rint(seconds * 1e6).astype(np.int64)


# -- conversations under Llama 3's chat template -------------------------------------------------------------------------

# the published counts have no <|begin_of_text|>
TURN = "{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' + m.content | trim + '<|eot_id|>' }}"
ASK = "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
CHAT_TEMPLATE = "{%- for m in messages %}" + TURN + "{%- endfor %}" + ASK


def profiled_chat(log, tokenizer, folder):
    template = folder / "llama3.jinja"
    template.write_text(CHAT_TEMPLATE)
    trace = ingest([log], folder / "trace")
    info = tokenize(trace, tokenizer, str(template))
    assert info.errors == {}
    return trace, profile(trace, folder / "profile"), pl.read_parquet(folder / "profile" / "requests.parquet")


@needs("sharegpt-v3-slice")
def test_sharegpt(tokenizer, tmp_path):
    """30,518 model turns: the published figures count those that open a conversation as requests with an empty prompt.

    Ours are skipped, and counted; with their four tokens of template each put back, every published figure is met.
    """
    log = DATA / "sharegpt-v3-slice/sharegpt_0_8000.jsonl.zst"
    trace, found, requests = profiled_chat(log, tokenizer, tmp_path)
    skipped = trace.manifest["skipped_by_reason"]
    opening = skipped["model_turn_without_prompt"]
    assert (found["trace"]["requests"], opening) == (27_549, 2_969)
    assert found["trace"]["requests"] + opening == 30_518
    value = found["prefix"]["definitions"]
    assert value["full_blocks_only"]["value"] == printed(0.617, 3)
    assert value["token_weighted_blocks_of_16"]["value"] == printed(0.611, 3)

    empty = np.full(opening, 4)  # <|start_header_id|> assistant <|end_header_id|> \\n\\n
    tokens_ = np.concatenate([requests["input_tokens"].to_numpy(), empty])
    hits = requests["hit_tokens_16"].sum()
    assert np.percentile(tokens_, (50, 90, 99)).tolist() == printed([665, 1_645, 1_984])
    assert tokens_.mean() == printed(757)
    assert tokens_.max() == 161_280
    assert hits / tokens_.sum() == printed(0.611, 3)
    assert hits // 16 / (tokens_ // 16).sum() == printed(0.617, 3)


@needs("tau-bench")
def test_tau_bench_airline(tokenizer, tmp_path):
    """200 trajectories, one request a model turn; a turn's tool calls stand behind its text as JSON, as published."""
    trajectories = json.loads(gzip.decompress((DATA / "tau-bench/gpt-4o-airline.json.gz").read_bytes()))
    log = tmp_path / "airline.jsonl"
    with log.open("w") as file:
        for number, one in enumerate(trajectories):
            turns = [{"role": m["role"], "content": as_text(m)} for m in one["traj"]]
            while turns[-1]["role"] != "assistant":
                turns.pop()
            file.write(json.dumps({"id": str(number), "messages": turns}) + "\n")
    _, found, requests = profiled_chat(log, tokenizer, tmp_path)
    assert found["trace"]["requests"] == 2_454
    assert values(found["lengths"]["input"], "mean p50 p90 p99 max") == printed(
        [2_938, 2_459, 5_254, 8_034, 10_747]
    )
    # the published outputs include the token that ends the turn, ours do not
    assert [n + 1 for n in values(found["lengths"]["output"], "mean p50 p99")] == printed([80, 61, 299])
    value = found["prefix"]["definitions"]
    assert value["full_blocks_only"]["value"] == printed(0.930, 3)
    assert value["token_weighted_blocks_of_16"]["value"] == printed(0.928, 3)
    assert 100 * (requests["hit_tokens_16"] > 0).mean() == printed(99.96, 2)


def as_text(message):
    return (message["content"] or "") + (
        json.dumps(message["tool_calls"]) if message.get("tool_calls") else ""
    )
