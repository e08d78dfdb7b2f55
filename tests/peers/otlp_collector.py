"""Takes traces as a collector does (OTLP over HTTP), read with OpenTelemetry's own definitions.

Says its port on the first line, then one JSON object for each message. The first argument is how many messages it
refuses (503) before it takes any.
"""

import http.server
import json
import sys

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

refused = int(sys.argv[1])


def value(any_value):
    return getattr(any_value, any_value.WhichOneof("value"))


def attributes(pairs):
    return {pair.key: value(pair.value) for pair in pairs}


def told(span, resource):
    return {
        "name": span.name,
        "kind": Span.SpanKind.Name(span.kind),
        "trace_id": span.trace_id.hex(),
        "span_id": span.span_id.hex(),
        "parent": span.parent_span_id.hex(),
        "took_ns": span.end_time_unix_nano - span.start_time_unix_nano,
        "status": Status.StatusCode.Name(span.status.code),
        "attributes": attributes(span.attributes),
        "events": len(span.events),
        "service": attributes(resource.attributes),
    }


class Collector(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        global refused
        body = self.rfile.read(int(self.headers["content-length"]))
        if refused > 0:
            refused -= 1
            self.answer(503, b"")
            return
        message = ExportTraceServiceRequest.FromString(body)
        spans = [
            told(span, group.resource)
            for group in message.resource_spans
            for scope in group.scope_spans
            for span in scope.spans
        ]
        line = {
            "path": self.path,
            "type": self.headers["content-type"],
            "authorization": self.headers["authorization"],
            "spans": spans,
            "raw": body.decode("latin-1"),
        }
        print(json.dumps(line), flush=True)
        self.answer(200, ExportTraceServiceResponse().SerializeToString())

    def answer(self, status, body):
        self.send_response(status)
        self.send_header("content-type", "application/x-protobuf")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Collector)
print(server.server_address[1], flush=True)
server.serve_forever()
