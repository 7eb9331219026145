"""deploy/compose: the whole service on one machine, and the variant that needs no account and no provider.

There is no container engine here. The files are judged by dclint and by docker-compose 1.29; what they mean is read here; and
scripts/compose_rehearsal.py plays them. The collector's own check of its configuration, networks, limits, and Prometheus and Grafana as they run
are not shown: their images cannot be had.
"""

import configparser
import ipaddress
import json
import re
import shutil
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from compose_rehearsal import Stack, by_name, merged

from .container import image
from .judge import CHECKOUT, DEPLOY, LINT, NODE_BIN, check, must, run

HERE = DEPLOY / "compose"
PAGE = CHECKOUT / "docs/deploy/compose.md"
PROGRAM = "/usr/local/bin/whitelistmcp"
OURS = ("edge", "core", "prepare")
# They run to their end, and are not started again.
ONCE = ("prepare", "bootstrap", "token")


def yaml(path: Path) -> dict:
    return json.loads(run(LINT / "python", "-c", "import json, sys, yaml; print(json.dumps(yaml.safe_load(sys.stdin)))", stdin=path.read_text()))


@cache
def whole(*files: str) -> dict:
    """Compose files as docker-compose merges them. It wants the secrets to be there, and they are made beside a copy."""
    with tempfile.TemporaryDirectory(prefix="merged-") as scratch:
        copy = Path(scratch) / "deploy/compose"
        shutil.copytree(HERE, copy, ignore=shutil.ignore_patterns("secrets", ".env"))
        (Path(scratch) / "examples").symlink_to(CHECKOUT / "examples")
        text = json.dumps(merged(copy, *files))
    return json.loads(text.replace(f"{scratch}/", f"{CHECKOUT}/"))


def both() -> dict:
    return whole("compose.yaml", "compose.try.yaml")


def mounts(service: dict) -> Iterator[tuple[str, str, bool]]:
    """Source, target, and whether it may be written."""
    for words in service.get("volumes", []):
        source, target, *mode = words.split(":")
        yield source, target, mode != ["ro"]
    for secret in service.get("secrets", []):
        name = secret if isinstance(secret, str) else secret["source"]
        yield name, f"/run/secrets/{name}", False


@check("dclint and docker-compose find nothing in the compose files, alone and laid over one another")
def sound() -> None:
    run(NODE_BIN / "dclint", "--config", HERE / ".dclintrc.yaml", "--max-warnings", "0", *sorted(HERE.glob("compose*.yaml")))
    for files in (("compose.yaml",), ("compose.yaml", "compose.credentials.yaml"), ("compose.yaml", "compose.try.yaml")):
        must({"edge", "core", "redis", "collector", "prometheus", "grafana"} <= set(whole(*files)["services"]), f"{files}: services are missing")
    # The trial is a project of its own: `down --volumes` of it must not find the journal of the real one.
    named = {file.name: re.findall(r"^name: (\S+)$", file.read_text(), re.MULTILINE) for file in HERE.glob("compose*.yaml")}
    must(named == {"compose.yaml": ["whitelistmcp"], "compose.credentials.yaml": ["whitelistmcp"], "compose.try.yaml": ["whitelistmcp-try"]}, f"projects: {named}")
    take_away = re.findall(r"^docker compose.* down --volumes.*$", PAGE.read_text(), re.MULTILINE)
    must(take_away and all("--project-name whitelistmcp-try " in line for line in take_away), f"the page takes away more than the trial: {take_away}")


@check("every container: pinned, read-only, without capabilities, as somebody who is not root, bounded, and asked how it is")
def hardened() -> None:
    version = tomllib.loads((CHECKOUT / "Cargo.toml").read_text())["package"]["version"]
    base = whole("compose.yaml")["services"]
    for name, service in both()["services"].items():
        image = service["image"]
        pinned = re.fullmatch(r"\S+:\S+@sha256:[0-9a-f]{64}", image) or re.fullmatch(rf"whitelistmcp(-try-\w+)?:{re.escape(version)}", image)
        must(pinned, f"{name}: {image} is neither named by digest nor ours of this version")
        must(service.get("read_only") and service.get("cap_drop") == ["ALL"], f"{name} is not read-only, or keeps capabilities")
        must(service.get("security_opt") == ["no-new-privileges:true"] and not service.get("privileged"), f"{name} may gain privileges")
        must(re.fullmatch(r"[1-9]\d*:\d+", service.get("user", "")), f"{name} runs as {service.get('user')}")
        must(service["restart"] == ("no" if name in ONCE else "unless-stopped"), f"{name} is started again: {service['restart']}")
        if name in base and name not in ONCE:
            must({"cpus", "memory"} <= set(service["deploy"]["resources"]["limits"]), f"{name} has no bounds")
            must(service["logging"]["options"].keys() >= {"max-size", "max-file"}, f"the log of {name} has no bounds")
        # The collector's image has nothing to ask with.
        if name not in (*ONCE, "collector"):
            must(service.get("healthcheck", {}).get("test"), f"nobody asks {name} how it is")
    for name in ("edge", "core"):
        service = base[name]
        must(service["user"] == "65532:65532" and service["command"] == [name], f"{name}: {service['user']}, {service['command']}")
        asked = {key: service["healthcheck"][key] for key in ("test", "interval", "timeout", "retries")}
        must(asked == {"test": ["CMD", PROGRAM, "health"], "interval": "30s", "timeout": "10s", "retries": 3}, f"{name}: {asked}")
        must(int(service["stop_grace_period"].rstrip("s")) > 25, f"{name} is killed before `[shutdown] grace` is over")


@check("whatever runs to its end has somebody who waits for that, and no two wait for one another, so that `up --wait` succeeds")
def adopted() -> None:
    # docker/compose, issue 10596.
    services = both()["services"]
    waits = {name: dict(service.get("depends_on") or {}) for name, service in services.items()}
    for name, service in services.items():
        if (mode := service.get("network_mode", "")).startswith("service:"):
            waits[name].setdefault(mode.partition(":")[2], {"condition": "service_started"})
        if name in ONCE and not service.get("profiles"):
            by = [other for other, needs in waits.items() if other not in ONCE and needs.get(name, {}).get("condition") == "service_completed_successfully"]
            must(by, f"{name} ends, and nobody waits for its end: `up --wait` fails")
    left = dict(waits)
    while free := [name for name, needs in left.items() if not set(needs) & set(left)]:
        left = {name: needs for name, needs in left.items() if name not in free}
    must(not left, f"these wait for one another: {sorted(left)}")


@check("the page runs `prepare` once on each way through it, as a second time it fails")
def prepared() -> None:
    for part in PAGE.read_text().split("\n## "):
        blocks = re.findall(r"^```sh \w+\n(.*?)^```$", part, re.MULTILINE | re.DOTALL)
        asked = sum(block.count("run --rm prepare") for block in blocks)
        must(asked == part.startswith(("Try it", "For real")), f"{part.splitlines()[0]}: `prepare` is run {asked} times")


@check("only the edge can be reached from outside, and that only if told, only edge, core and Grafana reach out, and only the core has what AWS and the journal need")
def apart() -> None:
    for files in (("compose.yaml", "compose.credentials.yaml"), ("compose.yaml", "compose.try.yaml")):
        whole_of = whole(*files)
        services, networks = whole_of["services"], whole_of["networks"]
        published = {(name, port if isinstance(port, str) else f"{port.get('host_ip', '')}:{port['published']}") for name, service in services.items() for port in service.get("ports", [])}
        must(all(port.startswith("127.0.0.1:") for _, port in published) and "edge" in {name for name, _ in published}, f"published: {published}")
        open_ones = {name for name, network in networks.items() if not (network or {}).get("internal")}
        reach_out = {name for name, service in services.items() if open_ones & set(by_name(service.get("networks")))}
        must(reach_out - {"provider", "token"} == {"edge", "core", "grafana"}, f"these have a way out: {reach_out}")
        for first, second in (("edge", "core"),):
            shared = set(by_name(services[first]["networks"])) & set(by_name(services[second]["networks"]))
            must(shared - {"login"} == {"link", "telemetry"}, f"{first} and {second} share {shared}")
        must(not set(by_name(services["edge"]["networks"])) & set(by_name(services["redis"]["networks"])), "the edge reaches Redis")
        holders = {(name, source) for name, service in services.items() for source, _, _ in mounts(service) if source in ("journal", "aws-credentials", "records")}
        expected = {("core", "journal"), ("core", "aws-credentials"), ("collector", "records"), ("prepare", "records")}
        must(holders == expected, f"{holders}")
        for name, service in services.items():
            for key, value in (service.get("environment") or {}).items():
                secret = re.search(r"(?i)(secret|password|passwd|token|access_key)", key) and not key.endswith(("__FILE", "_FILE"))
                must(not secret, f"{name} is given a secret by its environment: {key}={value}")


@check("the address that .env names is the edge's, and nobody else's")
def opened() -> None:
    with tempfile.TemporaryDirectory(prefix="opened-") as scratch:
        copy = Path(scratch) / "deploy/compose"
        shutil.copytree(HERE, copy, ignore=shutil.ignore_patterns("secrets", ".env"))
        (copy / ".env").write_text("WHITELISTMCP_ADDRESS=0.0.0.0\n")
        services = merged(copy, "compose.yaml")["services"]
    published = {(name, str(port)) for name, service in services.items() for port in service.get("ports", [])}
    must({name for name, port in published if not port.startswith("127.0.0.1:")} == {"edge"}, f"{published}")
    must("WHITELISTMCP_ADDRESS=0.0.0.0" in PAGE.read_text() and "/.env\n" in (HERE / ".gitignore").read_text(), "the page does not say how, or .env is not ignored")


@check("the unit keeps the metadata service from everybody but the network `aws`, on which the core alone is, before Docker, and the page installs it")
def metadata() -> None:
    unit = configparser.ConfigParser(interpolation=None)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read(HERE / "no-metadata.service")
    start, stop = (re.fullmatch(r"\S+/iptables --wait --table raw --(?:insert|delete) PREROUTING ! --source (\S+) --destination 169\.254\.169\.254/32 --jump DROP", unit["Service"][key]) for key in ("ExecStart", "ExecStop"))
    must(start and stop and start[1] == stop[1] and "--insert" in start[0] and "--delete" in stop[0], "what is put in is not what is taken out")
    must(unit["Unit"]["Before"] == unit["Install"]["RequiredBy"] == "docker.service", "Docker may start without it")
    let_in = ipaddress.ip_network(start[1])
    on_it = {name for name, service in whole("compose.yaml", "compose.credentials.yaml")["services"].items() if "aws" in by_name(service.get("networks")) or service.get("network_mode") in ("host", "service:core")}
    must(on_it == {"core"}, f"these have the core's identity as well: {on_it}")
    for name, network in both()["networks"].items():
        if not (network or {}).get("internal"):
            subnets = [ipaddress.ip_network(one["subnet"]) for one in ((network or {}).get("ipam") or {}).get("config", [])]
            must(subnets, f"{name} has a way out and no fixed addresses")
            must(subnets == [let_in] if name == "aws" else not any(subnet.overlaps(let_in) for subnet in subnets), f"{name}: {subnets}, and {let_in} is let in")
    must("deploy/compose/no-metadata.service" in PAGE.read_text() and str(let_in) in PAGE.read_text(), "the page does not install the unit, or names another network")


@check("what is mounted is there, and what the configuration files name is mounted where they name it")
def mounted() -> None:
    both_of = both()
    for name, service in both_of["services"].items():
        for source, target, _ in mounts(service):
            if source.startswith("/"):
                must(Path(source).is_file(), f"{name}: {source}, for {target}, is not there")
            else:
                must(source in both_of["volumes"] or source in both_of["secrets"], f"{name}: {source} is declared nowhere")
    services = whole("compose.yaml")["services"]
    leaves = {word.partition("=")[0]: word.partition("=")[2].split(",") for word in services["prepare"]["command"][2:]}
    for name in ("edge", "core"):
        config = tomllib.loads((HERE / f"{name}.toml").read_text())
        targets = [target for _, target, _ in mounts(services[name])]
        for path in paths(config):
            must(any(path == target or path.startswith(f"{target}/") for target in targets), f"{name}.toml names {path}, and nothing is mounted there")
            if path.startswith("/etc/whitelistmcp/certs/"):
                leaf = Path(path).stem
                must(leaf == "ca" or leaf in leaves, f"{name}.toml names {path}, and `prepare` does not make it")
        must((HERE / f"{name}.toml", "/etc/whitelistmcp/whitelistmcp.toml", False) in [(Path(source), target, written) for source, target, written in mounts(services[name])], f"{name} is not given its file")
    for path in re.findall(r"/etc/whitelistmcp/certs/(\w+)\.(?:pem|key)", (HERE / "redis.conf").read_text()):
        must(path == "ca" or path in leaves, f"redis.conf names {path}, and `prepare` does not make it")
    edge, core = (tomllib.loads((HERE / f"{name}.toml").read_text()) for name in ("edge", "core"))
    journal = next((target for source, target, written in mounts(services["core"]) if source == "journal" and written), "")
    must(journal and core["audit"]["directory"].startswith(f"{journal}/"), "the journal is not on its volume")
    # Each name that is called is an alias of who listens there, and stands in that one's certificate.
    host, port = edge["edge"]["backend"]["address"].split(":")
    must(host in services["core"]["networks"]["link"]["aliases"] and host in leaves["core"] and core["core"]["listen"].endswith(f":{port}"), f"the edge calls {host}:{port}")
    url = re.fullmatch(r"rediss://([^:]+):(\d+)/0", core["redis"]["url"])
    must(url and url[1] in services["redis"]["networks"]["shared"]["aliases"] and url[1] in leaves["redis"] and f"tls-port {url[2]}" in (HERE / "redis.conf").read_text(), f"the core calls {core['redis']['url']}")
    must(core["core"]["peers"] == [{"san": leaves["edge"][0], "role": "edge"}], "the core knows another edge")
    must(edge["oidc"] == core["oidc"] and edge["oidc"]["company"]["audience"] == edge["edge"]["public_url"], "edge and core expect different tokens")
    must(edge["edge"]["public_url"].split("/")[2] in leaves["public"], "the certificate has not the edge's public name")
    must(str(services["edge"]["ports"][0]).removesuffix("/tcp") == "127.0.0.1:8080:8080" and edge["edge"]["listen"] == "0.0.0.0:8080", "the edge's port")
    for config in (edge, core):
        must(config["health"]["listen"].startswith("127.0.0.1:"), "probes are the container's own affair here")


def paths(value: object) -> Iterator[str]:
    if isinstance(value, dict):
        for inner in value.values():
            yield from paths(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from paths(inner)
    elif isinstance(value, str) and value.startswith("/"):
        yield value


@check("`whitelistmcp check` finds edge.toml and core.toml sound in their containers, with each of the files laid over")
def checked() -> None:
    for over in ((), ("compose.credentials.yaml",), ("compose.try.yaml",)):
        with tempfile.TemporaryDirectory(prefix="check-") as scratch:
            stack = Stack(Path(scratch), image(), "compose.yaml", *over)
            (stack.secrets / "aws-credentials").write_text("[default]\naws_access_key_id = test\naws_secret_access_key = test\n")
            stack.box("prepare").run(*stack.words("prepare"))
            for name in ("edge", "core"):
                said = stack.box(name).run(PROGRAM, "check")
                must("The configuration is sound." in said, f"{name}: {said}")


@check("the collector's configuration hangs together, and with the services around it (by its shape: its own check cannot run here)")
def collector() -> None:
    config, services = yaml(HERE / "collector.yaml"), both()["services"]
    must(set(config) == {"receivers", "processors", "exporters", "service"}, f"sections: {set(config)}")
    used: dict[str, set[str]] = {"receivers": set(), "processors": set(), "exporters": set()}
    for signal, pipeline in config["service"]["pipelines"].items():
        must(signal in ("metrics", "logs", "traces") and set(pipeline) == set(used), f"{signal}: {pipeline}")
        must(pipeline["processors"][0] == "memory_limiter", f"{signal}: memory is limited too late")
        for kind, names in used.items():
            names.update(pipeline[kind])
    for kind, names in used.items():
        must(set(config[kind]) == names, f"{kind}: defined {sorted(config[kind])}, used {sorted(names)}")
    must(len(config["service"]["pipelines"]) == 3, "a signal has no pipeline, and what is sent of it would be refused")
    port = config["receivers"]["otlp"]["protocols"]["grpc"]["endpoint"].rpartition(":")[2]
    for name in ("edge", "core"):
        must(services[name]["environment"]["OTEL_EXPORTER_OTLP_ENDPOINT"] == f"http://collector:{port}", f"{name} sends elsewhere")
    file = config["exporters"]["file/records"]["path"]
    must(any(file.startswith(f"{target}/") and written for _, target, written in mounts(services["collector"])), f"{file} is on no volume")
    must(config["exporters"]["otlp_http/prometheus"]["endpoint"] == "http://prometheus:9090/api/v1/otlp", "metrics go elsewhere")
    must("--web.enable-otlp-receiver" in services["prometheus"]["command"], "Prometheus takes nothing by OTLP")
    must(set(by_name(services["collector"]["networks"])) & set(by_name(services["prometheus"]["networks"])), "the collector does not reach Prometheus")


@check("promtool finds Prometheus's configuration and rules sound, mounted as they are, and the rules pass their tests")
def prometheus() -> None:
    with tempfile.TemporaryDirectory(prefix="prometheus-") as scratch:
        root = Path(scratch)
        for source, target, _ in mounts(whole("compose.yaml")["services"]["prometheus"]):
            if source.startswith("/"):
                (root / target.lstrip("/")).parent.mkdir(parents=True, exist_ok=True)
                text = Path(source).read_text()
                must("/etc/prometheus/" in text or target.endswith("alerts.yaml"), f"{source} names no file of its directory")
                (root / target.lstrip("/")).write_text(text.replace("[/etc/prometheus/", f"[{root}/etc/prometheus/"))
        said = run("promtool", "check", "config", root / "etc/prometheus/prometheus.yml")
        must(re.search(r"SUCCESS: \d+ rules? found", said) and "1 rule files found" in said, said)
    tests = sorted(path.name for path in (DEPLOY / "observability").glob("*_test.yaml"))
    must("certificates_test.yaml" in tests, f"only {tests}")
    run("promtool", "test", "rules", *tests, cwd=DEPLOY / "observability")


@check("Grafana is provisioned with the dashboard, and with the Prometheus that is there")
def grafana() -> None:
    services = whole("compose.yaml")["services"]
    targets = {target: source for source, target, _ in mounts(services["grafana"])}
    sources = yaml(Path(targets["/etc/grafana/provisioning/datasources/whitelistmcp.yaml"]))
    (source,) = sources["datasources"]
    must(sources["apiVersion"] == 1 and source["type"] == "prometheus" and source["isDefault"], f"{source}")
    must(source["url"] == "http://prometheus:9090" and set(by_name(services["grafana"]["networks"])) & set(by_name(services["prometheus"]["networks"])), f"{source['url']}")
    (provider,) = yaml(Path(targets["/etc/grafana/provisioning/dashboards/whitelistmcp.yaml"]))["providers"]
    boards = [Path(source) for target, source in targets.items() if target.startswith(f"{provider['options']['path']}/")]
    must(provider["type"] == "file" and len(boards) == 1, f"{provider}, {boards}")
    board = json.loads(boards[0].read_text())
    asked = {variable["query"] for variable in board["templating"]["list"] if variable["type"] == "datasource"}
    must(board["uid"] == "whitelistmcp" and asked == {"prometheus"}, f"{board['uid']}, {asked}")
    password = services["grafana"]["environment"]["GF_SECURITY_ADMIN_PASSWORD__FILE"]
    must(password in targets, f"{password} is not mounted")


@check("played without an engine, the compose files give a tool call: certificates, login, a door opened, Redis, a core that goes on, telemetry")
def rehearsed() -> None:
    said = run(sys.executable, CHECKOUT / "scripts/compose_rehearsal.py", within=400)
    must(said.count("\n  ") + said.startswith("  ") == 8, f"it ended early:\n{said}")
