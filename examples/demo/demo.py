#!/usr/bin/env python3
"""The whole job, as its users do it, step by step; exits 0 only if every step held.

    WHITELISTMCP=path/to/whitelistmcp demo.py

Starts everything on loopback (`stack.py`), does the job as a person, as a program and as somebody who must not, shows
what was written down, and ends it all.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import textwrap
import time
from datetime import datetime, timezone
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from stack import HERE, PYTHON, SERVICE, NotReady, Stack  # noqa: E402

sys.path.insert(0, str(HERE / "otel"))
import spans  # noqa: E402

COLOUR = sys.stdout.isatty() and "NO_COLOR" not in os.environ
WIDTH = min(shutil.get_terminal_size((100, 24)).columns, 110)
ADDRESS = "198.51.100.23"
# How many seconds after its end a lease must be closed, by which its rule is gone: two rounds of the service and to spare.
LATE = 10.0


class Broken(Exception):
    """A step that did not hold."""


def main() -> int:
    begun = time.monotonic()
    directory = Path(tempfile.mkdtemp(prefix="whitelistmcp-demo-"))
    held = 0
    try:
        title("whitelistmcp: one door, opened and closed, by the book")
        with Stack(directory) as stack:
            started(stack, time.monotonic() - begun)
            for step in STEPS:
                heading(step.__doc__)
                step(stack)
                held += 1
    except (Broken, NotReady) as error:
        say(f"\n{paint('✗', 31)} {error}")
        show_logs(directory)
        return 1
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    title(f"All {held} steps held, in {time.monotonic() - begun:.0f} s. Nothing is left running.")
    say("`make sandbox` starts the same and stays, for you to try.")
    return 0


def started(stack: Stack, seconds: float) -> None:
    say(f"Started in {seconds:.1f} s, each a process of its own:")
    row("AWS emulator", f"{stack.aws_endpoint} (moto)")
    row("OpenID provider", f"{stack.issuer} (oidc-provider)")
    row("telemetry", f"{stack.otlp} (rotel)")
    row("core", f"localhost:{stack.core_port}, gRPC over mTLS")
    row("edge", f"{stack.url}, MCP over HTTPS")


# === The steps ===


def log_in(stack: Stack) -> None:
    """A person logs in: authorization code with PKCE, found from the server's own 401"""
    stack.alice = stack.token()
    claims = json.loads(decode(stack.alice.split(".")[1]))
    row("who", f"{claims['name']} <{claims['email']}>, by {claims['iss']}")
    row("for", claims["aud"])
    row("scope", claims["scope"])
    hold(claims["aud"] == stack.url, "the token is for this service and no other")


def list_tools(stack: Stack) -> None:
    """An MCP client (the official Python SDK, with its own OAuth login) asks what there is"""
    answer = mcp(stack, {"list": True})
    for tool in answer["tools"]:
        row(tool["name"].removeprefix("whitelist_"), tool["description"].split(":")[0].split(". ")[0])
    names = {tool["name"].removeprefix("whitelist_") for tool in answer["tools"]}
    wanted = {"add", "remove", "extend", "move", "list", "check", "leases", "targets"}
    hold(names == wanted and len(answer["tools"]) == len(wanted), f"eight tools, each `whitelist_` and its name, in revision {answer['protocolVersion']}; the ninth is for administrators, so policy hides it from her")


def targets(stack: Stack) -> None:
    """She asks which groups there are"""
    answer = tool(stack, "whitelist_targets")
    say(indent(answer["summary"]))
    found = {group["name"]: group["security_group"] for group in answer["groups"]}
    hold(found == stack.aws["groups"] | stack.aws["opted_in"], "two are in the configuration, one was found by the tag `whitelistmcp:managed` that its owner gave it")


def add(stack: Stack) -> None:
    """She opens the staging database to one address for two hours: first dry, then by the plan"""
    asked = {"security_group": "staging-db", "address": ADDRESS, "port": "postgres", "reason": "debugging OPS-1234", "duration": "2h"}
    plan = tool(stack, "whitelist_add", **asked, dry_run=True)
    hold(plan["outcome"] == "would_open", plan["summary"].replace("\n", " "))
    row("plan", plan["plan_id"])
    opened = tool(stack, "whitelist_add", **asked, plan_id=plan["plan_id"])
    hold(opened["outcome"] == "opened", opened["summary"])
    row("in the console", opened["rule"]["description"])
    stale = call(stack, "whitelist_add", **asked, plan_id=plan["plan_id"])
    refused(stale, "PLAN_STALE", "the same plan again")
    again = tool(stack, "whitelist_add", security_group="staging-db", address=ADDRESS, port=5432, reason="once more")
    hold(again["outcome"] == "already_yours" and again["until"] == opened["until"], again["summary"])
    stack.opened = opened


def check(stack: Stack) -> None:
    """She checks it: by containment, not by comparing strings"""
    for address, verdict in ((ADDRESS, "allowed"), ("10.20.7.7", "allowed"), ("198.51.100.24", "not_allowed")):
        answer = tool(stack, "whitelist_check", security_group="staging-db", address=address, port="postgres")
        hold(answer["verdict"] == verdict, answer["summary"])


def list_rules(stack: Stack) -> None:
    """She lists what stands, with who, why and since when"""
    answer = tool(stack, "whitelist_list", security_group="staging-db")
    say(indent(answer["summary"]))
    hold(len(answer["rules"]) == 2 and sum(rule["managed"] for rule in answer["rules"]) == 1, "one rule is hers, one was there before")


def leases(stack: Stack) -> None:
    """She asks what she holds open, and until when"""
    answer = tool(stack, "whitelist_leases")
    say(indent(answer["summary"]))
    held = [(rule["rule_id"], lease["until"]) for rule in answer["rules"] for lease in rule["leases"] if lease["yours"]]
    hold(held == [(stack.opened["rule"]["rule_id"], stack.opened["until"])], "that one rule, with the end she was told")


def remove(stack: Stack) -> None:
    """She closes it again"""
    rule_id = stack.opened["rule"]["rule_id"]
    answer = tool(stack, "whitelist_remove", security_group="staging-db", rule_id=rule_id)
    hold(answer["outcome"] == "removed", answer["summary"])
    row("note", answer["notes"][0])
    again = tool(stack, "whitelist_remove", security_group="staging-db", rule_id=rule_id)
    hold(again["outcome"] == "nothing_to_remove", again["summary"])
    others = call(stack, "whitelist_remove", security_group="staging-db", address="10.20.0.0/16")
    refused(others, "NOT_OURS", "the office's own rule")


def service(stack: Stack) -> None:
    """A program does the same straight over gRPC, by its client certificate"""
    row("who", SERVICE)
    asked = {"security_group": "staging-db", "address": "203.0.113.77", "port": "https", "reason": "deploy 512"}
    opened = granted(grpc(stack, "AddRule", asked))
    hold(opened["outcome"] == "opened", opened["summary"])
    checked = granted(grpc(stack, "CheckAccess", {key: asked[key] for key in ("security_group", "address", "port")}))
    hold(checked["verdict"] == "allowed", checked["summary"])
    closed = granted(grpc(stack, "RemoveRules", {"security_group": "staging-db", "rule_id": opened["rule"]["rule_id"]}))
    hold(closed["outcome"] == "removed", closed["summary"])


def desktop(stack: Stack) -> None:
    """Claude Desktop does it through the bridge, by the entry that the bridge prints for it"""
    token = stack.directory / "bob.token"
    token.touch(0o600)
    token.write_text(stack.token(user="bob"))
    printed = stack.once([stack.binary, "bridge", stack.url, "--ca", stack.certs / "ca.pem", "--token-file", token, "--print-config"])
    config = stack.write("claude_desktop_config.json", printed)
    entry = json.loads(printed)["mcpServers"]["whitelistmcp"]
    row("runs", f"whitelistmcp {' '.join(entry['args'])}")
    command = [str(PYTHON), str(HERE / "client/mcp_desktop.py"), str(config), "whitelistmcp"]
    client = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    stack.running.append(client)

    def ask(question: dict) -> dict:
        client.stdin.write(json.dumps(question) + "\n")
        client.stdin.flush()
        answer = client.stdout.readline()
        if not answer:
            raise Broken(f"the client gave up: {client.stderr.read().strip()}")
        return json.loads(answer)

    def done(name: str, **arguments: object) -> dict:
        answer = ask({"tool": name, "arguments": arguments})
        if answer.get("isError", True):
            raise Broken(f"{name}: {answer}")
        return answer["structuredContent"]

    tools = ask({"list": True})
    hold(len(tools["tools"]) == 8, f"the same eight tools, in revision {tools['protocolVersion']}")
    opened = done("whitelist_add", security_group="staging-db", address="198.51.100.42", port="postgres", reason="looking into OPS-1240", duration="1h")
    hold(opened["outcome"] == "opened", f"Bob: {opened['summary']}")
    closed = done("whitelist_remove", security_group="staging-db", rule_id=opened["rule"]["rule_id"])
    hold(closed["outcome"] == "removed", f"Bob: {closed['summary']}")


def share(stack: Stack) -> None:
    """Two hold the same rule: it stands until the last of them leaves"""
    rule = {"security_group": "staging-db", "address": ADDRESS, "port": "https"}
    opened = tool(stack, "whitelist_add", **rule, reason="debugging OPS-1234", duration="2h")
    rule_id = opened["rule"]["rule_id"]
    joined = granted(grpc(stack, "AddRule", {**rule, "reason": "deploy 513", "duration": "30m"}))
    hold(joined["outcome"] == "joined" and joined["rule"]["rule_id"] == rule_id, f"the program: {joined['summary']}")
    left = tool(stack, "whitelist_remove", security_group="staging-db", rule_id=rule_id)
    hold(left["outcome"] == "left", f"Alice leaves: {left['summary']}")
    stands = tool(stack, "whitelist_check", **rule)
    holders = [lease["holder"] for allowing in stands["allowed_by"] for lease in allowing["leases"] if lease["live"]]
    program = SERVICE.removeprefix("spiffe://")
    hold(stands["verdict"] == "allowed" and holders == [program], f"the rule stands, and {program} alone holds it")
    closed = granted(grpc(stack, "RemoveRules", {"security_group": "staging-db", "rule_id": rule_id}))
    hold(closed["outcome"] == "removed", f"the program leaves: {closed['summary']}")


def expire(stack: Stack) -> None:
    """A lease of a few seconds closes by itself"""
    opened = tool(stack, "whitelist_add", security_group="staging-db", address=ADDRESS, port="ssh", reason="a quick look", duration="6s")
    rule_id, end = opened["rule"]["rule_id"], datetime.fromisoformat(opened["until"])
    stands = tool(stack, "whitelist_list", security_group="staging-db", port="ssh")
    hold([(rule["rule_id"], rule["until"]) for rule in stands["rules"]] == [(rule_id, opened["until"])], opened["summary"])
    closing = closing_of(stack, rule_id, end)
    late = (datetime.fromisoformat(closing["at"]) - end).total_seconds()
    gone = tool(stack, "whitelist_list", security_group="staging-db", port="ssh")
    hold(gone["rules"] == [] and 0 <= late < LATE, f"{late:.1f} s after its end it is gone, and nobody asked for that")
    hold(closing["outcome"] == "done" and closing["changed"] is True, f"the journal has it as the service's own: `close` by `reconciler`, {closing['outcome']}, changed")


def closing_of(stack: Stack, rule_id: str, end: datetime) -> dict:
    """The end of the entry by which the service closed a rule of its own accord, once it is there."""
    while True:
        overdue = (datetime.now(timezone.utc) - end).total_seconds() > LATE
        entries = stack.entries()
        for begun in entries:
            if begun["type"] != "begin" or rule_id not in words(begun["arguments"]):
                continue
            if (begun["tool"], begun["who"]["kind"], begun["who"]["name"]) == ("close", "own", "reconciler"):
                for entry in entries:
                    if entry["type"] == "end" and entry["call"] == begun["call"]:
                        return entry
        if overdue:
            raise Broken(f"{rule_id} ended at {end:%H:%M:%S} UTC, and {LATE:.0f} s later nobody has closed it")
        time.sleep(0.1)


def strangers(stack: Stack) -> None:
    """Who must not get in does not"""
    status, challenge = bare_post(stack, None)
    hold(status == 401 and "resource_metadata" in challenge, f"no token: {status}, {shorten(challenge)}")
    foreign = stack.token(resource=stack.other_audience)
    status, challenge = bare_post(stack, foreign)
    hold(status == 401 and "another audience" in challenge, f"a token for {stack.other_audience}: {status}, {shorten(challenge)}")
    reader = stack.token(user="bob", scope="whitelist:read")
    status, challenge = bare_post(stack, reader, tool="whitelist_add", security_group="staging-db", address=ADDRESS, port="22", reason="trying")
    hold(status == 403 and 'scope="whitelist:write"' in challenge, f"a token that may only read: {status}, {shorten(challenge)}")
    wide = call(stack, "whitelist_add", security_group="staging-db", address="0.0.0.0/0", port="22", reason="let everyone in")
    refused(wide, "whole-internet", "0.0.0.0/0")
    keys = call(stack, "whitelist_add", security_group="staging-db", address=ADDRESS, port="22", reason="as before", aws_secret_access_key="not-a-real-key")
    hold(keys["isError"] and "aws_secret_access_key" in keys["text"] and "not-a-real-key" not in keys["text"], f"AWS keys as arguments: {first_line(keys['text'])}")
    nobody = grpc(stack, "ListRules", {"security_group": "staging-db"}, certificate=None)
    hold(nobody.get("error", {}).get("code") == "UNAVAILABLE", "gRPC without a certificate: the handshake fails")
    stranger = grpc(stack, "ListRules", {"security_group": "staging-db"}, certificate="stranger")
    hold(stranger.get("error", {}).get("reason") == "PEER_UNKNOWN", f"gRPC with a certificate nobody knows: {stranger['error']['message']}")


def session_policy(stack: Stack) -> None:
    """What the credentials of her call could do: that, and nothing else"""
    begun = next(entry for entry in stack.entries() if entry["type"] == "begin" and entry["call"] == stack.opened["call_id"])
    command = [stack.binary, "iam", "session-policy", "--tool", "whitelist_add", "--call", begun["call"], "--holder", begun["who"]["id"]]
    command += [word for name in ("account", "region", "group") for word in (f"--{name}", begun["target"][name])]
    policy = stack.once(command).strip()
    digest = stack.once([*command, "--digest"]).strip()
    hold(digest == begun["session_policy_sha256"], f"printed again, it is the very policy of the journal: sha256 {digest[:16]}…")
    say(indent(json.dumps(json.loads(policy), indent=2)))
    stack.start_enforcing_aws()
    groups = stack.enforcing_aws["groups"]
    row("tried on", f"{stack.enforcing_endpoint} (ministack, which enforces it), with the id of its own staging-db put in and nothing else changed")
    path = stack.write("policy.json", policy.replace(begun["target"]["group"], groups["staging-db"]))
    attempts = subprocess.run(
        [PYTHON, HERE / "aws/try_policy.py", stack.enforcing_endpoint, path, groups["staging-db"], groups["payroll-db"]],
        input=json.dumps(stack.enforcing_aws), capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    if attempts.returncode != 0:
        raise Broken(f"the session could not be tried: {attempts.stderr.strip()}")
    wanted = {
        "look": "allowed",
        "open the group": "allowed",
        "open another group": "UnauthorizedOperation",
        "close the group": "UnauthorizedOperation",
        "make a network": "UnauthorizedOperation",
    }
    for name, answer in json.loads(attempts.stdout).items():
        hold(answer == wanted[name], f"{name}: {answer}")


def audit(stack: Stack) -> None:
    """What was written down: before AWS was touched, and after"""
    # The service looks around by itself every few seconds: what it has just begun may be about to end.
    deadline = time.monotonic() + 10
    while True:
        entries = stack.entries()
        begun = {entry["call"]: entry for entry in entries if entry["type"] == "begin"}
        ended = {entry["call"] for entry in entries if entry["type"] == "end"}
        if begun.keys() == ended or time.monotonic() > deadline:
            break
        time.sleep(0.1)
    # Its looking around is left out of what is shown: there is much of it, and it changes nothing.
    looks = {call_id for call_id, entry in begun.items() if entry["who"]["kind"] == "own" and not entry["changes"]}
    for entry in entries:
        if entry.get("call") not in looks:
            say(indent(describe(entry)))
    refusals = sum(entry["type"] == "refused" for entry in entries)
    asked = len(begun) - len(looks)
    hold(begun.keys() == ended and asked > 8, f"{asked} operations begun, each ended; {refusals} refused before they began; {len(looks)} looks of the service's own besides")
    hold(chain_holds(stack), "every line carries the hash of the one before, and the heads are signed")


def trace(stack: Stack) -> None:
    """The same call as one trace, from the edge to AWS"""
    deadline = time.monotonic() + 15
    wanted = {"tools/call whitelist_add", "STS.AssumeRole", "EC2.AuthorizeSecurityGroupIngress"}
    while True:
        received = spans.read(stack.telemetry)
        traces: dict[str, set] = {}
        for span in received["spans"]:
            traces.setdefault(span["trace_id"], set()).add(span["name"])
        whole = [trace_id for trace_id, names in traces.items() if wanted <= names]
        if whole or time.monotonic() > deadline:
            break
        time.sleep(0.3)
    if not whole:
        raise Broken(f"no trace holds {', '.join(sorted(wanted))}")
    say(indent(spans.tree(received["spans"], whole[0])))
    services = {span["service"] for span in received["spans"] if span["trace_id"] == whole[0]}
    hold(services == {"whitelistmcp-edge", "whitelistmcp-core"}, "edge and core are in one tree")
    hold("whitelistmcp.call.duration" in received["metrics"], f"metrics came too: {', '.join(received['metrics'])}")


STEPS = [log_in, list_tools, targets, add, check, list_rules, leases, remove, service, desktop, share, expire, strangers, session_policy, audit, trace]


# === How the steps are done ===


def mcp(stack: Stack, question: dict) -> dict:
    """Asks through one long session of the official SDK, which logs in by itself."""
    if not hasattr(stack, "session"):
        command = [sys.executable, str(HERE / "leash.py"), str(PYTHON), str(HERE / "client/mcp_session.py"), stack.url, "--user", "alice", "lines"]
        # The leash gives its child no input, and this one needs it: it ends at the end of its input by itself.
        stack.session = subprocess.Popen(command[2:], env={**os.environ, **stack.trust()}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        stack.running.append(stack.session)
    stack.session.stdin.write(json.dumps(question) + "\n")
    stack.session.stdin.flush()
    answer = stack.session.stdout.readline()
    if not answer:
        raise Broken(f"the MCP client gave up: {stack.session.stderr.read().strip()}")
    return json.loads(answer)


def call(stack: Stack, name: str, **arguments: object) -> dict:
    answer = mcp(stack, {"tool": name, "arguments": arguments})
    if "error" in answer:
        raise Broken(f"{name}: {answer['error']}")
    return answer


def tool(stack: Stack, name: str, **arguments: object) -> dict:
    answer = call(stack, name, **arguments)
    if answer["isError"]:
        raise Broken(f"{name}: {answer['text']}")
    return answer["structuredContent"]


def grpc(stack: Stack, method: str, arguments: dict, certificate: str | None = "ci-runner") -> dict:
    command = [PYTHON, HERE / "client/grpc_call.py", f"localhost:{stack.core_port}", method, json.dumps(arguments), "--ca", stack.certs / "ca.pem"]
    if certificate:
        command += ["--certificate", stack.certs / f"{certificate}.pem", "--key", stack.certs / f"{certificate}.key"]
    return json.loads(stack.once(command))


def granted(answer: dict) -> dict:
    if "error" in answer:
        raise Broken(f"gRPC: {answer['error']['code']} {answer['error']['reason']}: {answer['error']['message']}")
    return answer["ok"]


def bare_post(stack: Stack, token: str | None, **arguments: object) -> tuple[int, str]:
    """One request by hand: its status and its challenge."""
    import ssl
    import urllib.error
    import urllib.request

    name = arguments.pop("tool", None)
    message = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": name, "arguments": arguments}} if name else {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
    headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {token}"} if token else {})}
    trust = urllib.request.HTTPSHandler(context=ssl.create_default_context(cafile=str(stack.certs / "ca.pem")))
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), trust)
    try:
        with opener.open(urllib.request.Request(stack.url, json.dumps(message).encode(), headers), timeout=10) as answer:
            return answer.status, ""
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers.get("WWW-Authenticate", "")


def chain_holds(stack: Stack) -> bool:
    verify = subprocess.run([stack.binary, "audit", "verify", "--directory", stack.journal], capture_output=True, text=True)
    say(indent(verify.stdout.strip().splitlines()[-1]))
    doors = subprocess.run([stack.binary, "audit", "show", "--directory", stack.journal, "--doors", "--port", "22"], capture_output=True, text=True)
    say(indent("\nWho could reach port 22, from when to when (`audit show --doors --port 22`):\n" + doors.stdout.strip()))
    return verify.returncode == 0 and doors.returncode == 0


def decode(part: str) -> bytes:
    import base64

    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))


# === How it looks ===


def describe(entry: dict) -> str:
    at = entry["at"][11:19]
    call_id = entry.get("call", "")[-12:]
    match entry["type"]:
        case "open":
            return f"{at}  {paint('open   ', 2)}  by process {entry['process']}, format {entry['v']}"
        case "begin":
            target = entry["target"].get("name") or entry["target"].get("group") or entry["target"]["region"]
            return f"{at}  {paint('begin  ', 36)}  {call_id}  {entry['who']['name']}: {entry['tool']} on {target}: {' '.join(words(entry['arguments']))}"
        case "end":
            aws = ", ".join(call["action"].split(":")[1] + (f" ({call['error']})" if "error" in call else "") for call in entry["aws"])
            why = f" ({entry['error']['reason']})" if "error" in entry else ""
            return f"{at}  {paint('end    ', 32)}  {call_id}  {entry['outcome']}{why}{', changed' if entry.get('changed') else ''}: {aws}; {entry['ms']} ms"
        case "head":
            head = entry["head"]
            return f"{at}  {paint('head   ', 2)}  line {head['seq']} is {head['sha256'][:16]}…, signed by the key {head['key']}"
        case "adopted" | "retired" | "closed":
            return f"{at}  {paint(entry['type'], 2)}  {entry.get('chain', '')}"
        case "observed":
            return f"{at}  {paint('seen   ', 33)}  {entry['what']}: {entry['rule'].get('id')} of {entry['target'].get('group')}"
        case _:
            who = entry.get("who", {}).get("name", "nobody")
            return f"{at}  {paint('refused', 31)}  {call_id}  {who}: {entry['tool']}: {entry['error']['reason']} {' '.join(entry['policies'])}"


def words(value: object) -> list[str]:
    """What is said in the arguments of an entry."""
    match value:
        case str():
            return [value]
        case {"protocol": protocol, "from": first, "to": last}:
            return [f"{protocol} {first}" if first == last else f"{protocol} {first}-{last}"]
        case dict():
            return [word for part in value.values() for word in words(part)]
        case list():
            return [word for part in value for word in words(part)]
        case _:
            return []


def refused(answer: dict, by: str, what: str) -> None:
    """`by` is the policy or the stable reason."""
    hold(answer["isError"] and by in answer["text"], f"{what}: {first_line(answer['text'])}")


def hold(ok: bool, text: str) -> None:
    if not ok:
        raise Broken(text)
    body = textwrap.fill(text, WIDTH - 4, subsequent_indent="    ") if "\n" not in text else text
    say(f"  {paint('✓', 32)} {body}")


def row(name: str, text: str) -> None:
    say(f"  {paint(f'{name:<16}', 2)} {shorten(text)}")


def heading(text: str) -> None:
    heading.number = getattr(heading, "number", 0) + 1
    say(f"\n{paint(f'{heading.number:>2}  {text}', 1)}")


def title(text: str) -> None:
    say(f"\n{paint('━' * WIDTH, 2)}\n{paint(text, 1)}\n{paint('━' * WIDTH, 2)}")


def indent(text: str) -> str:
    return textwrap.indent("\n".join(shorten(line, WIDTH + 40) for line in text.split("\n")), "    ")


def first_line(text: str) -> str:
    return text.split("\n", 1)[0]


def shorten(text: str, width: int = WIDTH + 20) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"


def paint(text: str, colour: int) -> str:
    return f"\x1b[{colour}m{text}\x1b[0m" if COLOUR else text


def say(text: str) -> None:
    print(text, flush=True)


def show_logs(directory: Path) -> None:
    for log in sorted(directory.glob("*.log")):
        # Less the requests that moto has answered as it should.
        words = "\n".join(line for line in log.read_text(errors="replace").splitlines() if '" 200 -' not in line).strip()
        if words:
            say(f"\n--- the last of {log.name}\n{words[-1500:]}")


if __name__ == "__main__":
    sys.exit(main())
