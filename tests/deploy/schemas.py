"""Writes JSON Schemas in the layout that kubeconform looks for: <to>/v1.NN.0-standalone-strict/<kind>-<group>-<version>.json.

Kubernetes' own come out of the package kubernetes_validate, those of the Prometheus operator out of its custom resource
definitions. Arguments: where to, the directory of the definitions.
"""

import json
import shutil
import sys
from pathlib import Path

import kubernetes_validate
import yaml

# The versions that the charts promise to run on: the oldest, the first with native sidecars, the newest.
VERSIONS = ["1.25.0", "1.29.0", "1.33.0", "1.37.0"]
CUSTOM = ["podmonitors", "prometheusrules", "servicemonitors"]


def strict(schema):
    """Forbids fields that the definition does not know, as kubectl's strict validation does."""
    if isinstance(schema, dict):
        if schema.get("type") == "object" and "properties" in schema:
            schema.setdefault("additionalProperties", False)
        for value in schema.values():
            strict(value)
    elif isinstance(schema, list):
        for value in schema:
            strict(value)


def main():
    target, definitions = Path(sys.argv[1]), Path(sys.argv[2])
    shutil.rmtree(target, ignore_errors=True)
    source = Path(kubernetes_validate.__file__).parent / "kubernetes-json-schema"
    for version in VERSIONS:
        directory = target / f"v{version}-standalone-strict"
        directory.mkdir(parents=True)
        for file in (source / f"v{version}-local-strict").glob("*.json"):
            schema = json.loads(file.read_text())
            schema.pop("$id", None)
            text = json.dumps(schema).replace('"$ref": "/api/_definitions.json', '"$ref": "_definitions.json')
            (directory / file.name).write_text(text)
    custom = target / "custom"
    custom.mkdir()
    for name in CUSTOM:
        definition = yaml.safe_load((definitions / f"monitoring.coreos.com_{name}.yaml").read_text())
        kind = definition["spec"]["names"]["kind"].lower()
        for version in definition["spec"]["versions"]:
            schema = version["schema"]["openAPIV3Schema"]
            strict(schema)
            schema["properties"]["metadata"] = {"type": "object"}
            (custom / f"{kind}_{version['name']}.json").write_text(json.dumps(schema))


main()
