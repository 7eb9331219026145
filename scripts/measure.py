#!/usr/bin/env python3
"""Measures what edge, core and bridge cost, and prints it as Markdown.

    measure.py [--calls N]      1000 by default; the binary is the one that WHITELISTMCP names

It starts the edge and the core as a deployment has them, each a process of its own with limits out of the way, behind them an emulator of AWS, and
a bridge. For each kind of call it takes the CPU time of each process from /proc/PID/stat, and its peak of memory from /proc/PID/status, whose mark is
set back before. Measure a release build on a machine that does nothing else.
"""

import argparse
import concurrent.futures
import http.client
import json
import os
import platform
import shutil
import ssl
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(CHECKOUT / "examples/demo"))
from stack import NotReady, Stack, environment  # noqa: E402

LIMITS = ("READS_PER_MINUTE", "CHANGES_PER_MINUTE", "OTHERS_PER_MINUTE", "ADDRESS__REQUESTS_PER_MINUTE", "ADDRESS__BAD_TOKENS_PER_MINUTE")
COUNTS = ("CHANGES_PER_HOUR", "CHANGES_PER_DAY", "OPEN_LEASES", "IN_FLIGHT")
# Calls at once: as many clients as keep a small machine busy, and no queue.
CLIENTS = 4
TICK = os.sysconf("SC_CLK_TCK")


class Measured(Stack):
    """What the demo starts, without telemetry and without waits: an emulator shows a write at once."""

    def start_receiver(self) -> None:
        self.otlp = ""

    def otel(self) -> dict[str, str]:
        limits = {f"WHITELISTMCP_LIMITS__{name}": "1000000" for name in LIMITS}
        # The emulator's group is full at 60 rules, so no call may wait for its place behind many others.
        return {**limits, **{f"WHITELISTMCP_LIMITS__{name}": "10000" for name in COUNTS}, "WHITELISTMCP_LEASES__INTERVAL": "1m"}

    def core_config(self) -> str:
        return super().core_config().replace('settle = "1s"\ninterval = "5s"\n', 'settle = "20ms"\n')

    def start_core(self) -> None:
        begun = time.monotonic()
        super().start_core()
        self.core_ready = time.monotonic() - begun

    def start_edge(self) -> None:
        begun = time.monotonic()
        super().start_edge()
        self.edge_ready = time.monotonic() - begun


def main() -> int:
    parser = argparse.ArgumentParser(description="Measures what edge, core and bridge cost.")
    parser.add_argument("--calls", type=int, default=1000, help="how many calls of each kind")
    asked = parser.parse_args()
    if not os.environ.get("WHITELISTMCP"):
        print("measure.py: WHITELISTMCP names no binary, such as target/release/whitelistmcp", file=sys.stderr)
        return 2
    directory = Path(tempfile.mkdtemp(prefix="whitelistmcp-measure-"))
    try:
        with Measured(directory) as stack:
            measure(stack, asked.calls)
    except NotReady as error:
        print(error, file=sys.stderr)
        return 1
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    return 0


def measure(stack: Measured, calls: int) -> None:
    token = stack.token()
    processes = {role: Process(stack.process_of(role)) for role in ("edge", "core")}
    # What is loaded with the first call is part of every process that works.
    idle = {role: process.resident() for role, process in processes.items()}
    series = list(kinds(calls))
    over(stack, token, [series[0][1](number) for number in range(20)])

    print(f"{calls:,} calls of each kind by {CLIENTS} clients; {os.cpu_count()} CPUs, {platform.machine()}, {stack.binary.stat().st_size / 2**20:.0f} MiB of program, `{stack.once([stack.binary, '--version']).strip()}`")
    print("\n| process | ready after | memory when idle (of it anonymous) | after its first calls |\n| --- | --- | --- | --- |")
    for role, ready in (("edge", stack.edge_ready), ("core", stack.core_ready)):
        print(f"| {role} | {ready * 1000:.0f} ms | {both(idle[role])} | {both(processes[role].resident())} |")

    print("\n| call | CPU of the edge for 1,000 | CPU of the core for 1,000 | most memory of the edge | of the core | half of the answers within | AWS requests of one |\n| --- | --- | --- | --- | --- | --- | --- |")
    for name, message in series:
        before = {role: process.begin() for role, process in processes.items()}
        entries = len(stack.entries())
        took = over(stack, token, [message(number) for number in range(calls)])
        spent = {role: (process.cpu() - before[role]) * 1000 / calls for role, process in processes.items()}
        peak = {role: process.peak() for role, process in processes.items()}
        asked_aws = requests(stack.entries()[entries:], calls)
        print(f"| {name} | {spent['edge']:.2f} s | {spent['core']:.2f} s | {mebibytes(peak['edge'])} | {mebibytes(peak['core'])} | {statistics.median(took) * 1000:.1f} ms | {asked_aws} |", flush=True)
    bridge(stack, token, calls)


def kinds(calls: int) -> Iterator[tuple[str, Callable[[int], list[tuple[str, dict, bool]]]]]:
    """Each kind of call: its name, and the messages of its nth, with whether they succeed."""
    group = {"security_group": "staging-db"}
    address = lambda number: f"198.51.100.{number % 200}"  # noqa: E731
    opening = lambda number: {**group, "address": address(number), "port": "22", "reason": "a measurement"}  # noqa: E731
    yield "`whitelist_list`", lambda number: [("whitelist_list", group, True)]
    yield "`whitelist_check`", lambda number: [("whitelist_check", {**group, "address": address(number), "port": "22"}, True)]
    yield "`whitelist_add`, refused by policy", lambda number: [("whitelist_add", {**opening(number), "address": "0.0.0.0/0"}, False)]
    yield "`whitelist_add`, a dry run", lambda number: [("whitelist_add", {**opening(number), "dry_run": True}, True)]
    yield "`whitelist_add` and `whitelist_remove`", lambda number: [
        ("whitelist_add", opening(number), True),
        ("whitelist_remove", {**group, "address": address(number), "port": "22", "protocol": "tcp"}, True),
    ]


def over(stack: Stack, token: str, calls: list[list[tuple[str, dict, bool]]]) -> list[float]:
    """Makes the calls, a few at once and each client on one connection; how long each message took."""
    trust = ssl.create_default_context(cafile=str(stack.certs / "ca.pem"))
    own = threading.local()

    def one(call: list[tuple[str, dict, bool]]) -> list[float]:
        if not hasattr(own, "door"):
            own.door = http.client.HTTPSConnection("localhost", stack.edge_port, context=trust, timeout=60)
        took = []
        for tool, arguments, good in call:
            message = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": tool, "arguments": arguments}})
            begun = time.monotonic()
            headers = {"Content-Type": "application/json", "Authorization": f"Bearer {token}"}
            for turn in (1, 2):
                try:
                    own.door.request("POST", "/mcp", message, headers)
                    body = json.loads(own.door.getresponse().read())
                    break
                except (http.client.RemoteDisconnected, ConnectionError):
                    # A connection has an age; the next one is as good.
                    own.door.close()
                    if turn == 2:
                        raise
            took.append(time.monotonic() - begun)
            if body.get("result", {}).get("isError") is not (not good):
                raise NotReady(f"{tool}: {json.dumps(body)[:600]}")
        return took

    with concurrent.futures.ThreadPoolExecutor(CLIENTS) as clients:
        return [length for took in clients.map(one, calls) for length in took]


def requests(entries: list[dict], calls: int) -> str:
    """How often one call asked AWS, by operation, as the journal has it."""
    counts = Counter(row["action"].rpartition(":")[2] for entry in entries for row in entry.get("aws") or [])
    return ", ".join(f"{count / calls:.3g} {name}" for name, count in sorted(counts.items())) or "none"


def bridge(stack: Stack, token: str, calls: int) -> None:
    """The same list through a bridge, one call after another, as a desktop client makes them."""
    secret = stack.directory / "token"
    secret.write_text(token)
    secret.chmod(0o600)
    command = [stack.binary, "bridge", stack.url, "--ca", stack.certs / "ca.pem", "--token-file", secret, "--store", "file"]
    begun = time.monotonic()
    child = subprocess.Popen([str(word) for word in command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment({"HOME": str(stack.directory)}))
    try:

        def call(number: int, method: str, params: dict) -> dict:
            child.stdin.write(json.dumps({"jsonrpc": "2.0", "id": number, "method": method, "params": params}) + "\n")
            child.stdin.flush()
            return json.loads(child.stdout.readline())

        call(0, "initialize", {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "measure", "version": "1"}})
        ready = time.monotonic() - begun
        process = Process(child.pid)
        idle, before, took = process.resident(), process.begin(), []
        for number in range(1, calls + 1):
            begun = time.monotonic()
            answer = call(number, "tools/call", {"name": "whitelist_list", "arguments": {"security_group": "staging-db"}})
            took.append(time.monotonic() - begun)
            if answer.get("result", {}).get("isError") is not False:
                raise NotReady(f"through the bridge: {json.dumps(answer)[:600]}")
        print("\n| the bridge | answers `initialize` after | memory when idle (of it anonymous) | most memory | CPU for 1,000 calls | half of the answers within |\n| --- | --- | --- | --- | --- | --- |")
        spent = (process.cpu() - before) * 1000 / calls
        print(f"| `whitelist_list` | {ready * 1000:.0f} ms | {both(idle)} | {mebibytes(process.peak())} | {spent:.2f} s | {statistics.median(took) * 1000:.1f} ms |")
    finally:
        child.stdin.close()
        child.wait(30)


class Process:
    """A process, as /proc tells of it (proc(5))."""

    def __init__(self, number: int) -> None:
        self.place = Path(f"/proc/{number}")

    def cpu(self) -> float:
        """Seconds of CPU, its own and the system's for it."""
        fields = (self.place / "stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICK

    def resident(self) -> tuple[int, int]:
        """Bytes of memory in use, and how many of them are no pages of the program's file: those are given back when memory is short."""
        rows = dict(line.split(":", 1) for line in (self.place / "smaps_rollup").read_text().splitlines()[1:])
        return int(rows["Rss"].split()[0]) * 1024, int(rows["Anonymous"].split()[0]) * 1024

    def begin(self) -> float:
        """Sets the mark of the most memory back; the CPU time so far."""
        (self.place / "clear_refs").write_text("5")
        return self.cpu()

    def peak(self) -> int:
        rows = dict(line.split(":", 1) for line in (self.place / "status").read_text().splitlines())
        return int(rows["VmHWM"].split()[0]) * 1024


def both(sizes: tuple[int, int]) -> str:
    return f"{mebibytes(sizes[0])} ({mebibytes(sizes[1])})"


def mebibytes(size: int) -> str:
    return f"{size / 2**20:.1f} MiB"


if __name__ == "__main__":
    sys.exit(main())
