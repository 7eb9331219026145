#!/usr/bin/env python3
"""Receives OpenTelemetry over gRPC and writes all of it, readable, to a file.

    receiver.py FILE [--port PORT]

The receiver is `rotel`, a collector that needs no other program; `spans.py` reads what it writes. Port 0, the default,
takes a free one. Ready when it prints its one line, {"endpoint": …, "file": …}; ends on TERM or INT. What it receives
stands in the file within a quarter of a second.
"""

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

PATIENCE = 15.0


def main() -> int:
    parser = argparse.ArgumentParser(description="Receive OpenTelemetry over gRPC into a file.")
    parser.add_argument("file", type=Path, metavar="FILE")
    parser.add_argument("--port", type=int, default=0)
    asked = parser.parse_args()
    # rotel tells neither which port it was given nor that it was refused one, so the port is tried first.
    try:
        port = free_port(asked.port)
    except OSError as error:
        print(f"receiver.py: port {asked.port}: {error.strerror}", file=sys.stderr)
        return 1
    with open(asked.file, "wb") as dump:
        agent = subprocess.Popen(command(port), stdin=subprocess.DEVNULL, stdout=dump)
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, lambda *_: agent.terminate())
    if not listens(agent, port):
        agent.kill()
        print(f"receiver.py: the agent does not listen on port {port}; its words are in {asked.file}", file=sys.stderr)
        return 1
    print(json.dumps({"endpoint": f"http://127.0.0.1:{port}", "file": str(asked.file)}), flush=True)
    return agent.wait()


def command(port: int) -> list[str]:
    tools = Path(os.environ.get("TOOLS_DIR") or Path(__file__).resolve().parents[3] / ".tools")
    signals = [word for name in ("traces", "metrics", "logs") for word in ("--debug-log", name)]
    return [
        str(tools / "python/bin/rotel-agent"),
        "start",
        "--otlp-grpc-endpoint", f"127.0.0.1:{port}",
        # It cannot be told to leave HTTP out, and would take a fixed port.
        "--otlp-http-endpoint", f"127.0.0.1:{free_port()}",
        "--exporter", "blackhole",
        *signals,
        "--debug-log-verbosity", "detailed",
    ]  # fmt: skip


def free_port(wanted: int = 0) -> int:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # As the agent does: a port just left is free.
        probe.bind(("127.0.0.1", wanted))
        return probe.getsockname()[1]


def listens(agent: subprocess.Popen, port: int) -> bool:
    deadline = time.monotonic() + PATIENCE
    while agent.poll() is None and time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return True
        except OSError:
            time.sleep(0.02)
    return False


if __name__ == "__main__":
    sys.exit(main())
