"""The roles' policies in deploy/iam: that the templates are sound, and hold what the documents hold. That the documents are what
the code prints, and allow what the service needs and no more, tests/it/iam.rs shows."""

import json

from .judge import BINARY, CHECKOUT, DEPLOY, LINT, NODE, check, judged_by_checkov, must, run

IAM = DEPLOY / "iam"
TEMPLATES = sorted(IAM.glob("*.cfn.json"))
MODULES = sorted(IAM.glob("terraform/*/main.tf"))
# Reads a module, prints it as JSON.
HCL = "const { parse } = require('@cdktf/hcl2json'); parse('main.tf', require('fs').readFileSync(0, 'utf8')).then((file) => console.log(JSON.stringify(file)));"


@check("what is in deploy/iam is what the binary prints")
def drift() -> None:
    import tempfile

    with tempfile.TemporaryDirectory(prefix="iam-") as scratch:
        run(
            BINARY, "iam", "print", "--config", CHECKOUT / "examples/whitelistmcp.toml", "--base-role", "arn:aws:iam::222222222222:role/whitelistmcp-core",
            "--directory", scratch,
        )
        run("diff", "--recursive", scratch, IAM)


@check("cfn-lint finds nothing in the templates")
def templates() -> None:
    must(len(TEMPLATES) == 3, f"three templates, not {len(TEMPLATES)}")
    run(LINT / "cfn-lint", "--include-checks", "I", "--regions", "eu-central-1", "us-gov-west-1", "cn-north-1", "--", *TEMPLATES)


@check("checkov finds nothing in the templates and the modules")
def judged() -> None:
    judged_by_checkov(IAM, "cloudformation", parses=len(TEMPLATES))
    judged_by_checkov(IAM / "terraform", "terraform", parses=len(MODULES))


@check("the modules are HCL, and their variables are used and described")
def modules() -> None:
    must(len(MODULES) == 3, f"three modules, not {len(MODULES)}")
    for module in MODULES:
        text = module.read_text()
        parsed = json.loads(run(NODE / "node_modules/.bin/node", "-e", HCL, cwd=NODE, stdin=text))
        must(parsed["resource"], f"{module} makes nothing")
        for name, (variable,) in parsed["variable"].items():
            must(variable.get("description") and variable.get("type"), f"{module}: `{name}` needs a type and a description")
            must(f"var.{name}" in text.replace(f'variable "{name}"', ""), f"{module}: `{name}` is used nowhere")
        for name, (output,) in parsed.get("output", {}).items():
            must(output.get("description"), f"{module}: the output `{name}` needs a description")


@check("template, module and document say the same")
def agree() -> None:
    def actions(value: object) -> set[str]:
        """Every action that is named, however deep."""
        if isinstance(value, dict):
            own = value.get("Action", [])
            return set([own] if isinstance(own, str) else own).union(*map(actions, value.values()), set())
        return set().union(*map(actions, value)) if isinstance(value, list) else set()

    for part, documents in {
        "base": ["base-trust-ecs-tasks", "base-policy"], "target": ["target-trust", "target-policy"], "kill-switch": ["kill-switch"],
    }.items():
        wanted = set().union(*(actions(json.loads((IAM / f"{name}.json").read_text())) for name in documents))
        template = actions(json.loads((IAM / f"{part}.cfn.json").read_text()))
        must(template == wanted, f"{part}.cfn.json allows {template ^ wanted} besides or not at all")
        module = (IAM / "terraform" / part / "main.tf").read_text()
        for action in wanted:
            must(f'"{action}"' in module, f"terraform/{part} does not speak of {action}")
        for document in documents:
            # Every condition of the document is a condition of the module, but for ARNs and Regions, which are variables there.
            for key in conditions(json.loads((IAM / f"{document}.json").read_text())):
                must(f'"{key}"' in module, f"terraform/{part} does not ask for {key}")


def conditions(value: object) -> set[str]:
    if isinstance(value, list):
        return set().union(*map(conditions, value)) if value else set()
    if not isinstance(value, dict):
        return set()
    own = {key for keys in value.get("Condition", {}).values() for key in keys}
    return own.union(*(conditions(inner) for inner in value.values()), set())
