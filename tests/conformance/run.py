#!/usr/bin/env python3
"""The official conformance suite against the real edge, in both revisions that it has requirements for.

    WHITELISTMCP=path/to/whitelistmcp run.py [SCENARIO…]

Behind the edge stands the suite's own fixture service (`fixtures.py`), which the edge knows by its descriptor set alone; before
it a real nginx, because the suite can send no token: it adds the bearer, and leaves everything else as it is. The suite decides
what passes; `judge.py` looks at what it found, since some of its scenarios are content with any text and some skip.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
sys.path.insert(0, str(HERE.parents[1] / "examples/demo"))
import judge  # noqa: E402
import probes  # noqa: E402
from stack import CHECKOUT, TOOLS, NotReady, Stack, environment, free_port, listens  # noqa: E402

PYTHON = TOOLS / "interop/bin/python"
NODE = TOOLS / "interop-node/node_modules/.bin/node"
SUITE = TOOLS / "interop-node/node_modules/@modelcontextprotocol/conformance/dist/index.js"
REVISIONS = ("2025-11-25", "2026-07-28")
# Revisions that it has scenarios for, and no list of requirements.
EARLIER = ("2025-06-18", "2025-03-26")
# What the suite has besides what a revision requires, and the revision that it belongs to.
BESIDES = {
    "http-header-validation": "2026-07-28",
    "http-custom-header-server-validation": "2026-07-28",
    "server-session-lifecycle": "2025-11-25",
    "server-sse-polling": "2025-11-25",
    "json-schema-2020-12": "2025-11-25",
}
PATIENCE = 300


class Service(Stack):
    """Provider, fixtures, edge and nginx."""

    def start(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        self.front_port = free_port()
        self.front = f"http://127.0.0.1:{self.front_port}"
        self.make_certificates()
        self.start_provider()
        self.start_fixtures()
        self.start_edge()
        self.start_front()

    def otel(self) -> dict[str, str]:
        return {}

    def start_fixtures(self) -> None:
        self.descriptors = self.directory / "fixtures.binpb"
        # With imports and comments: the edge has the descriptions from there.
        made = ["--include_imports", "--include_source_info", f"--descriptor_set_out={self.descriptors}"]
        self.once([PYTHON, "-m", "grpc_tools.protoc", "-I", CHECKOUT / "proto", "-I", HERE, *made, "fixtures.proto"])
        files = [self.descriptors, self.certs / "core.pem", self.certs / "core.key", self.certs / "ca.pem"]
        fixtures = self.spawn("fixtures", [PYTHON, HERE / "fixtures.py", *files], {}, pipe=True)
        self.core_port = self.first_line("fixtures", fixtures)["port"]

    def edge_config(self) -> str:
        # The suite calls as one person, as fast as it can, from one address, and from a page of the address that it was given.
        rates = "reads_per_minute = 60000\nchanges_per_minute = 60000\nothers_per_minute = 60000\nin_flight = 256\n"
        origin = f'allowed_hosts = ["127.0.0.1"]\nallowed_origins = ["{self.front}"]\n'
        config = super().edge_config()
        config = config.replace("[edge.tls]", f"{origin}\n[edge.tls]", 1)
        config = config.replace("[edge.backend]\n", f'[edge.backend]\ndescriptors = "{self.descriptors}"\n', 1)
        return f"{config}\n[limits]\n{rates}\n[limits.address]\nrequests_per_minute = 60000\n"

    def start_front(self) -> None:
        nginx = shutil.which("nginx") or "/usr/sbin/nginx"
        if not os.access(nginx, os.X_OK):
            raise NotReady("nginx is missing; `make tools` installs it")
        place = self.directory / "nginx"
        place.mkdir()
        config = place / "nginx.conf"
        config.touch(mode=0o600)  # The token is in it.
        config.write_text(self.front_config(place))
        # Its own workers would need another user's rights to the directory.
        self.spawn("nginx", [nginx, "-c", config, "-p", place, "-e", "stderr"], {})
        self.until("nginx", lambda: listens(self.front_port))

    def front_config(self, place: Path) -> str:
        kept = "".join(f"{kind}_temp_path {place}/{kind};\n" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
        return f"""\
daemon off;
master_process off;
pid {place}/pid;
events {{ }}
http {{
access_log off;
{kept}
server {{
listen 127.0.0.1:{self.front_port};
# Headers reach the edge as they were sent, good or bad.
underscores_in_headers on;
ignore_invalid_headers off;
client_max_body_size 64m;
location / {{
proxy_pass https://127.0.0.1:{self.edge_port};
proxy_ssl_trusted_certificate {self.certs}/ca.pem;
proxy_ssl_verify on;
proxy_ssl_name localhost;
proxy_ssl_server_name on;
proxy_ssl_protocols TLSv1.3;
proxy_http_version 1.1;
proxy_buffering off;
proxy_request_buffering off;
proxy_read_timeout 1h;
proxy_set_header Host $http_host;
proxy_set_header Connection "";
proxy_set_header Authorization "Bearer {self.token()}";
}}
}}
}}
"""


def suite(service: Service, results: Path, *asked: str) -> tuple[int, str]:
    command = [NODE, SUITE, "server", "--url", f"{service.front}/mcp", "-o", results, *asked]
    done = subprocess.run([str(word) for word in command], env=environment({}), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PATIENCE)
    return done.returncode, done.stdout + done.stderr


def requirements(revision: str) -> list[str]:
    """The scenarios that the suite's own list has for servers."""
    lines = (SUITE.parents[1] / f"requirements/{revision}.yaml").read_text().splitlines()
    after = lines[lines.index("server:") + 1 :]
    return [line.removeprefix("  - ") for line in after[: next(at for at, line in enumerate(after) if not line.startswith("  - "))]]


def main() -> int:
    begun = time.monotonic()
    for name in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(name, lambda *_: sys.exit(1))
    verdict = judge.Verdict()
    with tempfile.TemporaryDirectory(prefix="whitelistmcp-conformance-") as place:
        directory = Path(os.environ.get("CONFORMANCE_KEEP") or place)
        try:
            with Service(directory / "service") as service:
                if sys.argv[1:]:
                    for scenario in sys.argv[1:]:
                        revision = BESIDES.get(scenario, "2026-07-28")
                        verdict.besides(scenario, *run_one(service, directory, scenario, revision))
                else:
                    for revision in REVISIONS:
                        results = directory / revision
                        code, said = suite(service, results, "--requirements", revision, "--expected-failures", str(HERE / "expected.yml"))
                        verdict.required(revision, requirements(revision), results, code, said)
                    for revision in EARLIER:
                        results = directory / revision
                        _, said = suite(service, results, "--suite", "active", "--spec-version", revision)
                        verdict.earlier(revision, results, said)
                    for scenario, revision in BESIDES.items():
                        verdict.besides(scenario, *run_one(service, directory, scenario, revision))
                    for probe in probes.PROBES:
                        verdict.probe(probe.__name__, probe(f"{service.front}/mcp"))
        except NotReady as error:
            print(f"run.py: {error}", file=sys.stderr)
            return 1
    return verdict.told(time.monotonic() - begun)


def run_one(service: Service, directory: Path, scenario: str, revision: str) -> tuple[Path, str]:
    results = directory / f"besides-{scenario}"
    return results, suite(service, results, "--scenario", scenario, "--spec-version", revision, "--force")[1]


if __name__ == "__main__":
    sys.exit(main())
