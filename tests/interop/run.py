#!/usr/bin/env python3
"""Real MCP clients, and a gateway, against the real service: each logs in, lists, calls, is refused, and outlives its token.

    WHITELISTMCP=path/to/whitelistmcp INTEROP_RMCP=path/to/interop-rmcp run.py [ROW…]

Starts what the demo starts (`examples/demo/stack.py`) and drives every client of `rows.py` through the same job, several at
a time. A driver (`clients/`) reports what its client said; `expect.py` says what that has to be. The job:

- login: by the client's own OAuth where it has one (authorization code with PKCE and a browser without a person, or client
  credentials), else with a bearer token;
- list: the tools;
- call: an address is checked, let in, found in the list, checked, closed and checked again;
- refused: a tool's own refusal, of 0.0.0.0/0, which is a result that a model can act on;
- unknown: a tool that does not exist, which is a protocol error;
- expiry: a second session, whose token ends after seconds. The client is refused by a 401: one that logged in by itself gets a
  new token by what the 401 says and goes on; one that was given a token says so.
"""

import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
sys.path.insert(0, str(HERE.parents[1] / "examples/demo"))
import expect  # noqa: E402
from rows import GATEWAY, ROWS, Row  # noqa: E402
from stack import TOOLS, NotReady, Stack, environment, free_port, listens  # noqa: E402

PYTHON = TOOLS / "interop/bin/python"
OLD_PYTHON = TOOLS / "interop-old/bin/python"
NODE = TOOLS / "interop-node/node_modules/.bin/node"
# How many seconds a token of the second session lives; the service allows for clocks that are 30 s apart.
BRIEF = 15
# How many clients do their job at once, and how long one may take.
AT_ONCE, PATIENCE = 4, 240.0
STEPS = ("login", "list", "call", "refused", "unknown", "expiry")


class Service(Stack):
    """The demo's stack, told of the programs and of the people whose tokens are brief. All clients call from one address."""

    def provider_settings(self) -> dict[str, str]:
        names = [row.brief for row in ROWS]
        programs = [name for row in ROWS if row.login == "program" for name in (row.who, row.brief)]
        own = {"BRIEF": json.dumps({name: BRIEF for name in names}), "PROGRAMS": ",".join(programs)}
        return {**super().provider_settings(), **own}

    def edge_config(self) -> str:
        own = "[limits.address]\nrequests_per_minute = 6000\nbad_tokens_per_minute = 600\n"
        return f"{super().edge_config()}\n{own}"


class Client:
    """One row's driver, as a process of its own."""

    def __init__(self, service: Service, gateway: str, row: Row, directory: Path) -> None:
        self.row, self.service = row, service
        self.url = gateway if row.through_gateway else service.url
        self.log = directory / f"{row.name}.log"
        self.home = directory / row.name
        self.reports: queue.Queue = queue.Queue()
        self.child: subprocess.Popen | None = None

    def login(self, who: str) -> dict:
        if self.row.login == "token":
            return {"token": self.service.token(user=who)}
        return {"program" if self.row.login == "program" else "user": who}

    def start(self) -> None:
        self.home.mkdir()
        job = {
            "row": self.row.name,
            "url": self.url,
            "issuer": self.service.issuer,
            "mode": self.row.mode,
            "login": self.login(self.row.who),
            "brief_person": self.row.brief,
            "calls": expect.calls(self.row),
            "home": str(self.home),
            "port": free_port(),
        }
        python = OLD_PYTHON if "old" in self.row.driver else PYTHON
        program = {"python": [python, HERE / "clients" / self.row.driver], "node": [NODE, HERE / "clients" / self.row.driver], "rust": [os.environ["INTEROP_RMCP"]]}
        ca = str(self.service.certs / "ca.pem")
        settings = {
            "SSL_CERT_FILE": ca,
            "NODE_EXTRA_CA_CERTS": ca,
            "HOME": str(self.home),
            "PATH": f"{HERE / 'clients'}:{NODE.parent}:{os.environ['PATH']}",
            "BROWSER": str(HERE / "clients/xdg-open"),
            "INTEROP_LOG": str(self.log),
        }
        with open(self.log, "ab") as log:
            self.child = subprocess.Popen(
                [str(word) for word in program[self.row.kind]], env=environment(settings), stdin=subprocess.PIPE,
                stdout=subprocess.PIPE, stderr=log, text=True, start_new_session=True,
            )  # fmt: skip
        threading.Thread(target=self.read, daemon=True).start()
        self.tell(job)

    def tell(self, what: dict) -> None:
        self.child.stdin.write(json.dumps(what) + "\n")
        self.child.stdin.flush()

    def read(self) -> None:
        for line in self.child.stdout:
            self.reports.put(json.loads(line))
        self.reports.put(None)

    def report(self) -> dict:
        """The driver's next report; what it left in its log, if there is none."""
        try:
            report = self.reports.get(timeout=PATIENCE)
        except queue.Empty:
            report = None
        if report is None:
            words = self.log.read_text(errors="replace").strip()[-1500:]
            return {"broken": words or "the driver ended without a report"}
        return report

    def stop(self) -> None:
        """Ends what the driver started as well: the client, and the browser."""
        if self.child is None:
            return
        try:
            os.killpg(self.child.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.child.wait()


# Set once no further client may be started.
ending = threading.Event()


def drive(client: Client, places: threading.Semaphore, reports: dict) -> None:
    try:
        with places:
            if ending.is_set():
                return
            client.start()
            reports[client.row] = client.report()
        # While it waits for its token to end, it needs no place.
        if "broken" not in reports[client.row]:
            client.tell(client.login(client.row.brief))
            reports[client.row] |= client.report()
    except Exception as error:  # A row that cannot be driven fails, and the others go on.
        reports[client.row] = {"broken": f"{type(error).__name__}: {error}"}
    finally:
        client.stop()


def start_gateway(service: Service) -> str:
    port = free_port()
    log = open(service.directory / "gateway.log", "wb")
    leash = [sys.executable, str(HERE.parents[1] / "examples/demo/leash.py")]
    child = subprocess.Popen(
        [*leash, str(PYTHON), str(HERE / "clients" / GATEWAY), service.url, service.issuer, str(port)],
        env=environment(service.trust()), stdin=subprocess.PIPE, stdout=log, stderr=log,
    )  # fmt: skip
    log.close()
    service.running.append(child)
    service.until("gateway", lambda: listens(port))
    return f"http://127.0.0.1:{port}/mcp"


def main() -> int:
    wanted = [row for row in ROWS if not sys.argv[1:] or any(row.name.startswith(name) for name in sys.argv[1:])]
    if not wanted:
        print(f"run.py: no row named so; there are: {' '.join(row.name for row in ROWS)}", file=sys.stderr)
        return 2
    begun = time.monotonic()
    for name in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(name, lambda *_: sys.exit(1))
    with tempfile.TemporaryDirectory(prefix="whitelistmcp-interop-") as place:
        directory = Path(os.environ.get("INTEROP_KEEP") or place)
        try:
            with Service(directory / "service") as service:
                gateway = start_gateway(service)
                reports, places = {}, threading.Semaphore(AT_ONCE)
                clients = [Client(service, gateway, row, directory) for row in wanted]
                threads = [threading.Thread(target=drive, args=(client, places, reports), daemon=True) for client in clients]
                try:
                    for thread in threads:
                        thread.start()
                    for thread in threads:
                        thread.join()
                finally:
                    ending.set()
                    for client in clients:
                        client.stop()
                    left = still_running(directory)
                entries = service.entries()
        except NotReady as error:
            print(f"run.py: {error}", file=sys.stderr)
            return 1
        if "INTEROP_REPORTS" in os.environ:
            Path(os.environ["INTEROP_REPORTS"]).write_text(json.dumps({row.name: report for row, report in reports.items()}, indent=2))
    return table(wanted, reports, entries, left, time.monotonic() - begun)


def still_running(directory: Path) -> list[str]:
    """What clients have started and not ended, some seconds after they have. Their logs are in `directory`, and their environment
    says so."""
    deadline = time.monotonic() + 15
    while True:
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            try:
                if f"INTEROP_LOG={directory}".encode() in (process / "environ").read_bytes():
                    found.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace"))
            except OSError:  # It has just ended, or is somebody else's.
                continue
        if not found or time.monotonic() > deadline:
            return found
        time.sleep(0.2)


def table(rows: list[Row], reports: dict, entries: list[dict], left: list[str], seconds: float) -> int:
    passed, failed = 0 if left else 1, len(left)
    wrong = [f"still running: {command}" for command in left]
    width = max(len(row.title) for row in rows)
    print(f"{'client':{width}}  {'revision':10}  {'by':18}  " + "  ".join(f"{step:7}" for step in STEPS))
    for row in rows:
        report = reports.get(row) or {"broken": "it was not driven"}
        cells = []
        for step in STEPS:
            reasons = expect.judge(step, row, report, entries)
            passed, failed = passed + (not reasons), failed + bool(reasons)
            cells.append("FAILED" if reasons else expect.word(step, report))
            wrong += [f"{row.name}, {step}: {reason}" for reason in reasons]
        print(f"{row.title:{width}}  {report.get('revision') or '?':10}  {row.means:18}  " + "  ".join(f"{cell:7}" for cell in cells).rstrip())
    for reason in wrong:
        print(f"\n{reason}")
    print(f"\n{len(rows)} clients in {seconds:.0f} s\n\n{passed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
