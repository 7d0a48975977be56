"""What neither schemas nor an API server find in the objects of a release: names that lead nowhere. And what the
restricted Pod Security level demands, which only an API server would say.

`problems(objects)` gives sentences; the planted faults of `planted.py` hold it to finding them.
"""

WORKLOADS = {"Deployment", "StatefulSet", "DaemonSet", "Job"}
PROBES = ("startupProbe", "livenessProbe", "readinessProbe")


def label(thing):
    return f"{thing.get('kind')}/{thing.get('metadata', {}).get('name')}"


def pods(objects):
    """(object, labels of its pods, the pods' spec)"""
    for thing in objects:
        if thing["kind"] == "Pod":
            yield thing, thing["metadata"].get("labels") or {}, thing["spec"]
        elif thing["kind"] in WORKLOADS:
            template = thing["spec"]["template"]
            yield thing, template.get("metadata", {}).get("labels") or {}, template["spec"]


def containers(spec):
    return (spec.get("initContainers") or []) + (spec.get("containers") or [])


def is_sidecar(container):
    return container.get("restartPolicy") == "Always"


def matches(selector, labels):
    return bool(selector) and all(labels.get(key) == value for key, value in selector.items())


def quantity(value):
    text = str(value)
    for suffix, factor in (
        ("Ki", 2**10), ("Mi", 2**20), ("Gi", 2**30), ("Ti", 2**40), ("m", 1e-3), ("k", 1e3), ("M", 1e6), ("G", 1e9), ("T", 1e12),
    ):
        if text.endswith(suffix):
            return float(text[: -len(suffix)]) * factor
    return float(text)


def names(objects, outside):
    """ConfigMaps and Secrets that are mounted or read, volumes, ports, selectors. `outside`: Secrets and claims that
    the user has to bring, by name."""
    there = {(thing["kind"], thing["metadata"]["name"]): thing for thing in objects}
    if len(there) != len(objects):
        yield "two objects have the same kind and name"

    def needed(kind, name, who, keys=()):
        if name in outside:
            return
        thing = there.get((kind, name))
        if thing is None:
            yield f"{who}: there is no {kind} {name}"
            return
        for key in keys:
            if key not in (thing.get("data") or {}) and key not in (thing.get("stringData") or {}):
                yield f"{who}: {kind} {name} has no key {key}"

    for thing, labels, spec in pods(objects):
        who = label(thing)
        volumes = spec.get("volumes") or []
        declared = [volume["name"] for volume in volumes]
        if len(set(declared)) != len(declared):
            yield f"{who}: a volume is declared twice"
        everybody = [container["name"] for container in containers(spec)]
        if len(set(everybody)) != len(everybody):
            yield f"{who}: two containers have the same name"
        for volume in volumes:
            if "configMap" in volume:
                keys = [item["key"] for item in volume["configMap"].get("items") or []]
                yield from needed("ConfigMap", volume["configMap"]["name"], who, keys)
            if "secret" in volume:
                yield from needed("Secret", volume["secret"]["secretName"], who)
            if "persistentVolumeClaim" in volume:
                yield from needed("PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"], who)
        mounted = set()
        ports, numbers = set(), {}
        for container in containers(spec):
            here = f"{who} {container['name']}"
            places = [mount["mountPath"] for mount in container.get("volumeMounts") or []]
            if len(set(places)) != len(places):
                yield f"{here}: two mounts at one place"
            for mount in container.get("volumeMounts") or []:
                mounted.add(mount["name"])
                if mount["name"] not in declared:
                    yield f"{here}: there is no volume {mount['name']}"
            own = {}
            for port in container.get("ports") or []:
                number = port["containerPort"]
                if number in numbers:
                    yield f"{here}: port {number} is {numbers[number]}'s, too"
                numbers[number] = container["name"]
                own[port.get("name", number)] = number
                if port.get("name") in ports:
                    yield f"{here}: another container has a port {port['name']}, too"
                ports.add(port.get("name"))
            for probe in PROBES:
                handler = container.get(probe) or {}
                asked = (handler.get("httpGet") or handler.get("tcpSocket") or {}).get("port")
                if asked is not None and asked not in own and asked not in own.values():
                    yield f"{here}: the {probe} asks port {asked}, which the container does not declare"
                if probe in container and container in (spec.get("initContainers") or []) and not is_sidecar(container):
                    yield f"{here}: an init container that ends cannot have a {probe}"
            for variable in container.get("env") or []:
                for kind, key in (("ConfigMap", "configMapKeyRef"), ("Secret", "secretKeyRef")):
                    reference = (variable.get("valueFrom") or {}).get(key)
                    if reference:
                        yield from needed(kind, reference["name"], here, [reference["key"]])
            listed = [variable["name"] for variable in container.get("env") or []]
            if len(set(listed)) != len(listed):
                yield f"{here}: a variable is set twice"
            resources = container.get("resources") or {}
            for what, limit in (resources.get("limits") or {}).items():
                if quantity((resources.get("requests") or {}).get(what, limit)) > quantity(limit):
                    yield f"{here}: the request of {what} is above its limit"
        for name in set(declared) - mounted:
            yield f"{who}: volume {name} is mounted nowhere"
        selector = (thing["spec"].get("selector") or {}).get("matchLabels")
        if thing["kind"] in ("Deployment", "StatefulSet", "DaemonSet") and not matches(selector, labels):
            yield f"{who}: its selector does not match its own pods"

    every = list(pods(objects))
    for thing in objects:
        who = label(thing)
        if thing["kind"] == "Service":
            selected = [entry for entry in every if matches(thing["spec"].get("selector"), entry[1])]
            if not selected:
                yield f"{who}: its selector matches no pod"
            for port in thing["spec"]["ports"]:
                for other, _, spec in selected:
                    known = {p.get("name") for c in containers(spec) for p in c.get("ports") or []}
                    known |= {p["containerPort"] for c in containers(spec) for p in c.get("ports") or []}
                    if port.get("targetPort", port["port"]) not in known:
                        yield f"{who}: {label(other)} has no port {port.get('targetPort', port['port'])}"
        if thing["kind"] == "PodMonitor":
            selected = [entry for entry in every if matches(thing["spec"]["selector"].get("matchLabels"), entry[1])]
            for endpoint in thing["spec"]["podMetricsEndpoints"]:
                if not any(
                    port.get("name") == endpoint["port"]
                    for _, _, spec in selected
                    for container in containers(spec)
                    for port in container.get("ports") or []
                ):
                    yield f"{who}: no pod that it selects has a port {endpoint['port']}"


def restricted(objects):
    """https://kubernetes.io/docs/concepts/security/pod-security-standards/, the restricted level."""
    for thing, _, spec in pods(objects):
        who = label(thing)
        for field in ("hostNetwork", "hostPID", "hostIPC"):
            if spec.get(field):
                yield f"{who}: {field}"
        for volume in spec.get("volumes") or []:
            kinds = set(volume) - {"name"}
            if not kinds <= {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}:
                yield f"{who}: volume {volume['name']} is of a forbidden kind"
        outer = spec.get("securityContext") or {}
        for container in containers(spec):
            here = f"{who} {container['name']}"
            inner = container.get("securityContext") or {}
            if inner.get("runAsNonRoot", outer.get("runAsNonRoot")) is not True:
                yield f"{here}: runAsNonRoot is not set"
            if inner.get("runAsUser", outer.get("runAsUser")) == 0:
                yield f"{here}: runs as root"
            if inner.get("allowPrivilegeEscalation") is not False:
                yield f"{here}: allowPrivilegeEscalation is not false"
            if inner.get("privileged"):
                yield f"{here}: privileged"
            capabilities = inner.get("capabilities") or {}
            if "ALL" not in (capabilities.get("drop") or []) or set(capabilities.get("add") or []) - {"NET_BIND_SERVICE"}:
                yield f"{here}: does not drop all capabilities"
            profile = (inner.get("seccompProfile") or outer.get("seccompProfile") or {}).get("type")
            if profile not in ("RuntimeDefault", "Localhost"):
                yield f"{here}: no seccomp profile"
            if any("hostPort" in port for port in container.get("ports") or []):
                yield f"{here}: a port of the host"


def ours(objects):
    """What readside promises of itself: read-only root, data read-only in every other container, the order of start."""
    for thing, _, spec in pods(objects):
        everybody = {container["name"]: container for container in containers(spec)}
        daemon = everybody.get("readside")
        if daemon is None:
            continue
        who = label(thing)
        if not (daemon.get("securityContext") or {}).get("readOnlyRootFilesystem"):
            yield f"{who}: readside's root file system can be written"
        sidecar = daemon in (spec.get("initContainers") or [])
        if sidecar and not (is_sidecar(daemon) and (daemon.get("startupProbe") or {}).get("httpGet", {}).get("path") == "/startupz"):
            yield f"{who}: readside holds nothing back"
        if not sidecar and not (spec["containers"].index(daemon) <= 1 and "postStart" in (daemon.get("lifecycle") or {})):
            yield f"{who}: readside is a plain container that holds nothing back"
        if "limits" not in (daemon.get("resources") or {}):
            yield f"{who}: readside has no limits"
        for volume in spec.get("volumes") or []:
            if "emptyDir" in volume and "sizeLimit" not in volume["emptyDir"]:
                yield f"{who}: volume {volume['name']} has no size limit"
        for name, container in everybody.items():
            for mount in container.get("volumeMounts") or []:
                if name == "readside":
                    continue
                if mount["name"] == "readside-replica" and not mount.get("readOnly"):
                    yield f"{who} {name}: can write the replica"
                if mount["name"].startswith("readside-secret") or mount["name"] == "readside-config":
                    yield f"{who} {name}: sees readside's {mount['name']}"


def problems(objects, outside=()):
    return [*names(objects, set(outside)), *restricted(objects), *ours(objects)]
