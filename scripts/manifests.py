#!/usr/bin/env python3
"""Renders the Helm chart for those who do without Helm.

    manifests.py            writes deploy/kubernetes/load-balancer and deploy/kubernetes/ingress anew
    manifests.py --check    says what differs from what would be written, and fails if anything does

Each directory is a base for kustomize. The configurations are files of their own there, for readers to edit and for
`whitelistmcp check` to judge; kustomize names their ConfigMaps by content, so that pods are new when a configuration is.
HELM names the program if it is not on the PATH.
"""

import argparse
import os
import re
import subprocess
import sys
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent
CHART = CHECKOUT / "deploy/helm/whitelistmcp"
VALUES = CHECKOUT / "deploy/helm/values"
MANIFESTS = CHECKOUT / "deploy/kubernetes"
VARIANTS = ("load-balancer", "ingress")
NAMESPACE = "whitelistmcp"
RENDERED = "Rendered by scripts/manifests.py from deploy/helm/whitelistmcp and deploy/helm/values/{}.yaml."

NAMESPACE_YAML = """\
# Pods that could get at their node are refused here.
apiVersion: v1
kind: Namespace
metadata:
  name: whitelistmcp
  labels:
    pod-security.kubernetes.io/enforce: restricted
    pod-security.kubernetes.io/warn: restricted
    pod-security.kubernetes.io/audit: restricted
"""

KUSTOMIZATION = """\
# {rendered}
apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
namespace: whitelistmcp
resources: [namespace.yaml, whitelistmcp.yaml]
configMapGenerator:
  - name: whitelistmcp-edge
    files: [edge.toml]
  - name: whitelistmcp-core
    files: [core.toml]
# Your own image, by digest best.
images:
  - name: registry.example.com/whitelistmcp
    newName: registry.example.com/whitelistmcp
    newTag: "{version}"
"""


def main() -> int:
    parser = argparse.ArgumentParser(description="Render the Helm chart into deploy/kubernetes.")
    parser.add_argument("--check", action="store_true", help="write nothing; fail if what is there differs")
    check = parser.parse_args().check
    stale = []
    for variant in VARIANTS:
        for name, text in rendered(variant).items():
            path = MANIFESTS / variant / name
            if check:
                if not path.is_file() or path.read_text() != text:
                    stale.append(path)
            else:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text)
    for path in stale:
        print(f"{path.relative_to(CHECKOUT)} is not what the chart renders; run scripts/manifests.py", file=sys.stderr)
    return 1 if stale else 0


def rendered(variant: str) -> dict[str, str]:
    """Every file of one variant, by its name."""
    about = RENDERED.format(variant)
    chart = template(variant)
    version = re.search(r'^appVersion: "(.+)"$', (CHART / "Chart.yaml").read_text(), re.MULTILINE)
    if version is None:
        raise SystemExit("manifests.py: Chart.yaml has no appVersion")
    files = {"namespace.yaml": NAMESPACE_YAML, "kustomization.yaml": KUSTOMIZATION.format(rendered=about, version=version[1])}
    documents = []
    for document in re.split(r"^---\n", chart, flags=re.MULTILINE):
        document = re.sub(r"^# Source: .*\n", "", document, flags=re.MULTILINE).strip("\n")
        if not document:
            continue
        kind = re.search(r"^kind: (.+)$", document, re.MULTILINE)
        if kind and kind[1] == "ConfigMap":
            files |= configuration(document, about)
            continue
        # Neither holds here: who applies it is not Helm, and a ConfigMap's name says what is in it.
        document = re.sub(r"^ *app\.kubernetes\.io/managed-by: Helm\n", "", document, flags=re.MULTILINE)
        document = re.sub(r"^ *annotations:\n(?: *#.*\n)?( *)checksum/config: .*\n(?!\1\S)", "", document, flags=re.MULTILINE)
        document = re.sub(r"^ *checksum/config: .*\n", "", document, flags=re.MULTILINE)
        documents.append(document)
    files["whitelistmcp.yaml"] = f"# {about}\n" + "\n---\n".join(documents) + "\n"
    return files


def template(variant: str) -> str:
    helm = os.environ.get("HELM", "helm")
    command = [helm, "template", "whitelistmcp", str(CHART), "--namespace", NAMESPACE, "--values", str(VALUES / f"{variant}.yaml"), "--skip-tests"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=120)
    except FileNotFoundError:
        raise SystemExit(f"manifests.py: {helm} is not to be found; name it in HELM") from None
    if done.returncode != 0:
        raise SystemExit(f"manifests.py: helm template: {done.stderr.strip()}")
    return done.stdout


def configuration(document: str, about: str) -> dict[str, str]:
    """The files in a ConfigMap's data, each with a word on where it comes from."""
    data = document.partition("\ndata:\n")[2]
    files = {}
    for found in re.finditer(r"^  (\S+): \|\n((?:    .*\n|\n)*)", data + "\n", re.MULTILINE):
        body = re.sub(r"^    ", "", found[2], flags=re.MULTILINE).strip("\n")
        files[found[1]] = f"# {about}\n# examples/whitelistmcp.toml has every key. Paths are where whitelistmcp.yaml mounts them.\n\n{body}\n"
    return files


if __name__ == "__main__":
    sys.exit(main())
