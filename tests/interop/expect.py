"""What every client has to see, whatever its make and its era."""

import json
import re

from rows import MODERN, Row

TOOLS = {f"whitelist_{name}" for name in ("add", "remove", "extend", "move", "list", "check", "leases", "targets")}
GROUP = "staging-db"
PORT = "8443"
NO_TOOL = "whitelist_open_sesame"
# How much is shown of what was not expected.
MOST = 600


def calls(row: Row) -> list[tuple[str, str, dict]]:
    """The calls of the job: a name, the tool, and its arguments."""
    door = {"security_group": GROUP, "address": row.address, "port": PORT}
    return [
        ("closed", "whitelist_check", door),
        ("add", "whitelist_add", {**door, "reason": reason(row), "duration": "10m"}),
        ("list", "whitelist_list", {"security_group": GROUP, "port": PORT}),
        ("open", "whitelist_check", door),
        ("remove", "whitelist_remove", door),
        ("closed again", "whitelist_check", door),
        ("refused", "whitelist_add", {**door, "address": "0.0.0.0/0", "reason": "everyone"}),
        ("unknown", NO_TOOL, {}),
    ]


def reason(row: Row) -> str:
    """What the row's rule is known by, in AWS and in the journal."""
    return f"interop {row.name} end"


def judge(step: str, row: Row, report: dict, entries: list[dict]) -> list[str]:
    """What is wrong with a step; nothing, if it held."""
    if "answers" not in report:  # What broke is said once.
        return [report["broken"] if step == "login" else "it did not come so far"]
    wrong = expiry(row, report.get("expiry"), report) if step == "expiry" else STEPS[step](row, report, entries)
    return [reason if len(reason) < MOST else f"{reason[:MOST]} …" for reason in wrong]


def login(row: Row, report: dict, _entries: list[dict]) -> list[str]:
    wrong = [report["wrong"]] if report.get("wrong") else []
    if report["revision"] != row.revision:
        wrong.append(f"it speaks {report['revision']}, not {row.revision}")
    server = report.get("server")
    if server and server["name"] != ("gateway" if row.through_gateway else "whitelistmcp"):
        wrong.append(f"it takes the server for {server}")
    if row.login != "token" and report["tokens"] is not None and report["tokens"] != 1:
        wrong.append(f"it got {report['tokens']} tokens for one login")
    return wrong


def listing(_row: Row, report: dict, _entries: list[dict]) -> list[str]:
    names = report["tools"]
    return [] if set(names) == TOOLS and len(names) == len(TOOLS) else [f"it lists {names}"]


def calling(row: Row, report: dict, entries: list[dict]) -> list[str]:
    wrong = []
    wanted = {
        "closed": {"verdict": "not_allowed"},
        "add": {"outcome": "opened"},
        "open": {"verdict": "allowed"},
        "remove": {"outcome": "removed"},
        "closed again": {"verdict": "not_allowed"},
    }
    for name, fields in wanted.items():
        result = report["answers"][name].get("result")
        if result is None or result["isError"]:
            wrong.append(f"{name}: {report['answers'][name]}")
            continue
        structured, text = result["structured"] or {}, result["text"]
        wrong += [f"{name}: {field} is {structured.get(field)}, not {value}" for field, value in fields.items() if structured.get(field) != value]
        if not structured.get("summary") or structured["summary"] not in text:
            wrong.append(f"{name}: the text is not the summary: {text!r}")
        if row.address not in text:
            wrong.append(f"{name}: the text does not name {row.address}: {text!r}")
    rules = ((report["answers"]["list"].get("result") or {}).get("structured") or {}).get("rules", [])
    mine = [rule for rule in rules if row.address in json.dumps(rule)]
    if len(mine) != 1 or reason(row) not in json.dumps(mine):
        wrong.append(f"list: {report['answers']['list']}")
    begun = [entry for entry in entries if entry["type"] == "begin" and entry.get("tool") == "whitelist_add" and reason(row) in json.dumps(entry)]
    if len(begun) != 1 or row.who not in json.dumps(begun[0]["who"]):
        wrong.append(f"the journal has it {len(begun)} times: {[entry['who'] for entry in begun]}")
    return wrong


def refused(_row: Row, report: dict, _entries: list[dict]) -> list[str]:
    answer = report["answers"]["refused"]
    result = answer.get("result")
    if result and result["isError"] and "Nothing may be opened to the whole internet" in result["text"]:
        return []
    return [f"0.0.0.0/0 is answered by {answer}"]


def unknown(row: Row, report: dict, _entries: list[dict]) -> list[str]:
    answer = report["answers"]["unknown"]
    error, result = answer.get("error"), answer.get("result")
    if row.knows_list and "error" not in answer and re.search(f"(Unknown tool|Tool).*{NO_TOOL}", json.dumps(answer)):
        return [] if not result or result["isError"] else [f"an unknown tool is called: {answer}"]
    if error and error["code"] == -32602 and NO_TOOL in error["message"]:
        return []
    return [f"an unknown tool is answered by {answer}"]


def expiry(row: Row, seen: dict | None, report: dict) -> list[str]:
    if seen is None:
        return [report.get("broken", "no report")]
    wrong = []
    if "result" not in (seen["before"] or {}) or seen["before"]["result"]["isError"]:
        wrong.append(f"before its end, the token is answered by {seen['before']}")
    after, challenges = seen["after"] or {}, seen["challenges"]
    if "closed" in seen:  # A socket: its token was renewed on it, and it ended with the second.
        if "result" not in after or seen["tokens"] != 2:
            wrong.append(f"a token that is renewed is answered by {after}")
        if (seen["closed"] or [None])[0] != 4001 or "expired" not in seen["closed"][1]:
            wrong.append(f"at the end of its token the socket is closed with {seen['closed']}")
        return wrong
    if row.login == "token":
        # What the gateway's 401 says the SDK keeps to itself; the HTTP client under it has seen it.
        words = json.dumps([after, challenges if row.through_gateway else None]).lower()
        if "result" in after or not any(word in words for word in ("invalid_token", "unauthorized", "has expired", "auth required", "auth_required", "the scope the server asked for")):
            wrong.append(f"after its end, the client says {after}")
    elif "result" not in after or after["result"]["isError"]:
        wrong.append(f"after its end, the client does not go on: {after}")
    elif seen["tokens"] < 2:
        # It was never told when its token ends: a second token comes of a 401 alone.
        wrong.append("it went on without a new token")
    if challenges is not None and not any("resource_metadata=" in challenge for challenge in challenges) and not row.through_gateway:
        wrong.append(f"no 401 that leads to the provider was seen: {challenges}")
    return wrong


def word(step: str, report: dict) -> str:
    if step == "expiry":
        return "renewed" if "result" in report["expiry"]["after"] else "told"
    return "ok"


STEPS = {"login": login, "list": listing, "call": calling, "refused": refused, "unknown": unknown}
