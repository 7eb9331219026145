"""The function behind API Gateway: osls makes CloudFormation of serverless.yml, cfn-lint judges it, and what API Gateway would say by
itself is compared with what the edge says.
"""

import http.client
import json
import os
import re
import shutil
import socket
import subprocess
import tempfile
import time
import zipfile
from functools import cache
from pathlib import Path
from typing import Any

from .judge import BINARY, DEPLOY, LINT, NODE_BIN, Wrong, check, judged_by_checkov, must, run
from .terraform import DESCRIPTION

DOMAIN = "whitelist.example.com"
ORIGIN = "https://app.example.com"
# What a reader gives, as docs/deploy/lambda.md lists it.
GIVEN = {
    "AWS_REGION": "eu-central-1", "DOMAIN": DOMAIN, "CORS_ORIGIN": ORIGIN, "ISSUER": "https://login.example.com",
    "CERTIFICATE_ARN": "arn:aws:acm:eu-central-1:123456789012:certificate/00000000-0000-4000-8000-000000000000",
    "VPC_ID": "vpc-0123456789abcdef0", "SUBNET_ID_A": "subnet-0aaaaaaaaaaaaaaa1", "SUBNET_ID_B": "subnet-0aaaaaaaaaaaaaaa2",
    "TARGET_ACCOUNT": "111111111111", "TARGET_ROLE_ARN": "arn:aws:iam::111111111111:role/whitelistmcp-target", "TARGET_REGION": "eu-central-1",
    "EXTERNAL_ID": "an-id-that-the-role-demands", "ALARM_TOPIC_ARN": "arn:aws:sns:eu-central-1:123456789012:operations",
}


# With the Node that comes with it.
PATH = f"{NODE_BIN}:{os.environ['PATH']}"


def packaged(directory: Path) -> Path:
    shutil.copy(DEPLOY / "lambda/serverless.yml", directory)
    with zipfile.ZipFile(directory / "bootstrap.zip", "w") as package:
        package.writestr("bootstrap", "")
    run(NODE_BIN / "osls", "package", cwd=directory, HOME=str(directory), PATH=PATH, **GIVEN)
    return directory / ".serverless/cloudformation-template-update-stack.json"


@cache
def made() -> str:
    with tempfile.TemporaryDirectory(prefix="serverless-") as scratch:
        return packaged(Path(scratch)).read_text()


def template() -> dict[str, dict[str, Any]]:
    return json.loads(made())["Resources"]


def properties(name: str, kind: str) -> dict[str, Any]:
    found = template().get(name, {})
    must(found.get("Type") == kind, f"{name} is {found.get('Type')}, and not {kind}")
    return found["Properties"]


@check("osls packages it without an account, and what it makes is sound CloudFormation")
def lint() -> None:
    with tempfile.TemporaryDirectory(prefix="serverless-") as scratch:
        # W3005: osls itself says of every method with an authorizer that it depends on it, which the reference says too.
        whole = Path(scratch) / "template.json"
        whole.write_text(made())
        run(LINT / "cfn-lint", "--ignore-checks", "W3005", "--", whole)


# What checkov would have otherwise, and why it is as it is.
REASONS = {
    ("CKV_AWS_18", r".*\.ServerlessDeploymentBucket"): "it holds packages alone, and CloudTrail has who changed them",
    ("CKV_AWS_158", r".*LogGroup"): "CloudWatch encrypts by a key of its own, and no secret is logged",
    ("CKV_AWS_173", r".*LambdaFunction"): "Lambda encrypts by a key of its own, and no variable is a secret",
    ("CKV_AWS_116", r".*LambdaFunction"): "a call is answered at once, and the next round comes a minute later",
    ("CKV_AWS_59", r".*\.ApiGatewayMethod(WellDash|HealthGet).*"): "who has no token yet reads here where to get one, and health says nothing else",
    ("CKV_AWS_73", r".*\.Stage"): "traces are OpenTelemetry's, by OTEL_EXPORTER_OTLP_ENDPOINT",
    ("CKV_AWS_76", r".*\.Stage"): "the edge logs each call, and API Gateway would need a role of the whole account to",
    ("CKV_AWS_120", r".*\.Stage"): "no answer to a call may be another one's",
}


@check("checkov finds nothing in the CloudFormation that it makes but what has a reason")
def checkov() -> None:
    with tempfile.TemporaryDirectory(prefix="serverless-") as scratch:
        (Path(scratch) / "template.json").write_text(made())
        judged_by_checkov(Path(scratch), "cloudformation", parses=30, reasons=REASONS)


@check("without a variable that is the reader's nothing is made")
def missing() -> None:
    with tempfile.TemporaryDirectory(prefix="serverless-") as scratch:
        shutil.copy(DEPLOY / "lambda/serverless.yml", scratch)
        given = {name: value for name, value in GIVEN.items() if name != "EXTERNAL_ID"}
        said = run("env", "-u", "EXTERNAL_ID", NODE_BIN / "osls", "package", cwd=Path(scratch), fails=True, HOME=scratch, PATH=PATH, **given)
        must('"provider.environment.WHITELISTMCP_AWS__ACCOUNTS": Value not found' in said, said)


@check("every call of /mcp is behind the TOKEN authorizer, and what leads to a token is not")
def routes() -> None:
    paths: dict[str, str] = {}

    def path(name: str) -> str:
        own = properties(name, "AWS::ApiGateway::Resource")
        parent = own["ParentId"]
        return (path(parent["Ref"]) if "Ref" in parent else "") + "/" + own["PathPart"]

    for name, found in template().items():
        if found["Type"] == "AWS::ApiGateway::Method":
            own = found["Properties"]
            paths[f"{own['HttpMethod']} {path(own['ResourceId']['Ref'])}"] = own["AuthorizationType"]
    metadata = "/.well-known/oauth-protected-resource"
    wanted = {
        "POST /mcp": "CUSTOM", "GET /mcp": "CUSTOM", "DELETE /mcp": "CUSTOM", "OPTIONS /mcp": "NONE", f"GET {metadata}": "NONE", f"GET {metadata}/mcp": "NONE",
        "GET /health": "NONE",
    }
    must(paths == wanted, f"{paths}")
    authorizer = properties("McpApiGatewayAuthorizer", "AWS::ApiGateway::Authorizer")
    must((authorizer["Type"], authorizer["IdentitySource"]) == ("TOKEN", "method.request.header.Authorization"), f"{authorizer}")
    must(authorizer["AuthorizerResultTtlInSeconds"] <= 60, "an ended token is let through for longer than the edge itself remembers one")


@check("the function is what the guide says, on a volume that is kept, and its role may do what the base role may")
def function() -> None:
    own = properties("McpLambdaFunction", "AWS::Lambda::Function")
    must((own["Runtime"], own["Handler"], own["Timeout"], own["ReservedConcurrentExecutions"]) == ("provided.al2023", "bootstrap", 30, 10), f"{own}")
    told = own["Environment"]["Variables"]
    must(told["MCP_MODE"] == "serverless", "the mode")
    [volume] = own["FileSystemConfigs"]
    must(Path(volume["LocalMountPath"]) in Path(told["WHITELISTMCP_AUDIT__DIRECTORY"]).parents, "the journal is not on its volume")
    journal = template()["Journal"]
    must(journal.get("DeletionPolicy") == journal.get("UpdateReplacePolicy") == "Retain" and journal["Properties"]["Encrypted"] is True, "the journal goes with the stack")
    allowed, denied = journal["Properties"]["FileSystemPolicy"]["Statement"]
    asked = {key for keys in allowed["Condition"].values() for key in keys}
    must((allowed["Effect"], asked) == ("Allow", {"elasticfilesystem:AccessPointArn", "elasticfilesystem:AccessedViaMountTarget"}), f"the journal lets in by {allowed}")
    must(allowed["Action"] == ["elasticfilesystem:ClientMount", "elasticfilesystem:ClientWrite"], f"the journal lets do {allowed['Action']}")
    must((denied["Effect"], denied["Action"], denied["Condition"]) == ("Deny", "*", {"Bool": {"aws:SecureTransport": "false"}}), f"the journal crosses the network in the clear: {denied}")
    role = properties("IamRoleLambdaExecution", "AWS::IAM::Role")
    # Managed by AWS, and no wider than what attaches a function to a VPC: its calls of EC2 are denied to the code below.
    managed = [arn["Fn::Join"][1] for arn in role["ManagedPolicyArns"]]
    must(managed == [["arn:", {"Ref": "AWS::Partition"}, ":iam::aws:policy/service-role/AWSLambdaVPCAccessExecutionRole"]], f"the role has {managed} besides")
    [policy] = role["Policies"]
    statements = policy["PolicyDocument"]["Statement"]
    base = [one for one in statements if "sts:AssumeRole" in one["Action"]]
    must(base == [{"Effect": "Allow", "Action": ["sts:AssumeRole", "sts:TagSession", "sts:SetSourceIdentity"], "Resource": GIVEN["TARGET_ROLE_ARN"]}], f"{base}")
    denied = [one for one in statements if one["Effect"] == "Deny"]
    must([one["Action"] for one in denied] == [["ec2:*"]], f"{denied}")
    named = {arn["Fn::Sub"].rpartition(":")[2] for arn in denied[0]["Condition"]["ArnEquals"]["lambda:SourceFunctionArn"]}
    functions = {found["Properties"]["FunctionName"] for found in template().values() if found["Type"] == "AWS::Lambda::Function"}
    must(named == functions, f"the code of {functions ^ named} may use the interfaces, or is not there")
    others = {action for one in statements for action in one["Action"]} - set(base[0]["Action"]) - {"ec2:*"}
    must(all(action.startswith(("logs:", "elasticfilesystem:Client")) for action in others), f"the role may {others}")


@check("the rule that the page adds for a core elsewhere, and what it has taken out, are of what is made")
def elsewhere() -> None:
    page = (DEPLOY.parent / "docs/deploy/lambda.md").read_text()
    section = page.partition("## With the core elsewhere")[2].partition("\n## ")[0]
    [shown] = re.findall(r"```yaml\n(.*?)```", section, re.DOTALL)
    [(_, rule)] = json.loads(run(LINT / "python", "-c", "import json, sys, yaml; print(json.dumps(yaml.safe_load(sys.stdin)))", stdin=shown)).items()
    like = template()["FunctionToJournal"]
    must(rule["Type"] == like["Type"] and set(rule["Properties"]) == set(like["Properties"]) and rule["Properties"]["GroupId"] == like["Properties"]["GroupId"], f"{rule}")
    out = set(re.findall(r"`(Rounds\w+|NoRound)`", section))
    made_for_rounds = {name for name, found in template().items() if found["Type"] == "AWS::CloudWatch::Alarm" and found["Properties"]["Dimensions"][0]["Value"]["Ref"] == "RoundsLambdaFunction"}
    must(out == made_for_rounds, f"the page takes out {out}, and of the rounds are {made_for_rounds}")


@check("rounds have a function of their own, which the schedule alone runs: no flood takes its execution, and no stranger rings its alarms")
def rounds() -> None:
    calls, own = (dict(properties(name, "AWS::Lambda::Function")) for name in ("McpLambdaFunction", "RoundsLambdaFunction"))
    must(own["ReservedConcurrentExecutions"] == 1, "rounds have no execution of their own")
    differs = {name for name in calls | own if calls.get(name) != own.get(name)}
    must(differs <= {"FunctionName", "Description", "ReservedConcurrentExecutions", "Code"}, f"the two functions differ in {differs}")
    rules = [found["Properties"] for found in template().values() if found["Type"] == "AWS::Events::Rule"]
    led = [(rule["ScheduleExpression"], [target["Arn"]["Fn::GetAtt"][0] for target in rule["Targets"]]) for rule in rules]
    must(led == [("rate(1 minute)", ["RoundsLambdaFunction"])], f"the schedule runs {led}")
    retried = properties("RoundsLambdaEvConf", "AWS::Lambda::EventInvokeConfig")
    must((retried["MaximumRetryAttempts"], retried["MaximumEventAgeInSeconds"]) == (0, 60), "a round that failed is sent again")
    callers: dict[str, set[str]] = {}
    for found in template().values():
        if found["Type"] == "AWS::Lambda::Permission":
            callers.setdefault(found["Properties"]["FunctionName"]["Fn::GetAtt"][0], set()).add(found["Properties"]["Principal"])
    must(callers == {"McpLambdaFunction": {"apigateway.amazonaws.com"}, "RoundsLambdaFunction": {"events.amazonaws.com"}}, f"{callers}")
    alarms = [found["Properties"] for found in template().values() if found["Type"] == "AWS::CloudWatch::Alarm"]
    watched = sorted((alarm["Dimensions"][0]["Value"]["Ref"], alarm["MetricName"], alarm["TreatMissingData"]) for alarm in alarms)
    must(watched == [
        ("McpLambdaFunction", "Throttles", "notBreaching"), ("RoundsLambdaFunction", "Errors", "notBreaching"),
        ("RoundsLambdaFunction", "Invocations", "breaching"), ("RoundsLambdaFunction", "Throttles", "notBreaching"),
    ], f"the alarms watch {watched}")


@check("EC2 takes the description of every security group and rule")
def described() -> None:
    groups = [found["Properties"] for found in template().values() if found["Type"].startswith("AWS::EC2::SecurityGroup")]
    said = [group.get("GroupDescription") or group["Description"] for group in groups] + [rule["Description"] for group in groups for rule in group.get("SecurityGroupEgress", [])]
    wrong = [words for words in said if not DESCRIPTION.fullmatch(words)]
    must(len(said) >= 6 and not wrong, f"EC2 refuses {wrong}, of {said}")


@check("the one stage that a name leads to has a limit on every route")
def limits() -> None:
    stages = properties("Mapping", "AWS::ApiGateway::BasePathMapping")["Stage"]
    must(isinstance(stages, dict), f"the name leads to {stages}, which osls makes without limits")
    stage = properties(stages["Ref"], "AWS::ApiGateway::Stage")
    deployments = [name for name, found in template().items() if found["Type"] == "AWS::ApiGateway::Deployment"]
    must([stage["DeploymentId"]["Ref"]] == deployments, f"the stage shows {stage['DeploymentId']} of {deployments}")
    must(template()[deployments[0]]["Properties"]["StageName"] != stage["StageName"], "two stages of one name")
    [limit] = stage["MethodSettings"]
    must((limit["ResourcePath"], limit["HttpMethod"]) == ("/*", "*") and 0 < limit["ThrottlingRateLimit"] <= limit["ThrottlingBurstLimit"] <= 100, f"{limit}")
    must(properties("ApiGatewayRestApi", "AWS::ApiGateway::RestApi")["DisableExecuteApiEndpoint"] is True, "the stage without limits can be called")


class Edge:
    """The edge with exactly the function's variables, on loopback in the place of Lambda."""

    def __enter__(self) -> "Edge":
        self.scratch = tempfile.TemporaryDirectory(prefix="serverless-")
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            self.port = taken.getsockname()[1]
        told = properties("McpLambdaFunction", "AWS::Lambda::Function")["Environment"]["Variables"]
        told = {name: value.replace("/mnt/whitelistmcp", self.scratch.name) for name, value in told.items()} | {
            "MCP_MODE": "remote", "WHITELISTMCP_EDGE__LISTEN": f"127.0.0.1:{self.port}", "AWS_ACCESS_KEY_ID": "nobody", "AWS_SECRET_ACCESS_KEY": "nobody",
            # No round asks AWS from here.
            "WHITELISTMCP_LEASES__DISCOVER": "false",
        }
        self.log = open(Path(self.scratch.name) / "log", "w+b")
        self.process = subprocess.Popen([BINARY], env=told, stdout=self.log, stderr=self.log, stdin=subprocess.DEVNULL)
        for _ in range(100):
            if self.process.poll() is not None:
                break
            try:
                self.ask("GET", "/livez")
            except OSError:
                time.sleep(0.1)
            else:
                return self
        self.__exit__()
        raise Wrong(f"the edge does not start: {Path(self.log.name).read_text() if Path(self.log.name).exists() else self.said}")

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait(40)
        self.log.seek(0)
        self.said = self.log.read().decode()
        self.log.close()
        self.scratch.cleanup()

    def ask(self, method: str, path: str, body: str | None = None, **headers: str) -> http.client.HTTPResponse:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        connection.request(method, path, body, {"Host": DOMAIN} | {name.replace("_", "-"): value for name, value in headers.items()})
        return connection.getresponse()


@check("what API Gateway says to who has no token, and to a page's preflight, is what the edge would say")
def refusals() -> None:
    said = properties("Unauthorized", "AWS::ApiGateway::GatewayResponse")
    headers = {name.removeprefix("gatewayresponse.header."): value.strip("'") for name, value in said["ResponseParameters"].items()}
    [preflight] = properties("ApiGatewayMethodMcpOptions", "AWS::ApiGateway::Method")["Integration"]["IntegrationResponses"]
    allowed = {name.removeprefix("method.response.header.").lower(): value.strip("'") for name, value in preflight["ResponseParameters"].items()}
    with Edge() as edge:
        call = '{"jsonrpc":"2.0","id":1,"method":"tools/list"}'
        answer = edge.ask("POST", "/mcp", call, Content_Type="application/json", Origin=ORIGIN)
        must((answer.status, int(said["StatusCode"])) == (401, 401), f"the edge says {answer.status}")
        must(headers["WWW-Authenticate"] == answer.headers["WWW-Authenticate"], f"API Gateway says {headers['WWW-Authenticate']}, the edge {answer.headers['WWW-Authenticate']}")
        must(headers["Access-Control-Allow-Origin"] == answer.headers["Access-Control-Allow-Origin"] == ORIGIN, "pages cannot read the refusal")
        body, own = json.loads(said["ResponseTemplates"]["application/json"]), json.load(answer)
        must(body["error"] == own["error"] and body["jsonrpc"] == own["jsonrpc"], f"API Gateway says {body}, the edge {own}")
        answer = edge.ask("OPTIONS", "/mcp", Origin=ORIGIN, Access_Control_Request_Method="POST", Access_Control_Request_Headers="authorization")
        listed = {name.strip().lower() for name in answer.headers["Access-Control-Allow-Headers"].split(",")}
        by_gateway = {name.strip().lower() for name in allowed["access-control-allow-headers"].split(",")}
        must(listed == by_gateway, f"pages may send {listed ^ by_gateway} to one of the two alone")
        must(allowed["access-control-allow-origin"] == ORIGIN, f"pages of {allowed['access-control-allow-origin']} may call")
        for path in ("/.well-known/oauth-protected-resource", "/.well-known/oauth-protected-resource/mcp", "/health"):
            must(edge.ask("GET", path).status == 200, f"the edge has no {path}")


@check("the page lists every variable that serverless.yml reads")
def given() -> None:
    names = set(re.findall(r"\$\{env:(\w+)", (DEPLOY / "lambda/serverless.yml").read_text()))
    optional = {"ARCHITECTURE", "AUDIENCE", "PACKAGE"}
    must(names - optional == set(GIVEN), f"{(names - optional) ^ set(GIVEN)}")
    page = (DEPLOY.parent / "docs/deploy/lambda.md").read_text()
    unsaid = [name for name in names if f"`{name}`" not in page]
    must(not unsaid, f"docs/deploy/lambda.md does not say {unsaid}")


@check("the page's calls name no group that nobody gave a name")
def calls() -> None:
    named = re.findall(r'name = "([^"]+)"', str(properties("McpLambdaFunction", "AWS::Lambda::Function")["Environment"]["Variables"].get("WHITELISTMCP_TARGETS__GROUPS")))
    asked = re.findall(r'"security_group":"([^"]+)"', (DEPLOY.parent / "docs/deploy/lambda.md").read_text())
    unknown = [group for group in asked if group not in named and not group.startswith("sg-")]
    must(asked and not unknown, f"docs/deploy/lambda.md calls for {unknown}, which serverless.yml does not name")
