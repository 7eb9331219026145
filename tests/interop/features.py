#!/usr/bin/env python3
"""Real SDKs with everything that a service may offer besides tools that answer: resources, prompts, completion, progress, lines of
a log, questions to the user, the model and the host, and news of what has changed. In each era, over HTTP and a WebSocket.

    WHITELISTMCP=path/to/whitelistmcp features.py [ROW…]

The service behind the edge is that of the conformance suite (`tests/conformance/fixtures.py`).
"""

import json
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "conformance"))
sys.path.insert(0, str(HERE.parents[1] / "examples/demo"))
import judge  # noqa: E402
from run import NODE, PYTHON, Service  # noqa: E402
from stack import NotReady, environment  # noqa: E402

MODERN, LEGACY = "2026-07-28", "2025-11-25"
# Name, title, driver, how it opens a session, and the revision that has to come of it.
ROWS = [
    ("python-legacy", "Python SDK 2.3.0, legacy", "python_features.py", "legacy", LEGACY),
    ("python-auto", "Python SDK 2.3.0, auto", "python_features.py", "auto", MODERN),
    ("typescript-legacy", "TypeScript SDK 2.4.0, legacy", "typescript_features.mjs", "legacy", LEGACY),
    ("typescript-auto", "TypeScript SDK 2.4.0, auto", "typescript_features.mjs", "auto", MODERN),
    ("typescript-1", "TypeScript SDK 1.32.2", "typescript_old_features.mjs", "http", LEGACY),
    ("typescript-1-socket", "TypeScript SDK 1.32.2, WebSocket", "typescript_old_features.mjs", "socket", LEGACY),
]
PATIENCE = 120
USER = {"username": "alice", "email": "alice@example.test"}


def wanted(name: str, revision: str) -> dict:
    """What a client has to see."""
    # The later TypeScript SDK gives both eras' codes for a resource that is not there as the later one.
    of_legacy = -32602 if name.startswith("typescript-legacy") else -32002
    return {
        "revision": revision,
        "resources": judge.RESOURCES,
        "templates": ["test://template/{id}/data"],
        "read": "This is the content of the static text resource.",
        "blob": "image/png",
        "by template": "7",
        "nothing there": -32602 if revision == MODERN else of_legacy,
        "prompts": judge.PROMPTS,
        "prompt": "Prompt with arguments: arg1='a', arg2='b'",
        "completion": ["paris", "park", "party"],
        "content": ["text", "image", "resource"],
        "progress": [[0, 100, "0 of 100"], [50, 100, "50 of 100"], [100, 100, "100 of 100"]],
        "log": ["Tool execution started", "Tool processing data", "Tool execution completed"],
        "elicited": {"action": "accept", "content": USER},
        "declined": {"action": "decline"},
        "sampled": "LLM response: Paris",
        "roots": "Roots: file:///home/alice",
        "changes": ["prompts/list_changed", "resources/updated", "tools/list_changed"],
    }


def seen_by(service: Service, driver: str, mode: str, token: str) -> dict:
    program = [NODE if driver.endswith(".mjs") else PYTHON, HERE / "clients" / driver]
    ca = str(service.certs / "ca.pem")
    settings = environment({"SSL_CERT_FILE": ca, "NODE_EXTRA_CA_CERTS": ca})
    job = json.dumps({"url": service.url, "mode": mode, "token": token}) + "\n"
    try:
        done = subprocess.run([str(word) for word in program], env=settings, input=job, capture_output=True, text=True, timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        return {"broken": f"nothing in {PATIENCE} s"}
    if done.returncode != 0 or not done.stdout:
        return {"broken": done.stderr.strip()[-1500:]}
    seen = json.loads(done.stdout)
    for name in ("elicited", "declined"):  # The fixture gives back what it was answered.
        seen[name] = json.loads(seen[name].removeprefix("User response: "))
    return seen


def main() -> int:
    begun = time.monotonic()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    rows = [row for row in ROWS if not sys.argv[1:] or row[0] in sys.argv[1:]]
    passed = failed = 0
    with tempfile.TemporaryDirectory(prefix="whitelistmcp-features-") as place:
        try:
            with Service(Path(place) / "service") as service:
                token = service.token()
                for name, title, driver, mode, revision in rows:
                    seen, expected = seen_by(service, driver, mode, token), wanted(name, revision)
                    wrong = [f"  {what}: {seen.get(what)!r}, not {value!r}" for what, value in expected.items() if seen.get(what) != value]
                    if "broken" in seen:
                        wrong = [f"  {seen['broken']}"]
                    passed, failed = passed + (0 if "broken" in seen else len(expected) - len(wrong)), failed + len(wrong)
                    print(f"{title:32}  {revision}  {len(expected)} of {len(expected)}" if not wrong else f"{title:32}  FAILED", *wrong, sep="\n", flush=True)
        except NotReady as error:
            print(f"features.py: {error}", file=sys.stderr)
            return 1
    print(f"\n{len(rows)} clients in {time.monotonic() - begun:.0f} s\n\n{passed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
