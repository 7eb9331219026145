"""The whole service with everything around it, on loopback: emulator, provider, receiver, core and edge.

`with Stack(directory) as stack:` starts it and `stack.stop()`, or the end of the block, ends it; nothing outlives the
process that holds it (`leash.py`). The binary is the one that WHITELISTMCP names.
"""

import json
import os
import socket
import ssl
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

HERE = Path(__file__).resolve().parent
CHECKOUT = HERE.parents[1]
TOOLS = Path(os.environ.get("TOOLS_DIR") or CHECKOUT / ".tools")
PYTHON = TOOLS / "python/bin/python"
NODE = TOOLS / "node/node_modules/.bin/node"
PATIENCE = 30.0

EDGE = "spiffe://demo.example/edge"
SERVICE = "spiffe://demo.example/service/ci-runner"
STRANGER = "spiffe://demo.example/stranger"


class NotReady(Exception):
    """Something did not start; the message says what and shows its last words."""


class Stack:
    def __init__(self, directory: Path, edge_port: int = 0, core_port: int = 0) -> None:
        self.directory = directory
        self.binary = Path(os.environ["WHITELISTMCP"]).resolve()
        self.certs = directory / "certs"
        self.journal = directory / "journal"
        self.telemetry = directory / "telemetry.txt"
        self.edge_port = edge_port or free_port()
        self.core_port = core_port or free_port()
        self.url = f"https://localhost:{self.edge_port}/mcp"
        self.other_audience = "https://other.example/mcp"
        self.running: list[subprocess.Popen] = []
        self.aws: dict = {}
        self.enforcing_aws: dict = {}

    def __enter__(self) -> "Stack":
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    # What is started, in the order in which each needs the one before.

    def start(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        self.make_certificates()
        self.start_aws()
        self.start_provider()
        self.start_receiver()
        self.start_core()
        self.start_edge()

    def make_certificates(self) -> None:
        leaves = [
            f"core=localhost,127.0.0.1",
            f"edge={EDGE},localhost,127.0.0.1",
            f"ci-runner={SERVICE}",
            f"stranger={STRANGER}",
        ]
        self.once([self.binary, "certs", "--directory", self.certs, *leaves])

    def start_aws(self) -> None:
        """moto, which keeps EC2's own rules most faithfully. It enforces no policies: its checks, which could be turned
        on, know no session policies and refuse every signed request that writes a space as `%20`, as the Rust SDK does."""
        port = free_port()
        self.aws_endpoint = f"http://127.0.0.1:{port}"
        self.spawn("moto", [TOOLS / "moto/bin/moto_server", "-H", "127.0.0.1", "-p", port], {})
        self.until("moto", lambda: reachable(f"{self.aws_endpoint}/moto-api/"))
        self.aws = self.bootstrap(self.aws_endpoint)

    def start_enforcing_aws(self) -> None:
        """ministack, which enforces session policies, with an account of the same number and groups of the same names.
        It takes ec2:CreateTags on the resource `*` alone, where AWS takes the rule, so the service itself runs on moto."""
        port = free_port()
        self.enforcing_endpoint = f"http://127.0.0.1:{port}"
        settings = {
            "AUTH": "true",
            "BIND_HOST": "127.0.0.1",
            "GATEWAY_PORT": str(port),
            "LOG_LEVEL": "WARNING",
            "IOT_MTLS_ENABLED": "0",
            "SFTP_ENABLED": "0",
            "MINISTACK_ACCOUNT_ID": self.aws["account"],
        }
        self.spawn("ministack", [TOOLS / "ministack/bin/ministack"], settings)
        self.until("ministack", lambda: reachable(f"{self.enforcing_endpoint}/_ministack/health"))
        self.enforcing_aws = self.bootstrap(self.enforcing_endpoint)

    def bootstrap(self, endpoint: str) -> dict:
        return json.loads(self.once([PYTHON, HERE / "aws/bootstrap.py", endpoint]))

    def start_provider(self) -> None:
        provider = self.spawn("provider", [NODE, HERE / "oidc/provider.mjs"], self.provider_settings(), pipe=True)
        self.issuer = self.first_line("provider", provider)["issuer"]

    def provider_settings(self) -> dict[str, str]:
        return {
            "PORT": "0",
            "RESOURCE": self.url,
            "OTHER_RESOURCE": self.other_audience,
            "MEMBERSHIPS": '{"alice": ["dba"]}',
            "TTL": "3600",
        }

    def start_receiver(self) -> None:
        receiver = self.spawn("receiver", [sys.executable, HERE / "otel/receiver.py", self.telemetry], {}, pipe=True)
        self.otlp = self.first_line("receiver", receiver)["endpoint"]

    def start_core(self) -> None:
        config = self.write("core.toml", self.core_config())
        settings = {
            "AWS_ACCESS_KEY_ID": self.aws["access_key_id"],
            "AWS_SECRET_ACCESS_KEY": self.aws["secret_access_key"],
            **self.otel(),
        }
        self.spawn("core", [self.binary, "core", "--config", config], settings)
        self.until("core", lambda: listens(self.core_port))

    def start_edge(self) -> None:
        config = self.write("edge.toml", self.edge_config())
        self.spawn("edge", [self.binary, "edge", "--config", config], self.otel())
        health = f"https://localhost:{self.edge_port}/health"
        self.until("edge", lambda: reachable(health, self.certs / "ca.pem"))

    def core_config(self) -> str:
        aws = self.aws
        groups = "".join(f'\n[[targets.groups]]\nname = "{name}"\nid = "{group}"\n' for name, group in aws["groups"].items())
        return f"""\
[core]
listen = "127.0.0.1:{self.core_port}"
client_ca = "{self.certs}/ca.pem"

[core.tls]
certificate = "{self.certs}/core.pem"
key = "{self.certs}/core.key"

# The edge speaks for people, with their own tokens; the CI runner for itself.
[[core.peers]]
san = "{EDGE}"
role = "edge"

[[core.peers]]
san = "{SERVICE}"
role = "service"
scopes = ["whitelist:write"]

{self.oidc_config()}
[aws]
endpoint = "{self.aws_endpoint}"

[[aws.accounts]]
id = "{aws["account"]}"
role_arn = "{aws["role_arn"]}"
external_id = "{aws["external_id"]}"
regions = ["{aws["region"]}"]

[targets]
account = "{aws["account"]}"
region = "{aws["region"]}"
{groups}
# So that nobody has to wait to see a lease close. The defaults are 3s and 30s: `settle` has to be longer than AWS takes
# until every read shows a write, and an emulator takes no time.
[leases]
settle = "1s"
interval = "5s"

[audit]
directory = "{self.journal}"
volume = "persistent"
"""

    def edge_config(self) -> str:
        return f"""\
[edge]
listen = "127.0.0.1:{self.edge_port}"
public_url = "{self.url}"

[edge.tls]
certificate = "{self.certs}/edge.pem"
key = "{self.certs}/edge.key"

[edge.backend]
address = "localhost:{self.core_port}"
certificate = "{self.certs}/edge.pem"
key = "{self.certs}/edge.key"
ca = "{self.certs}/ca.pem"

{self.oidc_config()}"""

    def oidc_config(self) -> str:
        return f'[oidc.company]\nissuer = "{self.issuer}"\naudience = "{self.url}"\n'

    def otel(self) -> dict[str, str]:
        return {
            "OTEL_EXPORTER_OTLP_ENDPOINT": self.otlp,
            "OTEL_BSP_SCHEDULE_DELAY": "200",
            "OTEL_METRIC_EXPORT_INTERVAL": "1000",
        }

    # What uses it.

    def once(self, command: list, settings: dict[str, str] | None = None, code: int = 0) -> str:
        """Runs a command to its end; returns what it said."""
        done = subprocess.run([str(word) for word in command], env=environment(settings), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120)
        if done.returncode != code:
            raise NotReady(f"{Path(str(command[0])).name} {command[1]}: exit {done.returncode}: {done.stderr.strip() or done.stdout.strip()}")
        return done.stdout

    def token(self, user: str = "alice", resource: str | None = None, scope: str = "whitelist:read whitelist:write") -> str:
        """An access token, got by authorization code with PKCE."""
        where = ["--issuer", self.issuer, "--resource", resource] if resource else [self.url]
        command = [sys.executable, HERE / "client/login.py", *where, "--user", user, "--scope", scope]
        return self.once(command, self.trust()).strip()

    def trust(self) -> dict[str, str]:
        return {"SSL_CERT_FILE": str(self.certs / "ca.pem")}

    def entries(self) -> list[dict]:
        """The audit journal, in order. It may be growing: a line counts once its end is there."""
        lines = [line for path in sorted(self.journal.glob("journal-*.jsonl")) for line in path.read_text().split("\n")[:-1]]
        return [json.loads(line) for line in lines]

    def process_of(self, role: str) -> int:
        """The process of a service, below its leash."""
        config = str(self.directory / f"{role}.toml").encode()
        for process in Path("/proc").iterdir():
            if process.name.isdigit():
                words = (process / "cmdline").read_bytes().split(b"\0") if (process / "cmdline").exists() else []
                if words and words[0] == str(self.binary).encode() and config in words:
                    return int(process.name)
        raise NotReady(f"{role} is not running: {self.last_words(role)}")

    # How things are started and ended.

    def spawn(self, name: str, command: list, settings: dict[str, str], pipe: bool = False) -> subprocess.Popen:
        log = open(self.directory / f"{name}.log", "wb")
        leashed = [sys.executable, str(HERE / "leash.py"), *(str(word) for word in command)]
        out = subprocess.PIPE if pipe else log
        child = subprocess.Popen(leashed, env=environment(settings), stdin=subprocess.PIPE, stdout=out, stderr=log, text=pipe)
        log.close()
        self.running.append(child)
        return child

    def first_line(self, name: str, child: subprocess.Popen) -> dict:
        answer: list[str] = []
        reader = threading.Thread(target=lambda: answer.append(child.stdout.readline()), daemon=True)
        reader.start()
        reader.join(PATIENCE)
        if not answer or not answer[0]:
            raise NotReady(f"{name} did not start: {self.last_words(name)}")
        return json.loads(answer[0])

    def until(self, name: str, ready) -> None:
        deadline = time.monotonic() + PATIENCE
        child = self.running[-1]
        while not ready():
            if child.poll() is not None or time.monotonic() > deadline:
                raise NotReady(f"{name} did not start: {self.last_words(name)}")
            time.sleep(0.03)

    def last_words(self, name: str) -> str:
        return (self.directory / f"{name}.log").read_text(errors="replace")[-800:]

    def write(self, name: str, text: str) -> Path:
        path = self.directory / name
        path.write_text(text)
        return path

    def stop(self) -> None:
        # The edge before the core, and both before what they need: each drains.
        for child in reversed(self.running):
            child.stdin.close()
            child.wait()
            if child.stdout:
                child.stdout.close()
        self.running.clear()


def environment(settings: dict[str, str] | None) -> dict[str, str]:
    """The person's own environment, less what would lead AWS calls, emulators, proxies or telemetry elsewhere."""
    foreign = ("AWS_", "MINISTACK_", "MOTO_", "OTEL_", "WHITELISTMCP_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(foreign) and not name.lower().endswith("_proxy")}
    nothing = {"AWS_CONFIG_FILE": os.devnull, "AWS_SHARED_CREDENTIALS_FILE": os.devnull, "AWS_EC2_METADATA_DISABLED": "true"}
    return {**kept, **nothing, "TOOLS_DIR": str(TOOLS), **(settings or {})}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
        return True
    except OSError:
        return False


def reachable(url: str, ca: Path | None = None) -> bool:
    trust = ssl.create_default_context(cafile=str(ca)) if ca else None
    handlers = [urllib.request.ProxyHandler({})] + ([urllib.request.HTTPSHandler(context=trust)] if trust else [])
    try:
        with urllib.request.build_opener(*handlers).open(url, timeout=2) as answer:
            return answer.status == 200
    except (urllib.error.URLError, OSError):
        return False
