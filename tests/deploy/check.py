"""Renders, lints and validates what is under helm/, deploy/ and Dockerfile, without a cluster.

`check.py` does everything and ends with 1 when something is wrong. `check.py --render CASE` prints the objects of
tests/deploy/cases/CASE.yaml as JSON, for the tests of the pod.

Comments at the head of a case: `# kubernetes: 1.29, 1.37` (versions to render for), `# outside: a, b` (Secrets and
claims that the user brings), and in tests/deploy/refused `# says: …` (part of the message).
"""

import filecmp
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import yaml

import objects
import planted

ROOT = Path(__file__).resolve().parents[2]
HERE = ROOT / "tests/deploy"
TOOLS = (ROOT / ".cache/tools").resolve()
READSIDE = Path(os.environ.get("READSIDE_BIN", ROOT / "target/debug/readside"))
REQUIRED = os.environ.get("READSIDE_REQUIRE_SERVICES") == "1"
# With schemas in .cache/tools/schemas.
KUBERNETES = ["1.25", "1.29", "1.33", "1.37"]
NATIVE = ["1.29", "1.33", "1.37"]
LINES_ADDED_MAX = 6


class Failed(Exception):
    pass


class Missing(Exception):
    """A tool is not there."""


def tool(name):
    found = next((str(path) for path in (TOOLS / "bin" / name, TOOLS / "venv/bin" / name) if path.exists()), shutil.which(name))
    if found is None:
        raise Missing(f"{name} is missing: run tests/deploy/tools")
    return found


def run(*command, stdin=None, env=None, fails=False):
    """Output of a command; `fails`: it has to fail, and what it said is returned."""
    try:
        done = subprocess.run(
            [str(part) for part in command], input=stdin, text=True, capture_output=True, timeout=240, cwd=ROOT,
            env={**os.environ, **(env or {})},
        )
    except subprocess.TimeoutExpired as error:
        raise Failed(f"no end within 240 s: {command[0]}") from error
    if fails:
        if done.returncode == 0:
            raise Failed("was not refused")
        return done.stdout + done.stderr
    if done.returncode:
        raise Failed(f"{Path(str(command[0])).name} {' '.join(str(part) for part in command[1:3])}:\n{done.stdout}{done.stderr}".strip())
    return done.stdout


def head(file, word):
    """The list behind `# word:` in the comments at the head of a file."""
    for line in file.read_text().splitlines():
        if not line.startswith("#"):
            break
        if line.startswith(f"# {word}:"):
            return [part.strip() for part in line.split(":", 1)[1].split(",")]
    return []


def load(text):
    return [thing for thing in yaml.safe_load_all(text) if thing]


def chart(work, source):
    """A copy of a chart with the library packed into it."""
    target = work / source.name
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("charts"))
    (target / "charts").mkdir()
    shutil.copytree(ROOT / "helm/readside", target / "charts/readside")
    return target


def template(directory, values, version, **more):
    # Helm's own cache and configuration stay out of it.
    home = directory.parent
    env = {name: str(home / "helm") for name in ("HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME")}
    files = ["-f", values] if values else []
    return run(tool("helm"), "template", "orders", directory, "-n", "shop", "--kube-version", version, *files, env=env, **more)


def kubeconform(text, versions):
    schemas = TOOLS / "schemas"
    if not schemas.is_dir():
        raise Missing("the schemas are missing: run tests/deploy/tools")
    for version in versions:
        run(
            tool("kubeconform"), "-strict", "-kubernetes-version", f"{version}.0",
            "-schema-location", f"{schemas}/{{{{ .NormalizedKubernetesVersion }}}}-standalone-strict/{{{{ .ResourceKind }}}}{{{{ .KindSuffix }}}}.json",
            "-schema-location", f"{schemas}/custom/{{{{ .ResourceKind }}}}_{{{{ .ResourceAPIVersion }}}}.json",
            stdin=text,
        )


def sound(things, outside=()):
    found = objects.problems(things, outside)
    if found:
        raise Failed("\n".join(found))


def configuration(things):
    """What readside itself says of each configuration that a release gives it, with the variables of its container."""
    maps = {thing["metadata"]["name"]: thing for thing in things if thing["kind"] == "ConfigMap"}
    for _, _, spec in objects.pods(things):
        for container in objects.containers(spec):
            if container["name"] != "readside":
                continue
            name = next(volume["configMap"]["name"] for volume in spec["volumes"] if volume["name"] == "readside-config")
            if name not in maps:
                continue
            with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
                file.write(maps[name]["data"]["readside.yaml"])
                file.flush()
                validate(file.name, {item["name"]: item["value"] for item in container.get("env") or []})


def validate(file, env=None):
    if not READSIDE.exists():
        raise Missing(f"{READSIDE} is missing: cargo build")
    run(READSIDE, "validate", "--config", file, env=env)


# ---------------------------------------------------------------------------------------------- checks


def a_case(work, file):
    versions = head(file, "kubernetes") or NATIVE
    directory = work / "readside-app"
    outside = head(file, "outside")
    lint = run(tool("helm"), "lint", "--strict", directory, "-f", file, "--kube-version", versions[-1])
    if "[WARNING]" in lint:
        raise Failed(lint)
    for version in versions:
        text = template(directory, file, version)
        things = load(text)
        kubeconform(text, [version])
        sound(things, outside)
        configuration(things)


def a_refusal(work, file):
    version = (head(file, "kubernetes") or ["1.37"])[0]
    said = template(work / "readside-app", file, version, fails=True)
    expected = ", ".join(head(file, "says"))
    if not expected or expected not in said:
        raise Failed(f"expected {expected!r} in:\n{said}")


def planted_faults_are_found(work):
    file = HERE / "cases/everything.yaml"
    things = load(template(work / "readside-app", file, "1.37"))
    missed = planted.unnoticed(things, head(file, "outside"))
    if missed:
        raise Failed("not found: " + ", ".join(missed))


def an_existing_chart_needs_six_lines(work):
    before, after = HERE / "existing/before", HERE / "existing/after"
    added = []
    for file in sorted(path.relative_to(after) for path in after.rglob("*") if path.is_file()):
        if str(file) == "values.yaml":  # the configuration, which is the user's own
            continue
        old = (before / file).read_text().splitlines() if (before / file).exists() else []
        new = (after / file).read_text().splitlines()
        remaining = list(old)
        for line in new:
            if line in remaining:
                remaining.remove(line)
            else:
                added.append(line)
        if remaining:
            raise Failed(f"{file}: lines had to change: {remaining}")
    if len(added) > LINES_ADDED_MAX:
        raise Failed(f"{len(added)} lines are added:\n" + "\n".join(added))
    readme = (ROOT / "helm/README.md").read_text()
    for line in added:
        shown = line.strip().replace("file://../../../../helm/readside", "file://../readside")
        if f"+{line[: len(line) - len(line.lstrip())]}{shown}" not in readme:
            raise Failed(f"helm/README.md does not show: +{line}")
    directory = chart(work, after)
    for version in NATIVE:
        text = template(directory, None, version)
        kubeconform(text, [version])
        sound(load(text))
        configuration(load(text))
    plain = load(template(chart(work, before), None, "1.37"))
    if any(container["name"] == "readside" for _, _, spec in objects.pods(plain) for container in objects.containers(spec)):
        raise Failed("the chart before has readside already")


def rendering_is_stable(work):
    """The same values give the same text; another configuration gives another checksum, so that pods are replaced."""
    file = HERE / "cases/minimal.yaml"
    first, second = (template(work / "readside-app", file, "1.37") for _ in range(2))
    if first != second:
        raise Failed("two renderings differ")
    changed = work / "changed.yaml"
    changed.write_text(file.read_text().replace("email: text?", "email: text"))
    checksums = {re.search(r"checksum/readside: (\w+)", text).group(1) for text in (first, template(work / "readside-app", changed, "1.37"))}
    if len(checksums) != 2:
        raise Failed("a changed configuration leaves the pods as they are")


def kustomize(work):
    command = [tool("kustomize"), "build"] if (TOOLS / "bin/kustomize").exists() or shutil.which("kustomize") else [tool("kubectl"), "kustomize"]
    text = run(*command, "deploy/kustomize/example")
    things = load(text)
    kubeconform(text, NATIVE)
    sound(things)
    configuration(things)
    spec = next(spec for _, _, spec in objects.pods(things))
    if spec["initContainers"][0]["name"] != "readside":
        raise Failed("readside does not start first")


def manifest(work):
    text = (ROOT / "deploy/kubernetes/readside.yaml").read_text()
    kubeconform(text, NATIVE)
    sound(load(text))
    configuration(load(text))


def the_ways_to_deploy_agree(work):
    """Probes, resources and rights of readside's container are the same from the chart, kustomize and the manifest."""
    texts = {
        "the chart": template(work / "readside-app", HERE / "cases/minimal.yaml", "1.37"),
        "the manifest": (ROOT / "deploy/kubernetes/readside.yaml").read_text(),
    }
    component = yaml.safe_load((ROOT / "deploy/kustomize/component/sidecar.yaml").read_text())
    found = {"kustomize": component["spec"]["template"]["spec"]["initContainers"][0]}
    for name, text in texts.items():
        spec = next(spec for thing, _, spec in objects.pods(load(text)) if thing["kind"] == "Deployment")
        found[name] = next(container for container in spec["initContainers"] if container["name"] == "readside")
    for field in ("image", "args", "ports", "startupProbe", "livenessProbe", "readinessProbe", "resources", "securityContext", "volumeMounts"):
        if len({json.dumps(container.get(field), sort_keys=True) for container in found.values()}) != 1:
            raise Failed(f"{field} differs: { {name: container.get(field) for name, container in found.items()} }")


def compose(work):
    directory = ROOT / "deploy/compose"
    content = yaml.safe_load((directory / "compose.yaml").read_text())
    for name, service in content["services"].items():
        for other in service.get("depends_on") or {}:
            if other not in content["services"]:
                raise Failed(f"{name} depends on {other}, which is not there")
        for volume in service.get("volumes") or []:
            source = volume.split(":")[0]
            if source.startswith("."):
                if not (directory / source).exists():
                    raise Failed(f"{name}: there is no file {source}")
            elif source not in content["volumes"]:
                raise Failed(f"{name}: there is no volume {source}")
        if "build" in service and not (directory / service["build"] / "Dockerfile").exists():
            raise Failed(f"{name}: no Dockerfile in {service['build']}")
    if not any(volume.endswith(":ro") and volume.startswith("replica:") for volume in content["services"]["reader"]["volumes"]):
        raise Failed("the reader can write the replica")
    validate(directory / "readside.yaml")


def hadolint(work):
    run(tool("hadolint"), "--failure-threshold", "style", "Dockerfile")


def alerts(work):
    rules = ROOT / "deploy/prometheus/rules.yaml"
    run(tool("promtool"), "check", "rules", rules)
    run(tool("promtool"), "test", "rules", *sorted((ROOT / "deploy/prometheus/tests").glob("*.yaml")))
    text, tests = rules.read_text(), (ROOT / "deploy/prometheus/tests/alerts.yaml").read_text()
    runbook = (ROOT / "docs/RUNBOOK.md").read_text()
    for rule in yaml.safe_load(text)["groups"][0]["rules"]:
        name = rule.get("alert")
        if not name:
            continue
        if f'alertname="{name}"' not in tests:
            raise Failed(f"no case in which {name} fires")
        if rule["annotations"].get("runbook_url") != f"docs/RUNBOOK.md#{name.lower()}":
            raise Failed(f"{name} has no runbook_url")
        section = re.search(rf"^## {name}$(.*?)(?=^## |\Z)", runbook, re.M | re.S)
        if not section:
            raise Failed(f"docs/RUNBOOK.md has no section {name}")
        for part in ("**Meaning.**", "**Look.**", "**Do.**"):
            if part not in section.group(1):
                raise Failed(f"docs/RUNBOOK.md, {name}: no {part}")


def the_chart_has_the_rules(work):
    content = yaml.safe_load((ROOT / "deploy/prometheus/rules.yaml").read_text())
    if yaml.safe_load((ROOT / "helm/readside-app/files/rules.yaml").read_text()) != content:
        raise Failed("cp deploy/prometheus/rules.yaml helm/readside-app/files/rules.yaml")
    if not filecmp.cmp(ROOT / "deploy/prometheus/rules.yaml", ROOT / "helm/readside-app/files/rules.yaml", shallow=False):
        raise Failed("helm/readside-app/files/rules.yaml is not the same file")


def only_metrics_that_exist(work):
    source = (ROOT / "src/metrics/names.rs").read_text()
    known = set()
    for kind, name in re.findall(r'= (Counter|Gauge|Histogram) "(readside_\w+)"', source):
        known |= {name} if kind != "Histogram" else {f"{name}_{suffix}" for suffix in ("bucket", "sum", "count")}
    for file in ["deploy/prometheus/rules.yaml", "deploy/prometheus/tests/alerts.yaml", "deploy/grafana/readside.json", "docs/RUNBOOK.md"]:
        used = set(re.findall(r"\breadside_[a-z_]+\b", (ROOT / file).read_text()))
        unknown = {name for name in used if name not in known and name + "_bucket" not in known}
        if unknown:
            raise Failed(f"{file}: no such metric: {', '.join(sorted(unknown))}")


def versions_agree(work):
    version = re.search(r'^version = "(.+?)"', (ROOT / "Cargo.toml").read_text(), re.M).group(1)
    for name in ("readside", "readside-app"):
        content = yaml.safe_load((ROOT / f"helm/{name}/Chart.yaml").read_text())
        if content["appVersion"] != version:
            raise Failed(f"helm/{name}: appVersion is {content['appVersion']}, the program's version {version}")
    for file in ("deploy/kubernetes/readside.yaml", "deploy/kustomize/component/sidecar.yaml"):
        if f"image: readside:{version}" not in (ROOT / file).read_text():
            raise Failed(f"{file}: not the image of version {version}")
    if f"ARG VERSION={version}" not in (ROOT / "Dockerfile").read_text():
        raise Failed(f"Dockerfile: not version {version}")


def the_dockerfile_stands_in_for_every_target(work):
    """Its layer of dependencies is built before the sources are there: each target of Cargo.toml needs a file."""
    cargo, dockerfile = (ROOT / "Cargo.toml").read_text(), (ROOT / "Dockerfile").read_text()
    for name in re.findall(r'\[\[bench\]\]\nname = "(\w+)"', cargo):
        file = f"benches/{name}/main.rs" if (ROOT / f"benches/{name}/main.rs").exists() else f"benches/{name}.rs"
        if file not in dockerfile:
            raise Failed(f"Dockerfile: nothing stands in for {file}")


def library(work):
    said = run(tool("helm"), "lint", "--strict", ROOT / "helm/readside")
    if "[WARNING]" in said or "[ERROR]" in said:
        raise Failed(said)


def checks(work):
    for file in sorted((HERE / "cases").glob("*.yaml")):
        yield f"case {file.stem}", lambda file=file: a_case(work, file)
    for file in sorted((HERE / "refused").glob("*.yaml")):
        yield f"refused {file.stem}", lambda file=file: a_refusal(work, file)
    for check in (
        library, planted_faults_are_found, an_existing_chart_needs_six_lines, rendering_is_stable, kustomize, manifest,
        the_ways_to_deploy_agree, compose, hadolint, alerts, the_chart_has_the_rules, only_metrics_that_exist, versions_agree,
        the_dockerfile_stands_in_for_every_target,
    ):
        yield check.__name__.replace("_", " "), lambda check=check: check(work)


def main():
    with tempfile.TemporaryDirectory() as directory:
        work = Path(directory)
        chart(work, ROOT / "helm/readside-app")
        if sys.argv[1:2] == ["--render"]:
            file = HERE / f"cases/{sys.argv[2]}.yaml"
            print(json.dumps(load(template(work / "readside-app", file, "1.37"))))
            return
        failed, skipped = 0, 0
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            running = [(name, pool.submit(check)) for name, check in checks(work)]
            for name, future in running:
                try:
                    future.result()
                except Missing as missing:
                    skipped += 1
                    print(f"{'FAILED' if REQUIRED else 'SKIPPED'} {name}: {missing}")
                except (Failed, OSError, ValueError, KeyError, StopIteration) as wrong:
                    failed += 1
                    print(f"FAILED {name}:\n{wrong or type(wrong).__name__}\n")
        print(f"deploy: {len(running) - failed - skipped} checks passed, {failed} failed, {skipped} skipped")
        sys.exit(1 if failed or (skipped and REQUIRED) else 0)


main()
