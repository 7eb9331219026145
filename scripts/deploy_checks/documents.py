"""Blocks of the pages that a reader types from.

A fenced block of shell says what can be done with it, by the word after `sh`:

- `runs`: it is run here, all blocks of a page in their order, in a copy of the checkout;
- `stack`: it is run beside the whole service on loopback (examples/demo/stack.py), whose addresses, groups and token stand for
  the reader's own, and every answer of the service must be a result;
- `make`: targets of the Makefile, which are steps of the gate or too long for it;
- `elsewhere`: it needs an account, a cluster, an engine or a browser of the reader's, and is read by shellcheck.

Blocks of TOML, JSON and YAML must parse.
"""

import json
import os
import re
import shutil
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .judge import BINARY, CHECKOUT, HELM, KUBECTL, LINT, NODE_BIN, TARGET, TOOLS, Wrong, check, must, run

sys.path.insert(0, str(CHECKOUT / "examples/demo"))
from stack import PYTHON, NotReady, Stack  # noqa: E402

BLOCK = re.compile(r"^( *)```(\w+)(?: (\w+))?\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
WORDS = ("runs", "stack", "make", "elsewhere")


def pages() -> list[str]:
    """Every page but those that tell what was decided and what has changed."""
    found = run("git", "ls-files", "--cached", "--others", "--exclude-standard", "--", "*.md").splitlines()
    return sorted(page for page in found if (CHECKOUT / page).is_file() and not page.startswith("docs/decisions/"))


def blocks(page: str) -> Iterator[tuple[int, str, str, str]]:
    """Each fenced block: its line, its language, what can be done with it, and its text."""
    text = (CHECKOUT / page).read_text()
    for found in BLOCK.finditer(text):
        indent, language, word, body = found.groups()
        body = "".join(line.removeprefix(indent) for line in body.splitlines(keepends=True))
        yield text.count("\n", 0, found.start()) + 1, language, word or "", body


def shell(page: str, *words: str) -> list[tuple[int, str]]:
    """The blocks of shell of a page that carry one of these words: line and text."""
    return [(line, body) for line, language, word, body in blocks(page) if language == "sh" and word in words]


@check("every block of shell says where it can be run")
def said() -> None:
    for page in pages():
        for line, language, word, _ in blocks(page):
            is_shell = language in ("sh", "bash", "shell", "console")
            must(not is_shell or (language == "sh" and word in WORDS), f"{page}:{line}: say ```sh and one of {', '.join(WORDS)}")


@contextmanager
def copy_of_checkout() -> Iterator[tuple[Path, dict[str, str]]]:
    """The checkout as somebody has it who has just cloned it, and the variables of a shell in it that finds the programs."""
    with tempfile.TemporaryDirectory(prefix="documents-") as scratch:
        copy, programs = Path(scratch) / "whitelistmcp", Path(scratch) / "bin"
        files = run("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard").split("\0")
        for name in filter(None, files):
            if (CHECKOUT / name).is_file():
                (copy / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(CHECKOUT / name, copy / name)
        programs.mkdir()
        for name, program in {"whitelistmcp": BINARY, "helm": HELM, "kubectl": KUBECTL}.items():
            (programs / name).symlink_to(program.resolve())
        (copy / ".tools").symlink_to(TOOLS.resolve())
        path = ":".join(map(str, [programs, LINT, NODE_BIN, os.environ["PATH"]]))
        yield copy, {"PATH": path, "HOME": scratch, "XDG_CONFIG_HOME": f"{scratch}/config"}


def typed(page: str, line: int, body: str, directory: Path, variables: dict[str, str]) -> str:
    """Runs a block as somebody would type it; what was said."""
    try:
        return run("bash", "-euo", "pipefail", "-c", body, cwd=directory, within=1200, **variables)
    except Wrong as wrong:
        raise Wrong(f"{page}:{line}: {wrong}") from None


@check("what runs here runs, page by page")
def runs() -> None:
    for page in pages():
        if scripts := shell(page, "runs"):
            with copy_of_checkout() as (copy, variables):
                for line, body in scripts:
                    typed(page, line, body, copy, variables)


class Documented(Stack):
    """The service as the pages speak of it. Who types has a token of an administrator."""

    def provider_settings(self) -> dict[str, str]:
        return super().provider_settings() | {"MEMBERSHIPS": '{"alice": ["dba", "whitelistmcp-admins"]}'}

    def in_its_place(self, text: str) -> str:
        """A block with this stack's addresses and group in place of those that the pages use as examples."""
        own = {
            "https://whitelist.example.com/mcp": self.url,
            "https://whitelist.example.com": self.url.removesuffix("/mcp"),
            "core.internal:8443": f"localhost:{self.core_port}",
            "sg-0123456789abcdef0": self.aws["groups"]["staging-db"],
            # On loopback a caller's own address is one that policy forbids.
            '"address":"current"': '"address":"203.0.113.9"',
        }
        for example, here in own.items():
            text = text.replace(example, here)
        return text

    def furnish(self, directory: Path) -> None:
        """Puts into a copy of the checkout what a reader has made before by the page: configuration, certificates, a journal."""
        edge = self.edge_config().removesuffix(self.oidc_config())
        (directory / "whitelistmcp.toml").write_text(self.core_config() + edge)
        for file in self.certs.iterdir():
            shutil.copy2(file, directory / "certs")
        (directory / "journal").symlink_to(self.journal)
        (directory / "venv").symlink_to(PYTHON.parents[1])

    def variables(self) -> dict[str, str]:
        home, clients = Path.home(), TARGET / "clients"
        return {
            "TOKEN": self.token(),
            "MCP_AUTH_TOKEN": self.token(),
            "PUBLIC_URL": self.url,
            "DOMAIN": f"localhost:{self.edge_port}",
            "CURL_CA_BUNDLE": str(self.certs / "ca.pem"),
            "WHITELISTMCP_BRIDGE_CA": str(self.certs / "ca.pem"),
            "AWS_ACCESS_KEY_ID": self.aws["access_key_id"],
            "AWS_SECRET_ACCESS_KEY": self.aws["secret_access_key"],
            # Whoever compiles a client has compiled it before.
            "CARGO_TARGET_DIR": str(clients),
            "GOCACHE": str(clients / "go-cache"),
            "CARGO_HOME": os.environ.get("CARGO_HOME") or str(home / ".cargo"),
            "RUSTUP_HOME": os.environ.get("RUSTUP_HOME") or str(home / ".rustup"),
        }


@check("what is typed beside a running service gets a result, page by page")
def beside_a_stack() -> None:
    scripts = {page: found for page in pages() if (found := shell(page, "stack"))}
    must(len(scripts) > 5, "hardly any page is tried")
    os.environ["WHITELISTMCP"] = str(BINARY)
    with tempfile.TemporaryDirectory(prefix="documents-stack-") as scratch:
        try:
            with Documented(Path(scratch)) as stack:
                own = stack.variables()
                for page, found in scripts.items():
                    with copy_of_checkout() as (copy, variables):
                        stack.furnish(copy)
                        for line, body in found:
                            said = typed(page, line, stack.in_its_place(body), copy, variables | own)
                            for answer in filter(None, map(answer_in, said.splitlines())):
                                is_result = "result" in answer and not answer["result"].get("isError")
                                must(is_result, f"{page}:{line}: {json.dumps(answer)[:1500]}")
        except NotReady as wrong:
            raise Wrong(str(wrong)) from None


def answer_in(line: str) -> dict | None:
    """An answer of JSON-RPC, if a line is one."""
    try:
        answer = json.loads(line)
    except ValueError:
        return None
    return answer if isinstance(answer, dict) and "jsonrpc" in answer else None


@check("every target that a page names is in the Makefile")
def targets() -> None:
    known = set(re.findall(r"^([a-z-]+):", (CHECKOUT / "Makefile").read_text(), re.MULTILINE))
    for page in pages():
        named = {(line, target) for line, body in shell(page, "make") for target in re.findall(r"^make ([a-z-]+)", body, re.MULTILINE)}
        named |= {(0, target) for target in re.findall(r"`make ([a-z-]+)`", (CHECKOUT / page).read_text())}
        for line, target in named:
            must(target in known, f"{page}:{line}: there is no target {target}")


@check("what runs elsewhere is sound shell")
def sound() -> None:
    for page in pages():
        for line, body in shell(page, "elsewhere"):
            try:
                run(LINT / "shellcheck", "--shell", "bash", "--exclude", "SC2154,SC2034,SC2148", "-", stdin=body)
            except Wrong as wrong:
                raise Wrong(f"{page}:{line}: {wrong}") from None


@check("TOML, JSON and YAML in pages parse")
def parse() -> None:
    for page in pages():
        for line, language, _, body in blocks(page):
            try:
                if language == "toml":
                    tomllib.loads(body)
                elif language == "json":
                    json.loads(body)
                elif language in ("yaml", "yml"):
                    run(LINT / "python", "-c", "import sys, yaml; list(yaml.safe_load_all(sys.stdin))", stdin=body)
            except ValueError as wrong:
                raise Wrong(f"{page}:{line}: {wrong}") from None
