"""SGLang's and vLLM's routers, live before three workers that answer when they are told to: where each request goes."""

from __future__ import annotations

import contextlib
import http.client
import http.server
import json
import queue
import socket
import threading
import time

import numpy as np
import pytest
import servers

from tests import lab
from traceprof.caches.routing import Options, route

WORKERS = 3
TRACES = 30


class Worker(http.server.ThreadingHTTPServer):
    """Tells `arrived` of every request to generate, and answers it once its event is set."""

    daemon_threads = True

    def __init__(self, arrived):
        self.arrived = arrived
        super().__init__(("127.0.0.1", 0), Talk)
        threading.Thread(target=self.serve_forever, daemon=True).start()


class Talk(http.server.BaseHTTPRequestHandler):
    """What the routers ask of a worker."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *words):
        pass

    def answer(self, value):
        body = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        self.answer({"model_path": "m", "served_model_name": "m", "object": "list", "data": [{"id": "m"}]})

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path.endswith("/render"):  # vLLM's router asks for the tokens: here a character each
            # whose digits differ from the first on, as it keeps them in hexadecimal and splits between digits
            return self.answer([{"token_ids": [ord(c) * 0x01000193 % (1 << 32) for c in asked["prompt"]]}])
        may_end = threading.Event()
        self.server.arrived.put((self.server.server_port, may_end))
        assert may_end.wait(60)
        choice = {"index": 0, "text": "x", "finish_reason": "stop"}
        return self.answer({"text": "x", "object": "text_completion", "choices": [choice]})


class Router:
    """A live router: requests are sent one after another, and stay in flight until they are ended."""

    def __init__(self, port, path, arrived):
        self.port, self.path, self.arrived = port, path, arrived
        self.flying = {}

    def send(self, number, prompt):
        """Send a request; the worker's port that it came to."""
        asked = {"text": prompt} if self.path == "/generate" else {"model": "m", "prompt": prompt}
        line = threading.Thread(target=servers.ask, args=(self.port, self.path, asked), daemon=True)
        line.start()
        port, may_end = self.arrived.get(timeout=30)
        self.flying[number] = (line, may_end)
        self.settle()
        return port

    def end(self, number):
        line, may_end = self.flying.pop(number)
        may_end.set()
        line.join(30)
        self.settle()

    def settle(self):
        """Until the router itself counts what is in flight."""
        deadline = time.monotonic() + 30
        while self.load() != len(self.flying):
            assert time.monotonic() < deadline
            time.sleep(0.001)

    def load(self):
        line = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        line.request("GET", "/workers")
        found = json.loads(line.getresponse().read())
        line.close()
        return sum(worker["load"] for worker in found["workers"])


@contextlib.contextmanager
def routing(folder, module, path, said, *more, replicas=WORKERS):
    """A router of that kind before workers of ours; it logs to MODULE.log in that folder."""
    arrived = queue.Queue()
    workers = [Worker(arrived) for _ in range(replicas)]
    with socket.socket() as one, socket.socket() as other:  # both at once, so that they differ
        one.bind(("127.0.0.1", 0))
        other.bind(("127.0.0.1", 0))
        port, metrics = one.getsockname()[1], other.getsockname()[1]
    words = [
        servers.python("routers"), "-m", f"{module}.launch_router", "--host", "127.0.0.1", "--port", str(port),
        "--prometheus-host", "127.0.0.1", "--prometheus-port", str(metrics), "--policy", "cache_aware",
        "--worker-urls", *(f"http://127.0.0.1:{w.server_port}" for w in workers), "--disable-retries",
        "--cache-threshold", str(said.cache_threshold),
        "--balance-abs-threshold", str(said.balance_abs_threshold),
        "--balance-rel-threshold", str(said.balance_rel_threshold), *more,
    ]  # fmt: skip
    try:
        with servers.serving(module, words, port, folder / f"{module}.log", "/readiness", limit_s=90):
            router = Router(port, path, arrived)
            deadline = time.monotonic() + 60
            while "m" not in json.dumps(servers_of(port)) or len(servers_of(port)) < replicas:
                assert time.monotonic() < deadline
                time.sleep(0.1)
            yield router
    finally:
        for worker in workers:
            worker.shutdown()
            worker.server_close()


def servers_of(port):
    line = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    line.request("GET", "/workers")
    found = json.loads(line.getresponse().read())["workers"]
    line.close()
    return [worker for worker in found if worker["is_healthy"]]


def replay(router, requests, alphabet):
    """The worker's port of each request, in the order and with the overlaps of the trace."""
    ends = sorted((r.arrival + r.took, r.number) for r in requests)
    ports = []
    for r in requests:
        while ends and (ends[0][0] < r.arrival or (ends[0][0] == r.arrival and ends[0][1] < r.number)):
            router.end(ends.pop(0)[1])
        ports.append(router.send(r.number, "".join(chr(alphabet + t) for t in r.prompt)))
    for _, number in ends:
        router.end(number)
    return ports


@pytest.mark.parametrize(
    "said",
    [Options(), Options(cache_threshold=0.5, balance_abs_threshold=1, balance_rel_threshold=1.2)],
    ids=["defaults", "tight"],
)
@pytest.mark.parametrize(
    ("module", "path", "policy"),
    [
        ("sglang_router", "/generate", "cache_aware"),
        ("vllm_router", "/v1/completions", "cache_aware_vllm"),
    ],
)
def test_requests_go_where_the_router_sends_them(tmp_path, module, path, policy, said):
    """Random traces one after another through one router, request by request, with its own count of what is in flight."""
    with routing(tmp_path, module, path, said) as router:
        # who is first among equals: what nobody knows goes to the first who is idle
        order = [router.send(k, chr(0x3000 + k)) for k in range(WORKERS)]
        assert len(set(order)) == WORKERS
        for k in range(WORKERS):
            router.end(k)
        different = 0
        for i, requests in enumerate(lab.many(31, TRACES, took=60, gap=6)):
            ports = replay(router, requests, 0x4E00 + 8 * i)
            theirs = [order.index(port) for port in ports]
            ours = route(lab.traffic_of(requests), WORKERS, policy, options=said).tolist()
            assert ours == theirs, f"trace {i}"
            different += len(set(theirs)) > 1
        assert different > TRACES // 2


def bursts(rng, number, each, replicas):
    """Requests that go on from one another over a long time: (number, prompt, whether it stays until the burst is over)."""
    known = [(20 + w,) for w in range(replicas)]
    made = [[(w, prompt, True) for w, prompt in enumerate(known)]]
    for _ in range(number):
        burst = []
        for _ in range(each):
            fresh = tuple(int(t) for t in rng.integers(0, 6, rng.integers(1, 15)))
            old = known[int(rng.integers(max(0, len(known) - 40), len(known)))]
            cut = len(old) if rng.random() < 0.5 else int(rng.integers(len(old) + 1))
            prompt = (old[:cut] if rng.random() < 0.8 else ()) + fresh
            known.append(prompt)
            burst.append((sum(map(len, made)) + len(burst), prompt, rng.random() < 0.3))
        made.append(burst)
    return made


@pytest.mark.parametrize(
    ("module", "path", "policy", "characters"),
    [
        ("sglang_router", "/generate", "cache_aware", 1),
        ("vllm_router", "/v1/completions", "cache_aware_vllm", 8),
    ],
)
def test_the_tree_is_cut_back_as_the_router_does(tmp_path, module, path, policy, characters):
    """Every two seconds to 100 tokens a worker; requests come in bursts just after the router said that it did so.

    Two workers: of more, SGLang's router asks one at random where a stretch's owner lost it and several others have it.
    """
    log = tmp_path / f"{module}.log"
    room, every_s, replicas = 100, 2, 2
    more = (
        "--max-tree-size",
        str(room * characters),
        "--eviction-interval-secs",
        str(every_s),
        "--log-level",
        "debug",
    )
    said = Options(balance_abs_threshold=1, balance_rel_threshold=1.2)
    made = bursts(np.random.default_rng(6), 12, 12, replicas)
    requests, ports = [], []
    with routing(tmp_path, module, path, said, *more, replicas=replicas) as router:
        for k, burst in enumerate(made):
            before = log.read_text().count("Cache eviction completed")
            while log.read_text().count("Cache eviction completed") == before:
                time.sleep(0.005)
            began = time.monotonic()
            for j, (number, prompt, stays) in enumerate(burst):
                ports.append(router.send(number, "".join(chr(97 + t) for t in prompt)))
                took = len(burst) - j if stays else 0
                requests.append(lab.Request(number, prompt, (), 1000 * k + j, 0, took))
                if not stays:
                    router.end(number)
            for number, _, stays in burst:
                if stays:
                    router.end(number)
            assert time.monotonic() - began < every_s * 0.8
    order = ports[:replicas]
    theirs = [order.index(port) for port in ports]
    traffic = lab.traffic_of(requests)
    ours = route(
        traffic, replicas, policy, options=said._replace(tree_tokens=room, tree_cut_s=0.001)
    ).tolist()
    assert ours == theirs
    assert route(traffic, replicas, policy, options=said).tolist() != theirs
