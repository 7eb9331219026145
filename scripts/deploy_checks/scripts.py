"""Shell and YAML of the whole checkout."""

from .judge import CHECKOUT, LINT, check, must, run


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
