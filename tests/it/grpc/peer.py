"""A client of gRPC as others write it: Google's own library, with stubs made from proto/*.proto. Takes one JSON object a
line and answers with one."""
import importlib
import json
import os
import queue
import sys
import tempfile
import threading

import grpc
from google.protobuf import json_format
from grpc_tools import protoc

folder = tempfile.mkdtemp(prefix="grpc-stubs-")
protos = sys.argv[1]
files = ["signals.proto", "health.proto", "reflection.proto"]
done = protoc.main(["protoc", f"-I{protos}", f"--python_out={folder}", *files])
if done != 0:
    sys.exit("the published files do not compile")
sys.path.insert(0, folder)
modules = [importlib.import_module(name.replace(".proto", "_pb2")) for name in files]
services = {s.full_name: s for m in modules for s in m.DESCRIPTOR.services_by_name.values()}
from google.protobuf import message_factory

channels, streams = {}, {}


def types(path):
    _, service, method = path.split("/")
    found = services[service].methods_by_name[method]
    return message_factory.GetMessageClass(found.input_type), message_factory.GetMessageClass(found.output_type)


def shown(message):
    return json_format.MessageToDict(message, preserving_proto_field_name=True)


def metadata(order):
    pairs = [(k, v) for k, v in order.get("metadata", [])]
    if order.get("token"):
        pairs.append(("authorization", "Bearer " + order["token"]))
    return pairs


def request(order, kind):
    if "raw" in order:
        return bytes.fromhex(order["raw"])
    wanted = order.get("request", {})
    message = kind()
    if order.get("nan"):
        json_format.ParseDict(wanted, message)
        message.payload.overlay = float("nan")
    else:
        json_format.ParseDict(wanted, message)
    return message.SerializeToString()


def ended(error):
    return {
        "code": error.code().name,
        "details": error.details() or "",
        "trailers": {k: v if isinstance(v, str) else v.hex() for k, v in (error.trailing_metadata() or [])},
    }


def open_channel(order):
    read = lambda name: open(order[name], "rb").read() if order.get(name) else None
    credentials = grpc.ssl_channel_credentials(read("ca"), read("key"), read("cert"))
    options = [("grpc.enable_retries", 0), ("grpc.max_metadata_size", 1 << 21), ("grpc.use_local_subchannel_pool", 1)]
    channels[order["channel"]] = grpc.secure_channel(order["address"], credentials, options)
    return {}


def call(order):
    kind, answer_kind = types(order["path"])
    stub = channels[order["channel"]].unary_unary(order["path"])
    compression = grpc.Compression.Gzip if order.get("gzip") else grpc.Compression.NoCompression
    try:
        answer, rpc = stub.with_call(
            request(order, kind), metadata=metadata(order), timeout=order.get("timeout", 20), compression=compression
        )
    except grpc.RpcError as error:
        return ended(error)
    message = answer_kind.FromString(answer)
    initial = {k: v for k, v in rpc.initial_metadata() if isinstance(v, str)}
    return {"code": "OK", "response": shown(message), "initial": initial}


def stream(order):
    kind, answer_kind = types(order["path"])
    orders = queue.Queue()

    def requests():
        while (next_ := orders.get()) is not None:
            yield request(next_, kind)

    stub = channels[order["channel"]].stream_stream(order["path"])
    rpc = stub(requests(), metadata=metadata(order), timeout=order.get("timeout", 30))
    answers = queue.Queue()

    def listen():
        try:
            for answer in rpc:
                answers.put({"message": shown(answer_kind.FromString(answer))})
            answers.put({"code": rpc.code().name, "details": rpc.details() or "", "trailers": {}})
        except grpc.RpcError as error:
            answers.put(ended(error))

    threading.Thread(target=listen, daemon=True).start()
    streams[order["stream"]] = (orders, answers, rpc)
    return {}


def send(order):
    streams[order["stream"]][0].put(order)
    return {}


def half_close(order):
    streams[order["stream"]][0].put(None)
    return {}


def hear(order):
    try:
        return streams[order["stream"]][1].get(timeout=order.get("within", 20))
    except queue.Empty:
        return {"silence": True}


def cancel(order):
    streams[order["stream"]][2].cancel()
    return {}


orders = {
    "open": open_channel,
    "call": call,
    "stream": stream,
    "send": send,
    "half_close": half_close,
    "hear": hear,
    "cancel": cancel,
    "close": lambda order: channels.pop(order["channel"]).close() or {},
}
print(json.dumps({"ready": sorted(services)}), flush=True)
for line in sys.stdin:
    order = json.loads(line)
    try:
        answer = orders[order["op"]](order)
    except Exception as error:
        answer = {"fault": repr(error)}
    print(json.dumps(answer), flush=True)
os._exit(0)
