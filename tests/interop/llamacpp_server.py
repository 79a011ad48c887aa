"""llama.cpp's own HTTP server, from the xllamacpp wheel: `python llamacpp_server.py MODEL.gguf PORT`, until it is told to end."""

from __future__ import annotations

import signal
import sys

import xllamacpp


def main() -> None:
    model, port = sys.argv[1:]
    of = xllamacpp.CommonParams()
    of.model.path = model
    of.model_alias = {"tiny"}
    of.hostnames = ["127.0.0.1"]
    of.port = int(port)
    of.n_ctx, of.n_parallel = 8192, 2
    of.cpuparams.n_threads = of.cpuparams_batch.n_threads = 1
    server = xllamacpp.Server(of)
    print("listening", server.listening_address, flush=True)
    signal.sigwait((signal.SIGTERM, signal.SIGINT))


if __name__ == "__main__":
    main()
