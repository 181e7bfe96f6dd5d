"""packaging/version: which version a checkout is built as, and how dpkg sorts them."""

from __future__ import annotations

import itertools
import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]


def git(tree: Path, *arguments: str, when: str = "2026-01-02T03:04:05Z") -> None:
    nobody = {"GIT_AUTHOR_NAME": "t", "GIT_AUTHOR_EMAIL": "t@example.org"}
    nobody |= {key.replace("AUTHOR", "COMMITTER"): value for key, value in nobody.items()}
    environment = (
        os.environ | nobody | {"GIT_COMMITTER_DATE": when, "GIT_AUTHOR_DATE": when, "GIT_CONFIG_GLOBAL": "/dev/null"}
    )
    subprocess.run(["git", *arguments], cwd=tree, env=environment, check=True, capture_output=True)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A checkout that is no git's yet."""
    (tmp_path / "packaging").mkdir()
    shutil.copy(ROOT / "packaging" / "version", tmp_path / "packaging")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


@pytest.fixture
def repository(tree: Path) -> Path:
    """A checkout with one commit."""
    git(tree, "init", "--quiet")
    git(tree, "add", ".")
    git(tree, "commit", "--quiet", "--message", "first")
    return tree


def run(tree: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {key: value for key, value in os.environ.items() if key not in ("HATCHWAY_DEB_VERSION", "SOURCE_DATE_EPOCH")}
    return subprocess.run([tree / "packaging" / "version"], env=kept | environment, capture_output=True, text=True)


def version(tree: Path, **environment: str) -> tuple[str, int]:
    done = run(tree, **environment)
    assert done.returncode == 0, done.stderr
    name, time = done.stdout.split()
    return name, int(time)


def before(first: str, second: str) -> bool:
    return subprocess.run(["dpkg", "--compare-versions", first, "lt", second]).returncode == 0


def test_a_commit_is_named_after_its_time_and_hash(repository: Path) -> None:
    name, time = version(repository)
    assert re.fullmatch(rf"{re.escape(VERSION)}~20260102030405\.[0-9a-f]{{12}}", name)
    assert time == 1767323045


def test_a_tag_is_the_version(repository: Path) -> None:
    git(repository, "tag", f"v{VERSION}")
    assert version(repository) == (VERSION, 1767323045)


def test_a_tag_of_another_version_is_not(repository: Path) -> None:
    git(repository, "tag", "v99.0")
    assert version(repository)[0].startswith(f"{VERSION}~")


def test_a_changed_checkout_says_so_even_at_a_tag(repository: Path) -> None:
    git(repository, "tag", f"v{VERSION}")
    (repository / "new").touch()
    assert version(repository)[0].endswith(".dirty")


def test_without_git(tree: Path) -> None:
    assert version(tree, SOURCE_DATE_EPOCH="5") == (f"{VERSION}~local", 5)
    named = f"{VERSION}~20260102030405.0123456789ab"
    assert version(tree, HATCHWAY_DEB_VERSION=named, SOURCE_DATE_EPOCH="5") == (named, 5)


@pytest.mark.parametrize("given", ["99", f"{VERSION}-1", f"{VERSION}~a b", f"{VERSION}~$(id)", f"{VERSION}~A"])
def test_a_version_that_is_given_must_be_one_of_this_release(tree: Path, given: str) -> None:
    done = run(tree, HATCHWAY_DEB_VERSION=given)
    assert done.returncode == 1
    assert "HATCHWAY_DEB_VERSION" in done.stderr


@pytest.mark.parametrize("said", ["1.0rc1", "1.0.dev3", "1.0+x", ""])
def test_versions_that_debian_sorts_otherwise_are_refused(tree: Path, said: str) -> None:
    (tree / "pyproject.toml").write_text(f'version = "{said}"\n')
    assert run(tree).returncode == 1


def test_order() -> None:
    if shutil.which("dpkg") is None:
        pytest.skip("no dpkg")
    ordered = [
        f"{VERSION}~20260102030405.0123456789ab+deb12",
        f"{VERSION}~20260102030405.0123456789ab.dirty+deb12",
        f"{VERSION}~20260102030406.0000000000ab+deb12",
        f"{VERSION}~local+deb12",
        f"{VERSION}+deb12",
        f"{VERSION}+deb13",
        f"{VERSION}.1+deb12",
    ]
    for first, second in itertools.pairwise(ordered):
        assert before(first, second), (first, second)
