"""Terraform. The program itself is not to be had here, so: hcl2json parses, hcl-tools formats, tfparse evaluates (variables, locals,
modules, functions; what only AWS knows stays unknown), the provider's schema says which arguments there are, and checkov judges.
"""

import http.client
import json
import os
import re
import shutil
import socket
import ssl
import subprocess
import tempfile
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from .judge import BINARY, CHECKOUT, DEPLOY, LINT, NODE, NODE_BIN, Wrong, check, judged_by_checkov, must, run

ROOT = DEPLOY / "terraform"
SCHEMA = Path(__file__).with_name("provider.json")
META = {"count", "for_each", "depends_on", "provider", "lifecycle", "provisioner"}

Block = dict[str, Any]

READ = """
const {parse} = require("@cdktf/hcl2json"), {format} = require("@cdktf/hcl-tools"), fs = require("fs");
(async () => {
  const read = {};
  for (const path of JSON.parse(fs.readFileSync(0, "utf8"))) {
    const text = fs.readFileSync(path, "utf8");
    read[path] = {parsed: await parse(path, text), formatted: await format(text)};
  }
  console.log(JSON.stringify(read));
})();
"""


def sources() -> list[Path]:
    found = sorted(ROOT.rglob("*.tf"))
    must(found, f"no Terraform in {ROOT}")
    return found


@cache
def read() -> dict[Path, Block]:
    """Every file, as it was parsed and as it would be formatted."""
    paths = json.dumps([str(path) for path in sources()])
    said = run(NODE_BIN / "node", "-e", READ, cwd=NODE, stdin=paths)
    return {Path(path): found for path, found in json.loads(said).items()}


def directories() -> list[Path]:
    return sorted({path.parent for path in sources()})


def parsed(directory: Path) -> Block:
    """A module's files as one."""
    whole: Block = {}
    for path, found in read().items():
        if path.parent == directory:
            for kind, named in found["parsed"].items():
                if isinstance(named, dict):
                    for name, block in named.items():
                        if kind in ("resource", "data"):
                            whole.setdefault(kind, {}).setdefault(name, {}).update(block)
                        else:
                            whole.setdefault(kind, {})[name] = block
                else:
                    whole.setdefault(kind, []).extend(named)
    return whole


def text(directory: Path) -> str:
    """What a module's files say, without comments."""
    whole = "\n".join(path.read_text() for path in sources() if path.parent == directory)
    return re.sub(r"^\s*#.*$", "", whole, flags=re.MULTILINE)


@check("every file parses, and is laid out as `terraform fmt` lays it out")
def formatted() -> None:
    for path, found in read().items():
        must(path.read_text() == found["formatted"], f"{path.relative_to(CHECKOUT)} is not laid out as `terraform fmt` would")


@check("every variable is typed, described and used, every output described, and every name that is used is there")
def whole() -> None:
    for directory in directories():
        where, module, said = directory.relative_to(CHECKOUT), parsed(directory), text(directory)
        variables, outputs = module.get("variable", {}), module.get("output", {})
        for name, [block] in variables.items():
            must(block.get("type") and block.get("description"), f"{where}: variable {name} needs a type and a description")
            must(re.search(rf"\bvar\.{name}\b", re.sub(rf'variable "{name}" {{.*?^}}', "", said, flags=re.DOTALL | re.MULTILINE)), f"{where}: variable {name} is not used")
        for name, [block] in outputs.items():
            must(block.get("description"), f"{where}: output {name} needs a description")
        for name in set(re.findall(r"\bvar\.(\w+)", said)):
            must(name in variables, f"{where}: there is no variable {name}")
        known = {name for block in module.get("locals", []) for name in block}
        for name in set(re.findall(r"\blocal\.(\w+)", said)):
            must(name in known, f"{where}: there is no local {name}")
        for name in known:
            must(re.search(rf"\blocal\.{name}\b", said), f"{where}: local {name} is not used")
        for name, [call] in module.get("module", {}).items():
            target = (directory / call["source"]).resolve()
            inside = parsed(target)
            must(inside, f"{where}: module {name} is not at {call['source']}")
            given = set(call) - {"source"} - META
            must(given <= set(inside["variable"]), f"{where}: module {name} has no {given - set(inside['variable'])}")
            needed = {variable for variable, [block] in inside["variable"].items() if "default" not in block}
            must(needed <= given, f"{where}: module {name} needs {needed - given}")
            for output in set(re.findall(rf"\bmodule\.{name}\.(\w+)", said)):
                must(output in inside["output"], f"{where}: module {name} has no output {output}")
        [settings] = module["terraform"]
        must(settings["required_version"] == ">= 1.10.0, < 2.0.0", f"{where}: say which versions of Terraform")
        # Two who apply at once lose one's work, and the state holds what is secret. The lock is S3's own, of Terraform 1.10.
        for backend in settings.get("backend", {}).get("s3", []):
            must(backend.get("encrypt") is True and backend.get("use_lockfile") is True, f"{where}: the state is not locked, or not encrypted")
        must("examples" not in where.parts or "backend" in settings, f"{where}: the state is kept nowhere")
        provider = settings["required_providers"][0]["aws"]
        schema = json.loads(SCHEMA.read_text())["provider"]
        must(provider["version"] == f">= {schema}, < {int(schema.split('.')[0]) + 1}.0.0", f"{where}: the provider's version is not the one that is checked, {schema}")


def camel(name: str) -> str:
    first, *others = name.split("_")
    return first + "".join(part.capitalize() for part in others)


def fits(where: str, block: Block, schema: Block) -> Iterator[str]:
    """What a block has that its schema does not, and what it lacks."""
    blocks = dict(block)
    for name, dynamic in (blocks.pop("dynamic", None) or {}).items():
        blocks[name] = [*blocks.get(name, []), *(content for one in dynamic for content in one["content"])]
    for name, value in blocks.items():
        if name not in schema:
            yield f"{where}: there is no `{name}`"
        elif (inner := schema[name].get("block")) and isinstance(value, list):
            for one in value:
                if isinstance(one, dict):
                    yield from fits(f"{where}.{name}", one, inner)
    for name, one in schema.items():
        if one["required"] and name not in blocks:
            yield f"{where}: `{name}` is missing"


@check("every argument, block and attribute is one that the AWS provider has, and none that it needs is missing")
def schema() -> None:
    types = json.loads(SCHEMA.read_text())["types"]
    wrong: list[str] = []
    for directory in directories():
        where, module, said = directory.relative_to(CHECKOUT), parsed(directory), text(directory)
        for kind in ("resource", "data"):
            for name, named in module.get(kind, {}).items():
                known = types.get(f"{kind} {name}")
                must(known, f"{name} is not in {SCHEMA.name}: scripts/provider_schema.py makes it anew")
                for label, blocks in named.items():
                    for block in blocks:
                        own = {key: value for key, value in block.items() if key not in META}
                        wrong.extend(fits(f"{where}: {name}.{label}", own, known["arguments"]))
        for data, name, label, attribute in re.findall(r"\b(data\.)?(aws_\w+)\.(\w+)(?:\[[^]]*\])?(?:\.(\w+))?", said):
            kind = "data" if data else "resource"
            named = module.get(kind, {}).get(name, {})
            if label not in named:
                wrong.append(f"{where}: there is no {kind} {name}.{label}")
            elif attribute and camel(attribute) not in types[f"{kind} {name}"]["attributes"]:
                wrong.append(f"{where}: {name} has no attribute `{attribute}`")
    must(not wrong, "\n".join(wrong))


@check("checkov finds nothing in it that has no reason")
def checkov() -> None:
    judged_by_checkov(ROOT, "terraform", parses=100)
    for path in ROOT.rglob("*.tf"):
        for skip in re.findall(r"checkov:skip=(.*)", path.read_text()):
            must(re.fullmatch(r"CKV2?_AWS_\d+: .{8,}", skip), f"{path.relative_to(CHECKOUT)}: a finding is passed over without a reason: {skip}")


# === What Terraform would make of it ===

# What only AWS knows, and must be known here.
KNOWN = {
    "data.aws_region.current.region": '"eu-central-1"',
    "data.aws_partition.current.partition": '"aws"',
    "data.aws_caller_identity.current.account_id": '"123456789012"',
    "[for subnet in data.aws_subnet.load_balancer : subnet.cidr_block]": '["10.0.0.0/24", "10.0.1.0/24"]',
}

EVALUATE = """
import json, sys, tfparse
print(json.dumps(tfparse.load_from_path(sys.argv[1], vars_paths=["terraform.tfvars.example"], stop_on_hcl_error=True), default=str))
"""


class Made:
    """Everything that an example makes with its tfvars, some of them in place of its own, evaluated."""

    def __init__(self, example: str, more: str = "") -> None:
        with tempfile.TemporaryDirectory(prefix="terraform-") as scratch:
            copy = Path(scratch) / "terraform"
            shutil.copytree(ROOT, copy)
            (copy / "examples/lambda/bootstrap.zip").write_bytes(b"")
            given = copy / "examples" / example / "terraform.tfvars.example"
            kept = given.read_text()
            for name in re.findall(r"^(\w+) *=", more, re.MULTILINE):
                kept = re.sub(rf"^{name} *=.*\n(?:[ \]}}].*\n)*", "", kept, flags=re.MULTILINE)
            given.write_text(kept + more)
            for path in copy.rglob("*.tf"):
                said = path.read_text()
                for unknown, known in KNOWN.items():
                    said = said.replace(unknown, known)
                path.write_text(said)
            self.blocks: dict[str, list[Block]] = json.loads(run(LINT / "python", "-c", EVALUATE, copy / "examples" / example))
        self.ids = {block["id"]: block["__tfmeta"]["path"] for blocks in self.blocks.values() for block in blocks if "id" in block}

    def one(self, kind: str, label: str) -> Block:
        found = [block for block in self.all(kind) if self.label(block) == label]
        must(len(found) == 1, f"there are {len(found)} {kind}.{label}")
        return found[0]

    def all(self, kind: str) -> list[Block]:
        return self.blocks.get(kind, [])

    @staticmethod
    def label(block: Block) -> str:
        """`edge` of `module.whitelistmcp.aws_ecs_service.edge`, `aws["ec2"]` of one of several."""
        return re.sub(r"^(?:module\.\w+\.)*(?:data\.)?\w+\.", "", block["__tfmeta"]["path"])

    def named(self, reference: Any) -> str:
        """The label of what a reference leads to; of an attribute that only AWS knows, its own."""
        if isinstance(reference, dict):
            return str(reference["__attribute__"])
        return re.sub(r"^.*\.", "", self.ids[reference]) if reference in self.ids else str(reference)


@cache
def made(example: str, more: str = "") -> Made:
    return Made(example, more)


def several(value: Any) -> list[Block]:
    return value if isinstance(value, list) else [value] if value else []


def containers(example: str, service: str) -> dict[str, Block]:
    text = made(example).one("aws_ecs_task_definition", service)["container_definitions"]
    must(text, f"{example}: the containers of {service} cannot be evaluated")
    return {container["name"]: container for container in json.loads(text)}


def variables(container: Block) -> dict[str, str]:
    return {one["name"]: one["value"] for one in container["environment"]}


def seconds(duration: str) -> int:
    must(re.fullmatch(r"\d+s", duration), f"{duration} is not so many seconds")
    return int(duration[:-1])


@check("ECS: three edges, rolled out without a gap and rolled back, on Spot over a base on demand; cores never on Spot")
def services() -> None:
    for example in ("ecs", "ecs/private"):
        edge, core = (made(example).one("aws_ecs_service", name) for name in ("edge", "core"))
        must(edge["desired_count"] == 3, f"{example}: {edge['desired_count']} edges")
        for service in (edge, core):
            rollout = service["deployment_maximum_percent"], service["deployment_minimum_healthy_percent"]
            must(rollout == (200, 100), f"{example}: {service['name']} is rolled out by {rollout}")
            must(service["force_new_deployment"] and service["wait_for_steady_state"], f"{example}: {service['name']} is replaced whole, or nobody waits for it")
            breaker = service["deployment_circuit_breaker"]
            must(breaker["enable"] and breaker["rollback"], f"{example}: {service['name']} is not rolled back")
            must(service["enable_execute_command"] is False, f"{example}: somebody can get into {service['name']}")
            must(service["network_configuration"]["assign_public_ip"] is False, f"{example}: {service['name']} is on the internet")
        strategy = {one["capacity_provider"]: one for one in several(edge["capacity_provider_strategy"])}
        must(set(strategy) == {"FARGATE", "FARGATE_SPOT"} and strategy["FARGATE"]["base"] >= 1, f"{example}: the edges' capacity is {strategy}")
        must([one["capacity_provider"] for one in several(core["capacity_provider_strategy"])] == ["FARGATE"], f"{example}: cores are on Spot")
        target = made(example).one("aws_appautoscaling_target", "edge")
        must(target["min_capacity"] == 3 <= target["max_capacity"], f"{example}: autoscaling goes from {target['min_capacity']}")
        metrics = {
            policy["target_tracking_scaling_policy_configuration"]["predefined_metric_specification"]["predefined_metric_type"]
            for policy in made(example).all("aws_appautoscaling_policy")
        }
        must(metrics == {"ALBRequestCountPerTarget", "ECSServiceAverageCPUUtilization"}, f"{example}: edges are scaled on {metrics}")


@check("ECS: a service waits for its role's right to read secrets, for every rule that lets its tasks out or in, and for the VPC endpoints")
def waits() -> None:
    resources = parsed(ROOT / "modules/ecs")["resource"]
    rules = {(kind, label): json.dumps(block) for kind in resources if "security_group_" in kind for label, [block] in resources[kind].items()}
    must(len(rules) > 10, "hardly any rules")
    for service, group in (("edge", "aws_security_group.edge."), ("core", "aws_security_group.core.")):
        [block] = resources["aws_ecs_service"][service]
        waited = {word.strip("${}") for word in block["depends_on"]}
        wanted = {f"{kind}.{label}" for (kind, label), said in rules.items() if group in said}
        wanted |= {f"aws_vpc_endpoint.{label}" for label in resources["aws_vpc_endpoint"]} | {"aws_iam_role_policy.execution", "aws_iam_role_policy_attachment.execution", "aws_ecs_cluster_capacity_providers.this"}
        must(wanted <= waited, f"{service} does not wait for {wanted - waited}")


@check("what would not do is refused before anything is made: a movable image, no way to S3, a Region that the endpoints do not reach, a file's name that is taken")
def refusals() -> None:
    def unmet(example: str, more: str = "") -> list[str]:
        blocks = [block for blocks in made(example, more).blocks.values() for block in blocks]
        conditions = [one for block in blocks for one in several(block.get("validation"))]
        conditions += [one for block in blocks if isinstance(block.get("lifecycle"), dict) for one in several(block["lifecycle"].get("precondition"))]
        must(conditions, f"{example}: nothing is refused")
        return sorted({one["error_message"] for one in conditions if one["condition"] is not True})

    for example in ("ecs", "ecs/private", "lambda"):
        must(not unmet(example), f"{example}: {unmet(example)}")
    elsewhere = 'accounts = [{ id = "111111111111", role_arn = "arn:aws:iam::111111111111:role/whitelistmcp-target", regions = ["eu-central-1", "us-east-1"] }]\n'
    for example, more, words in (
        ("ecs", 'files_image = "public.ecr.aws/docker/library/busybox:1.37.0"\n', "a tag that is moved"), ("ecs", 'image = "example/whitelistmcp:latest"\n', "other than latest"),
        ("ecs/private", "route_table_ids = []\n", "S3 gateway"), ("ecs/private", elsewhere, "this Region alone"),
        ("ecs/private", 'extra_files = { edge = { "sealing.key" = { secret_arn = "arn:aws:secretsmanager:eu-central-1:123456789012:secret:x" } } }\n', "which are there"),
    ):
        found = unmet(example, more)
        must(len(found) == 1 and words in found[0], f"{example}, {more.strip()}: {found}")
    # Where the tasks reach the internet they reach other Regions too.
    must(not unmet("ecs/private", elsewhere + 'issuer_networks = ["0.0.0.0/0"]\n'), "other Regions are refused that can be reached")


@check("ECS: every container is as small as it can be, asked how it is, and given the time that the service takes to end")
def tasks() -> None:
    for example in ("ecs", "ecs/private"):
        for service in ("edge", "core"):
            found = containers(example, service)
            container, files = found[service], found["files"]
            for one in found.values():
                must(one["readonlyRootFilesystem"] is True, f"{example}: {one['name']} can write to its root")
            must(container["user"] == "65532:65532" and container["linuxParameters"]["capabilities"] == {"drop": ["ALL"]}, f"{example}: {service} has power")
            must("CHOWN" not in files["linuxParameters"]["capabilities"]["drop"], f"{example}: files cannot be given away")
            must(container["command"] == [service], f"{example}: {service} runs {container['command']}")
            health = container["healthCheck"]
            asked = health["command"], health["interval"], health["timeout"], health["retries"]
            must(asked == (["CMD", "/usr/local/bin/whitelistmcp", "health"], 30, 10, 3), f"{example}: {service} is asked {asked}")
            must(container["dependsOn"] == [{"containerName": "files", "condition": "SUCCESS"}], f"{example}: {service} does not wait for its files")
            told = variables(container)
            ends = seconds(told["WHITELISTMCP_SHUTDOWN__LAME_DUCK"]) + seconds(told["WHITELISTMCP_SHUTDOWN__GRACE"])
            must(ends < container["stopTimeout"] <= 120, f"{example}: {service} takes {ends} s to end and is given {container['stopTimeout']} s")
            written = {mount["sourceVolume"] for mount in container["mountPoints"] if not mount["readOnly"]}
            must(written == ({"journal"} if service == "core" else set()), f"{example}: {service} writes to {written}")
        must(made(example).one("aws_service_discovery_service", "core")["health_check_custom_config"]["failure_threshold"] == 1, f"{example}: an edge finds cores that are not healthy")
        ttl = made(example).one("aws_service_discovery_service", "core")["dns_config"]["dns_records"]["ttl"]
        must(ttl < seconds(variables(containers(example, "core")["core"])["WHITELISTMCP_SHUTDOWN__LAME_DUCK"]), f"{example}: a core is gone before its name is")
        journal = next(volume for volume in several(made(example).one("aws_ecs_task_definition", "core")["volume"]) if volume["name"] == "journal")
        must(journal["efs_volume_configuration"]["transit_encryption"] == "ENABLED", f"{example}: the journal crosses the network in the clear")
        must("task_role_arn" not in made(example).one("aws_ecs_task_definition", "edge"), f"{example}: the edge has a role")
        access = made(example).one("aws_efs_access_point", "journal")
        must((access["posix_user"]["uid"], access["posix_user"]["gid"]) == (65532, 65532), f"{example}: the journal is somebody else's")
        must(made(example).one("aws_efs_file_system", "journal")["encrypted"] is True, f"{example}: the journal is not encrypted")


@check("ECS: ports, paths and names agree from the client to the core")
def agreement() -> None:
    for example in ("ecs", "ecs/private"):
        edge, core = variables(containers(example, "edge")["edge"]), variables(containers(example, "core")["core"])
        port, inner = edge["WHITELISTMCP_EDGE__LISTEN"].rpartition(":")[2], core["WHITELISTMCP_CORE__LISTEN"].rpartition(":")[2]
        must((port, inner) == ("8080", "8443"), f"{example}: the edge listens on {port}, the core on {inner}")
        group, balancer, listener = (made(example).one(f"aws_lb{kind}", name) for kind, name in (("_target_group", "edge"), ("", "edge"), ("_listener", "https")))
        must((str(group["port"]), group["protocol"], group["target_type"]) == (port, "HTTPS", "ip"), f"{example}: the balancer calls {group['protocol']} {group['port']}")
        must((group["health_check"]["path"], group["health_check"]["protocol"]) == ("/livez", "HTTPS"), f"{example}: the balancer asks {group['health_check']}")
        must(balancer["xff_header_processing_mode"] == "append" and balancer["drop_invalid_header_fields"] and balancer["preserve_host_header"], f"{example}: headers are not kept")
        must(25 < balancer["idle_timeout"] < 300, f"{example}: connections that are silent for {balancer['idle_timeout']} s are closed by the wrong side")
        must("TLS13-1-3" in listener["ssl_policy"] and listener["protocol"] == "HTTPS", f"{example}: clients speak {listener['ssl_policy']}")
        must(balancer["internal"] is (example == "ecs/private"), f"{example}: internal is {balancer['internal']}")
        must(balancer["access_logs"]["enabled"], f"{example}: the balancer keeps no log")
        proxies = json.loads(edge["WHITELISTMCP_EDGE__TRUSTED_PROXIES"])
        must(proxies == ["10.0.0.0/24", "10.0.1.0/24"], f"{example}: {proxies} are believed, and not the balancer's subnets")
        registered, namespace = made(example).one("aws_service_discovery_service", "core"), made(example).one("aws_service_discovery_private_dns_namespace", "core")
        must(edge["WHITELISTMCP_EDGE__BACKEND__ADDRESS"] == f"{registered['name']}.{namespace['name']}:{inner}", f"{example}: the edge looks for {edge['WHITELISTMCP_EDGE__BACKEND__ADDRESS']}")
        peer = core["WHITELISTMCP_CORE__PEERS"]
        [identity] = re.findall(r'"san"="([^"]*)","role"="edge"|"role"="edge","san"="([^"]*)"', peer)
        command = f"core={registered['name']}.{namespace['name']} edge={''.join(identity)}"
        must(command in (CHECKOUT / "docs/deploy/ecs.md").read_text(), f"{example}: docs/deploy/ecs.md makes certificates for others than {command}")
        for service, port in (("edge", "8080"), ("core", "8443")):
            mapped = [str(one["containerPort"]) for one in containers(example, service)[service]["portMappings"]]
            must(mapped == [port], f"{example}: {service} opens {mapped}")
        mount = next(one for one in containers(example, "core")["core"]["mountPoints"] if one["sourceVolume"] == "journal")
        must(Path(mount["containerPath"]) in Path(core["WHITELISTMCP_AUDIT__DIRECTORY"]).parents, f"{example}: the journal is not on its volume")


def rules(example: str, more: str = "") -> set[tuple[str, str, int, str]]:
    """Who may reach whom on which port: by name of the security group, or the network."""
    found = set()
    for direction in ("ingress", "egress"):
        for rule in made(example, more).all(f"aws_vpc_security_group_{direction}_rule"):
            other = rule.get("referenced_security_group_id") or rule.get("prefix_list_id") or rule["cidr_ipv4"]
            own, other = made(example, more).named(rule["security_group_id"]), made(example, more).named(other)
            must(rule["from_port"] == rule["to_port"] and rule["ip_protocol"] == "tcp", f"{example}: {rule['description']} opens more than one port")
            found.add((own, "from" if direction == "ingress" else "to", rule["from_port"], other))
    return found


@check("ECS: only clients reach the balancer, only it the edge, only the edge the core, only the core the journal")
def reach() -> None:
    everywhere = {
        ("load_balancer", "to", 8080, "edge"), ("edge", "from", 8080, "load_balancer"), ("edge", "to", 8443, "core"), ("core", "from", 8443, "edge"),
        ("core", "to", 2049, "journal"), ("journal", "from", 2049, "core"),
    }
    public = everywhere | {("load_balancer", "from", 443, "0.0.0.0/0"), ("edge", "to", 443, "0.0.0.0/0"), ("core", "to", 443, "0.0.0.0/0")}
    must(rules("ecs") == public, f"ecs: {rules('ecs') ^ public}")
    private = everywhere | {("load_balancer", "from", 443, "10.0.0.0/8")}
    for task in ("edge", "core"):
        private |= {
            (task, "to", 443, "198.51.100.0/24"), (task, "to", 443, "endpoints[0]"), ("endpoints[0]", "from", 443, task), (task, "to", 6379, "sg-0fedcba9876543210"),
            ("sg-0fedcba9876543210", "from", 6379, task),
            (task, "to", 443, "aws_vpc_endpoint.s3.[0].prefix_list_id"),
        }
    must(rules("ecs/private") == private, f"ecs/private: {rules('ecs/private') ^ private}")
    endpoints = {one["service_name"].removeprefix("com.amazonaws.eu-central-1.") for one in made("ecs/private").all("aws_vpc_endpoint")}
    must(endpoints == {"ec2", "sts", "logs", "ecr.api", "ecr.dkr", "secretsmanager", "s3"}, f"ecs/private: endpoints {endpoints}")
    must(not made("ecs").all("aws_vpc_endpoint"), "ecs: there are endpoints")


# What EC2 takes in the descriptions of groups and their rules.
DESCRIPTION = re.compile(r"[a-zA-Z0-9 ._\-:/()#,@\[\]+=&;{}!$*]{1,255}")


@check("EC2 takes the description of every security group and rule")
def described() -> None:
    for example in ("ecs", "ecs/private", "lambda"):
        kinds = ("aws_security_group", "aws_vpc_security_group_ingress_rule", "aws_vpc_security_group_egress_rule")
        said = {block["description"] for kind in kinds for block in made(example).all(kind)}
        must(len(said) > 4, f"{example}: {said}")
        wrong = [words for words in said if not DESCRIPTION.fullmatch(words)]
        must(not wrong, f"{example}: EC2 refuses {wrong}")


@check("ECS: the page on cost counts the tasks, their size and the endpoints that there are")
def counted() -> None:
    page = (CHECKOUT / "docs/deploy/cost.md").read_text()
    numbers = {2: "two", 3: "three", 6: "six"}
    edges, cores = (made("ecs").one("aws_ecs_service", name)["desired_count"] for name in ("edge", "core"))
    sizes = {(int(task["cpu"]), int(task["memory"])) for task in made("ecs").all("aws_ecs_task_definition")}
    must(len(sizes) == 1, f"ecs: tasks are of {sizes}")
    [(cpu, memory)] = sizes
    must(f"{numbers[edges]} edges and {numbers[cores]} cores of {cpu / 1024:g} vCPU and {memory} MiB" in page, f"docs/deploy/cost.md: there are {edges} edges and {cores} cores of {cpu} and {memory}")
    # What was measured, on the same page, must fit into it.
    measured = [float(size) for size in re.findall(r"^\| (?:edge|core) \| \d+ ms \| [\d.]+ MiB \([^)]*\) \| ([\d.]+) MiB", page, re.MULTILINE)]
    must(len(measured) == 2 and max(measured) * 4 <= memory, f"docs/deploy/cost.md: {measured} MiB were measured, and a task has {memory}")
    endpoints = {one["service_name"].removeprefix("com.amazonaws.eu-central-1.") for one in made("ecs/private").all("aws_vpc_endpoint") if one["vpc_endpoint_type"] == "Interface"}
    [(count, told)] = re.findall(r"interface endpoints \| (\w+) \(([^)]*)\)", page)
    must(set(re.findall(r"`([\w.]+)`", told)) == endpoints and count == numbers[len(endpoints)], f"docs/deploy/cost.md: there are {sorted(endpoints)}")


def powers(example: str, role: str) -> tuple[list[str], list[str]]:
    """The names of a role's own policies, and the ARNs of those that are attached to it."""
    def of(kind: str, argument: str) -> list[str]:
        # A policy names its role by id or by name, and so by reference or in words.
        names = {role, made(example).one("aws_iam_role", role)["name"]}
        return [block[argument] for block in made(example).all(kind) if made(example).named(block["role"]) in names]

    must(made(example).one("aws_iam_role", role).get("managed_policy_arns") is None and "inline_policy" not in made(example).one("aws_iam_role", role), f"{example}: {role} has policies inside")
    return of("aws_iam_role_policy", "name"), of("aws_iam_role_policy_attachment", "policy_arn")


BASE = ["sts:AssumeRole", "sts:TagSession", "sts:SetSourceIdentity"]


@check("the base roles may assume the target roles and nothing else, whoever lends them")
def base_roles() -> None:
    target = ["arn:aws:iam::111111111111:role/whitelistmcp-target"]
    for example, document in (("ecs", "core"), ("ecs/private", "core"), ("federation-google", "core"), ("federation-azure", "core")):
        statements = several(made(example).one("aws_iam_policy_document", document)["statement"])
        found = [(one["effect"], one["actions"], one["resources"]) for one in statements]
        must(found == [("Allow", BASE, target)], f"{example}: the base role may {found}")
        # And nothing comes to it from elsewhere: one policy of its own, none of anybody else's.
        own, managed = powers(example, "core")
        must(own == ["base"] and not managed, f"{example}: the base role has {own} and {managed}")
    of_lambda = {one["sid"]: one for one in several(made("lambda").one("aws_iam_policy_document", "this")["statement"])}
    allowed = {sid: sorted(one["actions"]) for sid, one in of_lambda.items()}
    must(allowed == {
        "BorrowTheTargetRoles": sorted(BASE), "Log": ["logs:CreateLogStream", "logs:PutLogEvents"], "Journal": ["elasticfilesystem:ClientMount", "elasticfilesystem:ClientWrite"],
        "Interfaces": [
            "ec2:AssignPrivateIpAddresses", "ec2:CreateNetworkInterface", "ec2:DeleteNetworkInterface", "ec2:DescribeNetworkInterfaces", "ec2:DescribeSubnets",
            "ec2:UnassignPrivateIpAddresses",
        ],
        "InterfacesAreLambdasAlone": ["ec2:*"],
    }, f"lambda: the role may {allowed}")
    must({sid for sid, one in of_lambda.items() if one["effect"] == "Deny"} == {"InterfacesAreLambdasAlone"}, "lambda: what is denied is something else")
    must(of_lambda["Journal"]["condition"]["variable"] == "elasticfilesystem:AccessPointArn", "lambda: the journal is mounted by anything")
    must(powers("lambda", "this") == (["base"], []), f"lambda: the base role has {powers('lambda', 'this')}")
    must((of_lambda["BorrowTheTargetRoles"]["actions"], of_lambda["BorrowTheTargetRoles"]["resources"]) == (BASE, target), "lambda: the base role")
    denied = of_lambda["InterfacesAreLambdasAlone"]
    must((denied["effect"], denied["actions"], denied["condition"]["variable"]) == ("Deny", ["ec2:*"], "lambda:SourceFunctionArn"), "lambda: the code may use the interfaces")
    functions = {f"arn:aws:lambda:eu-central-1:123456789012:function:{one['function_name']}" for one in made("lambda").all("aws_lambda_function")}
    must(set(denied["condition"]["values"]) == functions and len(functions) == 2, f"lambda: {denied['condition']['values']} are not {functions}")


@check("federation: one identity of one audience is believed, on Google by azp, aud and sub, on Azure by aud and sub")
def federation() -> None:
    def conditions(example: str) -> tuple[Any, dict[str, list[str]]]:
        statement = made(example).one("aws_iam_policy_document", "trust")["statement"]
        must(isinstance(statement, dict) and statement["actions"] == ["sts:AssumeRoleWithWebIdentity"], f"{example}: {statement}")
        must(all(one["test"] == "StringEquals" for one in several(statement["condition"])), f"{example}: a condition that is no equality")
        return statement["principals"]["identifiers"], {one["variable"]: one["values"] for one in several(statement["condition"])}

    identifiers, google = conditions("federation-google")
    account = ["123456789012345678901"]
    must(identifiers == ["accounts.google.com"], f"google: {identifiers}")
    must(google == {"accounts.google.com:aud": account, "accounts.google.com:oaud": ["https://whitelist.example.com/aws"], "accounts.google.com:sub": account}, f"google: {google}")
    identifiers, azure = conditions("federation-azure")
    issuer = "sts.windows.net/00000000-0000-4000-8000-000000000001/"
    must(azure == {f"{issuer}:aud": ["api://00000000-0000-4000-8000-000000000001/whitelistmcp-aws"], f"{issuer}:sub": ["00000000-0000-4000-8000-000000000002"]}, f"azure: {azure}")
    provider = made("federation-azure").all("aws_iam_openid_connect_provider")[0]
    must((provider["url"], provider["client_id_list"]) == (f"https://{issuer}", ["api://00000000-0000-4000-8000-000000000001/whitelistmcp-aws"]), f"azure: {provider['url']}")
    must(not made("federation-google").all("aws_iam_openid_connect_provider"), "google: AWS knows accounts.google.com by itself")
    # The same as JSON, for those without Terraform.
    for cloud, wanted in (("cloud-run", google), ("azure", azure)):
        [statement] = json.loads((DEPLOY / cloud / "trust.json").read_text())["Statement"]
        found = {name: [value] for name, value in statement["Condition"]["StringEquals"].items()}
        must(found == wanted and statement["Action"] == "sts:AssumeRoleWithWebIdentity", f"{cloud}/trust.json: {found}")
        must(statement["Principal"]["Federated"].endswith("accounts.google.com" if cloud == "cloud-run" else issuer), f"{cloud}/trust.json: {statement['Principal']}")


@check("taking it down leaves the journal with all that keeps it: its key, its backups, and the policy and access point that guard it")
def kept() -> None:
    resources = parsed(ROOT / "modules/journal")["resource"]
    for name in ("ecs", "lambda"):
        [journal] = parsed(ROOT / "modules" / name)["module"]["journal"]
        must(journal["source"] == "../journal", f"{name}: the journal is {journal['source']}")
        keep = {f"{kind}.{label}" for kind, named in resources.items() for label, [block] in named.items() if any(one.get("prevent_destroy") for one in block.get("lifecycle", []))}
        must("aws_efs_file_system.journal" in keep, f"{name}: `destroy` takes the journal")
        # A policy that lets in by an access point alone is no use without that one.
        keep |= {f"{kind}.journal" for kind in ("aws_efs_backup_policy", "aws_efs_file_system_policy", "aws_efs_access_point")}
        must(all(one.partition(".")[0] in resources for one in keep), f"{name}: {keep} are not all there")
        page = (CHECKOUT / f"docs/deploy/{name}.md").read_text().replace("\\\n", " ")
        removed = re.findall(r"^terraform \S+ state rm (.*)$", page, re.MULTILINE)
        told = {word.removeprefix("module.whitelistmcp.module.journal.") for word in " ".join(removed).split()}
        must(told == keep, f"docs/deploy/{name}.md: `state rm` names {sorted(told)}, and {sorted(keep)} must stay")
        back = set(re.findall(r"^terraform \S+ import \$kept\.(\S+) ", page, re.MULTILINE))
        must(back == keep and "kept=module.whitelistmcp.module.journal\n" in page, f"docs/deploy/{name}.md: brings back {sorted(back)}, and {sorted(keep)} stayed")
        token = made(name).one("aws_efs_file_system", "journal")["creation_token"]
        must(f"--creation-token {token} " in page, f"docs/deploy/{name}.md: looks for another file system than {token}")
        before = page.partition("state rm")[0]
        must("aws backup start-backup-job" in before, f"docs/deploy/{name}.md: no last backup")


@check("the journal's file system lets in by its access point and by TLS alone, on Lambda as on ECS, and the service waits until it does")
def guarded() -> None:
    for example, service in (("ecs", "ecs_service"), ("ecs/private", "ecs_service"), ("lambda", "lambda_function")):
        statements = {one["sid"]: one for one in several(made(example).one("aws_iam_policy_document", "journal")["statement"])}
        must(set(statements) == {"ByTheAccessPoint", "ByTlsAlone"}, f"{example}: the file system's policy says {sorted(statements)}")
        allowed, denied = statements["ByTheAccessPoint"], statements["ByTlsAlone"]
        must((allowed["effect"], allowed["actions"]) == ("Allow", ["elasticfilesystem:ClientMount", "elasticfilesystem:ClientWrite"]), f"{example}: {allowed}")
        asked = {one["variable"]: made(example).named(one["values"][0]) for one in several(allowed["condition"])}
        must(set(asked) == {"elasticfilesystem:AccessPointArn", "elasticfilesystem:AccessedViaMountTarget"}, f"{example}: it lets in by {asked}")
        must((denied["effect"], denied["actions"], denied["condition"]["variable"], denied["condition"]["values"]) == ("Deny", ["*"], "aws:SecureTransport", ["false"]), f"{example}: {denied}")
        made(example).one("aws_efs_file_system_policy", "journal")
        for label, [block] in parsed(ROOT / "modules" / example.partition("/")[0])["resource"][f"aws_{service}"].items():
            must(label == "edge" or "${module.journal}" in block["depends_on"], f"{example}: {label} is started before its journal can be reached")


@check("ECS and Lambda fit beside each other in one account: no name that an account has once is given twice")
def apart() -> None:
    once = {"aws_iam_role": "name", "aws_kms_alias": "name", "aws_efs_file_system": "creation_token", "aws_cloudwatch_log_group": "name"}
    names = {example: {block[argument] for kind, argument in once.items() for block in made(example).all(kind)} for example in ("ecs", "lambda")}
    must(all(len(found) >= 4 for found in names.values()) and not names["ecs"] & names["lambda"], f"both are called {names['ecs'] & names['lambda']}")


@check("ECS: the page verifies the journal where the cores write it, by a kept half of its key that the task has")
def verified() -> None:
    page = (CHECKOUT / "docs/deploy/ecs.md").read_text()
    [(directory, key)] = re.findall(r'"audit","verify","--directory","([^"]+)","--key","([^"]+)"', page)
    must(directory == variables(containers("ecs", "core")["core"])["WHITELISTMCP_AUDIT__DIRECTORY"], f"the page looks in {directory}")
    [given] = re.findall(r'^extra_files = \{ core = \{ "([^"]+)"', page, re.MULTILINE)
    must(key == f"/etc/whitelistmcp/{given}", f"the page verifies by {key}, and gives {given}")


# === The services take what they are told ===


def certificates(directory: Path, core: str) -> None:
    run(BINARY, "certs", "--directory", directory, f"core={core}", "edge=spiffe://example.org/edge,localhost")
    key = run(BINARY, "audit", "key", "--out", directory / "journal.pem")
    must("PUBLIC KEY" in key, "no key was made")


@check("ECS: what your own CA signs by the pages' recipe is good for core and edge, and without serverAuth the edge's is not")
def own_ca() -> None:
    page = (CHECKOUT / "docs/deploy/ecs.md").read_text()
    recipe = re.search(r"## Your own CA\n.*?```sh runs\n(.*?)```", (CHECKOUT / "docs/deploy/certificates.md").read_text(), re.DOTALL)[1]
    for name in ("core", "edge"):
        (line,) = re.findall(rf"^printf .* > pki/{name}\.ext$", page, re.MULTILINE)
        recipe, count = re.subn(rf"^printf .* > pki/{name}\.ext$", lambda _: line, recipe, flags=re.MULTILINE)
        must(count == 1, f"certificates.md has no recipe for {name}")
    for words, fails in ((recipe, False), (recipe.replace("clientAuth,serverAuth", "clientAuth"), True)):
        with tempfile.TemporaryDirectory(prefix="ecs-") as scratch:
            etc, var = Path(scratch) / "etc", Path(scratch) / "var"
            etc.mkdir(), var.mkdir()
            run("bash", "-euo", "pipefail", "-c", words, cwd=Path(scratch))
            (Path(scratch) / "pki").rename(etc / "certs")
            for key in (etc / "certs").glob("*.key"):
                key.chmod(0o600)
            (etc / "sealing.key").write_text("ab" * 32)
            run(BINARY, "audit", "key", "--out", etc / "journal.pem")
            for service in ("core", "edge"):
                told = {key: value.replace("/etc/whitelistmcp", str(etc)).replace("/var/lib/whitelistmcp", str(var)) for key, value in variables(containers("ecs", service)[service]).items()}
                if fails and service == "edge":
                    said = run("env", "-i", *(f"{name}={value}" for name, value in told.items()), BINARY, "check", fails=True)
                    must("serverAuth" in said, said)
                else:
                    said = sound(told)
                    must("The configuration is sound." in said, said)


def sound(environment: dict[str, str]) -> str:
    """What `whitelistmcp check` says of exactly these variables."""
    return run("env", "-i", *(f"{name}={value}" for name, value in environment.items()), BINARY, "check")


@check("ECS: the first container writes what the services read, and both configurations are sound, in exactly these variables")
def told() -> None:
    for example in ("ecs", "ecs/private"):
        name = variables(containers(example, "edge")["edge"])["WHITELISTMCP_EDGE__BACKEND__ADDRESS"].rpartition(":")[0]
        with tempfile.TemporaryDirectory(prefix="ecs-") as scratch:
            secrets = Path(scratch) / "secrets"
            certificates(secrets, name)
            values = {"SEALING_KEY": "ab" * 32, "SIGNING_KEY": (secrets / "journal.pem").read_text(), "REDIS_PASSWORD": "a-password", "CA": (secrets / "ca.pem").read_text()}
            for service in ("edge", "core"):
                found = containers(example, service)
                files, container = found["files"], found[service]
                etc, var = Path(scratch) / service / "etc", Path(scratch) / service / "var"
                etc.mkdir(parents=True), var.mkdir()
                given = values | {"CERTIFICATE": (secrets / f"{service}.pem").read_text(), "KEY": (secrets / f"{service}.key").read_text()}
                given |= {one["name"]: "cd" * 32 for one in files["secrets"] if one["name"].startswith("FILE_")}
                # ECS hands a JSON key's text on as it is; a shell's variables have no line feed at their end here either.
                environment = {one["name"]: given[one["name"]].strip() for one in files["secrets"]} | variables(files) | {"FILES": str(etc)}
                # Nobody can be given files by who is not root: what `chown` would be told is looked at below.
                programs = Path(scratch) / "programs"
                programs.mkdir(exist_ok=True)
                (programs / "chown").write_text('#!/bin/sh\nprintf "%s\\n" "$@" > "$FILES.owned"\n')
                (programs / "chown").chmod(0o755)
                run("env", "-i", f"PATH={programs}:{os.environ['PATH']}", *(f"{key}={value}" for key, value in environment.items()), *files["command"])
                owned = Path(f"{etc}.owned").read_text().split()
                must(owned[0] == "65532:65532" and owned[-1] == ".", f"{example}: files of {service} are given to {owned[0]}, {owned[-1]} last")
                inside = {str(path.relative_to(etc)) for path in etc.rglob("*")}
                given_away = {word.removeprefix("./") for word in owned[1:]} - {"."}
                must(inside == given_away, f"{example}: {inside ^ given_away} of {service} are root's")
                # Root without DAC_OVERRIDE cannot reach into a directory that it has given away.
                must(max(at for at, word in enumerate(owned) if word.startswith("certs/")) < owned.index("./certs"), f"{example}: a directory of {service} is given away before what is in it")
                must(all(path.stat().st_mode & 0o077 == 0 for path in etc.rglob("*")), f"{example}: files of {service} can be read by others")
                told = {key: value.replace("/etc/whitelistmcp", str(etc)).replace("/var/lib/whitelistmcp", str(var)) for key, value in variables(container).items()}
                said = sound(told)
                must("The configuration is sound." in said, said)
                read = {value.removeprefix("/etc/whitelistmcp/") for value in variables(container).values() if value.startswith("/etc/whitelistmcp/")}
                must(read <= inside, f"{example}: {service} is not given {read - inside}")
                if example == "ecs/private":
                    keys = {"edge": {"login.key"}, "core": {"approvals.key", "cache.key"}}[service]
                    must(keys <= read and all((etc / key).read_text() == "cd" * 32 + "\n" for key in keys), f"{example}: {service} has not its own files")
                    # What a file's secret is, and what the role that starts the task may read.
                    [role] = [one for one in made(example).all("aws_iam_policy_document") if made(example).label(one) == f'execution["{service}"]']
                    [readable] = [one["resources"] for one in several(role["statement"]) if one["sid"] == "Secrets"]
                    told = {":".join(one["valueFrom"].split(":")[:7]) for one in files["secrets"]}
                    must(told == set(readable), f"{example}: {service} starts with {told}, and may read {readable}")


@check("Lambda: the URL is open to tokens alone, rounds have a function of their own that no stranger reaches, and the configuration is sound in exactly these variables")
def function() -> None:
    def one(kind: str, label: str) -> Block:
        return made("lambda").one(f"aws_{kind}", label)

    function, rounds = (one("lambda_function", f'this["{name}"]') for name in ("calls", "rounds"))
    must((function["runtime"], function["handler"], function["timeout"]) == ("provided.al2023", "bootstrap", 30), "lambda: the function")
    must(function["reserved_concurrent_executions"] == 10, "lambda: as many calls at once as there are")
    must(one("lambda_function_url", "this")["authorization_type"] == "NONE", "lambda: the URL wants AWS's signature")
    permissions = {made("lambda").label(block): (block["action"], block["principal"]) for block in made("lambda").all("aws_lambda_permission")}
    must(permissions == {
        "url": ("lambda:InvokeFunctionUrl", "*"), "function_by_url": ("lambda:InvokeFunction", "*"), "round[0]": ("lambda:InvokeFunction", "events.amazonaws.com"),
    }, f"lambda: {permissions}")
    text = (ROOT / "modules/lambda/alarms.tf").read_text() + (ROOT / "modules/lambda/function.tf").read_text()

    def function_of(kind: str, label: str) -> str:
        """Which of the two functions a block names."""
        [block] = re.findall(rf'^resource "aws_{kind}" "{label.removesuffix("[0]")}" {{$.*?^}}$', text, re.MULTILINE | re.DOTALL)
        [name] = re.findall(r'aws_lambda_function\.this\["(\w+)"\]', block)
        return str(name)

    led = {label: function_of("lambda_permission", label) for label in permissions}
    must(led == {"url": "calls", "function_by_url": "calls", "round[0]": "rounds"} and function_of("lambda_function_url", "this") == "calls", f"lambda: {led}")
    must(function_of("cloudwatch_event_target", "round") == function_of("lambda_function_event_invoke_config", "round") == "rounds", "lambda: the schedule runs the calls' function")
    must(rounds["reserved_concurrent_executions"] == 1, "lambda: rounds have no execution of their own")

    def plain(value: Any) -> Any:
        """Without the ids that the evaluation gives to blocks."""
        return {key: plain(inner) for key, inner in value.items() if key not in ("id", "__tfmeta")} if isinstance(value, dict) else value

    differs = {name for name in plain(function) | plain(rounds) if plain(function.get(name)) != plain(rounds.get(name))}
    must(differs == {"function_name", "description", "reserved_concurrent_executions"}, f"lambda: the two functions differ in {differs}")
    watched = sorted(
        (function_of("cloudwatch_metric_alarm", made("lambda").label(alarm)), alarm["metric_name"], alarm["treat_missing_data"]) for alarm in made("lambda").all("aws_cloudwatch_metric_alarm")
    )
    must(watched == [
        ("calls", "Throttles", "notBreaching"), ("rounds", "Errors", "notBreaching"), ("rounds", "Invocations", "breaching"), ("rounds", "Throttles", "notBreaching"),
    ], f"lambda: the alarms watch {watched}")
    must(one("lambda_permission", "function_by_url")["invoked_via_function_url"] is True, "lambda: anybody may invoke the function")
    must(one("cloudwatch_event_rule", "round[0]")["schedule_expression"] == "rate(1 minute)", "lambda: the schedule")
    environment = function["environment"]["variables"]
    must(environment["MCP_MODE"] == "serverless", "lambda: the mode")
    mount = Path(function["file_system_config"]["local_mount_path"])
    must(mount in Path(environment["WHITELISTMCP_AUDIT__DIRECTORY"]).parents and mount.parts[1] == "mnt", "lambda: the journal is not on its volume")
    with tempfile.TemporaryDirectory(prefix="lambda-") as scratch:
        # Lambda itself does TLS; where there is no Lambda, loopback stands in for it.
        told = {key: value.replace(str(mount), scratch) for key, value in environment.items() if key != "MCP_MODE"}
        said = sound(told | {"WHITELISTMCP_CONFIG": "/dev/null", "WHITELISTMCP_EDGE__LISTEN": "127.0.0.1:8080", "WHITELISTMCP_EDGE__PLAINTEXT": "true"})
        must("The configuration is sound." in said, said)


# A core that is elsewhere, as docs/deploy/lambda.md says it.
ELSEWHERE = """
environment = {
  WHITELISTMCP_AUDIT__DIRECTORY           = null
  WHITELISTMCP_EDGE__BACKEND__ADDRESS     = "core.whitelistmcp.internal:8443"
  WHITELISTMCP_EDGE__BACKEND__CERTIFICATE = "/opt/edge.pem"
  WHITELISTMCP_EDGE__BACKEND__KEY         = "/opt/edge.key"
  WHITELISTMCP_EDGE__BACKEND__CA          = "/opt/ca.pem"
}
layer_arns = ["arn:aws:lambda:eu-central-1:123456789012:layer:whitelistmcp-edge:1"]
reaches    = { core = { security_group_id = "sg-0fedcba9876543210", port = 8443 } }
rounds     = false
"""


@check("Lambda: the functions reach their journal, HTTPS and what `reaches` names, which lets them in; with the core elsewhere there are no rounds and no journal of their own")
def elsewhere() -> None:
    own = {("function", "to", 2049, "journal"), ("journal", "from", 2049, "function"), ("function", "to", 443, "0.0.0.0/0")}
    must(rules("lambda") == own, f"lambda: {rules('lambda') ^ own}")
    core = {("function", "to", 8443, "sg-0fedcba9876543210"), ("sg-0fedcba9876543210", "from", 8443, "function")}
    must(rules("lambda", ELSEWHERE) == own | core, f"lambda: {rules('lambda', ELSEWHERE) ^ (own | core)}")
    edge = made("lambda", ELSEWHERE)
    [function] = edge.all("aws_lambda_function")
    left = edge.all("aws_cloudwatch_event_rule") + edge.all("aws_cloudwatch_event_target") + edge.all("aws_lambda_function_event_invoke_config")
    must(not left and [alarm["metric_name"] for alarm in edge.all("aws_cloudwatch_metric_alarm")] == ["Throttles"], f"lambda: of the rounds there is {left}")
    [layer] = function["layers"]
    must("whitelistmcp-edge" in layer, f"lambda: the layer is {layer}")
    told = function["environment"]["variables"]
    must("WHITELISTMCP_AUDIT__DIRECTORY" not in told, "lambda: an edge alone has a journal")
    with tempfile.TemporaryDirectory(prefix="lambda-") as scratch:
        certificates(Path(scratch), "core.whitelistmcp.internal")
        here = {key: value.replace("/opt", scratch) for key, value in told.items() if key != "MCP_MODE"}
        said = sound(here | {"WHITELISTMCP_CONFIG": "/dev/null", "WHITELISTMCP_EDGE__LISTEN": "127.0.0.1:8080", "WHITELISTMCP_EDGE__PLAINTEXT": "true"})
        must("The configuration is sound." in said, said)
    page = (CHECKOUT / "docs/deploy/lambda.md").read_text()
    must(ELSEWHERE.strip() in page, "docs/deploy/lambda.md says otherwise how the core is elsewhere")


def refused(words: str, environment: dict[str, str]) -> None:
    try:
        sound(environment)
    except Wrong as wrong:
        must(words in str(wrong), str(wrong))
    else:
        raise Wrong(f"a configuration passes that must not: {words}")


@check("a variable that the product does not know would be found")
def unknown() -> None:
    refused("WHITELISTMCP_EDGE__TRUSTED_PROXY", {"WHITELISTMCP_CONFIG": "/dev/null", "WHITELISTMCP_EDGE__TRUSTED_PROXY": "10.0.0.0/8"})


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


@check("ECS: a core and an edge start from these variables and certificates, find each other by mTLS, are ready, and say so to the health check")
def rehearsal() -> None:
    with tempfile.TemporaryDirectory(prefix="ecs-") as scratch:
        etc, var, port, inner = Path(scratch) / "etc", Path(scratch) / "var", free_port(), free_port()
        etc.mkdir(), var.mkdir()
        address = variables(containers("ecs", "edge")["edge"])["WHITELISTMCP_EDGE__BACKEND__ADDRESS"]
        certificates(etc / "certs", address.rpartition(":")[0])
        (etc / "certs/journal.pem").rename(etc / "journal.pem")
        (etc / "sealing.key").write_text("ab" * 32)
        # Loopback in the place of the VPC: the name that is looked for stays.
        here = {
            "edge": {
                "WHITELISTMCP_EDGE__LISTEN": f"127.0.0.1:{port}", "WHITELISTMCP_HEALTH__LISTEN": f"127.0.0.1:{free_port()}",
                "WHITELISTMCP_EDGE__BACKEND__ADDRESS": f"127.0.0.1:{inner}", "WHITELISTMCP_EDGE__BACKEND__SERVER_NAME": address.rpartition(":")[0],
            },
            "core": {
                "WHITELISTMCP_CORE__LISTEN": f"127.0.0.1:{inner}", "WHITELISTMCP_HEALTH__LISTEN": f"127.0.0.1:{free_port()}",
                "WHITELISTMCP_AUDIT__VOLUME": "persistent", "WHITELISTMCP_HEALTH__SELF_TEST": "off", "WHITELISTMCP_LEASES__CLOSE": "false",
                "WHITELISTMCP_LEASES__DISCOVER": "false", "AWS_ACCESS_KEY_ID": "nobody", "AWS_SECRET_ACCESS_KEY": "nobody",
            },
        }
        trust = ssl.create_default_context(cafile=str(etc / "certs/ca.pem"))
        running: list[subprocess.Popen[bytes]] = []
        said, asked = "", ""
        try:
            for service in ("core", "edge"):
                container = containers("ecs", service)[service]
                told = {name: value.replace("/etc/whitelistmcp", str(etc)).replace("/var/lib/whitelistmcp", str(var)) for name, value in variables(container).items()}
                told = {name: value for name, value in told.items() if not name.startswith("OTEL_")} | here[service] | {"WHITELISTMCP_SHUTDOWN__LAME_DUCK": "0s"}
                with open(Path(scratch) / f"{service}.log", "wb") as log:
                    running.append(subprocess.Popen([BINARY, *container["command"]], env=told, stdin=subprocess.DEVNULL, stdout=log, stderr=log))
                here[service] = told
            for _ in range(200):
                try:
                    connection = http.client.HTTPSConnection("localhost", port, timeout=5, context=trust)
                    connection.request("GET", "/readyz")
                    answer = connection.getresponse()
                    said = f"{answer.status} {answer.read().decode()}"
                    if answer.status == 200:
                        break
                except OSError as wrong:
                    said = str(wrong)
                time.sleep(0.1)
            for service in ("core", "edge"):
                # The container's own question, in the container's own variables.
                command = [BINARY, *containers("ecs", service)[service]["healthCheck"]["command"][2:]]
                done = subprocess.run(command, env=here[service], capture_output=True, text=True, timeout=10)
                asked += "" if done.returncode == 0 else f"{service}: {done.stdout}{done.stderr}"
        finally:
            for process in running:
                process.terminate()
            ends = [process.wait(60) for process in running]
        logs = "\n".join((Path(scratch) / f"{service}.log").read_text()[-2000:] for service in ("core", "edge"))
        must(said.startswith("200 "), f"the edge says {said}\n{logs}")
        must(not asked, f"the health check says {asked}")
        must(ends == [0, 0], f"they end with {ends}\n{logs}")
