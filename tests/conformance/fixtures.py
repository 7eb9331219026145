#!/usr/bin/env python3
"""The gRPC service of `fixtures.proto`: the fixtures of the conformance suite, for an edge that knows nothing of them.

    fixtures.py DESCRIPTORS CERTIFICATE KEY CLIENT_CA

DESCRIPTORS is the descriptor set of the proto, the very file that the edge is given. It listens with mutual TLS on a port that
the system chooses, and is ready when it prints its one line, {"port": …}.
"""

import json
import queue
import struct
import sys
import threading
import time
import zlib
from concurrent import futures
from pathlib import Path
from types import SimpleNamespace

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message_factory
from google.protobuf.struct_pb2 import Struct, Value

descriptors, certificate, key, client_ca = sys.argv[1:]
pool = descriptor_pool.Default()
for file in descriptor_pb2.FileDescriptorSet.FromString(Path(descriptors).read_bytes()).file:
    if not file.name.startswith("google/protobuf/"):  # These it knows.
        pool.AddSerializedFile(file.SerializeToString())


def names_of(file: str) -> SimpleNamespace:
    """The messages of a proto and the values of its enums, by name. What protoc makes for Python could not be imported: its
    package would be `mcp`, as is the SDK's."""
    found = pool.FindFileByName(file)
    messages = {name: message_factory.GetMessageClass(message) for name, message in found.message_types_by_name.items()}
    values = {value.name: value.number for enum in found.enum_types_by_name.values() for value in enum.values}
    return SimpleNamespace(**messages, **values)


own, content = names_of("fixtures.proto"), names_of("mcp/v1/content.proto")
exchange, offers = names_of("mcp/v1/exchange.proto"), names_of("mcp/v1/offers.proto")
SERVICE = pool.FindServiceByName("conformance.v1.Fixtures")
# How long a step of a call takes that tells of its steps, in seconds. What is said has to be seen on its way.
STEP = 0.05
# How long it takes until changes are told to who watches, in seconds.
LISTENS_AFTER = 0.2


def png() -> bytes:
    """One red pixel."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\x00\xff\x00\x00")) + chunk(b"IEND", b"")


def wav() -> bytes:
    """A moment of silence: 8 kHz, 8 bits, one channel."""
    samples = b"\x80" * 80
    form = struct.pack("<HHIIHH", 1, 1, 8000, 8000, 1, 8)
    body = b"WAVEfmt " + struct.pack("<I", len(form)) + form + b"data" + struct.pack("<I", len(samples)) + samples
    return b"RIFF" + struct.pack("<I", len(body)) + body


def text(words: str):
    return content.Content(text=words)


def picture():
    return content.Content(image=content.Media(data=png(), mime_type="image/png"))


def written(uri: str, mime_type: str, words: str):
    return content.ResourceContents(uri=uri, mime_type=mime_type, text=words)


def blocks(*found):
    return own.Blocks(content=found)


# === Tools that answer ===


def simple_text(_request, _context):
    return blocks(text("This is a simple text response for testing."))


def image_content(_request, _context):
    return blocks(picture())


def audio_content(_request, _context):
    return blocks(content.Content(audio=content.Media(data=wav(), mime_type="audio/wav")))


def embedded_resource(_request, _context):
    return blocks(content.Content(resource=written("test://embedded-resource", "text/plain", "This is an embedded resource content.")))


def multiple_content_types(_request, _context):
    mixed = written("test://mixed-content-resource", "application/json", json.dumps({"test": "data", "value": 123}))
    return blocks(text("Multiple content types test:"), picture(), content.Content(resource=mixed))


def error_handling(_request, context):
    context.abort(grpc.StatusCode.FAILED_PRECONDITION, "This tool intentionally returns an error for testing")


def custom_header(request, _context):
    return blocks(text(f"region: {request.region}"))


# === Tools that say something on the way ===


def tool_with_progress(_request, context):
    for step in (0, 50, 100):
        yield own.Told(notice=exchange.Notice(progress=exchange.Progress(progress=step, total=100, message=f"{step} of 100")))
        wait(context)
    yield own.Told(content=[text("Tool with progress executed successfully")])


def tool_with_logging(_request, context):
    for words in ("Tool execution started", "Tool processing data", "Tool execution completed"):
        yield own.Told(notice=line(words))
        wait(context)
    yield own.Told(content=[text("Tool with logging executed successfully")])


def logging_tool(_request, _context):
    yield own.Told(notice=line("Something to say to whoever has asked for it"))
    yield own.Told(content=[text("Logged")])


def line(words: str):
    said = exchange.LogLine(level=exchange.LOG_LEVEL_INFO, logger="fixtures", data=Value(string_value=words))
    return exchange.Notice(log=said)


def wait(context) -> None:
    ended = threading.Event()
    if context.add_callback(ended.set):
        ended.wait(STEP)


# === Tools that ask ===


def as_struct(value: dict) -> Struct:
    return json_format.ParseDict(value, Struct())


def form(message: str, required: list[str] | None = None, **properties: dict):
    schema = {"type": "object", "properties": properties, "required": list(properties) if required is None else required}
    return exchange.Question(form=exchange.Form(message=message, schema=as_struct(schema)))


def asks_model(words: str, most: int):
    said = {"messages": [{"role": "user", "content": {"type": "text", "text": words}}], "maxTokens": most}
    return exchange.Question(sampling=as_struct(said))


ROOTS = exchange.Question(roots=exchange.Roots())
STRING, BOOLEAN = {"type": "string"}, {"type": "boolean"}


def required(state: bytes = b"", **questions):
    return exchange.InputRequired(questions=questions, state=state)


def asked(state: bytes = b"", **questions):
    return own.Exchanged(input_required=required(state, **questions))


def answered(words: str):
    return own.Exchanged(content=[text(words)])


def answer(request, name: str) -> dict | None:
    """What the client has answered, if it has. Nothing here is worth more than what any client may say, so answers count that
    nobody asked for: the suite sends such."""
    answers = request.client.answers or request.client.volunteered
    return json_format.MessageToDict(answers[name]) if name in answers else None


def typed(request, name: str, field: str, kind: type):
    """A field of a form that the user has filled in; None if it is not there, or is something else."""
    found = answer(request, name) or {}
    value = (found.get("content") or {}).get(field) if found.get("action") == "accept" else None
    return value if isinstance(value, kind) else None


def sampling(request, _context):
    found = answer(request, "reply")
    if found is None:
        return asked(reply=asks_model(request.prompt, 100))
    return answered(f"LLM response: {found['content']['text']}")


def elicitation(request, _context):
    found = answer(request, "user")
    if found is None:
        return asked(user=form(request.message, username=STRING | {"description": "User's response"}, email=STRING | {"description": "User's email address"}))
    return answered(f"User response: {json.dumps(found)}")


def elicitation_defaults(request, _context):
    found = answer(request, "user")
    if found is None:
        return asked(user=form(
            "Please review and update the form fields with defaults", [],
            name=STRING | {"default": "John Doe"}, age={"type": "integer", "default": 30}, score={"type": "number", "default": 95.5},
            status=STRING | {"enum": ["active", "inactive", "pending"], "default": "active"}, verified=BOOLEAN | {"default": True},
        ))  # fmt: skip
    return answered(f"Elicitation completed: action={found['action']}, content={json.dumps(found.get('content'))}")


def elicitation_enums(request, _context):
    found = answer(request, "user")
    if found is None:
        options = ["option1", "option2", "option3"]
        titled = [{"const": f"value{number}", "title": f"{word} Option"} for number, word in ((1, "First"), (2, "Second"), (3, "Third"))]
        return asked(user=form(
            "Please choose", [],
            untitledSingle=STRING | {"enum": options},
            titledSingle=STRING | {"oneOf": titled},
            legacyEnum=STRING | {"enum": ["opt1", "opt2", "opt3"], "enumNames": ["Option One", "Option Two", "Option Three"]},
            untitledMulti={"type": "array", "items": STRING | {"enum": options}},
            titledMulti={"type": "array", "items": {"anyOf": titled}},
        ))  # fmt: skip
    return answered(f"Elicitation completed: action={found['action']}, content={json.dumps(found.get('content'))}")


def input_required_elicitation(request, _context):
    name = typed(request, "user_name", "name", str)
    return asked(user_name=form("What is your name?", name=STRING)) if name is None else answered(f"Hello, {name}!")


def input_required_sampling(request, _context):
    found = answer(request, "capital_question")
    if found is None:
        return asked(capital_question=asks_model("What is the capital of France?", 100))
    return answered(found["content"]["text"])


def input_required_list_roots(request, _context):
    found = answer(request, "client_roots")
    if found is None:
        return asked(client_roots=ROOTS)
    return answered(f"Roots: {', '.join(root['uri'] for root in found['roots'])}")


def input_required_request_state(request, _context):
    if typed(request, "confirm", "ok", bool) is None:
        return asked(b"confirming", confirm=form("Please confirm", ok=BOOLEAN))
    return answered("state-ok" if request.client.state == b"confirming" else f"another state: {request.client.state!r}")


def input_required_multiple_inputs(request, _context):
    name = typed(request, "user_name", "name", str)
    greeting, roots = answer(request, "greeting"), answer(request, "client_roots")
    if name is None or greeting is None or roots is None:
        return asked(b"three", user_name=form("What is your name?", name=STRING), greeting=asks_model("Generate a greeting", 50), client_roots=ROOTS)
    return answered(f"{greeting['content']['text']} {name}, {len(roots['roots'])} roots")


def input_required_multi_round(request, _context):
    state = request.client.state
    name = typed(request, "step1", "name", str)
    if state == b"" or (state == b"one" and name is None):
        return asked(b"one", step1=form("Step 1: What is your name?", name=STRING))
    if state == b"one":
        return asked(b"two " + name.encode(), step2=form("Step 2: What is your favorite color?", color=STRING))
    colour = typed(request, "step2", "color", str)
    if colour is None:
        return asked(state, step2=form("Step 2: What is your favorite color?", color=STRING))
    return answered(f"{state.removeprefix(b'two ').decode()} likes {colour}")


def input_required_tampered_state(request, _context):
    if request.client.state != b"sealed":
        return asked(b"sealed", confirm=form("Please confirm", ok=BOOLEAN))
    return answered("The state is as it was")


def input_required_capabilities(request, _context):
    client, questions = request.client, {}
    if client.answers:
        return answered(f"Answered: {', '.join(sorted(client.answers))}")
    if client.answers_forms:
        questions["form"] = form("Please confirm", ok=BOOLEAN)
    if client.samples:
        questions["sample"] = asks_model("Say something", 50)
    if client.tells_roots:
        questions["roots"] = ROOTS
    return asked(**questions) if questions else answered("The client can be asked for nothing")


def missing_capability(request, _context):
    found = answer(request, "sample")
    return asked(sample=asks_model("Say something", 50)) if found is None else answered(found["content"]["text"])


def streaming_elicitation(request, context):
    yield own.Exchanging(notice=exchange.Notice(progress=exchange.Progress(progress=1, total=2)))
    wait(context)
    if typed(request, "confirm", "ok", bool) is None:
        yield own.Exchanging(input_required=required(confirm=form("Please confirm", ok=BOOLEAN)))
    else:
        yield own.Exchanging(content=[text("Confirmed")])


# === Resources ===


def static_text(_request, _context):
    return offers.ReadResourceResponse(contents=[written("test://static-text", "text/plain", "This is the content of the static text resource.")])


def static_binary(_request, _context):
    return offers.ReadResourceResponse(contents=[content.ResourceContents(uri="test://static-binary", mime_type="image/png", blob=png())])


def watched_resource(_request, _context):
    return offers.ReadResourceResponse(contents=[written("test://watched-resource", "text/plain", "This is the content of the watched resource.")])


def template(request, _context):
    found = {"id": request.id, "templateTest": True, "data": f"Data for ID: {request.id}"}
    return offers.ReadResourceResponse(contents=[written(f"test://template/{request.id}/data", "application/json", json.dumps(found))])


# === Prompts ===


def says(*said):
    return offers.GetPromptResponse(messages=[content.PromptMessage(role=content.ROLE_USER, content=block) for block in said])


def simple_prompt(_request, _context):
    return says(text("This is a simple prompt for testing."))


def prompt_with_arguments(request, _context):
    return says(text(f"Prompt with arguments: arg1='{request.arg1}', arg2='{request.arg2}'"))


def prompt_with_embedded_resource(request, _context):
    resource = written(request.resourceUri, "text/plain", "Embedded resource content for testing.")
    return says(content.Content(resource=resource), text("Please process the embedded resource above."))


def prompt_with_image(_request, _context):
    return says(picture(), text("Please analyze the image above."))


def input_required_prompt(request, _context):
    context = typed(request, "user_context", "context", str)
    if context is None:
        question = form("What context should the prompt use?", context=STRING)
        return offers.GetPromptResponse(input_required=required(user_context=question))
    return says(text(f"Use this context: {context}"))


# === Completion, and what changes ===


def complete(request, _context):
    known = {("test_prompt_with_arguments", "arg1"): ["paris", "park", "party", "test", "testing"], ("test://template/{id}/data", "id"): ["1", "12", "123"]}
    found = [value for value in known.get((request.prompt or request.uri_template, request.argument), []) if value.startswith(request.value)]
    return offers.CompleteResponse(values=found, total=len(found))


watchers: set[queue.SimpleQueue] = set()


def watch(request, context):
    changes: queue.SimpleQueue = queue.SimpleQueue()
    wanted = {offers.CHANGED_LIST_TOOLS: request.tools, offers.CHANGED_LIST_PROMPTS: request.prompts, offers.CHANGED_LIST_RESOURCES: request.resources}
    # A service may take a moment until it listens: who says before its headers are there that it does is found out.
    time.sleep(LISTENS_AFTER)
    watchers.add(changes)
    context.send_initial_metadata(())
    try:
        if not context.add_callback(lambda: changes.put(None)):
            return
        while (change := changes.get()) is not None:
            if isinstance(change, str):
                if change in request.uris:
                    yield offers.Changed(uri=change)
            elif wanted[change]:
                yield offers.Changed(list=change)
    finally:
        watchers.discard(changes)


def tell(change):
    for watcher in list(watchers):
        watcher.put(change)
    return blocks(text("Told"))


def trigger_tool_change(_request, _context):
    return tell(offers.CHANGED_LIST_TOOLS)


def trigger_prompt_change(_request, _context):
    return tell(offers.CHANGED_LIST_PROMPTS)


def touch_watched(_request, _context):
    return tell("test://watched-resource")


# === The service ===


def snake(name: str) -> str:
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name).lstrip("_")


def handlers() -> dict:
    """Each RPC of the proto is the function of its name here."""
    found = {}
    for method in SERVICE.methods:
        made = grpc.unary_stream_rpc_method_handler if method.server_streaming else grpc.unary_unary_rpc_method_handler
        request, response = message_factory.GetMessageClass(method.input_type), message_factory.GetMessageClass(method.output_type)
        found[method.name] = made(globals()[snake(method.name)], request.FromString, response.SerializeToString)
    return found


def main() -> None:
    # Each watcher keeps a thread for as long as it listens.
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=64))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE.full_name, handlers()),))
    pair = [(Path(key).read_bytes(), Path(certificate).read_bytes())]
    credentials = grpc.ssl_server_credentials(pair, Path(client_ca).read_bytes(), require_client_auth=True)
    port = server.add_secure_port("127.0.0.1:0", credentials)
    server.start()
    print(json.dumps({"port": port}), flush=True)
    server.wait_for_termination()


if __name__ == "__main__":
    main()
