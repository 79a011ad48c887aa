"""Engines step by step: their caches against the models of `traceprof.caches`, their schedulers rule by rule."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import lab
from tests.caches.slots import Job as Cut
from tests.prefills import Prefills
from traceprof.caches import engine
from traceprof.caches.traffic import Traffic
from traceprof.simulate.cost import Costs
from traceprof.simulate.live import Job, Live
from traceprof.simulate.live_caches import TOKEN_BYTES, live_cache
from traceprof.simulate.live_caches.base import common
from traceprof.simulate.schedulers import ENGINES, scheduler
from traceprof.simulate.served import Load, serve


def packed(tokens):
    return b"".join(token.to_bytes(TOKEN_BYTES, "little") for token in tokens)


class Seen:
    """A request of `tests.lab` as a live cache sees it."""

    def __init__(self, request):
        self._request, self._tokens = request, packed(request.tokens)
        self.number, self.root, self.prompt, self.final = (
            request.number,
            str(request.root),
            len(request.prompt),
            request.final,
        )
        self.lost = False

    @property
    def held(self):
        return self._request.final

    @property
    def failed(self):
        return self.lost

    @failed.setter
    def failed(self, _):
        self.lost = self._request.failed = True
        self._request.final = self._request.took = 0  # the clock ends it now

    def sequence(self, length):
        return self._tokens[: length * TOKEN_BYTES]


class Driven:
    """A live cache for the clock of `tests.drive`."""

    def __init__(self, cache):
        self.cache, self.jobs = cache, {}

    def admit(self, request, length):
        job = self.jobs.setdefault(request.number, Seen(request))
        hit = self.cache.admit(job, length)
        return -1 if job.failed else hit

    def room(self):
        self.cache.room()

    def computed(self, request, length):
        self.cache.computed(self.jobs[request.number], length)

    def grow(self, request, length):
        return self.cache.grow(self.jobs[request.number], length)

    def release(self, request, ended):
        job = self.jobs[request.number]
        if not job.failed:
            self.cache.release(job, ended)


def same(fast, slow):
    assert slow.hits == fast.hit_tokens.tolist()
    assert (slow.waited, slow.preempted) == (fast.waited, fast.preempted)


@given(lab.requests(roots=(0, 0, 1)), st.integers(2, 25), st.integers(1, 4))
def test_vllm_s_cache_is_that_of_its_model(requests, total, block):
    """Hits, waits and preemptions, whatever the room."""
    cache = live_cache("vllm", total * block, block_size=block)
    slow = lab.drive(requests, Driven(cache), block, cache.limit)
    same(engine("vllm").simulate(lab.traffic_of(requests), total * block, block_size=block), slow)
    assert cache.used() == 0 and cache.flush()


@given(
    lab.requests(roots=(0, 0, 1)),
    st.integers(1, 40),
    st.sampled_from([1, 1, 2, 3]),
    st.sampled_from([1, 8, 8192]),
)
def test_sglang_s_cache_is_that_of_its_model(requests, total, page, chunk):
    """Prompts are there when their round is over."""
    cache = live_cache("sglang", total * page, page_size=page)
    driven = Prefills(Driven(cache), "batch", page, max(1, chunk // page) * page)
    slow = lab.drive(requests, driven, page, cache.limit)
    same(
        engine("sglang").simulate(lab.traffic_of(requests), total * page, page_size=page, quantum=1, chunk_tokens=chunk), slow
    )  # fmt: skip
    assert cache.used() == 0


@given(
    lab.requests(roots=(0, 0, 1)),
    st.integers(2, 40),
    st.integers(1, 4),
    st.booleans(),
    st.sampled_from([0, -1, 10, 40, 1000]),
)
def test_llamacpp_s_slots_are_those_of_its_model(requests, context, slots, unified, ram):
    """Slots that share a context or have their own, with and without RAM."""
    total = context if unified else context * slots
    cut = [Cut(request, context) for request in requests]
    cache = live_cache("llamacpp", total, slots=slots, unified=int(unified), ram_tokens=ram)
    done = lab.drive(cut, Driven(cache), 1 if unified else 1 << 60)
    fast = engine("llamacpp").simulate(
        lab.traffic_of(requests), total, slots=slots, unified=unified, ram_tokens=ram, quantum=1
    )  # fmt: skip
    assert [
        -1 if job.failed else hit for job, hit in zip(cut, done.hits, strict=True)
    ] == fast.hit_tokens.tolist()


@given(lab.requests(roots=(0, 0, 1)), st.integers(1, 6), st.integers(0, 120), st.booleans())
def test_mlx_lm_s_sequences_are_those_of_its_model(requests, most, capacity, chat):
    """Ten sequences, or fewer."""
    driven = Driven(live_cache("mlx_lm", capacity, sequences=most, chat=int(chat)))
    slow = lab.drive(requests, driven, 256)
    same(engine("mlx_lm").simulate(lab.traffic_of(requests), capacity, sequences=most, chat=chat), slow)


@given(lab.requests(roots=(0, 0, 1)), st.integers(1, 24), st.integers(1, 5))
def test_tensorrt_llm_s_cache_is_that_of_its_model(requests, total, block):
    """Partial reuse, and what is lost by it."""
    cache = live_cache("tensorrt_llm", total * block, block_size=block)
    slow = lab.drive(requests, Driven(cache), block, cache.limit)
    same(engine("tensorrt_llm").simulate(lab.traffic_of(requests), total * block, block_size=block), slow)
    assert cache.used() == 0 and cache.flush()


@given(lab.requests(roots=(0, 0, 1)), st.integers(1, 6), st.integers(1, 120), st.integers(1, 6))
def test_vllm_mlx_s_sequences_are_those_of_its_model(requests, most, capacity, shortest):
    """Least recently used first to go."""
    driven = Driven(live_cache("vllm_mlx", capacity, sequences=most, shortest=shortest))
    slow = lab.drive(requests, driven, 1 << 60)
    same(
        engine("vllm_mlx").simulate(lab.traffic_of(requests), capacity, sequences=most, shortest=shortest),
        slow,
    )


@given(lab.requests(roots=(0, 0, 1)), st.integers(2, 24), st.integers(1, 4))
def test_tgi_s_trie_is_that_of_its_model(requests, total, block):
    """Prompts alone, once their requests have ended."""
    cache = live_cache("tgi", total * block, block_size=block)
    slow = lab.drive(requests, Driven(cache), 1 << 60, cache.limit)
    same(engine("tgi").simulate(lab.traffic_of(requests), total * block, block_size=block), slow)
    assert cache.used() == 0 and cache.flush()


@given(lab.requests(roots=(0, 0, 1)), st.integers(1, 24), st.integers(1, 4), st.sampled_from([1, 2, 5, 16]))
def test_lmdeploy_s_trie_is_that_of_its_model(requests, total, block, ahead):
    """Room ahead, and answers that enter late."""
    cache = live_cache("lmdeploy", total * block, block_size=block, prefill_interval=ahead)
    slow = lab.drive(requests, Driven(cache), block, cache.limit)
    fast = engine("lmdeploy").simulate(
        lab.traffic_of(requests), total * block, block_size=block, prefill_interval=ahead
    )
    same(fast, slow)
    assert cache.used() == 0 and cache.flush()


def test_omlx_s_blocks_are_those_of_its_model_one_request_at_a_time():
    """As long as there is room."""
    for requests in lab.many(5, 60, gap=1, roots=2):
        serial = [r._replace(arrival=1000 * i) for i, r in enumerate(requests)]
        slow = lab.drive(serial, Driven(live_cache("omlx", 100_000, block_size=2)), 2)
        fast = engine("omlx").simulate(lab.traffic_of(serial), 100_000, block_size=2)
        assert slow.hits == fast.hit_tokens.tolist()


@given(st.lists(st.integers(0, 1), max_size=80), st.lists(st.integers(0, 1), max_size=80), st.integers(0, 80))
def test_what_two_sequences_have_in_common(a, b, shared):
    """Token by token."""
    a, b = [0] * shared + a, [0] * shared + b
    naive = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
    assert common(packed(a), packed(b)) == naive


# ---- schedulers

COSTS = Costs(0.01, 0.0005, 0.005, 0.0, 0.5, 1e-5, 1e-7, 1e-9, 0.0)
NAMES = list(ENGINES)


def run(name, requests, capacity=100_000, costs=COSTS, options=None, **changes):
    """Requests (arrival, prompt, output) through a live engine in virtual time: (engine, jobs, (job, time) of every token)."""
    engine = Live(scheduler(name, **changes), costs, live_cache(name, capacity, **(options or {})))
    jobs = [Job(i, packed(prompt), output, arrival=at) for i, (at, prompt, output) in enumerate(requests)]
    coming, told, now = list(jobs), [], 0.0
    while coming or engine.waiting or engine.running:
        while coming and coming[0].arrival <= now:
            assert engine.arrive(coming.pop(0))
        done = engine.step(now)
        if done is None:
            now = coming[0].arrival
            continue
        now += done[0]
        told += [(job.number, now) for job in done[1].yielded]
    return engine, jobs, told


@st.composite
def arrivals(draw, longest=60):
    """Requests that share prefixes and come in bursts."""
    made, now, known = [], 0.0, [()]
    for _ in range(draw(st.integers(1, 12))):
        now += draw(st.sampled_from([0.0, 0.0, 0.003, 0.1]))
        old = draw(st.sampled_from(known))
        prompt = old[: draw(st.integers(0, len(old)))] + tuple(
            draw(st.lists(st.integers(0, 2), min_size=1, max_size=longest))
        )
        known.append(prompt)
        made.append((now, prompt, draw(st.integers(1, 12))))
    return made


@given(arrivals(), st.sampled_from(NAMES), st.sampled_from([(4, 16), (2, 8), (64, 4096)]), st.booleans())
def test_every_token_is_made_once_and_none_before_its_request(requests, name, limits, tight):
    """Whatever the engine, its budget and its room; afterwards nothing is held."""
    seqs, tokens = limits
    capacity = 100_000
    if tight and name not in ("llamacpp", "ollama"):  # there requests fail
        capacity = max(len(prompt) + output for _, prompt, output in requests) + 200
    changes = {"max_seqs": seqs, "step_tokens": tokens, "chunk_tokens": tokens}
    slots = {"llamacpp": {"slots": seqs}, "ollama": {"num_parallel": seqs}}.get(name)
    engine, jobs, told = run(name, requests, capacity, options=slots, **changes)
    for job, (at, prompt, output) in zip(jobs, requests, strict=True):
        mine = [time for number, time in told if number == job.number]
        assert len(mine) == job.made == output and mine == sorted(set(mine))
        assert mine[0] == job.first > job.started >= at
        assert len(job.tokens) == (len(prompt) + output) * TOKEN_BYTES
        assert 0 <= job.hit <= len(prompt)
    assert engine.counts.generated == len(told) and engine.counts.requests == len(jobs)
    assert engine.counts.prompt_tokens == sum(len(prompt) for _, prompt, _ in requests)
    assert engine.cache.used() == 0 and engine.cache.flush()


@given(arrivals(), st.sampled_from(NAMES), st.sampled_from([1, 2, 64]))
def test_first_come_first_served(requests, name, seqs):
    """Nobody is admitted before who came earlier, and steps keep to their budget."""
    options = {"llamacpp": {"slots": seqs}, "ollama": {"num_parallel": seqs}}.get(name)
    engine, jobs, _ = run(name, requests, options=options, max_seqs=seqs, step_tokens=64, chunk_tokens=32)
    started = [job.started for job in jobs]
    assert started == sorted(started)
    assert engine.counts.preemptions == 0


@given(arrivals(), st.sampled_from(NAMES), st.sampled_from([0.25, 0.5, 0.9]))
def test_a_faster_engine_is_never_later_with_a_request_alone(requests, name, times):
    """All costs so many times as high."""
    _, prompt, output = requests[0]
    alone = [(0.0, prompt, output)]
    slow, fast = (run(name, alone, costs=costs)[2] for costs in (COSTS, COSTS.scaled(times)))
    assert all(quick <= late for (_, quick), (_, late) in zip(fast, slow, strict=True))
    assert fast[-1][1] == pytest.approx(slow[-1][1] * times)


@given(arrivals(longest=20), st.sampled_from(NAMES))
def test_one_request_at_a_time_hits_what_the_model_of_the_cache_says(requests, name):
    """Far apart, with room for all."""
    apart = [(100.0 * i, prompt, output) for i, (_, prompt, output) in enumerate(requests)]
    options = {"vllm_mlx": {"shortest": 1}, "lmdeploy": {"block_size": 4}, "omlx": {"block_size": 4}}.get(
        name, {}
    )
    _, jobs, _ = run(name, apart, options=options)
    said = [tuple(job.tokens[i] for i in range(0, len(job.tokens), TOKEN_BYTES)) for job in jobs]
    traffic = Traffic.of_lists(
        [(s[: job.prompt], s[job.prompt :], int(job.arrival * 1e6), int(job.arrival * 1e6) + 50_000_000) for s, job in zip(said, jobs, strict=True)]
    )  # fmt: skip
    assert [job.hit for job in jobs] == engine(name).simulate(traffic, 100_000, **options).hit_tokens.tolist()


def test_a_step_takes_what_stands_in_it():
    """By hand: a prompt of 10 in pieces of 8 and 2, then a step of decoding beside the next prompt."""
    live = Live(scheduler("vllm", step_tokens=8, chunk_tokens=8), COSTS, live_cache("vllm", 1000))
    live.arrive(Job(0, packed(range(10)), 3))
    assert live.step(0.0)[0] == pytest.approx(
        COSTS.step(decoding=0, read_tokens=0, prompt_tokens=8, pairs=36)
    )
    live.arrive(Job(1, packed(range(50, 55)), 1))
    seconds, step = live.step(1.0)
    assert seconds == pytest.approx(
        COSTS.step(decoding=0, read_tokens=8, prompt_tokens=2 + 5, pairs=2 * 8 + 3 + 15)
    )
    assert [job.number for job in step.yielded] == [0, 1] and [job.number for job in step.ended] == [1]
    seconds, step = live.step(2.0)
    assert seconds == pytest.approx(COSTS.step(decoding=1, read_tokens=11))
    assert live.step(3.0)[1].ended[0].made == 3 and live.step(4.0) is None


def test_prompts_go_first_where_steps_are_not_mixed():
    """SGLang: whoever decodes waits for a new prompt. vLLM: they share the step."""
    for name, yields in (("sglang", [[0], [1], [0, 1]]), ("vllm", [[0], [0, 1], [0, 1]])):
        live = Live(scheduler(name), COSTS, live_cache(name, 1000))
        live.arrive(Job(0, packed([1, 2]), 9))
        seen = [[job.number for job in live.step(0.0)[1].yielded]]
        live.arrive(Job(1, packed([3, 4]), 9))
        seen += [[job.number for job in live.step(1.0)[1].yielded] for _ in range(2)]
        assert seen == yields


def test_who_was_admitted_last_gives_way_and_goes_on_first():
    """Two grow in room for one and a half: the later ends later, and all say what they had to."""
    engine, jobs, told = run(
        "vllm", [(0.0, range(20), 40), (0.0, range(100, 120), 40), (0.0, range(200, 210), 5)], 7 * 16
    )
    assert engine.counts.preemptions > 0
    last = dict(told)
    assert last[0] < last[1]
    assert [job.made for job in jobs] == [40, 40, 5]


def test_when_slots_share_a_context_that_is_full_all_fail():
    """llama.cpp: errors for every running request; those that wait go on."""
    live = Live(scheduler("llamacpp", max_seqs=2), COSTS, live_cache("llamacpp", 50, slots=2))
    for i in range(3):
        assert live.arrive(Job(i, packed([i] * 20), 20))
    failed, ended = [], []
    while (done := live.step(0.0)) is not None:
        failed += [job.number for job in done[1].failed]
        ended += [job.number for job in done[1].ended]
    assert failed == [0, 1] and ended == [2]


def test_who_leaves_gives_back_what_it_held():
    """While it waits, while it runs, and while it is in a step."""
    live = Live(scheduler("vllm", max_seqs=1), COSTS, live_cache("vllm", 1000))
    jobs = [Job(i, packed([i] * 40), 50) for i in range(3)]
    for job in jobs:
        live.arrive(job)
    live.cancel(jobs[1])
    live.begin(0.0)
    live.cancel(jobs[0])
    assert live.busy and live.cache.used() == 48
    live.end()
    assert not live.running and live.cache.used() == 0
    live.step(1.0)
    live.cancel(jobs[2])
    assert live.cache.used() == 0 and live.step(2.0) is None
    assert not live.arrive(Job(9, packed([1] * 990), 50))


EXACT = Costs(10e-6, 100e-9, 5e-6, 0.0, 0.5, 1e-6, 2e-9, 4e-9, 0.0)  # every step takes whole nanoseconds


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("room", [90, 130, 100_000])
def test_it_is_the_twin_of_the_machine(name, room):
    """Hits, first tokens, ends to the nanosecond, preemptions: as the kernel that knows all requests ahead."""
    options = {
        "vllm": {"block_size": 4},
        "tensorrt_llm": {"block_size": 4},
        "lmdeploy": {"block_size": 4},
        "omlx": {"block_size": 4},
    }.get(name, {})
    if name == "llamacpp":
        room = 100_000  # when its requests fail for want of room the length of that step differs
    preempted = 0
    for i, requests in enumerate(lab.many(3, 30, roots=2, gap=4)):
        seqs = {"llamacpp": 2, "ollama": 1}.get(name, (2, 8, 64)[i % 3])
        chunk = 9999 if name == "sglang" and room < 1000 else (16, 24, 9999)[i // 3 % 3]
        sched = scheduler(name, max_seqs=seqs, step_tokens=(16, 40, 9999)[i % 3], chunk_tokens=chunk)
        made = [
            (7 * r.arrival, r.prompt, min(max(1, len(r.output)), room - len(r.prompt)), r.root)
            for r in requests
            if len(r.prompt) < room
        ]
        traffic = Traffic.of_lists(
            [(p, [999] * n, at, at) for at, p, n, _ in made], [root for *_, root in made]
        )
        own = {"quantum": 1} if name == "sglang" else {}
        fast = serve(
            name, traffic, Load.at(traffic.arrival_us), sched, EXACT, room, options={**options, **own}
        )
        slots = {"llamacpp": {"slots": seqs}, "ollama": {"num_parallel": seqs}}.get(name, {})
        live = Live(sched, EXACT, live_cache(name, room, **options, **slots), [packed([999])])
        jobs = [
            Job(j, packed(p), n, root=str(root), arrival=at / 1e6) for j, (at, p, n, root) in enumerate(made)
        ]
        coming, now, ends = [job for job in jobs if job.final <= live.cache.limit], 0.0, {}
        while coming or live.waiting or live.running:
            while coming and coming[0].arrival <= now + 1e-12:
                live.arrive(coming.pop(0))
            done = live.step(now)
            now = coming[0].arrival if done is None else now + done[0]
            ends |= {job.number: round(now * 1e9) for job in done[1].ended} if done else {}
        assert [job.hit for job in jobs] == fast.hit_tokens.tolist()
        assert [-1 if job.first is None else round(job.first * 1e9) for job in jobs] == fast.first.tolist()
        assert all(fast.end[number] == end for number, end in ends.items())
        assert live.counts.preemptions == fast.preemptions
        preempted += fast.preemptions
    assert preempted or room > 1000 or name not in ("vllm", "sglang", "lmdeploy")
