"""The Helm chart, and the manifests that are rendered of it.

What cannot be shown here, as there is no cluster: that a controller of cert-manager, an ingress, a load balancer or a CNI does what
its documentation says. What they are told is judged, and the very configurations are served by real processes (`rehearsal`).
"""

import configparser
import functools
import ipaddress
import json
import re
import sys
import tempfile
import tomllib
from pathlib import Path

from .judge import BINARY, CHECKOUT, DEPLOY, HELM, KUBECTL, LINT, NODE, Wrong, check, judged_by_checkov, must, run

CHART = DEPLOY / "helm/whitelistmcp"
VALUES = DEPLOY / "helm/values"
MANIFESTS = DEPLOY / "kubernetes"
EXAMPLES = sorted(path.stem for path in VALUES.glob("*.yaml"))
# The oldest and the newest Kubernetes whose schemas are at hand, and that the chart says it is for.
VERSIONS = ("1.29.0", "1.37.0")
CRDS = Path(__file__).with_name("kubernetes_crds.json")
TO_JSON = "import json, sys, yaml; json.dump([d for d in yaml.safe_load_all(sys.stdin) if d], sys.stdout)"


def parsed(text: str) -> list[dict]:
    """Every document of a YAML text."""
    return json.loads(run(LINT / "python", "-c", TO_JSON, stdin=text))


def template(*more: str, fails: bool = False) -> str:
    return run(HELM, "template", "whitelistmcp", CHART, "--namespace", "whitelistmcp", *more, fails=fails)


@functools.cache
def text_of(example: str) -> str:
    return template("--values", str(VALUES / f"{example}.yaml"))


@functools.cache
def rendered(example: str) -> list[dict]:
    """What the chart makes of one file of values."""
    return parsed(text_of(example))


@functools.cache
def everything() -> dict[str, list[dict]]:
    """Every set of objects that a reader can come to apply: by values, and by the manifests."""
    sets = {example: rendered(example) for example in EXAMPLES}
    for variant in sorted(path.parent.name for path in MANIFESTS.glob("*/kustomization.yaml")):
        sets[f"kustomize {variant}"] = parsed(run(KUBECTL, "kustomize", MANIFESTS / variant))
    return sets


def of_kind(objects: list[dict], *kinds: str) -> list[dict]:
    return [thing for thing in objects if thing["kind"] in kinds]


def name_of(thing: dict) -> str:
    return thing["metadata"]["name"]


def pods(objects: list[dict]) -> list[tuple[str, dict]]:
    """Each pod that comes of them, with labels and spec: a name, and metadata and spec."""
    found = [(name_of(thing), thing) for thing in of_kind(objects, "Pod")]
    return found + [(name_of(thing), thing["spec"]["template"]) for thing in of_kind(objects, "Deployment", "StatefulSet")]


def configuration(objects: list[dict], component: str) -> str:
    """The text of a component's configuration, as its pod mounts it."""
    workload = next(thing for thing in of_kind(objects, "Deployment", "StatefulSet") if name_of(thing).endswith(f"-{component}"))
    sources = next(volume for volume in workload["spec"]["template"]["spec"]["volumes"] if volume["name"] == "files")["projected"]["sources"]
    mounted = [(source["configMap"]["name"], item["key"]) for source in sources if "configMap" in source for item in source["configMap"]["items"] if item["path"] == "whitelistmcp.toml"]
    must(len(mounted) == 1, f"{name_of(workload)} mounts {len(mounted)} configurations")
    maps = {name_of(thing): thing["data"] for thing in of_kind(objects, "ConfigMap")}
    return maps[mounted[0][0]][mounted[0][1]]


# === What others say of it ===


@check("helm lint finds nothing, strictly, with every example of values")
def lint() -> None:
    for example in EXAMPLES:
        said = run(HELM, "lint", "--strict", CHART, "--values", VALUES / f"{example}.yaml")
        must("[WARNING]" not in said and "[ERROR]" not in said, f"{example}: {said}")


@check("what is rendered is valid by the schemas of Kubernetes, old and new; of the resources that others define, each has no field but those that are written down here by their documentation")
def valid() -> None:
    schemas = json.loads(CRDS.read_text())
    defined = []
    with tempfile.TemporaryDirectory(prefix="kubernetes-") as scratch:
        files = []
        for example, objects in everything().items():
            own = {f"{thing['apiVersion']} {thing['kind']}" for thing in objects} & set(schemas)
            defined += [[schemas[f"{thing['apiVersion']} {thing['kind']}"], thing] for thing in objects if f"{thing['apiVersion']} {thing['kind']}" in own]
            files.append(Path(scratch) / f"{example.replace(' ', '-')}.yaml")
            files[-1].write_text("\n---\n".join(json.dumps(thing) for thing in objects if f"{thing['apiVersion']} {thing['kind']}" not in own))
        for version in VERSIONS:
            said = run(LINT / "kubernetes-validate", "--strict", "--kubernetes-version", version, *files)
            must("Couldn't find schema" not in said and said.count("passed for resource") > 10 * len(files), said)
    judge = "import json, sys, jsonschema\nfor s, d in json.load(sys.stdin): jsonschema.Draft202012Validator(s).validate(d)"
    run(LINT / "python", "-c", judge, stdin=json.dumps(defined))
    must({f"{thing['apiVersion']} {thing['kind']}" for _, thing in defined} == set(schemas), "every schema is of something that is rendered")


@check("checkov finds nothing in what is rendered")
def judged() -> None:
    # CKV_K8S_15 wants every start to ask the registry. An image that is named by digest or by a version that never moves is
    # the same one, and a core that cannot start while the registry is away closes no doors.
    # CKV_K8S_43 wants a digest: the registry, and so the digest, is the reader's own.
    # CKV_K8S_21 looks at the namespace of `helm template`, which is there.
    with tempfile.TemporaryDirectory(prefix="checkov-") as scratch:
        for example, objects in everything().items():
            # cert-manager's and others' own kinds are nothing to it.
            (Path(scratch) / f"{example.replace(' ', '-')}.yaml").write_text("\n---\n".join(json.dumps(thing) for thing in objects))
        judged_by_checkov(Path(scratch), "kubernetes", "--skip-check", "CKV_K8S_15,CKV_K8S_43", parses=300)


@check("the manifests are what the chart renders, and kustomize takes them")
def drift() -> None:
    run(sys.executable, CHECKOUT / "scripts/manifests.py", "--check", HELM=str(HELM))
    variants = [name for name in everything() if name.startswith("kustomize ")]
    must(len(variants) == 2, f"two variants of manifests, not {variants}")
    for name in variants:
        maps = [name_of(thing) for thing in of_kind(everything()[name], "ConfigMap")]
        must(len(maps) == 2 and all(re.fullmatch(r"whitelistmcp-(edge|core)-[a-z0-9]{10}", each) for each in maps), f"{name}: ConfigMaps are named by content: {maps}")
        # The same as by Helm, but for what says who applies it and for the names of ConfigMaps.
        helm = {(thing["kind"], name_of(thing)) for thing in rendered(name.removeprefix("kustomize ")) if thing["kind"] not in ("ConfigMap", "Pod")}
        plain = {(thing["kind"], name_of(thing)) for thing in everything()[name] if thing["kind"] not in ("ConfigMap", "Namespace")}
        must(helm == plain, f"{name}: {helm ^ plain}")


@check("the chart is of the program's own version")
def version() -> None:
    chart = parsed((CHART / "Chart.yaml").read_text())[0]
    program = tomllib.loads((CHECKOUT / "Cargo.toml").read_text())["package"]["version"]
    must(chart["appVersion"] == program == chart["version"], f"Chart.yaml says {chart['appVersion']} and {chart['version']}, Cargo.toml {program}")


# === Values ===

# A change of good values, and a part of what the chart must say of it.
REFUSED: list[tuple[str, list[str], str]] = [
    ("load-balancer", ["edge.replica=3"], "additional properties 'replica' not allowed"),
    ("load-balancer", ["edgge.replicas=3"], "additional properties 'edgge' not allowed"),
    ("load-balancer", ["image.tag=latest"], "/image/tag"),
    ("load-balancer", ["image.tag="], "/image"),
    ("load-balancer", ["image.repository="], "/image/repository"),
    ("load-balancer", ["publicUrl=http://whitelist.example.com/mcp"], "/publicUrl"),
    ("load-balancer", ["edge.exposure=nodePort"], "value must be one of 'loadBalancer', 'ingress', 'gateway', 'cluster'"),
    ("load-balancer", ["core.identity.from=keys"], "value must be one of 'irsa'"),
    ("load-balancer", ["edge.sealingKey.secret="], "/edge/sealingKey/secret"),
    ("load-balancer", ["core.identity.roleArn="], "name the role in core.identity.roleArn"),
    ("load-balancer", ["edge.tls.from=proxy"], "nothing would do TLS"),
    ("load-balancer", ["edge.tls.issuerRef=null"], "who signs the public certificate"),
    ("load-balancer", ["config.edge.listen=0.0.0.0:1"], "config.edge.listen is set by the chart"),
    ("load-balancer", ["config.edge.websocket_listen=0.0.0.0:8081"], "at /ws and /mcp"),
    ("load-balancer", ["config.edge.events.file=/x"], "no disk to write to"),
    ("load-balancer", ["config.aws.credentials_file=/x"], "config.aws.credentials_file is set by the chart"),
    ("load-balancer", ["config.aws.accounts[0].id=1"], "/config/aws/accounts/0/id"),
    ("load-balancer", ["telemetry.variables.OTEL_RESOURCE_ATTRIBUTES=a=b"], "telemetry.variables.OTEL_RESOURCE_ATTRIBUTES is set by the chart"),
    ("load-balancer", ["telemetry.variables.OTEL_EXPORTER_OTLP_ENDPOINT=http://a:1"], "telemetry.variables.OTEL_EXPORTER_OTLP_ENDPOINT is set by the chart"),
    ("load-balancer", ["telemetry.variables.OTEL_EXPORTER_OTLP_PROTOCOL=grpc"], "telemetry.variables.OTEL_EXPORTER_OTLP_PROTOCOL is set by the chart"),
    ("ingress", ["networkPolicy.callerEntities[0]=ingress"], "only Cilium knows entities"),
    ("gateway-cilium", ["networkPolicy.callerEntities[0]=world"], "/networkPolicy/callerEntities/0"),
    ("gateway-cilium", ["networkPolicy.callerEntities=null"], "say where the ingress controller or gateway runs"),
    ("load-balancer", ["networkPolicy.issuers=null"], "name the addresses of your issuers"),
    ("load-balancer", ["networkPolicy.telemetry=null"], "say where telemetry.endpoint is"),
    ("load-balancer", ["networkPolicy.services[0].podSelector=null", "networkPolicy.services[0].namespaceSelector=null"], "/networkPolicy/services/0"),
    ("load-balancer", ["config.approvals.wait=30m"], "needs redis.url"),
    ("load-balancer", ["edge.files[0].secret=a", "edge.files[0].key=b", "edge.files[0].path=c"], "does not speak of /etc/whitelistmcp/c"),
    ("own-certificates", ["edge.autoscaling.on=requests"], "the metric is sent to telemetry.endpoint"),
    ("load-balancer", ["telemetry.endpoint="], "or take `cpu`"),
    ("ingress", ["edge.trustedProxies=null"], "plain HTTP to declared proxies alone"),
    ("ingress", ["edge.ingress.tlsSecret="], "edge.ingress.tlsSecret"),
    ("ingress", ["networkPolicy.callers=null"], "say where the ingress controller or gateway runs"),
    ("gateway-cilium", ["edge.gateway.parentRefs=null"], "edge.gateway.parentRefs"),
    ("gateway-cilium", ["edge.tls.from=secret", "edge.tls.secret=a"], "the gateway does TLS"),
    ("own-certificates", ["certificates.secrets.core="], "name both in certificates.secrets"),
    ("everything", ["redis.url=redis://redis.data:6379/0"], "redis.url must be rediss://"),
    ("everything", ["policies.notes=x"], "notes"),
    ("spire", ["certificates.spire.image="], "name spiffe-helper's image"),
    ("spire", ["certificates.spire.image=ghcr.io/spiffe/spiffe-helper:latest"], "/certificates/spire/image"),
    ("spire", ["edgeIdentity=example.org/edge"], "/edgeIdentity"),
]


@check("values that are wrong are refused, and what is said names them")
def refused() -> None:
    for example, changes, words in REFUSED:
        said = template("--values", str(VALUES / f"{example}.yaml"), *(word for change in changes for word in ("--set", change)), fails=True)
        must(words in said, f"{example} with {changes}: `{words}` is not in what it says:\n{said}")
    said = template(fails=True)
    must("publicUrl" in said, f"nothing but the defaults: {said}")


@check("every key of the chart's values is in the schema, and every secret's and section's name")
def schema() -> None:
    values = parsed((CHART / "values.yaml").read_text())[0]
    known = json.loads((CHART / "values.schema.json").read_text())

    def walk(value: object, shape: dict, at: str) -> None:
        if "$ref" in shape:
            shape = known["$defs"][shape["$ref"].rpartition("/")[2]]
        if "allOf" in shape:
            shape = shape | known["$defs"][shape["allOf"][0]["$ref"].rpartition("/")[2]]
        for key, inner in value.items() if isinstance(value, dict) else ():
            properties = shape.get("properties", {})
            if key not in properties and shape.get("additionalProperties") is False:
                raise Wrong(f"values.yaml has {at}{key}, and the schema does not")
            walk(inner, properties.get(key, {}), f"{at}{key}.")
        if isinstance(value, dict) and shape.get("additionalProperties") is False:
            missing = [key for key in shape["properties"] if key not in value and key != "global"]
            must(not missing or at == "networkPolicy.dns." or at.endswith("issuerRef."), f"the schema has {at}{missing}, and values.yaml does not")

    walk(values, known, "")


# === What holds between the objects ===


@check("every pod is what Pod Security calls restricted, and has no token of the cluster")
def restricted() -> None:
    for example, objects in everything().items():
        found = pods(objects)
        must(len(found) >= 2, f"{example}: {len(found)} pods")
        for name, pod in found:
            spec, at = pod["spec"], f"{example}: {name}"
            own = spec["securityContext"]
            must(own["runAsNonRoot"] is True and own["runAsUser"] == 65532 and own["runAsGroup"] == 65532 and own["fsGroup"] == 65532, f"{at}: user")
            must(own["seccompProfile"] == {"type": "RuntimeDefault"}, f"{at}: seccomp")
            must(spec["automountServiceAccountToken"] is False and spec["enableServiceLinks"] is False, f"{at}: token, links")
            must(not any(spec.get(key) for key in ("hostNetwork", "hostPID", "hostIPC")), f"{at}: the host's namespaces")
            allowed = {"projected", "secret", "configMap", "emptyDir", "persistentVolumeClaim", "csi"}
            kinds = {key for volume in spec.get("volumes", []) for key in volume if key != "name"}
            must(kinds <= allowed, f"{at}: volumes of kinds {kinds - allowed}")
            for container in spec["containers"] + spec.get("initContainers", []):
                context = container["securityContext"]
                must(context["allowPrivilegeEscalation"] is False and context["readOnlyRootFilesystem"] is True and context["runAsNonRoot"] is True, f"{at}: {context}")
                must(context["capabilities"] == {"drop": ["ALL"]} and not context.get("privileged"), f"{at}: {context}")
                must(not any("hostPort" in port for port in container.get("ports", [])), f"{at}: a port of the host's")
                must({"requests", "limits"} <= set(container["resources"]), f"{at}: resources")
                names = [entry["name"] for entry in container.get("env", [])]
                must(len(names) == len(set(names)), f"{at}: a variable is there twice: {names}")
                image = container["image"]
                must(re.fullmatch(r"[^:@]+(:[^:@]+)?(@sha256:[0-9a-f]{64}|:[^:@]+)", image) and not image.endswith(":latest"), f"{at}: {image}")
        for account in of_kind(objects, "ServiceAccount"):
            must(account["automountServiceAccountToken"] is False, f"{example}: {name_of(account)}")


def selects(selector: dict | None, labels: dict[str, str]) -> bool:
    """Whether a label selector matches; one that is empty matches everything."""
    must(not (selector or {}).get("matchExpressions"), "no selector here is more than labels")
    return all(labels.get(key) == value for key, value in (selector or {}).get("matchLabels", {}).items())


@check("selectors meet the labels that they mean, and services, probes and policies the ports")
def meet() -> None:
    for example, objects in everything().items():
        tests = of_kind(objects, "Pod")
        must(len(tests) == (not example.startswith("kustomize ")), f"{example}: {len(tests)} tests")
        for thing in tests:
            (edge,) = [each for each in thing["spec"]["initContainers"] if each["args"] == ["edge"]]
            (asks,) = thing["spec"]["containers"]
            deployed = of_kind(objects, "Deployment")[0]["spec"]["template"]["spec"]
            mounts = [volume for volume in thing["spec"]["volumes"] if volume["name"] == "files"]
            must(mounts == [volume for volume in deployed["volumes"] if volume["name"] == "files"] and edge["restartPolicy"] == "Always", f"{example}: the test's edge is not like the others")
            must(asks["args"] == ["health", "--ready"] and asks["volumeMounts"] == edge["volumeMounts"] and edge["startupProbe"]["httpGet"]["path"] == "/readyz", f"{example}: {asks}")
        labelled = {name: pod["metadata"]["labels"] for name, pod in pods(objects)}
        specs = {name: pod["spec"] for name, pod in pods(objects)}
        for workload in of_kind(objects, "Deployment", "StatefulSet"):
            must(selects(workload["spec"]["selector"], workload["spec"]["template"]["metadata"]["labels"]), f"{example}: {name_of(workload)}")
        for thing in of_kind(objects, "Service"):
            selected = [name for name, labels in labelled.items() if selects({"matchLabels": thing["spec"]["selector"]}, labels)]
            component = "edge" if "-edge" in name_of(thing) else "core"
            must(len(selected) == 1 and selected[0].endswith(f"-{component}"), f"{example}: Service {name_of(thing)} selects {selected}")
            named = {port["name"]: port["containerPort"] for port in specs[selected[0]]["containers"][0]["ports"]}
            for port in thing["spec"]["ports"]:
                must(port["targetPort"] in named, f"{example}: Service {name_of(thing)} leads to {port['targetPort']}, of {named}")
        for thing in of_kind(objects, "PodDisruptionBudget"):
            selected = [name for name, labels in labelled.items() if selects(thing["spec"]["selector"], labels)]
            must(selected == [name_of(thing)], f"{example}: {name_of(thing)} selects {selected}")
        core = next(thing for thing in of_kind(objects, "StatefulSet"))
        services = {name_of(thing): thing for thing in of_kind(objects, "Service")}
        must(services[core["spec"]["serviceName"]]["spec"].get("clusterIP") == "None", f"{example}: the set's own service is headless")
        for scaler in of_kind(objects, "HorizontalPodAutoscaler"):
            target = scaler["spec"]["scaleTargetRef"]["name"]
            scaled = next(thing for thing in of_kind(objects, "Deployment") if name_of(thing) == target)
            must("replicas" not in scaled["spec"] and scaler["spec"]["minReplicas"] == 3, f"{example}: {target} is scaled by two, or from fewer than three")
        for component in ("edge", "core"):
            config = tomllib.loads(configuration(objects, component))
            spec = next(spec for name, spec in specs.items() if name.endswith(f"-{component}") and "-test-" not in name)
            container = spec["containers"][0]
            must(container["args"] == [component] and "command" not in container, f"{example}: {component} is started as {container['args']}")
            ports = {port["name"]: port["containerPort"] for port in container["ports"]}
            listens = {"health": config["health"]["listen"], {"edge": "mcp", "core": "grpc"}[component]: config[component]["listen"]}
            must(ports == {name: int(address.rpartition(":")[2]) for name, address in listens.items()}, f"{example}: {component} listens on {listens}, and its ports are {ports}")
            for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
                must(container[probe]["httpGet"]["port"] == "health", f"{example}: {component}: {probe}")
            must({container[probe]["httpGet"]["path"] for probe in ("startupProbe", "livenessProbe")} == {"/livez"}, f"{example}: a {component} that is not ready would be killed")
            alone = component == "core" and core["spec"]["replicas"] == 1
            must(container["readinessProbe"]["httpGet"]["path"] == ("/livez" if alone else "/readyz"), f"{example}: {component}: readiness")
            ends = sum(int(config["shutdown"][key].removesuffix("s")) for key in ("grace", "lame_duck"))
            must(ends < spec["terminationGracePeriodSeconds"], f"{example}: {component} is killed before its shutdown is over")
            probe = container["readinessProbe"]
            must(probe["periodSeconds"] * probe["failureThreshold"] < int(config["shutdown"]["lame_duck"].removesuffix("s")), f"{example}: {component} stops accepting before its probe says so")
        backend = tomllib.loads(configuration(objects, "edge"))["edge"]["backend"]["address"]
        host, _, port = backend.rpartition(":")
        name, namespace, _ = host.split(".")
        service = services[name]
        must(service["metadata"]["namespace"] == namespace and service["spec"]["ports"][0]["port"] == int(port), f"{example}: the edge calls {backend}")
        issued = {name_of(thing): thing["spec"] for thing in of_kind(objects, "Certificate")}
        if name in issued:
            must(host in issued[name]["dnsNames"] and "server auth" in issued[name]["usages"], f"{example}: the core's certificate is not for {host}")
            peers = tomllib.loads(configuration(objects, "core"))["core"]["peers"]
            edge = next(spec for each, spec in issued.items() if each.endswith("-edge"))
            must(edge["uris"] == [peer["san"] for peer in peers if peer["role"] == "edge"] and "client auth" in edge["usages"] and "dnsNames" not in edge, f"{example}: the edge's certificate: {edge}")


        registered = {name_of(thing).rpartition("-")[2]: thing["spec"] for thing in of_kind(objects, "ClusterSPIFFEID")}
        for component, entry in registered.items():
            selected = [name for name, labels in labelled.items() if selects(entry["podSelector"], labels)]
            must(len(selected) == 1 and selected[0].endswith(f"-{component}"), f"{example}: the ClusterSPIFFEID of the {component} selects {selected}")
            must(selects(entry["namespaceSelector"], {"kubernetes.io/metadata.name": namespace}), f"{example}: {entry}")
        if registered:
            peers = [peer["san"] for peer in tomllib.loads(configuration(objects, "core"))["core"]["peers"] if peer["role"] == "edge"]
            must(registered["test"]["spiffeIDTemplate"] == registered["edge"]["spiffeIDTemplate"] and [registered["edge"]["spiffeIDTemplate"]] == peers and "dnsNameTemplates" not in registered["edge"], f"{example}: {registered}")
            must(host in registered["core"]["dnsNameTemplates"], f"{example}: no DNS name for {host}")


@check("the page on cert-manager names the certificates that the chart asks for, and each is renewed before the alert would speak of it")
def asked_for() -> None:
    page = (CHECKOUT / "docs/deploy/cert-manager.md").read_text()
    told = {row[0]: row[1:] for row in re.findall(r"^\| `([\w-]+)` \|(?: (?:URI|DNS) `(.+?)`)?[^|]*\| ([a-z ]+) \| `([\w-]+)`, ", page, re.MULTILINE)}
    issued = {}
    for thing in of_kind(rendered("load-balancer"), "Certificate"):
        spec = thing["spec"]
        # The first, by which it is known.
        name = [*spec.get("uris", []), *spec.get("dnsNames", []), ""][0]
        issued[name_of(thing)] = (name, next(usage for usage in spec["usages"] if usage in ("client auth", "server auth", "cert sign")), spec["secretName"])
    must(told == issued, f"the page says {told}, and the chart asks for {issued}")
    for example in EXAMPLES:
        for thing in of_kind(rendered(example), "Certificate"):
            whole, left = (int(thing["spec"][key].removesuffix("h")) for key in ("duration", "renewBefore")) if "duration" in thing["spec"] else (3, 1)
            # CertificateEndsSoon: a week, and a quarter.
            must(left > whole / 4 or left > 7 * 24, f"{example}: {name_of(thing)} is renewed {left} hours before its end, of {whole}")
    schema = json.loads(CRDS.read_text())["cert-manager.io/v1 Certificate"]
    examples = [thing for block in re.findall(r"```yaml\n(.*?)```", page, re.DOTALL) for thing in parsed(block)]
    judge = "import json, sys, jsonschema\ns, d = json.load(sys.stdin); jsonschema.Draft202012Validator(s).validate(d)"
    run(LINT / "python", "-c", judge, stdin=json.dumps([schema, next(thing for thing in examples if thing["kind"] == "Certificate")]))
    bundle = next(thing for thing in examples if thing["kind"] == "Bundle")
    must(f"secret: {name_of(bundle)}, key: {bundle['spec']['target']['secret']['key']}," in page, "edge and core are given another secret than the bundle's")


@check("each way in is the one that is meant: 80 or 443 to 8080, TLS by the edge or by a declared proxy alone")
def ways_in() -> None:
    # What no object here can make sure of: that the proxy sees who calls.
    for file in (CHECKOUT / "docs/deploy/kubernetes.md", VALUES / "ingress.yaml"):
        must("externalTrafficPolicy: Local" in file.read_text() and "PROXY protocol" in file.read_text(), f"{file.name} does not say that a proxy must see who calls")
    for example, objects in everything().items():
        edge = tomllib.loads(configuration(objects, "edge"))["edge"]
        service = next(thing for thing in of_kind(objects, "Service") if name_of(thing).endswith("-edge"))["spec"]
        port = service["ports"][0]
        must(("tls" in edge) != bool(edge.get("plaintext")), f"{example}: TLS is done once")
        must((port["name"], port["port"]) == (("http", 80) if edge.get("plaintext") else ("https", 443)), f"{example}: {port}")
        must(len(service["ports"]) == 1 and port["targetPort"] == "mcp", f"{example}: nothing else is reached: {service['ports']}")
        if service["type"] == "LoadBalancer":
            must("tls" in edge and service["externalTrafficPolicy"] == "Local", f"{example}: who calls is seen, and over TLS")
        else:
            must("tls" in edge or edge["trusted_proxies"], f"{example}: no proxy is declared")
        outside = [name_of(thing) for thing in of_kind(objects, "Service") if thing["spec"].get("type") in ("LoadBalancer", "NodePort")]
        must(len(outside) == (service["type"] == "LoadBalancer"), f"{example}: {outside}")
        host = re.match(r"https://([^/:]+)", edge["public_url"])
        for route in of_kind(objects, "Ingress"):
            rule = route["spec"]["rules"][0]
            must(rule["host"] == host[1] and route["spec"]["tls"][0]["hosts"] == [host[1]], f"{example}: {route['spec']}")
            must([path["path"] for path in rule["http"]["paths"]] == ["/"], f"{example}: not every path is led to the edge")
            controller = text_of(example.removeprefix("kustomize "))
            must("ingress-nginx" not in controller and "nginx.ingress" not in controller, f"{example}: of a controller that nobody maintains")
        for route in of_kind(objects, "HTTPRoute"):
            must(route["spec"]["hostnames"] == [host[1]], f"{example}: {route['spec']}")


@check("the core's identity: the role is named, a token is there only where it is needed, and the journal is on a volume that stays")
def identities() -> None:
    found = set()
    for example, objects in everything().items():
        core = of_kind(objects, "StatefulSet")[0]["spec"]
        spec = core["template"]["spec"]
        account = next(thing for thing in of_kind(objects, "ServiceAccount") if name_of(thing) == spec["serviceAccountName"])
        environment = {entry["name"]: entry.get("value") for entry in spec["containers"][0]["env"]}
        tokens = [source["serviceAccountToken"] for volume in spec["volumes"] for source in volume.get("projected", {}).get("sources", []) if "serviceAccountToken" in source]
        role = (account["metadata"].get("annotations") or {}).get("eks.amazonaws.com/role-arn")
        if tokens:
            found.add("webIdentity")
            mounts = {mount["name"]: mount["mountPath"] for mount in spec["containers"][0]["volumeMounts"]}
            must(environment["AWS_WEB_IDENTITY_TOKEN_FILE"] == f"{mounts['aws']}/{tokens[0]['path']}" and environment["AWS_ROLE_ARN"] and tokens[0]["audience"] == "sts.amazonaws.com", f"{example}: {environment}")
        found.add("irsa" if role else "other")
        must(not any(name in environment for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")), f"{example}: keys in the environment")
        edge = of_kind(objects, "Deployment")[0]["spec"]["template"]["spec"]
        must(not any(entry["name"].startswith("AWS_") for entry in edge["containers"][0]["env"]) and edge["serviceAccountName"] != spec["serviceAccountName"], f"{example}: the edge has an AWS identity")
        claims = core["volumeClaimTemplates"]
        mounts = {mount["name"]: mount["mountPath"] for mount in spec["containers"][0]["volumeMounts"]}
        journal = tomllib.loads(configuration(objects, "core"))["audit"]["directory"]
        must([name_of(claim) for claim in claims] == ["journal"] and journal.startswith(mounts["journal"] + "/"), f"{example}: {journal}")
        must(core["persistentVolumeClaimRetentionPolicy"] == {"whenDeleted": "Retain", "whenScaled": "Retain"}, f"{example}: the journal would go")
    must({"irsa", "webIdentity", "other"} <= found, f"the examples show {found}")
    # EKS sets the Region for IRSA, unless values do.
    for region, change in ((None, []), ("eu-west-3", ["--set", "core.identity.region=eu-west-3"])):
        core = of_kind(parsed(template("--values", str(VALUES / "load-balancer.yaml"), *change)), "StatefulSet")[0]["spec"]["template"]["spec"]
        said = {entry["name"]: entry.get("value") for entry in core["containers"][0]["env"]}.get("AWS_REGION")
        must(said == region, f"with core.identity.region={region} the core is told {said}")


# === Who may reach whom ===


class Endpoint:
    """Somebody on the network: a pod with labels in a namespace, an address outside, or what Cilium calls an entity: the node, and its own proxy."""

    def __init__(self, address: str, namespace: str | None = None, labels: dict[str, str] | None = None, name: str | None = None, entity: str | None = None) -> None:
        self.address, self.namespace, self.labels, self.name, self.entity = ipaddress.ip_address(address), namespace, labels or {}, name, entity


def world(instance: str) -> dict[str, Endpoint]:
    own = {"app.kubernetes.io/name": "whitelistmcp", "app.kubernetes.io/instance": instance}
    return {
        "edge": Endpoint("10.244.1.1", "whitelistmcp", own | {"app.kubernetes.io/component": "edge"}),
        "core": Endpoint("10.244.1.2", "whitelistmcp", own | {"app.kubernetes.io/component": "core"}),
        "test": Endpoint("10.244.1.3", "whitelistmcp", own | {"app.kubernetes.io/component": "test"}),
        "neighbour": Endpoint("10.244.1.4", "whitelistmcp", {"app": "other"}),
        "ingress": Endpoint("10.244.2.1", "haproxy-controller", {"app.kubernetes.io/name": "kubernetes-ingress"}),
        "gateway": Endpoint("10.244.2.2", "gateways", {"app": "gateway"}),
        "cilium's gateway": Endpoint("10.244.2.3", entity="ingress"),
        "runner": Endpoint("10.244.3.1", "ci", {"app": "runner"}),
        "stranger": Endpoint("10.244.3.2", "default", {"app": "runner"}),
        "dns": Endpoint("10.244.4.1", "kube-system", {"k8s-app": "kube-dns"}),
        "local dns": Endpoint("10.244.4.2", "kube-system", {"k8s-app": "node-local-dns"}),
        "local dns of the node": Endpoint("169.254.20.10", entity="host"),
        "collector": Endpoint("10.244.5.1", "observability", {"app": "collector"}),
        "redis": Endpoint("10.244.6.1", "data", {"app": "redis"}),
        "internet": Endpoint("198.51.100.7"),
        "issuer": Endpoint("192.0.2.10", name="login.example.com"),
        "keys": Endpoint("192.0.2.11", name="keys.example.com"),
        "aws": Endpoint("52.94.5.9", name="ec2.eu-central-1.amazonaws.com"),
        "aws elsewhere": Endpoint("52.94.7.7", name="s3.us-east-1.amazonaws.com"),
        "metadata": Endpoint("169.254.169.254"),
        "agent": Endpoint("169.254.170.23", entity="host"),
    }


def peer_matches(peer: dict, other: Endpoint) -> bool:
    if "ipBlock" in peer:
        block = ipaddress.ip_network(peer["ipBlock"]["cidr"])
        inside = other.address.version == block.version and other.address in block
        return inside and not any(other.address in ipaddress.ip_network(out) for out in peer["ipBlock"].get("except", []) if ipaddress.ip_network(out).version == block.version)
    if other.namespace is None:
        return False
    if "namespaceSelector" in peer:
        if not selects(peer["namespaceSelector"], {"kubernetes.io/metadata.name": other.namespace}):
            return False
    elif other.namespace != "whitelistmcp":
        return False
    return selects(peer.get("podSelector"), other.labels)


def permitted(objects: list[dict], one: Endpoint, other: Endpoint, port: int, protocol: str, direction: str) -> bool:
    """Whether the policies of `one` let it speak with `other`, by the semantics of NetworkPolicy, and Cilium's by name."""
    kind, side = {"in": ("Ingress", "from"), "out": ("Egress", "to")}[direction]
    mine = [thing["spec"] for thing in of_kind(objects, "NetworkPolicy") if one.namespace == thing["metadata"]["namespace"] and selects(thing["spec"]["podSelector"], one.labels)]
    mine = [spec for spec in mine if kind in spec["policyTypes"]]
    if not mine:
        return True
    # To Cilium whoever is an entity has no address: rules of addresses do not match it (cilium/cilium, issue 34387).
    cilium = of_kind(objects, "CiliumNetworkPolicy")
    for spec in mine:
        for rule in spec.get(kind.lower(), []):
            ports = any(entry["port"] == port and entry["protocol"] == protocol for entry in rule["ports"])
            if ports and any(peer_matches(peer, other) for peer in rule[side] if not (cilium and other.entity and "ipBlock" in peer)):
                return True
    for thing in cilium:
        if one.namespace == thing["metadata"]["namespace"] and selects(thing["spec"]["endpointSelector"], one.labels):
            for rule in thing["spec"].get(kind.lower(), []):
                named = any(entry["matchName"] == other.name for entry in rule.get("toFQDNs", [])) or other.entity in rule.get(f"{side}Entities", [])
                if named and any(entry["port"] == str(port) for ports in rule["toPorts"] for entry in ports["ports"]):
                    return True
    return False


# From whom, to whom, on which port, and in which examples it may be; nowhere else.
LOAD_BALANCED = {"load-balancer", "own-certificates", "everything", "spire"}
EVERYWHERE = LOAD_BALANCED | {"ingress", "gateway-cilium"}
REACH: list[tuple[str, str, int, set[str]]] = [
    ("internet", "edge", 8080, LOAD_BALANCED),
    ("ingress", "edge", 8080, LOAD_BALANCED | {"ingress"}),
    ("gateway", "edge", 8080, LOAD_BALANCED),
    ("cilium's gateway", "edge", 8080, LOAD_BALANCED | {"gateway-cilium"}),
    ("cilium's gateway", "edge", 8082, set()),
    ("cilium's gateway", "core", 8443, set()),
    ("stranger", "edge", 8080, LOAD_BALANCED),
    ("internet", "edge", 8082, set()),
    ("ingress", "edge", 8082, set()),
    ("test", "edge", 8082, set()),
    ("test", "core", 8082, set()),
    ("test", "edge", 8080, set()),
    ("edge", "core", 8443, EVERYWHERE),
    ("edge", "core", 8082, set()),
    ("core", "edge", 8080, set()),
    ("core", "core", 8443, set()),
    ("internet", "core", 8443, set()),
    ("ingress", "core", 8443, set()),
    ("neighbour", "core", 8443, set()),
    ("stranger", "core", 8443, set()),
    ("test", "core", 8443, EVERYWHERE),
    ("runner", "core", 8443, {"load-balancer", "everything", "spire"}),
    ("core", "aws", 443, EVERYWHERE),
    ("edge", "aws", 443, set()),
    ("test", "aws", 443, set()),
    ("core", "aws elsewhere", 443, EVERYWHERE - {"gateway-cilium"}),
    ("edge", "issuer", 443, EVERYWHERE),
    ("core", "issuer", 443, EVERYWHERE),
    ("edge", "internet", 443, set()),
    ("edge", "issuer", 80, set()),
    ("core", "aws", 80, set()),
    ("edge", "metadata", 80, set()),
    ("core", "metadata", 80, set()),
    ("core", "metadata", 443, set()),
    ("core", "agent", 80, {"everything", "gateway-cilium", "spire"}),
    ("edge", "agent", 80, set()),
    ("core", "agent", 443, set()),
    ("edge", "collector", 4317, {"load-balancer", "ingress", "everything"}),
    ("core", "collector", 4317, {"load-balancer", "ingress", "everything"}),
    ("edge", "redis", 6379, {"everything"}),
    ("core", "redis", 6379, {"everything"}),
    ("edge", "neighbour", 443, set()),
    ("edge", "local dns of the node", 443, set()),
    # What the node is, it is on every address: the agent of Pod Identity.
    ("core", "local dns of the node", 80, {"gateway-cilium"}),
]


@check("who may reach whom is what is meant: strangers the edge alone, the edge the core alone, and AWS none but the core")
def reach() -> None:
    sets = {example: objects for example, objects in everything().items() if example != "minimal"}
    must({example.removeprefix("kustomize ") for example in sets} == EVERYWHERE, f"the table speaks of {EVERYWHERE}")
    for example, objects in sets.items():
        who = world(of_kind(objects, "Deployment")[0]["metadata"]["labels"]["app.kubernetes.io/instance"])
        for source, to, port, where in REACH:
            may = permitted(objects, who[source], who[to], port, "TCP", "out") and permitted(objects, who[to], who[source], port, "TCP", "in")
            must(may == (example.removeprefix("kustomize ") in where), f"{example}: {source} {'may' if may else 'may not'} reach {to} on {port}")
        for source in ("edge", "core", "test"):
            # A cluster has one of them: its own, NodeLocal DNSCache as pods, or where no pod is. GKE's Cloud DNS is at the metadata service's address. With
            # Cilium names are learnt from what pods answer, and from nobody else.
            asked = ["dns", "local dns", *([] if of_kind(objects, "CiliumNetworkPolicy") else ["local dns of the node"]), "metadata"]
            for server in asked:
                must(permitted(objects, who[source], who[server], 53, "UDP", "out"), f"{example}: {source} cannot look up names at {server}")
            must(not permitted(objects, who[source], who["internet"], 53, "UDP", "out"), f"{example}: {source} asks anybody for names")
    # The metadata service is opened only for a core that has its identity from there.
    objects = parsed(template("--values", str(VALUES / "load-balancer.yaml"), "--set", "core.identity.from=instance"))
    who = world("whitelistmcp")
    must(permitted(objects, who["core"], who["metadata"], 80, "TCP", "out") and not permitted(objects, who["edge"], who["metadata"], 80, "TCP", "out"), "identity from the instance")
    must(not of_kind(rendered("minimal"), "NetworkPolicy"), "networkPolicy.enabled=false")
    # A gateway that runs as pods, where names are Cilium's.
    pods_of_it = ("networkPolicy.callerEntities=null", "networkPolicy.callers[0].namespaceSelector.matchLabels.kubernetes\\.io/metadata\\.name=gateways")
    objects = parsed(template("--values", str(VALUES / "gateway-cilium.yaml"), *(word for change in pods_of_it for word in ("--set", change))))
    let_in = {source for source in ("gateway", "cilium's gateway", "internet", "ingress") if permitted(objects, who["edge"], who[source], 8080, "TCP", "in")}
    must(let_in == {"gateway"}, f"the edge lets in {let_in}")
    # Issuers on ports of their own.
    ports = {"load-balancer": {"issuer": 8443}, "gateway-cilium": {"issuer": 8443, "keys": 9443}}
    for example, changes in {
        "load-balancer": ["config.oidc.company.issuer=https://login.example.com:8443"],
        "gateway-cilium": ["config.oidc.company.issuer=https://login.example.com:8443/realms/company", "config.oidc.company.origins[0]=https://keys.example.com:9443"],
    }.items():
        objects = parsed(template("--values", str(VALUES / f"{example}.yaml"), *(word for change in changes for word in ("--set", change))))
        for source in ("edge", "core"):
            for to, port in ports[example].items():
                reached = {each for each in (443, 8443, 9443) if permitted(objects, who[source], who[to], each, "TCP", "out")}
                # By address alone, the core reaches AWS's port anywhere.
                must(reached - ({443} if example == "load-balancer" and source == "core" else set()) == {port}, f"{example}: {source} reaches {to} on {reached}, and not on {port}")
        must(permitted(objects, who["core"], who["aws"], 443, "TCP", "out") and not permitted(objects, who["edge"], who["aws"], 443, "TCP", "out"), f"{example}: AWS, with an issuer on another port")


# === The configurations ===


def laid_out(example: str, objects: list[dict], component: str, root: Path) -> tuple[Path, str]:
    """Makes every file that a pod mounts, under `root`; the configuration with its paths led there, and what it mounts."""
    workload = next(thing for thing in of_kind(objects, "Deployment", "StatefulSet") if name_of(thing).endswith(f"-{component}"))
    spec = workload["spec"]["template"]["spec"]
    text = configuration(objects, component)
    at = root / component
    maps = {name_of(thing): thing["data"] for thing in of_kind(objects, "ConfigMap")}
    made = root / "made"
    for source in next(volume for volume in spec["volumes"] if volume["name"] == "files")["projected"]["sources"]:
        ((kind, from_),) = source.items()
        for item in from_["items"]:
            path = at / item["path"]
            path.parent.mkdir(parents=True, exist_ok=True)
            mounted = f"/etc/whitelistmcp/{item['path']}"
            spoken = f'"{mounted}"' in text or f'"{Path(mounted).parent}"' in text or item["path"] == "whitelistmcp.toml"
            must(spoken, f"{example}: {component} mounts {mounted}, and its configuration does not speak of it")
            if kind == "configMap":
                path.write_text(maps[from_["name"]][item["key"]])
            elif item["path"].startswith("certs/"):
                leaf = Path(item["path"]).parent.name
                path.write_bytes((made / {"tls.crt": f"{leaf}.pem", "tls.key": f"{leaf}.key", "ca.crt": "ca.pem"}[item["key"]]).read_bytes())
            elif item["path"] == "journal.pem":
                run(BINARY, "audit", "key", "--out", path)
            elif item["path"] == "keys.toml":
                path.write_text("")
            elif item["path"] == "redis/ca.crt":
                path.write_bytes((made / "ca.pem").read_bytes())
            elif item["path"] == "aws-credentials":
                path.write_text("[default]\naws_access_key_id = x\naws_secret_access_key = y\n")
            else:
                path.write_text("5e" * 32)
    if any(volume["name"] == "svids" for volume in spec["volumes"]):
        # What spiffe-helper would write.
        (helper,) = [thing["data"]["helper.conf"] for thing in of_kind(objects, "ConfigMap") if name_of(thing).endswith("-spiffe-helper")]
        said = dict(re.findall(r'^(\w+) = "(.*)"$', helper, re.MULTILINE))
        (at / "spiffe").mkdir(parents=True)
        for key, made_as in {"svid_file_name": f"{component}.pem", "svid_key_file_name": f"{component}.key", "svid_bundle_file_name": "ca.pem"}.items():
            (at / "spiffe" / said[key]).write_bytes((made / made_as).read_bytes())
        must(said["cert_dir"] == "/run/spiffe" and text.count('"/run/spiffe/') == 3, f"{example}: {component} looks elsewhere than spiffe-helper writes")
    for path in re.findall(r'"(/etc/whitelistmcp/[^"]+)"', text):
        must((at / path.removeprefix("/etc/whitelistmcp/")).exists(), f"{example}: {component}'s configuration speaks of {path}, which nothing mounts")
    (root / "journal").mkdir(exist_ok=True)
    text = text.replace("/etc/whitelistmcp/", f"{at}/").replace("/run/spiffe/", f"{at}/spiffe/").replace('"/etc/whitelistmcp', f'"{at}').replace("/var/lib/whitelistmcp", f"{root}/journal")
    (at / "whitelistmcp.toml").write_text(text)
    return at / "whitelistmcp.toml", text


def names_of_certificates(objects: list[dict]) -> dict[str, list[str]]:
    edge, core = (tomllib.loads(configuration(objects, component)) for component in ("edge", "core"))
    return {
        "core": [edge["edge"]["backend"]["address"].rpartition(":")[0]],
        "edge": [peer["san"] for peer in core["core"]["peers"] if peer["role"] == "edge"],
        "public": [re.match(r"https://([^/:]+)", edge["edge"]["public_url"])[1]],
    }


@check("both configurations are sound to the program itself, every path in them is mounted, and everything mounted is in them")
def sound() -> None:
    for example, objects in everything().items():
        with tempfile.TemporaryDirectory(prefix="kubernetes-") as scratch:
            root = Path(scratch)
            leaves = [f"{leaf}={','.join(names)}" for leaf, names in names_of_certificates(objects).items()]
            run(BINARY, "certs", "--directory", root / "made", *leaves)
            for component in ("edge", "core"):
                file, _ = laid_out(example, objects, component, root)
                said = run(BINARY, "check", "--config", file)
                must("The configuration is sound." in said, f"{example}: {component}: {said}")


# === Scaling ===


@check("the metric that edges are scaled on is made of one that the service measures")
def scaled_on() -> None:
    adapter = parsed((MANIFESTS / "prometheus-adapter.yaml").read_text())[0]
    (rule,) = adapter["rules"]["custom"]
    asked = {metric["pods"]["metric"]["name"] for objects in everything().values() for scaler in of_kind(objects, "HorizontalPodAutoscaler") for metric in scaler["spec"]["metrics"] if metric["type"] == "Pods"}
    for example, objects in everything().items():
        if any(metric["type"] == "Pods" for scaler in of_kind(objects, "HorizontalPodAutoscaler") for metric in scaler["spec"]["metrics"]):
            sent = [entry["name"] for entry in of_kind(objects, "Deployment")[0]["spec"]["template"]["spec"]["containers"][0]["env"]]
            must("OTEL_EXPORTER_OTLP_ENDPOINT" in sent, f"{example}: edges are scaled on a metric that none of them sends")
    must(asked == {rule["name"]["as"]}, f"the chart asks for {asked}, and the rule makes {rule['name']}")
    series = re.match(r"[a-z_]+", rule["seriesQuery"])[0]
    measured = (CHECKOUT / "src/telemetry/metrics.rs").read_text()
    must(series == "http_server_request_duration_seconds_count" and 'histogram("http.server.request.duration"' in measured, f"{series} is not measured")
    labels = rule["resources"]["overrides"]
    environment = {entry["name"]: entry.get("value") for entry in of_kind(rendered("load-balancer"), "Deployment")[0]["spec"]["template"]["spec"]["containers"][0]["env"]}
    attributes = dict(pair.split("=") for pair in environment["OTEL_RESOURCE_ATTRIBUTES"].split(","))
    promoted = parsed((MANIFESTS / "prometheus.yaml").read_text())[0]["otlp"]["promote_resource_attributes"]
    for label in labels:
        attribute = label.replace("_", ".")
        must(attribute in attributes and attribute in promoted, f"{label} is no label: {attributes}, {promoted}")
    # The rule as Prometheus would be asked, tried on series.
    query = rule["metricsQuery"].replace("<<.Series>>", series).replace("<<.LabelMatchers>>", 'k8s_namespace_name="whitelistmcp"').replace("<<.GroupBy>>", "k8s_pod_name")
    rules = {"groups": [{"name": "adapter", "rules": [{"record": "asked", "expr": query}]}]}
    pod = 'k8s_namespace_name="whitelistmcp",k8s_pod_name="edge-{}",http_route="{}"'
    tests = {
        "rule_files": ["rules.yml"], "evaluation_interval": "30s",
        "tests": [{
            "interval": "30s",
            "input_series": [
                {"series": f"{series}{{{pod.format('a', '/mcp')}}}", "values": "0+1500x20"},
                {"series": f"{series}{{{pod.format('b', '/mcp')}}}", "values": "0+300x20"},
                {"series": f"{series}{{{pod.format('b', '/readyz')}}}", "values": "0+3000x20"},
            ],
            "promql_expr_test": [{"expr": "asked", "eval_time": "8m", "exp_samples": [
                {"labels": 'asked{k8s_pod_name="edge-a"}', "value": 50}, {"labels": 'asked{k8s_pod_name="edge-b"}', "value": 10},
            ]}],
        }],
    }
    with tempfile.TemporaryDirectory(prefix="adapter-") as scratch:
        (Path(scratch) / "rules.yml").write_text(json.dumps(rules))
        (Path(scratch) / "tests.yml").write_text(json.dumps(tests))
        run("promtool", "test", "rules", "tests.yml", cwd=Path(scratch))


# === Without a cluster ===


@check("edge and core, as they are configured here, run: probes answer, a call goes through, new certificates are taken, and SPIFFE's serve as well")
def rehearsal() -> None:
    done = run(sys.executable, CHECKOUT / "scripts/rehearse_kubernetes.py", WHITELISTMCP=str(BINARY.resolve()), within=280)
    must("everything held" in done, done)


@check("spiffe-helper's configurations parse, have no key that it does not know, and write what the page's configurations read")
def spire() -> None:
    known = {"agent_address", "cert_dir", "svid_file_name", "svid_key_file_name", "svid_bundle_file_name", "omit_expired"}
    page = (CHECKOUT / "docs/deploy/spire.md").read_text()
    configured = [tomllib.loads(block) for block in re.findall(r"```toml\n(.*?)```", page, re.DOTALL)]
    backend, core = configured[0]["edge"]["backend"], configured[1]["core"]
    (in_chart,) = [thing["data"]["helper.conf"] for thing in of_kind(rendered("spire"), "ConfigMap") if name_of(thing).endswith("-spiffe-helper")]
    parse = "const { parse } = require('@cdktf/hcl2json'); let t = ''; process.stdin.on('data', c => t += c).on('end', async () => console.log(JSON.stringify(await parse('helper.conf.tf', t))));"
    read = {
        "edge": {"svid_file_name": backend["certificate"], "svid_key_file_name": backend["key"], "svid_bundle_file_name": backend["ca"]},
        "core": {"svid_file_name": core["tls"]["certificate"], "svid_key_file_name": core["tls"]["key"], "svid_bundle_file_name": core["client_ca"]},
        "chart": {"svid_file_name": "/run/spiffe/tls.crt", "svid_key_file_name": "/run/spiffe/tls.key", "svid_bundle_file_name": "/run/spiffe/ca.crt"},
    }
    for name, files in read.items():
        text = in_chart if name == "chart" else (DEPLOY / f"spire/{name}.conf").read_text()
        said = json.loads(run("node", "-e", parse, stdin=text, NODE_PATH=str(NODE / "node_modules")))
        must(set(said) == known and said["omit_expired"] is True, f"{name}: {said}")
        written = {key: f"{said['cert_dir']}/{said[key]}" for key in files}
        must(written == files, f"{name}: spiffe-helper writes {written}, and {files} are read")
        must(name == "chart" or f"spiffe-helper-{name}.conf" in text and f"spiffe-helper-{name}.conf" in page, f"{name}: the file has another's name")
    # On one host, each with a directory that is the other's neither in whole nor in part, and that somebody makes.
    places = {name: Path(files["svid_file_name"]).parent for name, files in read.items() if name != "chart"}
    must(not places["edge"].is_relative_to(places["core"].parent) and not places["core"].is_relative_to(places["edge"].parent), f"edge and core share {places}")
    unit = configparser.ConfigParser(interpolation=None)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read_string(re.search(r"```ini\n(.*?)```", page, re.DOTALL)[1])
    made = unit["Service"]["RuntimeDirectory"].split()
    must(f"/run/{made[-1]}" == str(places["edge"]) and unit["Service"]["RuntimeDirectoryMode"] == "0700", f"the unit makes {made}")
    started = {unit["Service"][key].split(" -daemon-mode=false")[0] for key in ("ExecStartPre", "ExecStart")}
    must(started == {"/usr/local/bin/spiffe-helper -config /etc/whitelistmcp/spiffe-helper-edge.conf"}, f"the unit starts {started}")
    must(f"unix:user:{unit['Service']['User']} " in page, f"{unit['Service']['User']} is nobody who is registered")
