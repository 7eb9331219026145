"""Shell and YAML of the whole checkout."""

import base64
import re
import tempfile
from pathlib import Path

from .judge import CHECKOUT, DEPLOY, LINT, Wrong, check, judged_by_checkov, must, run


def tracked(*patterns: str) -> list[str]:
    files = run("git", "ls-files", "--cached", "--others", "--exclude-standard", "--", *patterns).splitlines()
    must(files, f"no file matches {patterns}")
    return files


@check("shellcheck finds nothing in any shell script")
def shell() -> None:
    run(LINT / "shellcheck", "--external-sources", ".ci/run", "tests/interop/clients/xdg-open", *tracked("*.sh"))


@check("yamllint finds nothing in any YAML file")
def yaml() -> None:
    # A chart's templates are not YAML before they are rendered.
    files = [name for name in tracked("*.yaml", "*.yml") if "/templates/" not in name]
    run(LINT / "yamllint", "--strict", "--config-file", CHECKOUT / ".yamllint.yaml", *files)


# The values that charts are tried with name Secrets (`{secret: whitelistmcp-redis, key: password}`), which reads like one.
NAMES = {("CKV_SECRET_6", r"/helm/values/.*"): "names of Secrets in values that a chart is tried with"}


@check("checkov finds no secret in deploy/, and would find one")
def no_secrets() -> None:
    judged_by_checkov(DEPLOY, "secrets", parses=0, reasons=NAMES)
    with tempfile.TemporaryDirectory(prefix="secrets-") as scratch:
        # Made here, so that it stands in no file of the checkout.
        (Path(scratch) / "main.tf").write_text(f'locals {{ key = "{"AKIA" + "IOSFODNN7EXAMPL" + "Q"}" }}\n')
        try:
            judged_by_checkov(Path(scratch), "secrets", parses=0)
        except Wrong as wrong:
            must("CKV_SECRET_2" in str(wrong), str(wrong))
        else:
            raise Wrong("checkov finds no key of AWS where there is one")


KEY = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----(?:\\n|\s)+[A-Za-z0-9+/]{20}")


def holds_a_key(name: str, text: str) -> bool:
    """Whether a file is a private key or has one in it. A certificate, which everybody may see, may be called *.pem."""
    named = name.endswith((".key", ".p12", ".pfx", ".jks")) or name.endswith(".pem") and not text.lstrip().startswith(("-----BEGIN CERTIFICATE-----", "-----BEGIN PUBLIC KEY-----"))
    return named or bool(KEY.search(text))


@check("no private key is in git, by its name or in any file's text")
def keys() -> None:
    files = run("git", "ls-files", "-z").split("\0")
    must(len(files) > 300, "git names hardly any file")
    kept = [name for name in filter(None, files) if (CHECKOUT / name).is_file() and holds_a_key(name, (CHECKOUT / name).read_text(errors="replace"))]
    must(not kept, f"private keys are in git: {', '.join(kept)}")
    body = base64.b64encode(bytes(48)).decode()
    begin, end = (f"-----{word} EC PRIVATE KEY-----" for word in ("BEGIN", "END"))
    for name, text, is_key in (
        ("certs/edge.key", "", True), ("a.p12", "", True), ("a.pem", f"{begin}\n{body}\n{end}\n", True), ("a.rs", f'"{begin}\\n{body}\\n{end}"', True), ("a.md", f"{begin}\n{body}", True),
        ("ca.pem", "-----BEGIN CERTIFICATE-----\n", False), ("a.rs", f'text.starts_with("{begin}")', False), ("a.md", f"begins with {begin} and ends with {end}", False),
    ):
        must(holds_a_key(name, text) is is_key, f"{name} is {'no key' if is_key else 'a key'}")
