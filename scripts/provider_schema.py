#!/usr/bin/env python3
"""Distils which arguments and attributes the AWS provider has, for what deploy/terraform uses of it.

    provider_schema.py PACKAGE        PACKAGE: @cdktn/provider-aws as `npm pack` gives it, unpacked

There is no Terraform in the check, which would ask the provider itself. The bindings for another language, which are generated from the
provider's schema, say the same: names, what is required, and which blocks stand in which. The result is
scripts/deploy_checks/provider.json; `deploy_check.py terraform` says if a resource is missing in it.
"""

import json
import re
import sys
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]
RESULT = CHECKOUT / "scripts/deploy_checks/provider.json"
USED = re.compile(r'^(resource|data) "(aws_\w+)"', re.MULTILINE)
INTERFACE = re.compile(r"export interface (\w+)(?: extends [\w.]+)? \{\n(.*?)^\}", re.MULTILINE | re.DOTALL)
CONFIG = re.compile(r"export interface (\w+) extends cdktn\.(TerraformMetaArguments)")
ARGUMENT = re.compile(r"#(\w+) \w+#\w+\}.*?readonly \w+(\??): ([^;]+);", re.DOTALL)
GETTER = re.compile(r"^    get (\w+)\(\)", re.MULTILINE)


def main() -> int:
    package = Path(sys.argv[1])
    used = {found for path in (CHECKOUT / "deploy").rglob("*.tf") for found in USED.findall(path.read_text())}
    made = {f"{kind} {name}": read(package, kind, name) for kind, name in sorted(used)}
    version = re.search(r"provider version ([\d.]+)", (package / "README.md").read_text())
    result = {"provider": version[1] if version else None, "types": made}
    RESULT.write_text(json.dumps(result, separators=(",", ":"), sort_keys=True).replace('"data ', '\n"data ').replace('"resource ', '\n"resource ') + "\n")
    return 0


def read(package: Path, kind: str, name: str) -> dict[str, object]:
    folder = name.removeprefix("aws_").replace("_", "-")
    text = (package / "lib" / (f"data-aws-{folder}" if kind == "data" else folder) / "index.d.ts").read_text()
    interfaces = dict(INTERFACE.findall(text))
    top = next((one for one, _ in CONFIG.findall(text)), None)
    if top is None:
        raise SystemExit(f"{kind} {name}: no arguments found")
    own = text[text.index("constructor(scope: Construct, id: string, config"):]
    return {"arguments": arguments(interfaces, top), "attributes": sorted(set(GETTER.findall(own)))}


def arguments(interfaces: dict[str, str], name: str) -> dict[str, object]:
    """Each argument: whether it is required, and of a block, its own arguments."""
    made: dict[str, object] = {}
    # Comments stand before the argument that they are of.
    for part in re.split(r"(?=/\*\*)", interfaces[name]):
        if found := ARGUMENT.search(part):
            argument, optional, kind = found.groups()
            inner = next((one for one in re.findall(r"\w+", kind) if one in interfaces and one != name), None)
            made[argument] = {"required": not optional} | ({"block": arguments(interfaces, inner)} if inner else {})
    return made


if __name__ == "__main__":
    sys.exit(main())
