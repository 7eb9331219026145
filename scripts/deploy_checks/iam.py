"""The roles' policies in deploy/iam: that the templates are sound, and hold what the documents hold. That the documents are what
the code prints, and allow what the service needs and no more, tests/it/iam.rs shows."""

import json
import re

from .documents import blocks, pages
from .judge import BINARY, CHECKOUT, DEPLOY, LINT, NODE, check, judged_by_checkov, must, run

IAM = DEPLOY / "iam"
# The base role of the documents there.
BASE = "arn:aws:iam::222222222222:role/whitelistmcp-core"
TEMPLATES = sorted(IAM.glob("*.cfn.json"))
MODULES = sorted(IAM.glob("terraform/*/main.tf"))
# Reads a module, prints it as JSON.
HCL = "const { parse } = require('@cdktf/hcl2json'); parse('main.tf', require('fs').readFileSync(0, 'utf8')).then((file) => console.log(JSON.stringify(file)));"


@check("what is in deploy/iam is what the binary prints")
def drift() -> None:
    import tempfile

    with tempfile.TemporaryDirectory(prefix="iam-") as scratch:
        run(
            BINARY, "iam", "print", "--config", CHECKOUT / "examples/whitelistmcp.toml", "--base-role", BASE,
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


@check("no page gives AWS a document that names the accounts of the example")
def own() -> None:
    for page in pages():
        for line, language, _, body in blocks(page):
            for name in re.findall(r"file://(deploy/\S+)", body) if language == "sh" else []:
                found = re.search(r"\b(1{12}|2{12}|123456789012)\b", (CHECKOUT / name).read_text())
                must(not found, f"{page}:{line} applies {name}, which is for the account {found and found[0]}")


@check("EKS: the page makes the association that the base role's trust asks for, and prints the trust of both roles for it")
def pods() -> None:
    page = "docs/deploy/kubernetes.md"
    [statement] = json.loads((IAM / "base-trust-eks-pod-identity.json").read_text())["Statement"]
    wanted = statement["Condition"]["StringEquals"]
    shell = [(word, body.replace("\\\n", " ")) for _, language, word, body in blocks(page) if language == "sh"]
    [made] = [line for _, body in shell for line in body.splitlines() if "create-pod-identity-association" in line]
    for option, key in (("namespace", "kubernetes-namespace"), ("service-account", "kubernetes-service-account")):
        must(f"--{option} {wanted[f'aws:RequestTag/{key}']} " in made, f"{page} associates another {option} than is trusted")
    must("--disable-session-tags" not in made, f"{page}: EKS sends no session tags, and the base role's trust asks for them")
    must(f"--role-arn {BASE} " in f"{made} ", f"{page} associates another role than target roles trust")
    subject = ":".join(["system:serviceaccount", *(wanted[f"aws:RequestTag/kubernetes-{part}"] for part in ("namespace", "service-account"))])
    printed = "".join(body for word, body in shell if word == "runs" and "iam print" in body)
    for words in ("base-trust target-trust", f"--base-role {BASE} ", f"--platform eks-pod-identity --subject {subject}"):
        must(words in re.sub(r" +", " ", printed), f"{page} prints no {words}")
    # What is printed for other platforms refuses the tags that EKS passes on.
    [plain] = [one for one in json.loads((IAM / "target-trust.json").read_text())["Statement"] if one["Sid"] == "Tag"]
    trust = run(BINARY, "iam", "print", "--config", CHECKOUT / "examples/whitelistmcp.toml", "--only", "target-trust", "--platform", "eks-pod-identity", "--subject", subject)
    [of_eks] = [one for one in json.loads(trust)["Statement"] if one["Sid"] == "Tag"]
    must("Null" in plain["Condition"] and "Null" not in of_eks["Condition"], "the trust of target roles is the same on every platform: the page says that it is not")


@check("where a page's own files make the base role, target roles are made after it, with the ARN that they put out")
def order() -> None:
    parameters = set(json.loads((IAM / "target.cfn.json").read_text())["Parameters"])
    for name, example in (("ecs", "ecs"), ("lambda", "lambda"), ("cloud-run", "federation-google"), ("azure", "federation-azure")):
        page = f"docs/deploy/{name}.md"
        shell = [body.replace("\\\n", " ") for _, language, _, body in blocks(page) if language == "sh"]
        applied = [at for at, body in enumerate(shell) if f"deploy/terraform/examples/{example}\n" in body and re.search(r"^terraform .* apply", body, re.MULTILINE)]
        lent = next((at for at, body in enumerate(shell) if "target.cfn.json" in body), -1)
        must(applied and applied[0] < lent, f"{page}: the target role comes before the base role that it trusts")
        must(f"deploy/terraform/examples/{example} output -raw base_role_arn" in shell[lent] and '"BaseRoleArn=$base"' in shell[lent], f"{page}: another base role is trusted")
        given = set(re.findall(r'"(\w+)=', shell[lent]))
        must(given <= parameters, f"{page}: the template has no {given - parameters}")
        must('output "base_role_arn"' in (DEPLOY / "terraform/examples" / example / "main.tf").read_text(), f"{example} puts out no base role")
