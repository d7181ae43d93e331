#!/usr/bin/env python3
"""Writes what the wheel or the image consists of, as CycloneDX 1.6 JSON, from a lock file. It needs no network.

    python deploy/release/sbom.py wheel requirements.lock          to standard output
    python deploy/release/sbom.py image requirements.lock --base-image python:3.13-slim@sha256:... --python 3.13

wheel   every package of the lock file; one that is installed on some platforms only has its marker as a property
image   the packages that Linux and that Python take, and the base image. Debian's packages in the base image are not
        listed: `docker buildx build --sbom=true` looks into the layers (release.yml)

A package's hashes are those of every file that the lock file accepts for it (sdist and wheels); one is installed.
The same input gives the same bytes: the serial number is made of the content, and there is no time of creation.
"""

from __future__ import annotations

import argparse
import ast
import json
import re
import sys
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from packaging.markers import Marker
from packaging.utils import canonicalize_name

ROOT: Final = Path(__file__).parents[2]
PROJECT: Final = "openresponses-gateway"
_PACKAGE: Final = re.compile(
    r"^(?P<name>[A-Za-z0-9][\w.-]*)==(?P<version>[^\s;\\]+)(?:\s*;\s*(?P<marker>[^\\]+?))?\s*\\?$"
)
_HASH: Final = re.compile(r"--hash=sha256:([0-9a-f]{64})")
_PARENT: Final = re.compile(r"^    # (?:via\b|  )\s*(\S.*)?$")
# The namespace of serial numbers, by RFC 9562 section 5.5: the same content has the same number.
_NAMESPACE: Final = uuid.uuid5(uuid.NAMESPACE_URL, f"pkg:pypi/{PROJECT}")


@dataclass
class Package:
    """One entry of a lock file. Mutable while it is read: `hashes`, `parents` (names of packages, or of a file)."""

    name: str
    version: str
    marker: str | None
    hashes: list[str] = field(default_factory=list)
    parents: list[str] = field(default_factory=list)

    @property
    def purl(self) -> str:
        """The package URL, which is also its reference in the document."""
        return f"pkg:pypi/{self.name}@{self.version}"


def packages(lock: str) -> Iterator[Package]:
    """Yields the entries of a lock file that uv or pip-compile wrote. Raises ValueError for one without a hash."""
    current: Package | None = None
    for line in lock.splitlines():
        if found := _PACKAGE.match(line):
            if current is not None:
                yield _complete(current)
            current = Package(canonicalize_name(found["name"]), found["version"], found["marker"])
        elif current is not None:
            current.hashes += _HASH.findall(line)
            if parent := _PARENT.match(line):
                current.parents += [parent[1]] if parent[1] else []
        elif line.strip() and not line.startswith("#"):
            raise ValueError(f"not a pinned package: {line}")
    if current is not None:
        yield _complete(current)


def _complete(package: Package) -> Package:
    if not package.hashes:
        raise ValueError(f"{package.name} has no hash")
    return package


def document(kind: str, found: list[Package], *, version: str, base_image: str) -> dict[str, Any]:
    """Returns the bill of materials. `kind` is wheel or image."""
    subject = {"name": PROJECT, "version": version, "purl": f"pkg:pypi/{PROJECT}@{version}"}
    subject |= {"type": "application", "bom-ref": subject["purl"]}
    extra = []
    if kind == "image":
        subject |= {"type": "container", "purl": f"pkg:oci/{PROJECT}?tag={version}", "bom-ref": "image"}
        name, _, digest = base_image.partition("@")
        extra = [
            {"type": "container", "bom-ref": "base-image", "name": name, "version": digest or name.rpartition(":")[2]}
        ]
    bom = {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": subject, "lifecycles": [{"phase": "build"}]},
        "components": [*extra, *map(_component, found)],
        "dependencies": _dependencies(subject["bom-ref"], found, [each["bom-ref"] for each in extra]),
    }
    serial = uuid.uuid5(_NAMESPACE, json.dumps(bom, sort_keys=True))
    return {**bom, "serialNumber": serial.urn}


def _component(package: Package) -> dict[str, Any]:
    component: dict[str, Any] = {
        "type": "library",
        "bom-ref": package.purl,
        "name": package.name,
        "version": package.version,
        "purl": package.purl,
        "hashes": [{"alg": "SHA-256", "content": one} for one in package.hashes],
    }
    if package.marker:
        component["properties"] = [{"name": f"{PROJECT}:marker", "value": package.marker}]
    return component


def _dependencies(subject: str, found: list[Package], extra: list[str]) -> list[dict[str, Any]]:
    """Who needs whom, by the lock file's own comments. What no package needs, the project does."""
    by_name = {package.name: package for package in found}
    needs: dict[str, set[str]] = {subject: set(extra), **{ref: set() for ref in extra}}
    needs |= {package.purl: set() for package in found}
    for package in found:
        parents = [by_name[name].purl for name in map(canonicalize_name, package.parents) if name in by_name]
        is_direct = len(parents) < len(package.parents) or not parents
        for parent in (*parents, *([subject] if is_direct else [])):
            needs[parent].add(package.purl)
    return [{"ref": ref, "dependsOn": sorted(needed)} for ref, needed in needs.items()]


def _version() -> str:
    for statement in ast.parse((ROOT / "gateway" / "__init__.py").read_text(encoding="utf-8")).body:
        match statement:
            case ast.Assign(targets=[ast.Name(id="__version__")], value=ast.Constant(value=str(version))):
                return version
    raise ValueError("gateway/__init__.py has no __version__")


def main() -> int:
    """Writes the document to standard output. Returns the exit code."""
    parser = argparse.ArgumentParser(description="A bill of materials, as CycloneDX 1.6 JSON.")
    parser.add_argument("kind", choices=("wheel", "image"))
    parser.add_argument("lock", type=Path)
    parser.add_argument("--base-image", default="python:3.13-slim", help="as BASE_IMAGE of the Dockerfile")
    parser.add_argument("--python", default="3.13", help="the base image's Python")
    asked = parser.parse_args()
    try:
        found = list(packages(asked.lock.read_text(encoding="utf-8")))
        version = _version()
    except (OSError, ValueError) as error:
        sys.stderr.write(f"sbom: {error}\n")
        return 1
    if asked.kind == "image":
        full = asked.python if asked.python.count(".") > 1 else f"{asked.python}.0"
        linux = {"sys_platform": "linux", "platform_system": "Linux", "os_name": "posix"}
        linux |= {"python_version": ".".join(full.split(".")[:2]), "python_full_version": full}
        found = [one for one in found if one.marker is None or Marker(one.marker).evaluate(linux)]
    bom = document(asked.kind, found, version=version, base_image=asked.base_image)
    sys.stdout.write(json.dumps(bom, indent=2, sort_keys=True) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
