"""A stand-in for vLLM that generates nothing and caches for real: `python vllm_stand_in.py PORT [noflush] [nometrics] [nousage] [at:PORT] [SECONDS]`.

It takes prompts as token ids, keeps every block of BLOCK tokens that it has seen under the prompt's salt, tells each request how much of it
was there, counts as vLLM counts, and forgets when asked. SECONDS is how long an answer takes; at:PORT, where its counters are, too.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

BLOCK = 4
COUNTERS = {
    "prompt": "vllm:prompt_tokens_total", "cached": "vllm:prompt_tokens_cached_total", "generated": "vllm:generation_tokens_total",
    "queries": "vllm:prefix_cache_queries_total", "hits": "vllm:prefix_cache_hits_total", "requests": "vllm:request_success_total",
}  # fmt: skip


class State:
    lock = threading.Lock()
    blocks: ClassVar[set[tuple[str, tuple[int, ...]]]] = set()
    counts: ClassVar[dict[str, int]] = dict.fromkeys(COUNTERS, 0)
    flushes = True
    metrics = usage = True
    elsewhere: ThreadingHTTPServer | None = None
    seconds = 0.0

    @classmethod
    def ask(cls, salt: str, prompt: list[int], output: int) -> int:
        """Cached tokens of a prompt; all but its last token can be."""
        with cls.lock:
            ends = range(BLOCK, len(prompt) + 1, BLOCK)
            keys = [(salt, tuple(prompt[:end])) for end in ends]
            found = next((i for i, key in enumerate(keys) if key not in cls.blocks), len(keys))
            cached = min(found, (len(prompt) - 1) // BLOCK) * BLOCK
            cls.blocks.update(keys)
            for name, more in (
                ("prompt", len(prompt)), ("cached", cached), ("generated", output), ("queries", len(prompt)), ("hits", cached),
                ("requests", 1),
            ):  # fmt: skip
                cls.counts[name] += more
            return cached


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if self.path == "/metrics" and (State.metrics or self.server is State.elsewhere):
            config = f'vllm:cache_config_info{{block_size="{BLOCK}",kv_cache_size_tokens="100000"}} 1\n'
            counts = (f"# TYPE {COUNTERS[n]} counter\n{COUNTERS[n]} {v}\n" for n, v in State.counts.items())
            self.answer(200, "text/plain", (config + "".join(counts)).encode())
        elif self.path == "/v1/models":
            self.answer(200, "application/json", b'{"data": [{"id": "stand-in", "owned_by": "vllm"}]}')
        elif self.path == "/version":
            self.answer(200, "application/json", b'{"version": "0.0"}')
        elif self.path == "/health":
            self.answer(200, "text/plain", b"")
        else:
            self.answer(404, "application/json", b"{}")

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        if self.path == "/reset_prefix_cache":
            if State.flushes:
                State.blocks.clear()
            self.answer(200 if State.flushes else 404, "application/json", b'{"success": true}')
            return
        asked = json.loads(body)
        if "prompt" not in asked:
            self.answer(
                400,
                "application/json",
                b'{"error": {"type": "BadRequestError", "message": "no: secret words"}}',
            )
            return
        output = asked["max_tokens"]
        cached = State.ask(asked.get("cache_salt", ""), asked["prompt"], output)
        time.sleep(State.seconds)
        usage = {
            "prompt_tokens": len(asked["prompt"]),
            "completion_tokens": output,
            "prompt_tokens_details": {"cached_tokens": cached},
        }
        events = [{"choices": [{"index": 0, "text": "x "}]} for _ in range(output)]
        events[-1]["choices"][0]["finish_reason"] = "length"  # type: ignore[assignment]
        if State.usage:
            events.append({"choices": [], "usage": usage})  # type: ignore[dict-item]
        said = "".join(f"data: {json.dumps(event)}\n\n" for event in events) + "data: [DONE]\n\n"
        self.answer(200, "text/event-stream", said.encode())

    def answer(self, status: int, kind: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing is logged."""


class Server(ThreadingHTTPServer):
    request_queue_size = 128
    daemon_threads = True


if __name__ == "__main__":
    State.flushes, State.metrics, State.usage = (
        f"no{what}" not in sys.argv for what in ("flush", "metrics", "usage")
    )
    State.seconds = next((float(word) for word in sys.argv[2:] if not word.startswith(("no", "at:"))), 0.0)
    for word in sys.argv[2:]:
        if word.startswith("at:"):
            State.elsewhere = Server(("127.0.0.1", int(word[3:])), Handler)
            threading.Thread(target=State.elsewhere.serve_forever, daemon=True).start()
    Server(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
