#!/usr/bin/env python3
"""Packs a bundle for Claude Desktop and other clients that install `.mcpb` files.

    mcpb.py BINARY DIRECTORY [--level 0..9] [--target TRIPLE]

Puts BINARY and the manifest (deploy/mcpb) into DIRECTORY/whitelistmcp-VERSION-PLATFORM.mcpb, and prints its path. A bundle
is a zip file; the same input gives the same bytes. The platform is this machine's, unless BINARY was built for another one.
"""

import argparse
import json
import platform
import stat
import sys
import tomllib
import zipfile
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]
# The oldest time that a zip file can say.
TIME = (1980, 1, 1, 0, 0, 0)
# What a target of Rust's has in it, and what manifests call that system.
SYSTEMS = {"linux": "linux", "darwin": "darwin", "windows": "win32"}


def main() -> int:
    parser = argparse.ArgumentParser(description="Packs a bundle for clients that install .mcpb files.")
    parser.add_argument("binary", type=Path)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--level", type=int, default=9, choices=range(10), help="how hard to compress")
    parser.add_argument("--target", help="what BINARY was built for, as Rust names it, such as x86_64-apple-darwin")
    asked = parser.parse_args()
    if not asked.binary.is_file():
        print(f"mcpb.py: {asked.binary} is not there; `make mcpb` builds it", file=sys.stderr)
        return 1
    system, machine = {"linux": "linux", "darwin": "darwin", "win32": "win32"}[sys.platform], platform.machine()
    if asked.target:
        machine, *rest = asked.target.split("-")
        system = next(name for part, name in SYSTEMS.items() if part in rest)
    version = tomllib.loads((CHECKOUT / "Cargo.toml").read_text(encoding="utf-8"))["package"]["version"]
    manifest = json.loads((CHECKOUT / "deploy/mcpb/manifest.json").read_text(encoding="utf-8"))
    manifest["version"] = version
    manifest["compatibility"] = {"platforms": [system]}
    if system == "win32":
        # A program is not found there without its ending.
        server = manifest["server"]
        server["entry_point"] += ".exe"
        server["mcp_config"]["command"] += ".exe"
    asked.directory.mkdir(parents=True, exist_ok=True)
    bundle = asked.directory / f"whitelistmcp-{version}-{system}-{machine}.mcpb"
    with zipfile.ZipFile(bundle, "w", zipfile.ZIP_DEFLATED, compresslevel=asked.level) as packed:
        text = json.dumps(manifest, indent=2) + "\n"
        put(packed, "manifest.json", text.encode(), 0o644)
        put(packed, manifest["server"]["entry_point"], asked.binary.read_bytes(), 0o755)
    print(bundle)
    return 0


def put(packed: zipfile.ZipFile, name: str, content: bytes, mode: int) -> None:
    entry = zipfile.ZipInfo(name, TIME)
    entry.create_system = 3  # Unix, whose modes follow: the program must be one that can be run.
    entry.external_attr = (stat.S_IFREG | mode) << 16
    entry.compress_type = zipfile.ZIP_DEFLATED
    packed.writestr(entry, content)


if __name__ == "__main__":
    sys.exit(main())
