"""Faults planted into the objects of a release: `objects.problems` has to find each."""

import copy

from objects import problems


def faults():
    """(name, change of the objects); a change gets the objects by kind and the containers of the Deployment by name."""

    def daemon(things):
        return next(c for c in spec(things)["initContainers"] if c["name"] == "readside")

    def app(things):
        return next(c for c in spec(things)["containers"])

    def spec(things):
        return things["Deployment"]["spec"]["template"]["spec"]

    return [
        ("a probe asks a port that is not declared", lambda t: daemon(t)["livenessProbe"]["httpGet"].update(port="metrics")),
        ("the mounted ConfigMap is not in the release", lambda t: t["ConfigMap"]["metadata"].update(name="other")),
        ("a mounted Secret is not in the release", lambda t: spec(t)["volumes"].append({"name": "s", "secret": {"secretName": "s"}})),
        ("the Deployment selects other pods", lambda t: t["Deployment"]["spec"]["selector"].update(matchLabels={"a": "b"})),
        ("the Service selects no pod", lambda t: t["Service"]["spec"].update(selector={"a": "b"})),
        ("the Service leads to no port", lambda t: t["Service"]["spec"]["ports"][0].update(targetPort="metrics")),
        ("the PodMonitor asks a port that nobody has", lambda t: t["PodMonitor"]["spec"]["podMetricsEndpoints"][0].update(port="http-metrics")),
        ("the PodMonitor selects no pod", lambda t: t["PodMonitor"]["spec"]["selector"].update(matchLabels={"a": "b"})),
        ("a mount has no volume", lambda t: app(t)["volumeMounts"].append({"name": "x", "mountPath": "/x"})),
        ("a volume is mounted nowhere", lambda t: spec(t)["volumes"].append({"name": "x", "emptyDir": {"sizeLimit": "1Mi"}})),
        ("a variable is set twice", lambda t: daemon(t)["env"].append(dict(daemon(t)["env"][0]))),
        ("a request above its limit", lambda t: daemon(t)["resources"]["requests"].update(memory="1Gi")),
        ("two containers take one port", lambda t: app(t).setdefault("ports", []).append(dict(daemon(t)["ports"][0], name="mine"))),
        ("a sidecar that is no sidecar", lambda t: daemon(t).pop("restartPolicy")),
        ("root", lambda t: daemon(t)["securityContext"].update(runAsUser=0)),
        ("not said to be no root", lambda t: app(t)["securityContext"].pop("runAsNonRoot")),
        ("privileges can grow", lambda t: daemon(t)["securityContext"].pop("allowPrivilegeEscalation")),
        ("capabilities are kept", lambda t: daemon(t)["securityContext"].update(capabilities={})),
        ("no seccomp profile", lambda t: daemon(t)["securityContext"].pop("seccompProfile")),
        ("a directory of the host", lambda t: spec(t)["volumes"][1].update(hostPath={"path": "/"})),
        ("the root file system can be written", lambda t: daemon(t)["securityContext"].pop("readOnlyRootFilesystem")),
        ("the application can write the replica", lambda t: app(t)["volumeMounts"][0].pop("readOnly")),
        ("the application sees readside's secrets", lambda t: app(t)["volumeMounts"].append({"name": "readside-secret-kafka", "mountPath": "/s"})),
        ("an emptyDir without a limit", lambda t: spec(t)["volumes"][1].update(emptyDir={})),
        ("nothing is held back", lambda t: daemon(t).pop("startupProbe")),
    ]


def unnoticed(objects, outside):
    """The planted faults that were not found. `objects`: a release without problems that has a Service and a PodMonitor."""
    missed = []
    for name, plant in faults():
        changed = copy.deepcopy(objects)
        plant({thing["kind"]: thing for thing in changed})
        if not problems(changed, outside):
            missed.append(name)
    return missed
