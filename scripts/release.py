#!/usr/bin/env python3
"""What a release is put together by, on every platform.

    release.py version TAG                      fails unless TAG is v and the version of Cargo.toml, the chart has the same, and CHANGELOG.md has words on it
    release.py pack TARGET FROM TO              packs the program that lies in FROM, and the bundle for Claude Desktop, into TO
    release.py sums DIRECTORY                   writes DIRECTORY/SHA256SUMS over everything in it
    release.py notes TAG                        prints what CHANGELOG.md says of that version
"""

import argparse
import hashlib
import io
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]
# What lies in an archive beside the program.
WITH = ["README.md", "CHANGELOG.md", "SECURITY.md", "LICENSE-APACHE", "LICENSE-MIT", "examples/whitelistmcp.toml", "src/policy/default.cedar"]
# The oldest time that a zip file can say, and the same for tar: archives of the same input are the same bytes.
ZIP_TIME, TAR_TIME = (1980, 1, 1, 0, 0, 0), 315532800


class Wrong(Exception):
    """A release cannot be made of this; the message says why."""


def main() -> int:
    parser = argparse.ArgumentParser(description="Puts a release together.")
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("version", "notes"):
        commands.add_parser(name).add_argument("tag")
    packing = commands.add_parser("pack")
    packing.add_argument("target")
    packing.add_argument("source", type=Path)
    packing.add_argument("directory", type=Path)
    commands.add_parser("sums").add_argument("directory", type=Path)
    asked = parser.parse_args()
    try:
        if asked.command == "version":
            check(asked.tag)
        elif asked.command == "notes":
            print(notes(asked.tag))
        elif asked.command == "pack":
            pack(asked.target, asked.source, asked.directory)
        else:
            sums(asked.directory)
    except Wrong as wrong:
        print(f"release.py: {wrong}", file=sys.stderr)
        return 1
    return 0


def version() -> str:
    return tomllib.loads((CHECKOUT / "Cargo.toml").read_text(encoding="utf-8"))["package"]["version"]


def check(tag: str) -> None:
    if tag != f"v{version()}":
        raise Wrong(f"the tag is {tag}, and Cargo.toml says {version()}")
    chart = (CHECKOUT / "deploy/helm/whitelistmcp/Chart.yaml").read_text(encoding="utf-8")
    if f'appVersion: "{version()}"' not in chart:
        raise Wrong(f"the chart's appVersion is not {version()}")
    notes(tag)


def notes(tag: str) -> str:
    """The section of the changelog on a version, without its heading."""
    text = (CHECKOUT / "CHANGELOG.md").read_text(encoding="utf-8")
    section = re.search(rf"^## \[?{re.escape(tag.removeprefix('v'))}\]?( .*)?\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    if section is None or not section[2].strip():
        raise Wrong(f"CHANGELOG.md has no section on {tag.removeprefix('v')}")
    return section[2].strip()


def pack(target: str, source: Path, directory: Path) -> None:
    windows = "windows" in target
    program = source / ("whitelistmcp.exe" if windows else "whitelistmcp")
    if not program.is_file():
        raise Wrong(f"{program} is not there")
    directory.mkdir(parents=True, exist_ok=True)
    name = f"whitelistmcp-{version()}-{target}"
    inside = [(f"{name}/{program.name}", program, 0o755)]
    inside += [(f"{name}/{path}", CHECKOUT / path, 0o644) for path in WITH]
    if windows:
        archive = directory / f"{name}.zip"
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed:
            for path, file, _ in inside:
                packed.writestr(zipfile.ZipInfo(path, ZIP_TIME), file.read_bytes(), zipfile.ZIP_DEFLATED)
    else:
        archive = directory / f"{name}.tar.xz"
        with tarfile.open(archive, "w:xz") as packed:
            for path, file, mode in inside:
                content = file.read_bytes()
                entry = tarfile.TarInfo(path)
                entry.size, entry.mode, entry.mtime = len(content), mode, TAR_TIME
                packed.addfile(entry, io.BytesIO(content))
    print(archive)
    bundle = [sys.executable, CHECKOUT / "scripts/mcpb.py", program, directory, "--target", target]
    subprocess.run([str(word) for word in bundle], check=True)


def sums(directory: Path) -> None:
    files = sorted(path for path in directory.iterdir() if path.name != "SHA256SUMS")
    if not files:
        raise Wrong(f"there is nothing in {directory}")
    lines = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in files]
    (directory / "SHA256SUMS").write_text("".join(lines), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
