"""The Kubernetes manifests: against Kubernetes' schemas, and against each other."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import kubernetes_validate
import pytest
import yaml

from gateway.config.sections import ServerSettings
from gateway.config.settings import load_settings
from tests.deploy.stack import ROOT

BASE: Final = ROOT / "deploy" / "kubernetes" / "base"
OVERLAY: Final = ROOT / "deploy" / "kubernetes" / "overlays" / "example"
MONITORING: Final = ROOT / "deploy" / "kubernetes" / "monitoring"
MADE_BY_HAND: Final = "secrets/"  # not in version control
SCHEMA_VERSIONS: Final = ("1.30", "1.37")  # the first with preStop.sleep, and the newest that the schemas have


def documents(path: Path) -> list[dict[str, Any]]:
    return [document for document in yaml.safe_load_all(path.read_text(encoding="utf-8")) if document]


def kustomization(directory: Path) -> dict[str, Any]:
    (found,) = documents(directory / "kustomization.yaml")
    return found


def resources() -> Iterator[dict[str, Any]]:
    """Yields the resources of base and overlay, as they stand in the files."""
    for directory in (BASE, OVERLAY):
        for name in kustomization(directory)["resources"]:
            if (directory / name).is_file():
                yield from documents(directory / name)


def one(kind: str, name: str) -> dict[str, Any]:
    (found,) = [each for each in resources() if (each["kind"], each["metadata"]["name"]) == (kind, name)]
    return found


def pods() -> dict[str, dict[str, Any]]:
    """Returns the pod templates by component."""
    templates = [each["spec"]["template"] for each in resources() if each["kind"] in ("Deployment", "StatefulSet")]
    return {each["metadata"]["labels"]["app.kubernetes.io/component"]: each["spec"] for each in templates}


@pytest.mark.parametrize("version", SCHEMA_VERSIONS)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the schema package's own
def test_every_manifest_keeps_kubernetes_schema(version: str) -> None:
    found = list(resources())
    for document in found:
        kubernetes_validate.validate(document, version, strict=True)
    assert len(found) >= 9


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_manifest_with_a_misspelt_field_would_be_found() -> None:
    document = one("Deployment", "gateway")
    document["spec"]["template"]["spec"]["containers"][0]["readinesProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(document, SCHEMA_VERSIONS[-1], strict=True)


def test_kustomize_builds_the_example_and_the_monitoring_with_it(tmp_path: Path) -> None:
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed")
    here = tmp_path / "deploy" / "kubernetes"
    shutil.copytree(BASE.parent, here)
    overlay = here / "overlays" / "example"
    (overlay / "secrets").mkdir()
    for generator in kustomization(OVERLAY)["secretGenerator"]:
        for name in generator["files"]:
            (overlay / name).write_text("a-secret\n")
    file = overlay / "kustomization.yaml"
    file.write_text(file.read_text().replace("# components: ", "components: "))
    built = subprocess.run(["kubectl", "kustomize", overlay], capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    made = [document for document in yaml.safe_load_all(built.stdout) if document]
    of_gateway = {each["kind"]: each for each in made if each["metadata"]["name"] == "gateway"}
    assert of_gateway["HorizontalPodAutoscaler"]["spec"]["minReplicas"] == 3
    image = of_gateway["Deployment"]["spec"]["template"]["spec"]["containers"][0]["image"]
    assert image.startswith("registry.example.com/")
    selected = of_gateway["ServiceMonitor"]["spec"]["selector"]["matchLabels"].items()
    services = [each for each in made if each["kind"] == "Service"]
    found = [each["metadata"]["name"] for each in services if selected <= each["metadata"].get("labels", {}).items()]
    assert found == ["gateway-admin"]
    built_peers = {each["metadata"]["name"]: _peers(each) for each in made if each["kind"] == "NetworkPolicy"}
    assert built_peers == {name: _peers(one("NetworkPolicy", name)) for name in ("gateway", "store")}


def _peers(policy: dict[str, Any]) -> list[Any]:
    """Who is named in a policy: what kustomize puts into a selector of these would shut out others' pods."""
    rules = policy["spec"]
    return [rule.get("from", rule.get("to")) for rule in (*rules["ingress"], *rules.get("egress", []))]


def test_kustomize_pins_every_image_by_its_digest(tmp_path: Path) -> None:
    """By the change of the overlay that README.md describes."""
    told = kustomization(OVERLAY)["images"]
    names = {container["image"].partition(":")[0] for pod in pods().values() for container in pod["containers"]}
    assert {image["name"] for image in told} == names
    assert "digest: sha256:" in (OVERLAY / "kustomization.yaml").read_text(encoding="utf-8")
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed")
    digest = f"sha256:{'a' * 64}"
    pinned = [{**{k: v for k, v in image.items() if k != "newTag"}, "digest": digest} for image in told]
    for directory, name in ((BASE, "deployment.yaml"), (OVERLAY, "store.yaml")):
        shutil.copy(directory / name, tmp_path)
    (tmp_path / "kustomization.yaml").write_text(
        yaml.safe_dump({"resources": ["deployment.yaml", "store.yaml"], "images": pinned})
    )
    built = subprocess.run(["kubectl", "kustomize", tmp_path], capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    images = re.findall(r"image: (\S+)", built.stdout)
    assert len(images) == len(names)
    assert all(image.endswith(f"@{digest}") for image in images)


def test_a_policy_names_who_may_come_to_each_port() -> None:
    rules = {rule["ports"][0]["port"]: rule for rule in one("NetworkPolicy", "gateway")["spec"]["ingress"]}
    assert set(rules) == {"http", "admin"}
    assert [rule["ports"] for rule in rules.values()] == [[{"port": "http"}], [{"port": "admin"}]]
    named = {port: _names(rule["from"]) for port, rule in rules.items()}
    assert named == {"http": {"ingress-nginx", "clients"}, "admin": {"monitoring", "prometheus", "operator"}}
    (store,) = one("NetworkPolicy", "store")["spec"]["ingress"]
    assert _names(store["from"]) == {"gateway"}


def _names(peers: list[dict[str, Any]]) -> set[str]:
    """The values by which peers are chosen. An empty selector would mean everybody."""
    found: set[str] = set()
    for peer in peers:
        assert peer, "everybody"
        for selector in peer.values():
            wanted = {*selector.get("matchLabels", {}).values()}
            wanted |= {value for each in selector.get("matchExpressions", []) for value in each["values"]}
            assert wanted, "everybody"
            found |= wanted
    return found


def test_no_service_has_both_ports() -> None:
    services = {each["metadata"]["name"]: each["spec"] for each in resources() if each["kind"] == "Service"}
    ports = {name: [port["targetPort"] for port in spec["ports"]] for name, spec in services.items()}
    assert ports == {"gateway": ["http"], "gateway-admin": ["admin"], "store": ["redis"]}
    assert "type" not in services["gateway-admin"], "it is for the cluster alone"


def test_the_pods_have_operators_paths_on_the_port_of_that_name() -> None:
    (container,) = pods()["gateway"]["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    environment = {each["name"]: each["value"] for each in container["env"]}
    assert environment["GATEWAY_ADMIN__PORT"] == str(ports["admin"])
    assert environment["GATEWAY_URL"].endswith(f":{ports['admin']}")
    assert ports["admin"] != ports["http"]


def test_the_monitoring_scrapes_a_port_that_the_service_has() -> None:
    """The schema is the operator's, not Kubernetes'. The fields are those of the monitoring.coreos.com/v1 reference."""
    (monitor,) = documents(MONITORING / "servicemonitor.yaml")
    assert (monitor["apiVersion"], monitor["kind"]) == ("monitoring.coreos.com/v1", "ServiceMonitor")
    assert set(monitor) == {"apiVersion", "kind", "metadata", "spec"}
    assert set(monitor["spec"]) == {"jobLabel", "selector", "endpoints"}
    (endpoint,) = monitor["spec"]["endpoints"]
    assert set(endpoint) == {"port", "path", "interval"}
    service = one("Service", "gateway-admin")
    assert endpoint["port"] in {port["name"] for port in service["spec"]["ports"]}
    assert monitor["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    assert endpoint["path"] == "/metrics"
    assert "GatewayDown" in (text := (ROOT / "deploy" / "prometheus" / "rules.yml").read_text(encoding="utf-8"))
    assert f'job="{service["metadata"]["labels"][monitor["spec"]["jobLabel"]]}"' in text


@pytest.mark.parametrize("directory", [BASE, OVERLAY, MONITORING], ids=["base", "overlay", "monitoring"])
def test_a_kustomization_names_files_that_exist_and_leaves_none_out(directory: Path) -> None:
    told = kustomization(directory)
    assert told["kind"] == ("Component" if directory == MONITORING else "Kustomization")
    files = [*told["resources"], *(patch["path"] for patch in told.get("patches", []))]
    for generator in (*told.get("configMapGenerator", []), *told.get("secretGenerator", [])):
        files += [name for name in generator["files"] if not name.startswith(MADE_BY_HAND)]
    for name in files:
        assert (directory / name).exists(), name
    assert {path.name for path in directory.iterdir() if path.is_file()} == {
        "kustomization.yaml",
        *(name for name in files if (directory / name).is_file()),
    }


def test_an_overlay_patch_changes_something_that_is_there() -> None:
    for patch in kustomization(OVERLAY)["patches"]:
        target = one(patch["target"]["kind"], patch["target"]["name"])
        for operation in yaml.safe_load((OVERLAY / patch["path"]).read_text(encoding="utf-8")):
            assert operation["op"] == "replace"
            place: Any = target
            for name in operation["path"].strip("/").split("/"):
                assert name in place, operation["path"]
                place = place[name]
            assert place != operation["value"]


def test_the_overlay_makes_every_configuration_and_secret_that_is_mounted() -> None:
    told = kustomization(OVERLAY)
    made = {each["name"] for each in (*told["configMapGenerator"], *told["secretGenerator"])}
    mounted = {
        volume.get("configMap", {}).get("name") or volume.get("secret", {}).get("secretName")
        for pod in pods().values()
        for volume in pod["volumes"]
        if "configMap" in volume or "secret" in volume
    }
    assert made == mounted


def test_each_selector_finds_a_pod_and_each_port_has_its_name() -> None:
    for document in resources():
        spec = document.get("spec", {})
        match document["kind"]:
            case "Service":
                wanted = spec["selector"]
            case "PodDisruptionBudget" | "Deployment" | "StatefulSet":
                wanted = spec["selector"]["matchLabels"]
            case "NetworkPolicy":
                wanted = spec["podSelector"]["matchLabels"]
            case _:
                continue
        pod = pods()[wanted["app.kubernetes.io/component"]]
        if document["kind"] == "Service":
            names = {port["name"] for container in pod["containers"] for port in container["ports"]}
            assert {port["targetPort"] for port in spec["ports"]} <= names


def test_pods_run_as_the_restricted_standard_asks() -> None:
    for component, pod in pods().items():
        assert pod["securityContext"]["runAsNonRoot"] is True, component
        assert pod["securityContext"]["runAsUser"] > 0
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["automountServiceAccountToken"] is False
        for container in pod["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert container["resources"]["limits"]["memory"]


def test_a_pod_has_time_to_drain() -> None:
    pod = pods()["gateway"]
    delay_s = pod["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]
    probe = pod["containers"][0]["readinessProbe"]
    assert delay_s >= probe["periodSeconds"] * probe["failureThreshold"]
    assert pod["terminationGracePeriodSeconds"] > delay_s + ServerSettings().drain_timeout_s + 10


@pytest.mark.parametrize(
    "path", [OVERLAY / "gateway.toml", ROOT / "deploy" / "compose" / "gateway.toml"], ids=["kubernetes", "compose"]
)
def test_the_configurations_are_valid(path: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("a-secret-of-32-characters-at-least\n")
    here = tmp_path / "gateway.toml"
    here.write_text(re.sub(r'"file:[^"]*"', f'"file:{secret}"', path.read_text(encoding="utf-8")))
    settings = load_settings(here)
    assert settings.admin.key is not None
    assert settings.prices
