"""Dependencies: the lowest versions that are allowed have no known vulnerability."""

import re
import tomllib
from pathlib import Path

import pytest

import llmring_server

ROOT = Path(llmring_server.__file__).parents[1]
# The first versions without the known vulnerabilities, and the last one that they fix. This list is
# kept by hand, so that it works offline; CONTRIBUTING says how to ask an advisory service.
SAFE_SINCE = {
    "cryptography": ("50", "CVE-2026-69247"),
    "jinja2": ("3.1.6", "CVE-2025-27516"),
    "orjson": ("3.11.6", "CVE-2025-67221"),
    "starlette": ("1.3.1", "CVE-2026-54283"),
}


def number(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))


def lower_bounds() -> dict[str, tuple[int, ...]]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    bounds = {}
    for requirement in project["dependencies"]:
        found = re.fullmatch(r"([\w-]+)(?:\[\w+\])?>=([\d.]+)(?:,<[\d.]+)?", requirement)
        assert found, f"{requirement} has no lower bound"
        bounds[found[1]] = number(found[2])
    return bounds


@pytest.mark.parametrize("package", SAFE_SINCE)
def test_the_lowest_version_has_no_known_vulnerability(package: str) -> None:
    version, advisory = SAFE_SINCE[package]
    assert lower_bounds()[package] >= number(version), advisory
