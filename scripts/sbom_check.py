#!/usr/bin/env python3
"""Whether an image's own list of what it is made of is that: CycloneDX, with the crates that Cargo.lock names, and none that only tests use.

    sbom_check.py FILE [CHECKOUT]      silent where all is well
"""

import json
import sys
import tomllib
from pathlib import Path

SPECIFICATION = "1.5"
# One that every build has, whose flaws would be the service's.
CERTAIN = "aws-sdk-ec2"


def wrong(file: Path, checkout: Path) -> list[str]:
    try:
        listed = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        return [f"it is not JSON: {error}"]
    found = []
    kind = listed.get("bomFormat"), listed.get("specVersion")
    if kind != ("CycloneDX", SPECIFICATION):
        found.append(f"it is {kind[0]} {kind[1]}, and not CycloneDX {SPECIFICATION}")
    crates = {(one.get("name"), one.get("version")) for one in listed.get("components", [])}
    locked, used = packages(checkout)
    versions = sorted(version for name, version in used if name == CERTAIN)
    if len(versions) != 1 or (CERTAIN, versions[0]) not in crates:
        found.append(f"{CERTAIN} {' or '.join(versions)} is not in it")
    if len(crates) < len(used) // 4:
        found.append(f"it lists {len(crates)} crates, where Cargo.lock has {len(used)} that the program may be made of")
    for name, version in sorted(crates - used, key=str):
        why = "only tests and tools use it" if (name, version) in locked else "Cargo.lock does not have it"
        found.append(f"{name} {version}: {why}")
    return found


def packages(checkout: Path) -> tuple[set[tuple[str, str]], set[tuple[str, str]]]:
    """Every package of Cargo.lock, by name and version; and those of them that the program is made of or built by."""
    manifest = tomllib.loads((checkout / "Cargo.toml").read_text(encoding="utf-8"))
    lock = tomllib.loads((checkout / "Cargo.lock").read_text(encoding="utf-8"))["package"]
    by_name: dict[str, list[dict]] = {}
    for package in lock:
        by_name.setdefault(package["name"], []).append(package)

    def named(dependency: str) -> list[dict]:
        """`NAME`, or `NAME VERSION` where there are several."""
        name, _, version = dependency.partition(" ")
        return [package for package in by_name.get(name, []) if not version or package["version"] == version.split(" ")[0]]

    wanted: set[str] = set()
    for tables in (manifest, *manifest.get("target", {}).values()):
        for table in ("dependencies", "build-dependencies"):
            wanted |= {settings.get("package", name) if isinstance(settings, dict) else name for name, settings in tables.get(table, {}).items()}
    root = next(package for package in lock if package["name"] == manifest["package"]["name"])
    waiting = [package for dependency in root["dependencies"] if dependency.partition(" ")[0] in wanted for package in named(dependency)]
    used = {(root["name"], root["version"])}
    while waiting:
        package = waiting.pop()
        if (key := (package["name"], package["version"])) not in used:
            used.add(key)
            # What a dependency's own tests use is in no lock file.
            waiting += [other for dependency in package.get("dependencies", []) for other in named(dependency)]
    return {(package["name"], package["version"]) for package in lock}, used


def main() -> int:
    if len(sys.argv) not in (2, 3):
        print(__doc__, file=sys.stderr)
        return 2
    file = Path(sys.argv[1])
    found = wrong(file, Path(sys.argv[2]) if len(sys.argv) == 3 else Path(__file__).resolve().parents[1])
    for line in found:
        print(f"sbom_check.py: {file}: {line}", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
