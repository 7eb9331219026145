"""What the guides promise: their configurations are taken, their sentences are the program's own, their files start what they say."""

import gzip
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path

from .documents import blocks, pages
from .judge import BINARY, CHECKOUT, LINT, TOOLS, Wrong, check, must, run
from .scripts import tracked

sys.path.insert(0, str(CHECKOUT / "examples/demo"))
URL = "https://whitelist.example.com/mcp"
# The pages that are about using and operating it; others have checks of their own.
GUIDES = (
    "README.md", "SECURITY.md", "CONTRIBUTING.md", "docs/ARCHITECTURE.md", "docs/AUDIT.md", "docs/ERRORS.md", "docs/FAQ.md", "docs/LEASES.md", "docs/MIGRATING.md", "docs/OPERATIONS.md",
    "docs/README.md", "docs/TELEMETRY.md", "docs/THREAT-MODEL.md", "docs/deploy/ci-cd.md", "docs/deploy/cost.md",
)


def guides() -> list[str]:
    return [*GUIDES, *tracked("docs/providers/*.md", "docs/quickstart/*.md")]


def text_of(page: str) -> str:
    return (CHECKOUT / page).read_text()


@check("the configuration on each provider's page passes `whitelistmcp check`, at an edge with that very address")
def configurations() -> None:
    pages = [page for page in tracked("docs/providers/*.md") if not page.endswith("README.md")]
    must(len(pages) >= 4, "a provider's page is missing")
    for page in pages:
        with tempfile.TemporaryDirectory(prefix="provider-") as scratch:
            secret, key = Path(scratch) / "login-secret", Path(scratch) / "login.key"
            secret.write_text("secret\n")
            key.write_text("ab" * 32 + "\n")
            parts = [body for _, language, _, body in blocks(page) if language == "toml"]
            must(any("[oidc." in part for part in parts), f"{page} has no `[oidc.NAME]`")
            text = "\n".join(parts).replace("/etc/whitelistmcp/login-secret", str(secret))
            if "[edge.login]" in text:
                text = text.replace("[edge.login]\n", f'[edge.login]\nkey_file = "{key}"\n')
            edge = f'[edge]\nlisten = "127.0.0.1:0"\npublic_url = "{URL}"\nplaintext = true\n\n'
            config = Path(scratch) / "whitelistmcp.toml"
            config.write_text(edge + text)
            try:
                said = run(BINARY, "check", "--config", config, **clean())
            except Wrong as wrong:
                raise Wrong(f"{page}: {wrong}") from None
            must("The configuration is sound." in said, said)
            for name, issuer in tomllib.loads(text)["oidc"].items():
                differs = f"{name}: clients ask for a token for" in said
                must(differs == (issuer["audience"] != URL), f"{page}: {said}")
                must(not differs or "notes that it differs" in text_of(page), f"{page} says nothing of what `check` notes of its audience")


def clean() -> dict[str, str]:
    """Variables of this environment that would change a configuration, emptied: empty ones stand for nothing."""
    return {name: "" for name in os.environ if name.startswith(("WHITELISTMCP_", "MCP_")) and name != "WHITELISTMCP"}


@check("Keycloak's realm gives what the edge asks of a token, to clients that are told and to those that register themselves")
def realm() -> None:
    realm = json.loads(text_of("examples/providers/keycloak-realm.json"))
    scopes = {scope["name"]: scope for scope in realm["clientScopes"]}
    proto = text_of("proto/whitelistmcp/v1/whitelist.proto")
    for name in sorted(set(re.findall(r'scope: "([^"]+)"', proto))):
        must(name in scopes and name in realm["defaultOptionalClientScopes"], f"the realm does not offer {name}")
        scope = scopes[name]
        must(scope["attributes"]["include.in.token.scope"] == "true", f"{name} would not stand in the token")
        mappers = {mapper["protocolMapper"]: mapper["config"] for mapper in scope["protocolMappers"]}
        audience = mappers["oidc-audience-mapper"]
        must((audience["included.custom.audience"], audience["access.token.claim"], audience["id.token.claim"]) == (URL, "true", "false"), f"{name}: the audience")
        groups = mappers["oidc-group-membership-mapper"]
        must((groups["claim.name"], groups["full.path"], groups["access.token.claim"]) == ("groups", "false", "true"), f"{name}: groups")
        must(mappers["oidc-sub-mapper"]["access.token.claim"] == "true", f"{name}: no subject")
    default = realm["defaultDefaultClientScopes"]
    must(set(default) <= set(scopes), f"default scopes that are not there: {default}")
    basic = {mapper["name"]: mapper["config"] for mapper in scopes["basic"]["protocolMappers"]}
    must(basic["auth_time"]["id.token.claim"] == "true" and "sub" in basic, "logins for approvals want `auth_time`")
    clients = {client["clientId"]: client for client in realm["clients"]}
    page = text_of("docs/providers/keycloak.md")
    for name, client in clients.items():
        must(f"`{name}`" in page, f"the page does not speak of {name}")
        must(client["attributes"]["pkce.code.challenge.method"] == "S256" and client["standardFlowEnabled"], f"{name}: PKCE")
        must(not client["directAccessGrantsEnabled"] and not client["implicitFlowEnabled"] and not client["fullScopeAllowed"], f"{name}: more than it needs")
        must("secret" not in client, f"{name}: a secret in a file that everybody has")
        must(set(client["defaultClientScopes"]) == set(default), f"{name}: other default scopes than the realm's")
        must({"whitelist:read", "whitelist:write"} <= set(client["optionalClientScopes"]), f"{name}: may not ask for our scopes")
    must(clients["whitelistmcp-bridge"]["publicClient"] and clients["whitelistmcp-bridge"]["redirectUris"] == ["http://127.0.0.1/callback"], "the bridge")
    must(clients["whitelistmcp-approvals"]["redirectUris"] == [URL.removesuffix("/mcp") + "/approvals/callback"], "the page's redirect")
    policies = realm["components"]["org.keycloak.services.clientregistration.policy.ClientRegistrationPolicy"]
    anonymous = {policy["providerId"]: policy["config"] for policy in policies if policy["subType"] == "anonymous"}
    hosts = anonymous["trusted-hosts"]
    must(hosts["client-uris-must-match"] == ["true"] and "127.0.0.1" in hosts["trusted-hosts"] and not any("*" in host for host in hosts["trusted-hosts"]), "trusted hosts")
    must({"consent-required", "scope", "allowed-client-templates", "max-clients"} <= set(anonymous), "registration by anybody is not bounded")


@check("every sentence of the questions is the program's own")
def sentences() -> None:
    source = ""
    for file in tracked("src/*.rs", "src/**/*.rs"):
        # A string may go on over lines, and quotes in it are escaped.
        source += re.sub(r"\\\n\s*", "", text_of(file)).replace('\\"', '"') + "\n"
    said = re.findall(r"^> (.+)$", text_of("docs/FAQ.md"), re.MULTILINE)
    must(len(said) > 20, "hardly any sentences were found")
    for sentence in said:
        for part in re.split(r"`?…`?", sentence):
            part = part.strip(" `")
            must(len(part) < 3 or part in source, f"docs/FAQ.md: nothing in src says: {part}")


@check("every service account of Google's that a page makes has a name that Google takes")
def accounts() -> None:
    found = [(page, name) for page in pages() for _, _, _, body in blocks(page) for name in re.findall(r"iam service-accounts create (\S+)", body)]
    # A loop's names are its words, up to a colon.
    loops = [name.partition(":")[0] for page, said in found if "$" in said for words in re.findall(r"for pair in ([^;]+);", text_of(page)) for name in words.split()]
    names = [name for _, name in found if "$" not in name] + loops
    must(loops and len(names) >= 3, f"no page makes a service account: {found}")
    for name in names:
        must(re.fullmatch(r"[a-z][-a-z0-9]{4,28}[a-z0-9]", name), f"Google takes no service account named {name}")


@check("every option of the program that a guide names is there")
def options() -> None:
    known: dict[str, set[str]] = {}
    for command in ("", "bridge", "login", "logout", "stdio", "core", "edge", "serve", "check", "doctor", "certs", "reconcile", "key new", "iam session-policy", "audit show", "audit verify", "audit replay",
                    "audit key", "health", "lambda", "iam print", "reference configuration", "policy check", "policy test", "policy explain"):
        known[command] = set(re.findall(r"--[a-z][a-z-]+", run(BINARY, *command.split(), "--help")))
    # Of other programs, in lines and tables that are about those.
    others = {"--callback-port", "--transport"}
    for page in guides():
        text = text_of(page)
        ours = [line for _, language, _, body in blocks(page) if language == "sh" for line in body.replace("\\\n", " ").splitlines() if "whitelistmcp " in line.split("#")[0]]
        ours = [re.split(r" (?:\||&&|;) ", line[line.index("whitelistmcp "):])[0] for line in ours if not re.search(r"\b(?:az|gh|gcloud|docker|helm|cosign|cargo|cp|sha256sum) ", line)]
        inline = [code for code in re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL)) if not re.match(r"(?:az|gh|gcloud|claude|docker) ", code)]
        for words in [*ours, *(code for code in inline if code.startswith(("--", "whitelistmcp ")))]:
            said = words.split()[1:]
            # What stands alone may be any command's; else it is of the command that its own line names.
            own = next((known[command] for length in (2, 1) if (command := " ".join(said[:length])) in known), known[""])
            own = own if words.startswith("whitelistmcp ") else set().union(*known.values())
            for option in re.findall(r"(?<![\w-])--[a-z][a-z-]+", words):
                must(option in own | others, f"{page}: there is no {option}: {words}")


@check("every key of the configuration that a guide names is in the example")
def keys() -> None:
    example = text_of("examples/whitelistmcp.toml")
    sections: dict[str, set[str]] = {}
    section = ""
    for line in example.splitlines():
        line = line.removeprefix("# ")
        if found := re.match(r"\[+([\w.]+)\]+$", line):
            section = re.sub(r"^oidc\.company", "oidc.NAME", found[1])
            sections.setdefault(section, set())
        elif found := re.match(r"(\w+) = ", line):
            sections.setdefault(section, set()).add(found[1])
    for page in guides():
        for name, key in re.findall(r"`\[+([a-z_.A-Z]+)\]+(?: (\w+))?[^`\n]*`", text_of(page)):
            name = re.sub(r"^oidc\.[a-z]+", "oidc.NAME", name)
            must(name in sections or any(known.startswith(f"{name}.") for known in sections), f"{page}: there is no section [{name}]")
            must(not key or key in sections.get(name, set()) or f"{name}.{key}" in sections, f"{page}: [{name}] has no {key}")


@check("every alert has a line that says what to do, of the same urgency, and what is said of the log is what it says")
def alerts() -> None:
    script = "import json, sys, yaml; print(json.dumps(yaml.safe_load(sys.stdin)))"
    rules = json.loads(run(LINT / "python", "-c", script, stdin=text_of("deploy/observability/alerts.yaml")))
    known = {rule["alert"]: rule["labels"]["severity"] for group in rules["groups"] for rule in group["rules"]}
    page = text_of("docs/OPERATIONS.md")
    told = dict(re.findall(r"^\| ([A-Z][A-Za-z]+) \| (page|warn) \|", page, re.MULTILINE))
    must(told == known, f"only in the rules, or otherwise: {sorted(set(known.items()) ^ set(told.items()))}")
    source = "".join(text_of(file) for file in tracked("src/audit/journal/*.rs", "src/broker/*.rs"))
    for line in re.findall(r"The log's `([^`]+)`", page):
        must(f'"{line}"' in source, f"docs/OPERATIONS.md: the log never says: {line}")


@check("the policies for an emergency stop whom and what they say, and let doors close")
def emergency() -> None:
    cedar = next(body for _, language, _, body in blocks("docs/OPERATIONS.md") if language == "cedar")
    stopped, closed = (f"@id{part}" for part in cedar.split("@id")[1:])
    base = {"security_group": "staging-db", "address": "203.0.113.7", "port": "443"}
    opening = json.dumps(base | {"reason": "debugging"}).replace('":', '" =')
    closing = json.dumps({**base, "protocol": "tcp"}).replace('":', '" =')
    for policy, who, tool, arguments, expected in (
        (stopped, "00u1a2b3c4d5", "whitelist_add", opening, "unseen"),
        (stopped, "alice", "whitelist_add", opening, "allow"),
        (closed, "alice", "whitelist_add", opening, "deny by closed-for-now"),
        (closed, "alice", "whitelist_remove", closing, "allow"),
    ):
        with tempfile.TemporaryDirectory(prefix="emergency-") as scratch:
            directory = Path(scratch) / "policies"
            directory.mkdir()
            (directory / "default.cedar").write_text(text_of("src/policy/default.cedar"))
            (directory / "emergency.cedar").write_text(policy)
            table = Path(scratch) / "cases.toml"
            table.write_text(f'policy = "policies"\n[groups.staging-db]\n[who."{who}"]\n[[cases]]\nwho = "{who}"\ntool = "{tool}"\narguments = {arguments}\nexpect = "{expected}"\n')
            run(BINARY, "policy", "test", table)


@check("every filter of EC2's that a page names is one that the command takes")
def filters() -> None:
    [model] = TOOLS.glob("python/lib/python3*/site-packages/botocore/data/ec2/2016-11-15/service-2.json.gz")
    described = json.loads(gzip.decompress(model.read_bytes()))
    found = 0
    for page in pages():
        for line, language, _, body in blocks(page):
            for command, rest in re.findall(r"aws ec2 (describe-[a-z-]+)([^|;\n]*)", body.replace("\\\n", " ") if language == "sh" else ""):
                operation = described["operations"].get("".join(word.capitalize() for word in command.split("-")))
                must(operation, f"{page}:{line}: EC2 has no {command}")
                members = described["shapes"][operation["input"]["shape"]]["members"]
                known = re.findall(r"<li> <p> <code>([\w.:-]+)", members.get("Filters", {}).get("documentation", ""))
                for name in re.findall(r"\bName=([^,'\s]+)", rest):
                    found += 1
                    # `tag:KEY` is described as `tag`, and takes any key.
                    kind = "tag" if name.startswith("tag:") else name
                    must(kind in [one.partition(":")[0] if one.startswith("tag:") else one for one in known], f"{page}:{line}: {command} knows no filter {name}, but {known}")
    must(found, "no page filters anything, so nothing was judged")


@check("where a page has `doctor` ask the edge under another name, the edge of that very page answers to it")
def asked_from_inside() -> None:
    found = 0
    for page in pages():
        text = text_of(page)
        for url in re.findall(r"whitelistmcp doctor [^\n]*--url (\S+)", text):
            found += 1
            configuration = re.search(r"<<'CONFIGURATION'\n(.*?)^CONFIGURATION$", text, re.MULTILINE | re.DOTALL)
            must(configuration, f"{page}: `doctor --url {url}`, and no configuration on the page has that name")
            answers(page, configuration[1], url)
    must(found, "no page has `doctor` ask from inside, so nothing was judged")


def answers(page: str, configuration: str, url: str) -> None:
    """Serves a page's configuration on a port of its own and asks it by the host of that URL: nothing is wrong with the edge."""
    with tempfile.TemporaryDirectory(prefix="inside-") as scratch, socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.close()
        [names] = re.findall(r"certs (edge=\S+)", text_of(page))
        run(BINARY, "certs", "--directory", f"{scratch}/certs", names)
        config = Path(scratch) / "whitelistmcp.toml"
        placed = configuration.replace("/etc/whitelistmcp/certs", f"{scratch}/certs").replace("/var/lib/whitelistmcp", scratch)
        config.write_text(placed.replace("0.0.0.0:8080", f"127.0.0.1:{port}").replace("127.0.0.1:8082", "127.0.0.1:0"))
        log = Path(scratch) / "log"
        variables = {name: value for name, value in os.environ.items() if name not in clean()} | {"AWS_EC2_METADATA_DISABLED": "true"}
        with log.open("wb") as said:
            service = subprocess.Popen([BINARY, "serve", "--config", config], env=variables, stdin=subprocess.DEVNULL, stdout=said, stderr=said)
        try:
            for _ in range(300):
                with socket.socket() as knock:
                    if knock.connect_ex(("127.0.0.1", port)) == 0:
                        break
                must(service.poll() is None, f"{page}: it did not start: {log.read_text()[-2000:]}")
                time.sleep(0.1)
            asked = [BINARY, "doctor", "--config", config, "--url", url.replace(":8080", f":{port}"), "--ca", f"{scratch}/certs/ca.pem"]
            table = subprocess.run(asked, env=variables, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120).stdout
            wrong = [line for line in table.splitlines() if re.match(r"WRONG +edge", line)]
            must("asks for a token and says where to get one" in table and not wrong, f"{page}: {table}")
        finally:
            service.terminate()
            service.wait(60)


@check("the file for Claude Desktop starts both servers, each of which answers, and the page shows that very file")
def desktop() -> None:
    from stack import NotReady, Stack

    file = json.loads(text_of("examples/claude_desktop_config.json"))
    shown = [json.loads(body) for _, language, _, body in blocks("docs/quickstart/claude-desktop.md") if language == "json"]
    must(file in shown, "docs/quickstart/claude-desktop.md shows another file")
    with tempfile.TemporaryDirectory(prefix="desktop-") as scratch:
        os.environ["WHITELISTMCP"] = str(BINARY)
        try:
            with Stack(Path(scratch) / "stack") as stack:
                home = Path(scratch) / "home"
                (home / ".aws").mkdir(parents=True)
                aws = stack.aws
                (home / ".aws/config").write_text(f"[profile development]\nregion = {aws['region']}\n")
                (home / ".aws/credentials").write_text(f"[development]\naws_access_key_id = {aws['access_key_id']}\naws_secret_access_key = {aws['secret_access_key']}\n")
                (home / ".config/whitelistmcp").mkdir(parents=True)
                (home / ".config/whitelistmcp/config.toml").write_text(
                    f'[aws]\nendpoint = "{stack.aws_endpoint}"\n[[aws.accounts]]\nid = "{aws["account"]}"\nrole_arn = "{aws["role_arn"]}"\nexternal_id = "{aws["external_id"]}"\nregions = ["{aws["region"]}"]\n'
                    f'[targets]\naccount = "{aws["account"]}"\nregion = "{aws["region"]}"\n[[targets.groups]]\nname = "staging-db"\nid = "{aws["groups"]["staging-db"]}"\n[audit]\nvolume = "persistent"\n'
                )
                # A login needs a person; what the bridge is given in its place is what a login would bring.
                more = {
                    "whitelistmcp-local": {"AWS_EC2_METADATA_DISABLED": "true"},
                    "whitelistmcp-remote": {"MCP_AUTH_TOKEN": stack.token(), "WHITELISTMCP_BRIDGE_CA": str(stack.certs / "ca.pem")},
                }
                must(set(file["mcpServers"]) == set(more), f"other servers than expected: {sorted(file['mcpServers'])}")
                for name, entry in file["mcpServers"].items():
                    words = [str(BINARY) if entry["command"] == "whitelistmcp" else entry["command"], *entry.get("args", [])]
                    words = [stack.url if word == URL else word for word in words]
                    variables = {"HOME": str(home), "PATH": "/usr/bin:/bin", "USER": "alice", **entry.get("env", {}), **more[name]}
                    answer = asked(words, variables, "whitelist_list", {"security_group": "staging-db"})
                    must(answer.get("result", {}).get("isError") is False, f"{name}: {json.dumps(answer)[:1500]}")
        except NotReady as wrong:
            raise Wrong(str(wrong)) from None


def asked(words: list[str], variables: dict[str, str], tool: str, arguments: dict[str, str]) -> dict:
    """Starts a server as desktop clients do, over pipes and with few variables, and calls one tool; what it answered."""
    messages = [
        {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "check", "version": "1"}}},
        {"jsonrpc": "2.0", "method": "notifications/initialized"},
        {"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": {"name": tool, "arguments": arguments}},
    ]
    child = subprocess.Popen(words, cwd="/", env=variables, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        for message in messages:
            child.stdin.write(json.dumps(message) + "\n")
        child.stdin.flush()
        for line in child.stdout:
            answer = json.loads(line)
            if answer.get("id") == 2:
                return answer
        raise Wrong(f"{words} ended without an answer: {child.stderr.read()[-1500:]}")
    finally:
        child.stdin.close()
        try:
            child.wait(30)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


@check("measuring works, and the requests to AWS that the page on cost names are those that the journal has")
def cost() -> None:
    said = run("python3", CHECKOUT / "scripts/measure.py", "--calls", "4", within=600, WHITELISTMCP=str(BINARY))
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in said.splitlines() if line.startswith("| ")]
    must({"edge", "core", "the bridge"} <= {row[0] for row in rows}, said)
    measured = {row[0]: counts(row[-1]) for row in rows if row[0].startswith("`whitelist") and len(row) == 7}
    page = text_of("docs/deploy/cost.md")
    must("<!-- measured -->" in page, "the page has no place for what was measured")
    # Before what was measured, whose rows are about the same calls.
    told_rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in page.partition("<!-- measured -->")[0].splitlines() if line.startswith("| `whitelist_")]
    table = {row[0]: row[1:] for row in told_rows}

    def told(name: str) -> dict[str, int]:
        words = ", ".join(table[name])
        # The first number without an action is STS's, the next one a read's.
        words = re.sub(r"^1,", "1 `AssumeRole`,", words)
        words = re.sub(r"(^|, )(\d),", r"\1\2 `DescribeSecurityGroupRules`,", words)
        return counts(words.replace("`", ""))

    same = {
        "`whitelist_list`": ["`whitelist_list`, `whitelist_check`"],
        "`whitelist_check`": ["`whitelist_list`, `whitelist_check`"],
        "`whitelist_add`, a dry run": ["`whitelist_add`, a dry run"],
        "`whitelist_add` and `whitelist_remove`": ["`whitelist_add`, a new rule", "`whitelist_remove`"],
    }
    for name, parts in same.items():
        expected: dict[str, int] = {}
        for part in parts:
            for action, count in told(part).items():
                expected[action] = expected.get(action, 0) + count
        must(measured[name] == expected, f"{name}: the page says {expected}, the journal {measured[name]}")
    must(measured["`whitelist_add`, refused by policy"] == {}, "what policy refuses asked AWS")


def counts(text: str) -> dict[str, int]:
    """Numbers of actions, such as `2 AssumeRole, 1 CreateTags`."""
    return {action: int(float(count)) for count, action in re.findall(r"([\d.]+) ([A-Z]\w+)", text)}


@check("each page on where it runs says where the audit journal is")
def journals() -> None:
    place = re.compile(r"^## The (?:audit )?journal$|\[audit\] directory|[Jj]ournal\b[^.|]{0,120}\bvolume\b", re.MULTILINE)
    for page in tracked("docs/deploy/*.md"):
        must(place.search(text_of(page)), f"{page} does not say where the journal is")
