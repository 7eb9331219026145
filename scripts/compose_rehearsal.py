#!/usr/bin/env python3
"""Plays deploy/compose, with compose.try.yaml over it, on a machine without a container engine, and makes a tool call there.

    compose_rehearsal.py

What each service is (command, variables, user, mounts, read-only root, health check) is read from the compose files as docker-compose
merges them. Edge, core, Redis and the certificates' maker run in boxes (scripts/deploy_checks/boxes.py), the service's own from the
image that buildah makes of the Dockerfile's last stage; the emulator and the provider run from .tools; a receiver of telemetry stands
in for the collector. All of it is in a network of its own with nothing but loopback, where every name of the compose network is 127.0.0.1: so
ports, names and files are those of the compose files, to the letter (but for the port of the edge's probes). It shows nothing of networks, limits, Prometheus and Grafana.

Needs root, buildah, docker-compose, redis-server and .tools. Each line says what was shown; the first thing that is not so ends it.
"""

import json
import os
import re
import shutil
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from deploy_checks import boxes  # noqa: E402
from deploy_checks.boxes import Box, Mount  # noqa: E402
from deploy_checks.container import Image  # noqa: E402
from deploy_checks.judge import BINARY, CHECKOUT, LINT, TOOLS, Wrong, must, run  # noqa: E402

INSIDE = "WHITELISTMCP_REHEARSAL"
PATIENCE = 60.0
CERTS = "/etc/whitelistmcp/certs"
EDGE = "https://localhost:8080/mcp"
ADDRESS = "203.0.113.7"
# What the images of others are here.
STAND_INS = {
    "moto_server": TOOLS / "moto/bin/moto_server",
    "python": TOOLS / "moto/bin/python",
    "node": TOOLS / "node/node_modules/.bin/node",
}
REDIS = Path("/usr/bin/redis-server")


def main() -> int:
    if INSIDE not in os.environ:
        os.environ[INSIDE] = "1"
        here = [sys.executable, str(Path(__file__).resolve())]
        # Everything in it ends with the first process of its namespace.
        os.execvp("unshare", ["unshare", "--net", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child", "--mount-proc", *here])
    try:
        run("ip", "link", "set", "lo", "up")
        with tempfile.TemporaryDirectory(prefix="compose-", ignore_cleanup_errors=True) as scratch:
            (Path(scratch) / "image").mkdir()
            stack = Stack(Path(scratch), Image(Path(scratch) / "image"), "compose.yaml", "compose.try.yaml")
            stack.name_everything()
            try:
                rehearse(stack)
            finally:
                stack.stop()
    except Wrong as wrong:
        print(f"compose_rehearsal.py: {wrong}", file=sys.stderr)
        return 1
    return 0


def show(words: str) -> None:
    print(f"  {words}", flush=True)


class Stack:
    """The services of compose files, those that come later laid over those that come first."""

    def __init__(self, scratch: Path, image: Image, *files: str) -> None:
        self.scratch, self.image = scratch, image
        self.deploy = scratch / "deploy"
        for part in ("compose", "observability"):
            shutil.copytree(CHECKOUT / "deploy" / part, self.deploy / part, ignore=shutil.ignore_patterns("secrets", ".env"))
        # docker-compose wants to see what images are built from.
        (scratch / "examples").symlink_to(CHECKOUT / "examples")
        run("sh", self.deploy / "compose/prepare.sh")
        whole = merged(self.deploy / "compose", *files)
        self.services, self.files = whole["services"], whole["secrets"]
        self.secrets = self.deploy / "compose/secrets"
        self.redis = scratch / "redis"
        self.redis.mkdir()
        boxes.distroless(self.redis)
        for program in (REDIS, Path("/usr/bin/redis-cli"), Path("/usr/bin/dash"), Path("/usr/bin/cat"), Path("/usr/bin/grep")):
            boxes.add(self.redis, program)
        (self.redis / "bin").symlink_to("usr/bin")
        (self.redis / "usr/bin/sh").symlink_to("dash")
        self.running: dict[str, subprocess.Popen[bytes]] = {}

    def name_everything(self) -> None:
        """Every name by which services call one another is this machine."""
        names = {alias for service in self.services.values() for network in by_name(service.get("networks")).values() for alias in (network or {}).get("aliases", [])}
        hosts = self.scratch / "hosts"
        hosts.write_text(f"127.0.0.1 localhost {' '.join(sorted({*self.services, *names}))}\n")
        run("mount", "--bind", hosts, "/etc/hosts")

    def volume(self, name: str, target: str, root: Path) -> Path:
        """A named volume. An empty one takes over the owner of what it is first mounted on, as an engine has it."""
        volume = self.scratch / "volumes" / name
        if not volume.exists():
            volume.mkdir(parents=True)
            place = root / target.lstrip("/")
            owner = place.stat() if place.exists() else root.stat()
            os.chown(volume, owner.st_uid, owner.st_gid)
        return volume

    def box(self, name: str) -> Box:
        service = self.services[name]
        ours = service["image"].startswith("whitelistmcp:")
        root = self.image.root if ours else self.redis
        mounts = []
        for words in service.get("volumes", []):
            source, target, *mode = words.split(":")
            path = Path(source) if source.startswith("/") else self.volume(source, target, root)
            mounts.append(Mount(path, target, writable=mode != ["ro"]))
        for secret in service.get("secrets", []):
            source = secret if isinstance(secret, str) else secret["source"]
            mounts.append(Mount(Path(self.files[source]["file"]), f"/run/secrets/{source}"))
        variables = (self.image.box().variables if ours else {}) | self.variables(name)
        if name == "edge":
            # Containers have a loopback each. Here there is one, and the core's probes have the port.
            variables["WHITELISTMCP_HEALTH__LISTEN"] = "127.0.0.1:8083"
        return Box(root, service["user"], variables, mounts, [*service.get("tmpfs", [])], writable=not service.get("read_only"))

    def variables(self, name: str) -> dict[str, str]:
        said = self.services[name].get("environment", {})
        return {key: str(value) for key, value in (said.items() if isinstance(said, dict) else (entry.split("=", 1) for entry in said))}

    def words(self, name: str) -> list[str]:
        service = self.services[name]
        entry = service.get("entrypoint") or (self.image.about["Entrypoint"] if service["image"].startswith("whitelistmcp:") else [])
        return [*entry, *(service.get("command") or self.told(service["build"]))]

    def told(self, build: dict[str, str]) -> list[str]:
        """What an image that is built starts, by its Dockerfile."""
        text = (CHECKOUT / "examples/demo" / build["dockerfile"]).read_text()
        return json.loads(re.findall(r"^CMD (\[.*\])$", text, re.MULTILINE)[-1])

    def here(self, name: str) -> tuple[list[str], dict[str, str]]:
        """A service of another image, as it can be started from .tools: its command and its variables, with paths of this machine."""

        def path(word: str) -> str:
            return word.replace("/demo/", f"{CHECKOUT}/examples/demo/").replace(CERTS, str(self.scratch / "volumes/certs"))

        program, *more = self.words(name)
        settings = {"PATH": os.environ["PATH"], "TOOLS_DIR": str(TOOLS), "PYTHONDONTWRITEBYTECODE": "1"}
        return [str(STAND_INS[program]), *map(path, more)], settings | {key: path(value) for key, value in self.variables(name).items()}

    def start(self, name: str, command: list[str] | None = None) -> None:
        log = self.scratch / f"{name}.log"
        if command is None and name in ("edge", "core", "redis"):
            self.running[name] = self.box(name).start(*self.words(name), log=log)
            return
        words, settings = (command, dict(os.environ)) if command else self.here(name)
        with log.open("ab") as out:
            self.running[name] = subprocess.Popen(words, env=settings, stdin=subprocess.DEVNULL, stdout=out, stderr=out)

    def healthy(self, name: str, *asked: str) -> None:
        """Waits until a service's own health check passes, or what else it is `asked` in the same way."""
        kind, *test = self.services[name]["healthcheck"]["test"]
        test += asked
        if kind == "CMD-SHELL":
            # As an engine reads it: docker-compose prints `$` doubled.
            test = ["/bin/sh", "-c", test[0].replace("$$", "$")]
        deadline = time.monotonic() + PATIENCE
        while True:
            must(self.running[name].poll() is None, f"{name} ended: {self.last_words(name)}")
            try:
                if name in ("edge", "core", "redis"):
                    self.box(name).run(*test)
                else:
                    run(str(STAND_INS[test[0]]), *test[1:], **self.here(name)[1])
                return
            except Wrong as wrong:
                if time.monotonic() > deadline:
                    raise Wrong(f"{name} does not get healthy: {wrong}\n{self.last_words(name)}") from None
                time.sleep(0.2)

    def stop(self) -> None:
        for process in self.running.values():
            process.kill()
            process.wait()

    def last_words(self, name: str) -> str:
        return (self.scratch / f"{name}.log").read_text(errors="replace")[-3000:]

    def once(self, name: str) -> str:
        words, settings = self.here(name)
        done = subprocess.run(words, env=settings, capture_output=True, text=True, timeout=120)
        must(done.returncode == 0, f"{name} ended with {done.returncode}: {done.stdout}{done.stderr}")
        return done.stdout.strip()


def merged(directory: Path, *files: str) -> dict:
    """The files as one. docker-compose 1.29 is older than the key `name`, and says no to it; of all else it is the judge."""
    names: list[str | Path] = []
    for name in files:
        old = directory / f"old.{name}"
        old.write_text(re.sub(r"^name: .*\n", "", (directory / name).read_text(), flags=re.MULTILINE))
        names += ["--file", old]
    said = run("docker-compose", "--project-directory", directory, *names, "--profile", "setup", "config")
    return json.loads(run(LINT / "python", "-c", "import json, sys, yaml; print(json.dumps(yaml.safe_load(sys.stdin)))", stdin=said))


def by_name(networks: dict | list | None) -> dict:
    return networks if isinstance(networks, dict) else dict.fromkeys(networks or [])


def post(stack: Stack, token: str | None, method: str, **params: object) -> tuple[int, dict]:
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode()
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {token}"} if token else {})
    trust = ssl.create_default_context(cafile=str(stack.scratch / "volumes/certs/ca.pem"))
    try:
        with urllib.request.urlopen(urllib.request.Request(EDGE, body, headers), timeout=30, context=trust) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as refused:
        return refused.code, {"challenge": refused.headers.get("WWW-Authenticate", "")}


def tool(stack: Stack, token: str, name: str, **arguments: object) -> dict:
    status, answer = post(stack, token, "tools/call", name=name, arguments=arguments)
    must(status == 200 and not answer["result"].get("isError"), f"{name}: {status} {answer}\n{stack.last_words('core')}")
    return answer["result"]["structuredContent"]


def rehearse(stack: Stack) -> None:
    said = stack.box("prepare").run(*stack.words("prepare"))
    certs = stack.scratch / "volumes/certs"
    keys = sorted(path.name for path in certs.glob("*.key"))
    must(keys == ["core.key", "edge.key", "provider.key", "public.key", "redis.key"], f"keys: {keys}")
    must(all(path.stat().st_uid == boxes.NOBODY and path.stat().st_mode & 0o077 == 0 for path in certs.iterdir()), "keys are another's")
    must((stack.scratch / "volumes/records").stat().st_uid == boxes.NOBODY, "the collector cannot write `records`")
    stack.box("prepare").run(*stack.words("prepare"), fails=True)
    show(f"`prepare` makes certificates that only 65532 can read, and touches none the second time: {said.strip().rpartition(': ')[2]}")

    records = stack.scratch / "records.txt"
    stack.start("collector", [sys.executable, str(CHECKOUT / "examples/demo/otel/receiver.py"), str(records), "--port", "4317"])
    for name in ("redis", "core", "moto", "provider"):
        stack.start(name)
    for name in ("redis", "moto", "provider", "core"):
        stack.healthy(name)
    # The edge waits for its end.
    must(json.loads(stack.once("bootstrap"))["opted_in"], "nothing is opted in")
    must(stack.once("bootstrap") == "", "`bootstrap` sets up a second time")
    stack.start("edge")
    stack.healthy("edge")
    stack.healthy("edge", "--ready")
    show("redis, core, edge, the emulator and the provider start, and the health check of each passes")

    token = stack.once("token")
    must(token.count(".") == 2, f"no token: {token}")
    show("`bootstrap` sets the emulator up, once; `token` logs alice in")

    status, answer = post(stack, None, "tools/list")
    must(status == 401 and "resource_metadata=" in answer["challenge"], f"without a token: {status} {answer}")
    opened = tool(stack, token, "whitelist_add", security_group="reports-db", address=ADDRESS, port="5432", reason="trying it", duration="1h")
    must(opened["outcome"] == "opened", f"whitelist_add: {opened}")
    stands = tool(stack, token, "whitelist_check", security_group="reports-db", address=ADDRESS, port="5432")
    must(stands.get("allowed", stands.get("open")) is not False, f"whitelist_check: {stands}")
    show(f"a call without a token is refused with 401; alice opens a group: {opened['summary'].splitlines()[0]}")

    password = (stack.secrets / "redis-password").read_text().strip()
    box = stack.box("redis")
    box.variables["REDISCLI_AUTH"] = password
    shared = box.run("/usr/bin/redis-cli", "--tls", "--cacert", f"{CERTS}/ca.pem", "-h", "redis.internal", "--scan", "--pattern", "whitelistmcp:*")
    must("whitelistmcp:" in shared, f"nothing is counted in Redis: {shared!r}\n{stack.last_words('core')}")
    box.variables.pop("REDISCLI_AUTH")
    stranger = box.run("/usr/bin/redis-cli", "--tls", "--cacert", f"{CERTS}/ca.pem", "-h", "redis.internal", "dbsize")
    must("NOAUTH" in stranger, f"Redis answers without a password: {stranger}")
    show("limits are counted in Redis, which answers by TLS and with the password alone")

    must(boxes.end(stack.running["core"]) == 0, f"the core does not end well: {stack.last_words('core')}")
    stack.start("core")
    stack.healthy("core", "--ready")
    stack.healthy("edge", "--ready")
    rules = tool(stack, token, "whitelist_list", security_group="reports-db", fresh=True)["rules"]
    must(any(rule["rule_id"] == opened["rule"]["rule_id"] for rule in rules), f"whitelist_list: {rules}")
    core = stack.box("core")
    verified = core.run(stack.image.about["Entrypoint"][0], "audit", "verify")
    shown = core.run(stack.image.about["Entrypoint"][0], "audit", "show", "--changes", "--format", "json")
    must("alice" in shown and ADDRESS in shown, f"audit show: {shown}")
    show(f"a new core goes on with the journal, which is whole: {verified.strip().splitlines()[-1]}")

    deadline = time.monotonic() + PATIENCE
    while not all(word in records.read_text(errors="replace") for word in ("whitelistmcp-core", "whitelistmcp-edge", "whitelistmcp.audit.")):
        must(time.monotonic() < deadline, "edge, core and the journal's lines do not all reach the collector")
        time.sleep(0.5)
    show("telemetry of edge and core, and the lines of the journal, reach the collector's address")
    for name in ("edge", "core"):
        must(boxes.end(stack.running[name]) == 0, f"{name} does not end well: {stack.last_words(name)}")
        words = stack.last_words(name)
        must("Read-only file system" not in words and "Permission denied" not in words, f"{name} wanted more: {words}")
    show("edge and core end well, and wanted to write nowhere else")


if __name__ == "__main__":
    sys.exit(main())
