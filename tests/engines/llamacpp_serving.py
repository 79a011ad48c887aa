"""llama.cpp's own HTTP server with settings: `python llamacpp_serving.py MODEL.gguf PORT JSON`, until it is told to end."""

import json
import signal
import sys

import xllamacpp

model, port, settings = sys.argv[1:]
of = xllamacpp.CommonParams()
of.model.path = model
of.model_alias = {"tiny"}
of.hostnames = ["127.0.0.1"]
of.port = int(port)
of.cpuparams.n_threads = of.cpuparams_batch.n_threads = 1
for name, value in json.loads(settings).items():
    setattr(of, name, value)
server = xllamacpp.Server(of)
print("listening", server.listening_address, flush=True)
signal.sigwait((signal.SIGTERM, signal.SIGINT))
