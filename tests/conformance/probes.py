"""What the suite does not look at, or not as a client would do it: a few exchanges of our own with the same service."""

import json
import urllib.error
import urllib.request
from itertools import count

MODERN = "2026-07-28"
ids = count(1)


def ask(url: str, method: str, name: str, **params) -> dict:
    """One request of the modern era; its answer."""
    meta = {"protocolVersion": MODERN, "clientCapabilities": {"elicitation": {}}}
    params = {"name": name, **params, "_meta": {f"io.modelcontextprotocol/{key}": value for key, value in meta.items()}}
    body = json.dumps({"jsonrpc": "2.0", "id": next(ids), "method": method, "params": params}).encode()
    headers = {
        "Content-Type": "application/json",
        "Accept": "application/json, text/event-stream",
        "MCP-Protocol-Version": MODERN,
        "Mcp-Method": method,
        "Mcp-Name": name,
    }
    request = urllib.request.Request(url, data=body, headers=headers)
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=20) as answer:
            return message(answer.headers["Content-Type"], answer.read())
    except urllib.error.HTTPError as refused:
        with refused:
            return message(refused.headers["Content-Type"], refused.read())


def message(content_type: str, body: bytes) -> dict:
    """The response: the body, or the last message of a stream."""
    if not content_type.startswith("text/event-stream"):
        return json.loads(body)
    return json.loads([line for line in body.decode().splitlines() if line.startswith("data:")][-1].removeprefix("data:"))


def question(url: str) -> dict:
    return ask(url, "tools/call", NAME, arguments={})["result"]


def text(answer: dict) -> str | None:
    try:
        return answer["result"]["content"][0]["text"]
    except (KeyError, IndexError):
        return None


NAME = "test_input_required_result_elicitation"
YES = {"action": "accept", "content": {"name": "Alice"}}


def extra_answers_are_ignored(url: str) -> str | None:
    state = question(url)["requestState"]
    answer = ask(url, "tools/call", NAME, arguments={}, inputResponses={"user_name": YES, "unknown": YES, "another": YES}, requestState=state)
    return None if text(answer) == "Hello, Alice!" else f"with answers that nobody asked for: {answer}"


def answers_count_once(url: str) -> str | None:
    state = question(url)["requestState"]
    first, again = (ask(url, "tools/call", NAME, arguments={}, inputResponses={"user_name": YES}, requestState=state) for _ in range(2))
    if text(first) != "Hello, Alice!":
        return f"the first time: {first}"
    return None if text(again) is None else f"the same answers count twice: {again}"


def answers_count_for_what_was_asked(url: str) -> str | None:
    state = question(url)["requestState"]
    other = "test_input_required_result_request_state"
    answer = ask(url, "tools/call", other, arguments={}, inputResponses={"confirm": {"action": "accept", "content": {"ok": True}}}, requestState=state)
    return None if text(answer) is None else f"the state of one tool counts for another: {answer}"


def a_refused_answer_is_no_answer(url: str) -> str | None:
    state = question(url)["requestState"]
    answer = ask(url, "tools/call", NAME, arguments={}, inputResponses={"user_name": {"action": "decline"}}, requestState=state)
    return None if text(answer) is None else f"a user who declines is taken for one who agrees: {answer}"


PROBES = [extra_answers_are_ignored, answers_count_once, answers_count_for_what_was_asked, a_refused_answer_is_no_answer]
