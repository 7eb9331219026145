"""The function of AWS Lambda, invoked by cargo-lambda with events as API Gateway, function URLs and EventBridge make them."""

import json
import os
import re
import socket
import subprocess
import tempfile
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .documents import shell
from .judge import BINARY, CHECKOUT, LINT, TARGET, Wrong, check, must, run

EVENTS = CHECKOUT / "tests/it/lambda"
# Of Amazon Linux 2023, which `provided.al2023` is.
PLATFORM_GLIBC = (2, 34)
PUBLIC_URL = "https://whitelist.example.com/mcp"


def event(name: str) -> dict[str, Any]:
    return json.loads((EVENTS / f"{name}.json").read_text())


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def wait_for(port: int, what: str, log: Path) -> None:
    for _ in range(200):
        with socket.socket() as asked:
            if asked.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise Wrong(f"{what} does not listen on {port}:\n{log.read_text()[-3000:]}")


def packaged(scratch: Path) -> Path:
    """The function, as the command that its page names packages it; without `--release`, which would compile all of it once more.

    cargo-lambda builds for a target by name, in a directory of its own beside the one that the tests are built in, and links by zig.
    """
    command = next(words for _, words in shell("docs/deploy/lambda.md", "elsewhere") if words.startswith("cargo lambda build "))
    command = command.partition("#")[0].replace(" --release", "")
    must("--disable-optimizations" in command, "cargo-lambda's own optimizations end the process with the first panic")
    path = f"{LINT}:{os.environ['PATH']}"
    run("bash", "-euc", f"{command} --lambda-dir {scratch}", within=3000, PATH=path, CARGO_TARGET_DIR=str(TARGET))
    with zipfile.ZipFile(scratch / "whitelistmcp/bootstrap.zip") as package:
        must(package.namelist() == ["bootstrap"], f"the package holds {package.namelist()}")
        must(package.getinfo("bootstrap").external_attr >> 16 & 0o111 == 0o111, "bootstrap is not executable in the package")
        bootstrap = Path(package.extract("bootstrap", scratch))
    bootstrap.chmod(0o755)
    wanted = {tuple(map(int, version)) for version in re.findall(r"GLIBC_(\d+)\.(\d+)", run("readelf", "--version-info", bootstrap))}
    must(wanted and max(wanted) <= PLATFORM_GLIBC, f"the program wants glibc {max(wanted)}, and the platform has {PLATFORM_GLIBC}")
    return bootstrap


class Emulator:
    """cargo-lambda's stand-in for the platform, and the function in it."""

    def __init__(self, scratch: Path, port: int) -> None:
        self.scratch, self.port, self.log = scratch, port, scratch / "function.log"

    def invoke(self, payload: dict[str, Any], fails: bool = False) -> str:
        given = self.scratch / "event.json"
        given.write_text(json.dumps(payload))
        return run(
            LINT / "cargo-lambda", "lambda", "invoke", "--invoke-address", "127.0.0.1", "--invoke-port", str(self.port), "--data-file", given,
            "--output-format", "json", fails=fails, within=60,
        )

    def answer(self, payload: dict[str, Any]) -> dict[str, Any]:
        said = self.invoke(payload)
        try:
            return json.loads(said)
        except ValueError:
            raise Wrong(f"no JSON: {said}\n{self.log.read_text()[-3000:]}") from None

    def error(self, payload: dict[str, Any]) -> str:
        return self.invoke(payload, fails=True)


@contextmanager
def emulated(bootstrap: Path, scratch: Path, variables: dict[str, str]) -> Iterator[Emulator]:
    emulator = Emulator(scratch, free_port())
    watch_log = scratch / "watch.log"
    processes: list[subprocess.Popen[bytes]] = []
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("WHITELISTMCP", "AWS_", "OTEL_", "MCP_"))}
    try:
        with watch_log.open("wb") as log:
            watch = [LINT / "cargo-lambda", "lambda", "watch", "--only-lambda-apis", "--invoke-address", "127.0.0.1", "--invoke-port", str(emulator.port)]
            processes.append(subprocess.Popen([str(word) for word in watch], cwd=CHECKOUT, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=clean))
        wait_for(emulator.port, "cargo lambda watch", watch_log)
        platform = {
            "AWS_LAMBDA_RUNTIME_API": f"http://127.0.0.1:{emulator.port}/.rt", "AWS_LAMBDA_FUNCTION_NAME": "_", "AWS_LAMBDA_FUNCTION_VERSION": "$LATEST",
            "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "256", "_HANDLER": "bootstrap",
        }
        with emulator.log.open("wb") as log:
            # Without arguments, as the platform starts it.
            processes.append(subprocess.Popen([str(bootstrap)], cwd=scratch, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=clean | platform | variables))
        yield emulator
    finally:
        for process in reversed(processes):
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def header(answer: dict[str, Any], name: str) -> str:
    if "multiValueHeaders" in answer:
        return ", ".join(answer["multiValueHeaders"].get(name, []))
    return answer["headers"].get(name, "")


def authorised(name: str, key: str, message: dict[str, Any]) -> dict[str, Any]:
    given = event(name)
    given["headers"]["Authorization"] = f"Bearer {key}"
    if "multiValueHeaders" in given:
        given["multiValueHeaders"]["Authorization"] = [f"Bearer {key}"]
    given["body"], given["isBase64Encoded"] = json.dumps(message), False
    return given


@check("built and invoked by cargo-lambda, every kind of event is answered as the platform needs it, and what must be refused is")
def invoked() -> None:
    with tempfile.TemporaryDirectory(prefix="lambda-function-") as name:
        scratch = Path(name)
        bootstrap = packaged(scratch)
        # One program that may call, from the address that the events come from.
        made = run(BINARY, "key", "new", "--owner", "deploy", "--scopes", "whitelist:read", "--days", "1", "--network", "203.0.113.0/24")
        key = next(word for word in made.split() if word.startswith("wlk_"))
        (scratch / "keys.toml").write_text(made[made.index("[[keys]]"):] if "[[keys]]" in made else made)
        variables = {
            "MCP_MODE": "serverless",
            "WHITELISTMCP_EDGE__PUBLIC_URL": PUBLIC_URL,
            "WHITELISTMCP_EDGE__ALLOWED_HOSTS": json.dumps(
                [event(name)["requestContext"]["domainName"] for name in ("rest-proxy", "function-url")]
            ),
            "WHITELISTMCP_API_KEYS__FILE": str(scratch / "keys.toml"),
            "WHITELISTMCP_AWS__ENDPOINT": "http://127.0.0.1:9",
            "WHITELISTMCP_AWS__ACCOUNTS": '[{ id = "123456789012", role_arn = "arn:aws:iam::123456789012:role/whitelistmcp-target", regions = ["eu-central-1"] }]',
            "WHITELISTMCP_TARGETS__ACCOUNT": "123456789012",
            "WHITELISTMCP_TARGETS__REGION": "eu-central-1",
            "WHITELISTMCP_TARGETS__GROUPS": '[{ name = "staging-db", id = "sg-0123456789abcdef0" }]',
            "WHITELISTMCP_LEASES__DISCOVER": "false",
            "AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE",
            "AWS_SECRET_ACCESS_KEY": "none",
        }
        targets = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "whitelist_targets", "arguments": {}}}
        with emulated(bootstrap, scratch, variables) as function:
            for kind in ("rest-proxy", "http-api", "function-url"):
                refused = function.answer(event(kind))
                challenge = header(refused, "www-authenticate")
                must(refused["statusCode"] == 401 and "resource_metadata=" in challenge, f"{kind} without a token: {refused}")
                answered = function.answer(authorised(kind, key, targets))
                must(answered["statusCode"] == 200, f"{kind} with a key: {answered}\n{function.log.read_text()[-2000:]}")
                result = json.loads(answered["body"])["result"]
                must(result["isError"] is False and "staging-db" in answered["body"], f"{kind}: {answered}")
                foreign = authorised(kind, key, targets)
                for headers in ("headers", "multiValueHeaders"):
                    for known in [name for name in foreign.get(headers, {}) if name.lower() == "host"]:
                        foreign[headers][known] = ["evil.example.com"] if headers == "multiValueHeaders" else "evil.example.com"
                must(function.answer(foreign)["statusCode"] == 403, f"{kind}: a foreign host is served")
                elsewhere = authorised(kind, key, targets)
                elsewhere["requestContext"]["identity" if kind == "rest-proxy" else "http"]["sourceIp"] = "198.51.100.1"
                must(function.answer(elsewhere)["statusCode"] == 401, f"{kind}: the key is taken from another network")
            allowed = function.answer(event("token-authorizer") | {"authorizationToken": f"Bearer {key}"})
            statement = allowed["policyDocument"]["Statement"][0]
            must(
                statement["Effect"] == "Allow" and statement["Resource"] == "arn:aws:execute-api:eu-central-1:123456789012:a1b2c3d4e5/prod/*",
                f"the authorizer: {allowed}",
            )
            must("Unauthorized" in function.error(event("token-authorizer")), "the authorizer takes a token that is none")
            must("NoJournal" in function.error(event("scheduled-event")), "a schedule without a journal does not fail")
            must("EventNotTaken" in function.error({"Records": []}), "an event of another kind does not fail")
        log = function.log.read_text()
        must(key not in log, "the key is in the log")
