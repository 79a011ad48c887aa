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
            return self.answer([{"token_ids": [ord(c) for c in asked["prompt"]]}])
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
def routing(folder, module, path, said):
    """A router of that kind before workers of ours."""
    arrived = queue.Queue()
    workers = [Worker(arrived) for _ in range(WORKERS)]
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
        "--balance-rel-threshold", str(said.balance_rel_threshold),
    ]  # fmt: skip
    try:
        with servers.serving(module, words, port, folder / f"{module}.log", "/readiness", limit_s=90):
            router = Router(port, path, arrived)
            deadline = time.monotonic() + 60
            while "m" not in json.dumps(servers_of(port)) or len(servers_of(port)) < WORKERS:
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
