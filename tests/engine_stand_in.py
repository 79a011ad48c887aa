"""A stand-in for an engine, to be started: `python engine_stand_in.py PORT WAY [FILE]`.

ready     answers /health with 503 for a moment, then with 200; a child of it writes into FILE as long as it lives
never     answers 503 for ever
dies      says something and ends with 3
stubborn  as ready, but it ignores SIGTERM, and so does its child
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

CHILD = """
import signal, sys, time
if sys.argv[2] == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
while True:
    with open(sys.argv[1], "a") as out:
        out.write("x")
    time.sleep(0.02)
"""


def main() -> None:
    port, way = int(sys.argv[1]), sys.argv[2]
    print("starting", way, os.environ.get("STAND_IN", ""), flush=True)
    if way == "dies":
        sys.exit(3)
    if way == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if len(sys.argv) > 3:
        subprocess.Popen([sys.executable, "-c", CHILD, sys.argv[3], way])
    begun = time.monotonic()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            loading = way == "never" or time.monotonic() - begun < 0.3
            self.answer(503 if loading else 200)

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            print("asked", self.path, body.decode(), flush=True)
            self.answer(200 if self.path == "/load" else 404)

        def answer(self, status: int) -> None:
            self.send_response(status)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, *_: object) -> None:
            """Nothing is logged."""

    ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()


if __name__ == "__main__":
    main()
