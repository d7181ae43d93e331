"""The bill of materials that `make sbom` writes, and the release workflow, which nobody runs here."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import jsonschema
import pytest
import yaml

from gateway import __version__
from tests.deploy.stack import ROOT

SBOM: Final = ROOT / "deploy" / "release" / "sbom.py"
WORKFLOW: Final = ROOT / "deploy" / "release" / "release.yml"
LOCK: Final = ROOT / "requirements.lock"

# What CycloneDX 1.6 says of the fields that are used; `additionalProperties` finds others.
_COMPONENT: Final[Mapping[str, Any]] = {
    "type": "object",
    "required": ["type", "name", "version", "bom-ref"],
    "additionalProperties": False,
    "properties": {
        "type": {"enum": ["application", "container", "library"]},
        "bom-ref": {"type": "string", "minLength": 1},
        "name": {"type": "string", "minLength": 1},
        "version": {"type": "string", "maxLength": 1024},
        "purl": {"type": "string", "pattern": "^pkg:(pypi|oci)/"},
        "hashes": {
            "type": "array",
            "minItems": 1,
            "uniqueItems": True,
            "items": {
                "type": "object",
                "required": ["alg", "content"],
                "additionalProperties": False,
                "properties": {"alg": {"const": "SHA-256"}, "content": {"pattern": "^[0-9a-f]{64}$"}},
            },
        },
        "properties": {
            "type": "array",
            "items": {"type": "object", "required": ["name", "value"], "additionalProperties": {"type": "string"}},
        },
    },
}
_SCHEMA: Final[Mapping[str, Any]] = {
    "type": "object",
    "required": ["bomFormat", "specVersion", "serialNumber", "version", "metadata", "components", "dependencies"],
    "additionalProperties": False,
    "properties": {
        "$schema": {"const": "http://cyclonedx.org/schema/bom-1.6.schema.json"},
        "bomFormat": {"const": "CycloneDX"},
        "specVersion": {"const": "1.6"},
        "serialNumber": {"pattern": "^urn:uuid:[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$"},
        "version": {"type": "integer", "minimum": 1},
        "metadata": {
            "type": "object",
            "required": ["component"],
            "additionalProperties": False,
            "properties": {"component": _COMPONENT, "lifecycles": {"const": [{"phase": "build"}]}},
        },
        "components": {"type": "array", "uniqueItems": True, "items": _COMPONENT},
        "dependencies": {
            "type": "array",
            "uniqueItems": True,
            "items": {
                "type": "object",
                "required": ["ref", "dependsOn"],
                "additionalProperties": False,
                "properties": {
                    "ref": {"type": "string", "minLength": 1},
                    "dependsOn": {"type": "array", "uniqueItems": True, "items": {"type": "string"}},
                },
            },
        },
    },
}


def write(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, SBOM, *arguments], capture_output=True, text=True, check=False)


def bom(*arguments: str | Path) -> dict[str, Any]:
    made = write(*arguments)
    assert made.returncode == 0, made.stderr
    found: dict[str, Any] = json.loads(made.stdout)
    return found


@pytest.mark.parametrize("lock", ["requirements.lock", "requirements-otel.lock", "requirements-parquet.lock"])
@pytest.mark.parametrize("kind", ["wheel", "image"])
def test_a_bill_of_materials_has_cyclonedx_structure(kind: str, lock: str) -> None:
    found = bom(kind, ROOT / lock)
    jsonschema.validate(found, _SCHEMA)
    refs = [found["metadata"]["component"]["bom-ref"], *(each["bom-ref"] for each in found["components"])]
    assert len(set(refs)) == len(refs)
    assert sorted(each["ref"] for each in found["dependencies"]) == sorted(refs)
    assert {ref for each in found["dependencies"] for ref in each["dependsOn"]} == set(refs[1:])
    assert found["metadata"]["component"]["version"] == __version__


def test_it_lists_each_locked_package_with_each_of_its_hashes() -> None:
    text = LOCK.read_text(encoding="utf-8")
    components = bom("wheel", LOCK)["components"]
    listed = {f"{each['name']}=={each['version']}" for each in components}
    assert listed == set(re.findall(r"^[\w.-]+==[^\s;\\]+", text, re.MULTILINE))
    hashes = [one["content"] for each in components for one in each["hashes"]]
    assert sorted(hashes) == sorted(re.findall(r"sha256:([0-9a-f]{64})", text))
    assert all(each["purl"] == f"pkg:pypi/{each['name']}@{each['version']}" for each in components)


def test_it_says_who_needs_whom(tmp_path: Path) -> None:
    lock = tmp_path / "a.lock"
    digest = "a" * 64
    lock.write_text(
        f"one==1 \\\n    --hash=sha256:{digest}\n    # via gateway (pyproject.toml)\n"
        f"Two.x==2 ; sys_platform == 'win32' \\\n    --hash=sha256:{digest}\n    # via\n    #   one\n    #   viaduct\n"
        f"viaduct==3 \\\n    --hash=sha256:{digest}\n    # via one\n"
    )
    needed = {each["ref"]: each["dependsOn"] for each in bom("wheel", lock)["dependencies"]}
    one, two, viaduct = "pkg:pypi/one@1", "pkg:pypi/two-x@2", "pkg:pypi/viaduct@3"
    assert needed == {
        f"pkg:pypi/openresponses-gateway@{__version__}": [one],
        one: [two, viaduct],
        two: [],
        viaduct: [two],
    }
    assert [each["name"] for each in bom("image", lock)["components"][1:]] == ["one", "viaduct"], "none of Windows"


def test_the_image_s_names_the_base_image() -> None:
    digest = f"sha256:{'b' * 64}"
    base = bom("image", LOCK, "--base-image", f"python:3.13-slim@{digest}")["components"][0]
    assert (base["type"], base["name"], base["version"]) == ("container", "python:3.13-slim", digest)


def test_the_same_lock_file_gives_the_same_bytes_and_another_one_another_number() -> None:
    assert write("wheel", LOCK).stdout == write("wheel", LOCK).stdout
    numbers = {
        bom(kind, ROOT / lock)["serialNumber"]
        for kind in ("wheel", "image")
        for lock in (LOCK, "requirements-otel.lock")
    }
    assert len(numbers) == 4


@pytest.mark.parametrize("text", ["one==1\n", "one>=1 \\\n    --hash=sha256:aa\n", "-e .\n"])
def test_what_is_not_pinned_with_a_hash_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "a.lock").write_text(text)
    refused = write("wheel", tmp_path / "a.lock")
    assert refused.returncode == 1
    assert refused.stderr.startswith("sbom: ")
    assert refused.stdout == ""


def jobs() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(WORKFLOW.read_text(encoding="utf-8"))["jobs"]
    return found


def test_the_release_signs_and_attests_what_it_builds() -> None:
    text = {name: json.dumps(job["steps"]) for name, job in jobs().items()}
    assert "make wheel sbom" in text["wheel"]
    assert "attest-build-provenance" in text["wheel"]
    assert "cosign sign-blob" in text["wheel"]
    build = next(step["with"] for step in jobs()["image"]["steps"] if "build-push-action" in step.get("uses", ""))
    assert (build["sbom"], build["provenance"]) == (True, "mode=max")
    assert "cosign sign --yes --recursive" in text["image"]
    assert "cosign attest --yes --type cyclonedx --predicate dist/sbom-image.cdx.json" in text["image"]


def test_each_job_of_the_release_has_the_permissions_that_it_needs_and_waits_for_the_checks() -> None:
    assert yaml.safe_load(WORKFLOW.read_text(encoding="utf-8"))["permissions"] == {}
    assert {name: job.get("needs") for name, job in jobs().items()} == {
        "check": None,
        "wheel": "check",
        "image": "check",
    }
    assert all(job["permissions"].get("id-token") == "write" for name, job in jobs().items() if name != "check")
    assert jobs()["check"]["permissions"] == {"contents": "read"}


def test_make_has_the_targets_that_the_release_calls() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    called = {
        name for line in re.findall(r"run: make (.*)", WORKFLOW.read_text()) for name in re.findall(r"^[a-z ]+", line)
    }
    for name in " ".join(called).split():
        assert re.search(rf"^{name}:", makefile, re.MULTILINE), name
