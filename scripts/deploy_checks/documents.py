"""Blocks of the pages in docs/.

A fenced block says what can be done with it: `sh runs` is run here, all blocks of a page in their order, in a copy of the
checkout; `sh elsewhere` needs an account, a cluster or an engine of the reader's, and is read by shellcheck. Plain `sh`
blocks are run by tests of their own (tests/it/documents.rs). Blocks of TOML, JSON and YAML must parse.
"""

import json
import os
import re
import shutil
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path

from .judge import BINARY, CHECKOUT, HELM, KUBECTL, LINT, NODE_BIN, TOOLS, Wrong, check, must, run

BLOCK = re.compile(r"^( *)```(\w+)(?: (\w+))?\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
# Their plain `sh` blocks are run by tests in Rust.
ELSEWHERE_TESTED = {
    "docs/AUDIT.md", "docs/BENCHMARKS.md", "docs/CONFORMANCE.md", "docs/MIGRATING.md", "docs/OPERATIONS.md", "docs/TELEMETRY.md", "docs/LEASES.md",
    "docs/THREAT-MODEL.md",
}


def pages() -> list[str]:
    return sorted(run("git", "ls-files", "--cached", "--others", "--exclude-standard", "--", "docs/*.md", "docs/**/*.md", "deploy/**/*.md").splitlines())


def blocks(page: str) -> Iterator[tuple[int, str, str, str]]:
    """Each fenced block: its line, its language, what can be done with it, and its text."""
    text = (CHECKOUT / page).read_text()
    for found in BLOCK.finditer(text):
        indent, language, word, body = found.groups()
        body = "".join(line.removeprefix(indent) for line in body.splitlines(keepends=True))
        yield text.count("\n", 0, found.start()) + 1, language, word or "", body


@check("every block of shell says whether it runs here")
def said() -> None:
    for page in pages():
        for line, language, word, _ in blocks(page):
            plain = language in ("sh", "bash", "shell", "console")
            known = word in ("runs", "elsewhere") or (not word and page in ELSEWHERE_TESTED)
            must(not plain or (language == "sh" and known), f"{page}:{line}: say ```sh runs, or ```sh elsewhere")


@check("what runs here runs, page by page")
def runs() -> None:
    for page in pages():
        scripts = [(line, body) for line, language, word, body in blocks(page) if language == "sh" and word == "runs"]
        if not scripts:
            continue
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
            for line, body in scripts:
                try:
                    run("bash", "-euo", "pipefail", "-c", body, cwd=copy, PATH=path, HOME=scratch, XDG_CONFIG_HOME=f"{scratch}/config")
                except Wrong as wrong:
                    raise Wrong(f"{page}:{line}: {wrong}") from None


@check("what runs elsewhere is sound shell")
def sound() -> None:
    for page in pages():
        for line, language, word, body in blocks(page):
            if language == "sh" and word == "elsewhere":
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
