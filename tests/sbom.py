"""Prints what is compiled into readside as a CycloneDX 1.5 document: every package of Cargo.lock that the program or its
build needs, with checksum and licence. The same lock file gives the same text."""

import json
import subprocess
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def main():
    metadata = json.loads(
        subprocess.run(["cargo", "metadata", "--locked", "--format-version", "1"], cwd=ROOT, check=True, capture_output=True).stdout
    )
    lock = tomllib.loads((ROOT / "Cargo.lock").read_text())
    checksums = {(package["name"], package["version"]): package.get("checksum") for package in lock["package"]}
    packages = {package["id"]: package for package in metadata["packages"]}
    nodes = {node["id"]: node for node in metadata["resolve"]["nodes"]}
    root = metadata["resolve"]["root"]

    # What tests and benchmarks alone need is not in the program.
    needed, waiting = set(), [root]
    while waiting:
        current = waiting.pop()
        if current in needed:
            continue
        needed.add(current)
        for dependency in nodes[current]["deps"]:
            if any(kind["kind"] != "dev" for kind in dependency["dep_kinds"]):
                waiting.append(dependency["pkg"])

    def reference(package):
        return f"pkg:cargo/{package['name']}@{package['version']}"

    components, edges = [], []
    for key in sorted(needed, key=lambda key: reference(packages[key])):
        package = packages[key]
        edges.append(
            {
                "ref": reference(package),
                "dependsOn": sorted({reference(packages[each["pkg"]]) for each in nodes[key]["deps"] if each["pkg"] in needed}),
            }
        )
        if key == root:
            continue
        component = {"type": "library", "bom-ref": reference(package), "name": package["name"], "version": package["version"]}
        checksum = checksums[package["name"], package["version"]]
        if checksum:
            component["hashes"] = [{"alg": "SHA-256", "content": checksum}]
        if package["license"]:
            component["licenses"] = [{"expression": package["license"].replace("/", " OR ")}]
        component["purl"] = reference(package)
        components.append(component)
    own = packages[root]
    document = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {
            "component": {"type": "application", "bom-ref": reference(own), "name": own["name"], "version": own["version"]}
        },
        "components": components,
        "dependencies": edges,
    }
    print(json.dumps(document, indent=1))


main()
