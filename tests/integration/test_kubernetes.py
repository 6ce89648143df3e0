"""The manifests, against Kubernetes' own schemas. No cluster is run."""

import re
import subprocess

import pytest
import yaml

from tests.conftest import ROOT
from tests.integration.processes import PYTHON, with_engines

pytestmark = [pytest.mark.integration, with_engines]

FOLDER = ROOT / "cluster" / "kubernetes"
MANIFESTS = sorted(path for path in FOLDER.rglob("*.yaml") if path.name != "kustomization.yaml")


def validate(*files):
    command = [PYTHON.parent / "kubernetes-validate", "--strict", *files]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def documents(path):
    return list(yaml.safe_load_all(path.read_text()))


def pod(name, template):
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": template["spec"]}


def test_every_manifest_is_valid():
    done = validate(*MANIFESTS)
    assert done.returncode == 0, done.stdout + done.stderr


def test_an_invalid_one_is_refused(tmp_path):
    broken = tmp_path / "broken.yaml"
    broken.write_text((FOLDER / "workers.yaml").read_text().replace("completionMode:", "completionmode:"))
    assert validate(broken).returncode != 0


def test_the_pods_of_the_ray_job_are_valid(tmp_path):
    [job] = documents(ROOT / "cluster" / "rayjob.yaml")
    cluster = job["spec"]["rayClusterSpec"]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    pods = [pod(f"p{i}", group["template"]) for i, group in enumerate(groups)]
    pods.append(pod("submitter", job["spec"]["submitterPodTemplate"]))
    file = tmp_path / "pods.yaml"
    file.write_text(yaml.safe_dump_all(pods))
    done = validate(file)
    assert done.returncode == 0, done.stdout + done.stderr
    assert job["spec"]["entrypoint"].startswith("python -m service place ")


def test_what_is_named_is_there():
    base = documents(FOLDER / "kustomization.yaml")[0]
    assert sorted(base["resources"]) == sorted(
        path.name for path in FOLDER.glob("*.yaml") if path in MANIFESTS
    )
    found = [document for path in MANIFESTS for document in documents(path)]
    claims = {d["metadata"]["name"] for d in found if d["kind"] == "PersistentVolumeClaim"}
    services = {d["metadata"]["name"] for d in found if d["kind"] == "Service"}
    text = "".join(path.read_text() for path in [*MANIFESTS, ROOT / "cluster" / "rayjob.yaml"])
    assert set(re.findall(r"claimName: (\w+)", text)) == claims
    assert set(re.findall(r"@(\w+)/hptune", text)) <= services
    targets = set(
        re.findall(r"^FROM .* AS ([\w-]+)$", (ROOT / "docker" / "Dockerfile").read_text(), re.MULTILINE)
    )
    assert {
        name.removeprefix("hptune-") for name in re.findall(r"image: (?:[\w.]+/)?(hptune-\w+)", text)
    } <= targets
    assert set(re.findall(r"key: (\w+)", text)) == {"storage_password"}


def test_every_container_is_locked_and_limited():
    for path in MANIFESTS:
        for document in documents(path):
            template = document.get("spec", {}).get("template")
            if template is None:
                continue
            assert template["spec"]["securityContext"]["runAsNonRoot"]
            assert template["spec"]["automountServiceAccountToken"] is False
            for container in (*template["spec"].get("initContainers", ()), *template["spec"]["containers"]):
                assert container["securityContext"]["readOnlyRootFilesystem"], container["name"]
                assert "memory" in container["resources"]["limits"], container["name"]
