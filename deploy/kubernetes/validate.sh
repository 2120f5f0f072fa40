#!/usr/bin/env bash
# Validates the manifests against the schemas of Kubernetes, from 1.29 to the newest that the validator has, and checks what
# schemas do not say. Base and overlay are also rendered, where kubectl or kustomize is installed.
#   deploy/kubernetes/validate.sh
# The validator (validate.txt) is fetched once into the user's cache folder; without it this fails.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
python="$(../../scripts/python_env.sh '' "$PWD/validate.txt")"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
cp base/{head,shards,tail,night,rbac,volume}.yaml "$work"
if command -v kubectl >/dev/null; then
    render=(kubectl kustomize)
elif command -v kustomize >/dev/null; then
    render=(kustomize build)
else
    render=()
    echo "not rendered: neither kubectl nor kustomize is installed"
fi
if [ ${#render[@]} -gt 0 ]; then
    "${render[@]}" base >"$work/base.yaml"
    "${render[@]}" overlays/example >"$work/overlay.yaml"
fi
exec "$python" - "$work" <<'PY'
import copy, pathlib, re, sys
import kubernetes_validate as validator
import yaml

folder = pathlib.Path(sys.argv[1])
documents = {path.name: [d for d in yaml.safe_load_all(path.read_text()) if d] for path in sorted(folder.glob("*.yaml"))}
schemas = pathlib.Path(validator.__file__).parent / "kubernetes-json-schema"
found = {re.match(r"v1\.(\d+)\.", path.name) for path in schemas.iterdir()}
versions = [f"1.{minor}" for minor in sorted({int(m[1]) for m in found if m}) if minor >= 29]
assert versions[0] == "1.29" and len(versions) >= 9, versions

def refused(document, version):
    try:
        validator.validate(document, version, strict=True)
    except validator.ValidationError as error:
        return str(error).splitlines()[0]

count = 0
for version in versions:
    for name, parts in documents.items():
        for document in parts:
            reason = refused(document, version)
            assert reason is None, f"{name}, {document['kind']} {document['metadata']['name']}, Kubernetes {version}: {reason}"
            count += 1
    # The validator must notice a name that no version knows, and what 1.29 asks of conditions.
    bad = copy.deepcopy(documents["head.yaml"][0])
    condition = bad["spec"]["jobTemplate"]["spec"]["podFailurePolicy"]["rules"][0]["onPodConditions"][0]
    condition["state"] = "True"
    assert refused(bad, version), f"Kubernetes {version} takes a condition with an unknown field"
    del condition["state"], condition["status"]
    assert version != "1.29" or refused(bad, version), "Kubernetes 1.29 takes a condition without a status"

# What schemas do not say.
settings = dict(line.split("=", 1) for line in pathlib.Path("base/settings.env").read_text().splitlines())
units = {"Mi": 1 << 20, "Gi": 1 << 30}
def size(text):
    return int(text[:-2]) * units[text[-2:]]

def jobs(parts):
    return {d["metadata"]["name"]: d["spec"] for d in parts if d["kind"] == "CronJob"}

for where in [name for name in ("base.yaml", "overlay.yaml") if name in documents] or [None]:
    parts = documents[where] if where else sum(documents.values(), [])
    data = next((d["data"] for d in parts if d["kind"] == "ConfigMap" and "SHARDS" in d["data"]), settings)
    of = jobs(parts)
    assert set(of) == {"twotower-head", "twotower-shards", "twotower-tail", "twotower-night"}, sorted(of)
    assert int(data["SHARDS"]) == of["twotower-shards"]["jobTemplate"]["spec"]["completions"], "completions and SHARDS differ"
    assert data["TZ"] == of["twotower-night"]["timeZone"].removeprefix("Etc/"), "TZ and timeZone differ"
    for name, spec in of.items():
        job = spec["jobTemplate"]["spec"]
        [container] = job["template"]["spec"]["containers"]
        codes = [rule["onExitCodes"] for rule in job["podFailurePolicy"]["rules"] if "onExitCodes" in rule]
        assert [code["containerName"] for code in codes] == [container["name"]], name
        assert bool(spec.get("suspend")) == (name != "twotower-night"), name
        if name == "twotower-night":
            continue
        assert codes[0]["values"] == [2, 3, 4, 5], name
        resources = container["resources"]
        assert size(resources["requests"]["memory"]) <= size(resources["limits"]["memory"]), name
        assert resources["requests"]["cpu"] == resources["limits"]["cpu"], f"{name}: the program starts a thread for each core of its limit"
        [memory] = [e for e in container["env"] if e["name"] == "TWOTOWER_MEMORY"]
        assert memory["valueFrom"]["resourceFieldRef"] == {"containerName": "twotower", "resource": "requests.memory"}, name
print(f"{count // len(versions)} documents of {', '.join(documents)} are valid for Kubernetes {versions[0]} to {versions[-1]}")
PY
