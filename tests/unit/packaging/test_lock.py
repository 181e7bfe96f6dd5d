"""The lock files: what is built is what pyproject.toml asks for, and nothing that a hash does not name."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[3]
PACKAGING = ROOT / "packaging"
with (ROOT / "pyproject.toml").open("rb") as file:
    PROJECT = tomllib.load(file)
TOOLS = [
    line
    for line in (PACKAGING / "build-requirements.in").read_text().splitlines()
    if line.strip() and not line.startswith("#")
]


def locked(name: str) -> dict[str, tuple[Version, list[str]]]:
    """Distribution -> its version and hashes."""
    found: dict[str, tuple[Version, list[str]]] = {}
    for entry in (PACKAGING / name).read_text().replace("\\\n", " ").splitlines():
        if entry.strip() and not entry.startswith("#"):
            pin, *options = entry.split()
            distribution, _, version = pin.partition("==")
            found[canonicalize_name(distribution)] = (Version(version), options)
    return found


@pytest.mark.parametrize(
    ("lock", "wanted"),
    [
        ("requirements.txt", PROJECT["project"]["dependencies"]),
        ("build-requirements.txt", PROJECT["build-system"]["requires"]),
        ("build-requirements.txt", TOOLS),
    ],
)
def test_the_lock_satisfies_what_is_asked_for(lock: str, wanted: list[str]) -> None:
    versions = locked(lock)
    for requirement in map(Requirement, wanted):
        version, _ = versions[canonicalize_name(requirement.name)]
        assert version in requirement.specifier, f"{requirement} is locked at {version}: run scripts/lock"


@pytest.mark.parametrize("lock", ["requirements.txt", "build-requirements.txt"])
def test_everything_is_locked_by_hash(lock: str) -> None:
    versions = locked(lock)
    assert versions
    for name, (_, options) in versions.items():
        assert options, name
        assert all(re.fullmatch(r"--hash=sha256:[0-9a-f]{64}", option) for option in options), name


def test_what_is_built_from_source_is_locked_and_has_its_tools() -> None:
    text = (PACKAGING / "venv").read_text()
    matched = re.search(r"^FROM_SOURCE=(\S+)$", text, re.MULTILINE)
    assert matched is not None
    assert set(matched[1].split(",")) <= set(locked("requirements.txt"))
    assert {"setuptools", "cython", "hatchling"} <= set(locked("build-requirements.txt"))


def test_what_both_lock_files_have_is_the_same_release() -> None:
    ours, tools = locked("requirements.txt"), locked("build-requirements.txt")
    for name in ours.keys() & tools.keys():
        assert ours[name][0] == tools[name][0], name
