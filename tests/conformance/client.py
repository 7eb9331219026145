#!/usr/bin/env python3
"""The client side of the official conformance suite, against the bridge, and against mcp-remote in the same run.

    WHITELISTMCP=path/to/whitelistmcp client.py [--only SCENARIO] [--without-comparison]

The suite is a server, with an authorization server of its own where a scenario needs one; the client is the official Python
SDK over stdio (`client_driver.py`) with the bridge between them. A browser without a person is first in PATH. Each
revision's requirements are run as they were frozen at its release, and what else the suite runs beside them.

Every check that fails must stand in `client-expected.txt` with its reason, and everything that stands there must fail: an
entry that has become stale fails the run. The bridge must fail fewer checks than mcp-remote, and none of the authorization that
is required."""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
CHECKOUT = HERE.parents[1]
TOOLS = Path(os.environ.get("TOOLS_DIR") or CHECKOUT / ".tools")
PACKAGES = TOOLS / "interop-node/node_modules"
NODE = PACKAGES / ".bin/node"
SUITE = PACKAGES / "@modelcontextprotocol/conformance/dist/index.js"
REMOTE = PACKAGES / "mcp-remote/dist/proxy.js"
PYTHON = TOOLS / "python/bin/python"
EXPECTED = HERE / "client-expected.txt"
REVISIONS = ("2025-11-25", "2026-07-28")
# How long one client may take, and one run of the suite.
CLIENT, RUN = 40_000, 900

# A revision, a scenario, and a check of it.
Check = tuple[str, str, str]


def run(kind: str, bridge: list[str], revision: str, only: str | None) -> tuple[set[Check], int]:
    """Runs the suite's client side: the checks that failed, and how often any did."""
    choice = ["--scenario", only, "--spec-version", revision, "--force"] if only else ["--requirements", revision]
    path = f"{HERE / 'headless'}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "BRIDGE": json.dumps(bridge), "BRIDGE_KIND": kind}
    for name in ("MCP_AUTH_TOKEN", "MCP_REMOTE_URL", "MCP_MODE"):
        environment.pop(name, None)
    failed: set[Check] = set()
    times = seen = 0
    with tempfile.TemporaryDirectory() as directory:
        command = f"{PYTHON} {HERE / 'client_driver.py'}"
        words = [NODE, SUITE, "client", "--command", command, "--timeout", str(CLIENT), *choice, "-o", directory]
        finished = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=RUN)
        for path in sorted(Path(directory).rglob("checks.json")):
            name = path.parent.relative_to(directory).as_posix()
            scenario = re.sub(r"-\d{4}-\d\d-\d\dT.*$", "", name)
            seen += 1
            for check in json.loads(path.read_text()):
                if check["status"] in ("FAILURE", "WARNING"):
                    times += 1
                    failed.add((revision, scenario, check["id"]))
                    if only or os.environ.get("VERBOSE"):
                        print(f"    {check['id']}: {check.get('errorMessage') or check['description']}")
        if not seen:
            raise SystemExit(f"the suite ran nothing:\n{finished.stdout}{finished.stderr}")
    print(f"{kind}, {revision}: {seen} scenarios, {times} checks failed")
    return failed, times


def expected() -> dict[Check, str]:
    """What is known to fail, and why."""
    known: dict[Check, str] = {}
    for line in EXPECTED.read_text().splitlines():
        if line and not line.startswith("#"):
            check, _, reason = line.partition(" # ")
            revision, scenario, name = check.split()
            assert reason, f"no reason is given for {check}"
            known[(revision, scenario, name)] = reason
    return known


def required(revision: str) -> set[str]:
    """The scenarios of authorization that a revision requires of clients."""
    text = (SUITE.parents[1] / f"requirements/{revision}.yaml").read_text()
    section = re.search(r"^client:\n((?:[ #].*\n|\n)*)", text, re.MULTILINE)
    return set(re.findall(r"^  - (auth/\S+)$", section.group(1), re.MULTILINE))


def main() -> int:
    parser = argparse.ArgumentParser(description="Run the conformance suite's client side against the bridge.")
    parser.add_argument("--only", metavar="SCENARIO", help="one scenario, and what it says")
    parser.add_argument("--without-comparison", action="store_true", help="do not run mcp-remote")
    asked = parser.parse_args()
    for needed in (NODE, SUITE, PYTHON):
        if not needed.exists():
            print(f"{needed} is missing; `make tools-python` installs it", file=sys.stderr)
            return 1
    bridge = [os.environ.get("WHITELISTMCP") or str(CHECKOUT / "target/debug/whitelistmcp"), "bridge"]
    failed: set[Check] = set()
    times = 0
    for revision in REVISIONS:
        found, count = run("whitelistmcp", bridge, revision, asked.only)
        failed |= found
        times += count
    if asked.only:
        return 1 if failed else 0
    known = expected()
    wrong = [f"unexpected: {' '.join(check)}" for check in sorted(failed - known.keys())]
    wrong += [f"stale: {' '.join(check)} does not fail any more" for check in sorted(known.keys() - failed)]
    wrong += [f"required: {' '.join(check)}" for check in sorted(failed) if check[1] in required(check[0])]
    for check in sorted(failed & known.keys()):
        print(f"known: {' '.join(check)}: {known[check]}")
    if not asked.without_comparison:
        theirs = sum(run("mcp-remote", [str(NODE), str(REMOTE)], revision, None)[1] for revision in REVISIONS)
        print(f"failed checks: {times} with the bridge, {theirs} with mcp-remote")
        if times >= theirs:
            wrong.append(f"the bridge fails {times} checks, and mcp-remote no more than {theirs}")
    for line in wrong:
        print(line, file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
