#!/usr/bin/env python3
"""Calls at every door for a while; memory, descriptors, threads and latency must stay flat.

    soak.py [SECONDS]     120 by default

It starts what the demo starts, with limits out of the way, and mixes reads, dry runs, openings and closings, refusals, bad tokens,
malformed messages and new connections over MCP, and calls straight over gRPC. What is measured in the second quarter is
compared with the last one.
"""

import http.client
import json
import shutil
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(CHECKOUT / "examples/demo"))
from stack import HERE, PYTHON, NotReady, Stack  # noqa: E402

LIMITS = ("READS_PER_MINUTE", "CHANGES_PER_MINUTE", "OTHERS_PER_MINUTE", "ADDRESS__REQUESTS_PER_MINUTE", "ADDRESS__BAD_TOKENS_PER_MINUTE")


class Soaked(Stack):
    def otel(self) -> dict[str, str]:
        limits = {f"WHITELISTMCP_LIMITS__{name}": "1000000" for name in LIMITS}
        counts = {f"WHITELISTMCP_LIMITS__{name}": "100000" for name in ("CHANGES_PER_HOUR", "CHANGES_PER_DAY", "OPEN_LEASES")}
        return {**super().otel(), **limits, **counts}


def main() -> int:
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 120.0
    directory = Path(tempfile.mkdtemp(prefix="whitelistmcp-soak-"))
    try:
        with Soaked(directory) as stack:
            return soak(stack, seconds)
    except NotReady as error:
        print(error, file=sys.stderr)
        return 1
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def soak(stack: Stack, seconds: float) -> int:
    token, over, samples = stack.token(), threading.Event(), []
    counts = {"answered": 0, "refused": 0, "broken": 0}
    lock = threading.Lock()

    def note(kind: str, begun: float) -> None:
        with lock:
            counts[kind] += 1
            samples.append((time.monotonic(), time.monotonic() - begun))

    callers = [threading.Thread(target=mcp, args=(stack, token, number, over, note), daemon=True) for number in range(3)]
    callers.append(threading.Thread(target=grpc, args=(stack, over, note), daemon=True))
    begun = time.monotonic()
    for caller in callers:
        caller.start()
    measured: dict[str, list] = {role: [] for role in ("edge", "core")}
    while time.monotonic() - begun < seconds:
        for role, rows in measured.items():
            rows.append((time.monotonic(), *measure(stack.process_of(role))))
        time.sleep(max(1.0, seconds / 120))
    over.set()
    for caller in callers:
        caller.join(30)

    def quarter(rows: list, number: int) -> list:
        first, last = begun + seconds * number / 4, begun + seconds * (number + 1) / 4
        return [row for row in rows if first <= row[0] < last]

    flat = True
    print(f"{counts['answered']} answered, {counts['refused']} refused as they should be, {counts['broken']} broken, in {seconds:.0f} s")
    for role, rows in measured.items():
        early, late = quarter(rows, 1), quarter(rows, 3)
        for column, name, slack, factor in ((1, "KiB of memory", 8192, 1.15), (2, "descriptors", 12, 1.1), (3, "threads", 4, 1.1)):
            was, now = (sorted(row[column] for row in part)[len(part) // 2] for part in (early, late))
            held = now <= was * factor + slack
            flat &= held
            print(f"{'ok   ' if held else 'GREW '} {role}: {name}: {was} then {now}")
    early, late = (sorted(row[1] for row in quarter(samples, number)) for number in (1, 3))
    was, now = (part[int(len(part) * 0.95)] * 1000 for part in (early, late))
    held = now <= was * 2 + 50
    print(f"{'ok   ' if held else 'GREW '} 95 % of the answers within {was:.0f} ms, then {now:.0f} ms")
    return 0 if flat and held and counts["broken"] == 0 and counts["answered"] > seconds else 1


def mcp(stack: Stack, token: str, number: int, over: threading.Event, note) -> None:
    trust = ssl.create_default_context(cafile=str(stack.certs / "ca.pem"))
    door, turn = None, 0
    while not over.is_set():
        turn += 1
        if door is None or turn % 200 == 0:
            door = http.client.HTTPSConnection("localhost", stack.edge_port, context=trust, timeout=30)
        address = f"198.51.100.{number * 80 + turn % 60}"
        group = {"security_group": "staging-db"}
        kind = turn % 10
        tool, arguments, bearer, good = "whitelist_list", group, token, True
        if kind in (1, 2):
            tool, arguments = "whitelist_check", {**group, "address": address, "port": "22"}
        elif kind == 3:
            tool, arguments = "whitelist_add", {**group, "address": address, "port": "22", "reason": "a soak", "dry_run": True}
        elif kind == 4 and turn % 50 == 4:
            tool, arguments = "whitelist_add", {**group, "address": address, "port": "22", "reason": "a soak", "duration": "5s"}
        elif kind == 5:
            tool, arguments, good = "whitelist_add", {**group, "address": "0.0.0.0/0", "port": "22", "reason": "a soak"}, False
        elif kind == 6:
            bearer, good = "made-up", False
        message = json.dumps({"jsonrpc": "2.0", "id": turn, "method": "tools/call", "params": {"name": tool, "arguments": arguments}})
        if kind == 7:
            message, good = message[:40], False
        begun = time.monotonic()
        try:
            door.request("POST", "/mcp", message, {"Content-Type": "application/json", "Authorization": f"Bearer {bearer}"})
            answer = door.getresponse()
            body = json.loads(answer.read())
            fine = answer.status == 200 and body.get("result", {}).get("isError") is False
            note("answered" if fine else "broken" if good else "refused", begun)
            if good and not fine:
                print(f"broken: {tool}: {json.dumps(body)[:300]}", file=sys.stderr)
        except OSError as error:
            door = None
            note("broken", begun)
            print(f"broken: {error}", file=sys.stderr)


def grpc(stack: Stack, over: threading.Event, note) -> None:
    certificate = ["--certificate", stack.certs / "ci-runner.pem", "--key", stack.certs / "ci-runner.key"]
    command = [PYTHON, HERE / "client/grpc_call.py", f"localhost:{stack.core_port}", "ListRules", json.dumps({"security_group": "staging-db"}), "--ca", stack.certs / "ca.pem", *certificate]
    while not over.wait(2):
        done = subprocess.run([str(word) for word in command], capture_output=True, text=True, stdin=subprocess.DEVNULL)
        note("answered" if done.returncode == 0 and '"ok"' in done.stdout else "broken", time.monotonic())


def measure(process: int) -> tuple[int, int, int]:
    status = dict(line.split(":", 1) for line in Path(f"/proc/{process}/status").read_text().splitlines())
    return int(status["VmRSS"].split()[0]), len(list(Path(f"/proc/{process}/fd").iterdir())), int(status["Threads"])


if __name__ == "__main__":
    sys.exit(main())
