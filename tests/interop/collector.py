"""A collector of OTLP over HTTP for one file: `python collector.py PORT FILE`, until it is told to end.

Takes the protobuf that servers export and writes each export request as one line of OTLP JSON, as the collector's file exporter
does: names in camelCase, ids in hex where protobuf's own JSON would have base64, enums as numbers.
"""

from __future__ import annotations

import base64
import gzip
import json
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

from google.protobuf.json_format import MessageToDict
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

_IDS = ("traceId", "spanId", "parentSpanId")


def hex_ids(value: Any) -> Any:
    """The same JSON with ids as OTLP writes them."""
    if isinstance(value, list):
        return [hex_ids(v) for v in value]
    if isinstance(value, dict):
        return {k: base64.b64decode(v).hex() if k in _IDS else hex_ids(v) for k, v in value.items()}
    return value


class Collector(BaseHTTPRequestHandler):
    """One export request a POST."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        message = hex_ids(
            MessageToDict(ExportTraceServiceRequest.FromString(body), use_integers_for_enums=True)
        )
        with Path(sys.argv[2]).open("a", encoding="utf-8") as out:
            out.write(json.dumps(message) + "\n")
        self.send_response(200)
        self.send_header("Content-Type", "application/x-protobuf")
        self.end_headers()
        self.wfile.write(ExportTraceServiceResponse().SerializeToString())


if __name__ == "__main__":
    HTTPServer(("127.0.0.1", int(sys.argv[1])), Collector).serve_forever()
