"""debian/: what it says in several places says the same, and agrees with what Hatchway believes by default."""

from __future__ import annotations

import json
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from hatchway.config import Config
from hatchway.kernel import seccomp
from hatchway.sshd import install, render

ROOT = Path(__file__).parents[3]
DEBIAN = ROOT / "debian"
SCRIPTS = ["postinst", "prerm", "postrm"]
UNITS = {path.name for path in (ROOT / "systemd").iterdir() if path.suffix in (".service", ".socket")}
COPYRIGHT = ROOT / "packaging" / "copyright"
RULES = (DEBIAN / "rules").read_text()


def lines(name: str) -> list[list[str]]:
    """The words of each line that is no comment."""
    text = (DEBIAN / f"hatchway.{name}").read_text()
    return [shlex.split(line) for line in text.splitlines() if line.strip() and not line.startswith("#")]


def script(name: str) -> str:
    return (DEBIAN / f"hatchway.{name}").read_text()


@pytest.mark.parametrize("name", SCRIPTS)
def test_maintainer_scripts_pass_shellcheck(name: str) -> None:
    if shutil.which("shellcheck") is None:
        pytest.skip("no shellcheck")
    done = subprocess.run(["shellcheck", "-s", "sh", DEBIAN / f"hatchway.{name}"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("name", SCRIPTS)
def test_maintainer_scripts_end_at_the_first_failure_and_have_debhelpers_part(name: str) -> None:
    text = script(name)
    assert text.startswith("#!/bin/sh\n")
    assert "\nset -e\n" in text
    assert text.count("\n#DEBHELPER#\n") == 1


def test_an_upgrade_restarts_every_daemon_and_ends_no_session() -> None:
    matched = re.search(r"^DAEMONS='(.*)'$", script("postinst"), re.MULTILINE)
    assert matched is not None
    restarted = {f"{name}.service" for name in matched[1].split()}
    services = {name for name in UNITS if name.endswith(".service")}
    assert services - restarted == {"hatchway.service", "hatchway-sessions.service"}
    assert set(re.findall(r"deb-systemd-invoke (\w+)", script("postinst"))) == {"start", "restart"}


def test_removing_stops_every_unit() -> None:
    assert set(re.findall(r"hatchway[a-z-]*\.(?:service|socket)", script("prerm"))) == UNITS


def test_every_unit_is_installed() -> None:
    assert "systemd/*.service systemd/*.socket" in RULES
    others = {path.name for path in (ROOT / "systemd").iterdir()} - UNITS
    assert all(f"systemd/{name}" in RULES for name in others)


def test_only_the_umbrella_is_enabled() -> None:
    enabled = {name for name in UNITS if "[Install]" in (ROOT / "systemd" / name).read_text()}
    assert enabled == {"hatchway.service"}


def test_accounts_are_those_of_the_configuration() -> None:
    ids = Config().ids
    users = {words[1] for words in lines("sysusers") if words[0] == "u"}
    groups = {words[1] for words in lines("sysusers") if words[0] == "g"}
    assert users == {ids.core_user, ids.catalog_user, ids.keys_user, ids.web_user}
    assert groups == {ids.session_group}
    for words in lines("sysusers"):
        if words[0] == "u":
            # ":" ends the field in passwd(5), "," what finger(1) takes for the name.
            assert not set(words[3]) & set(":,"), words


def test_accounts_have_the_numbers_they_would_have_without_a_package() -> None:
    """None that systemd would choose: those are what images choose from as well."""
    ids = Config().ids
    numbers = {words[1]: int(words[2]) for words in lines("sysusers")}
    wanted = (ids.core_user, ids.catalog_user, ids.keys_user, ids.session_group, ids.web_user)
    assert numbers == {name: ids.service_uids[0] + offset for offset, name in enumerate(wanted)}


def sysusers(root: Path) -> tuple[dict[str, int], dict[str, int]]:
    """The users and groups of `root` once systemd-sysusers has been there."""
    program = shutil.which("systemd-sysusers", path="/usr/bin:/bin")
    if program is None:
        pytest.skip("no systemd-sysusers")
    (root / "etc").mkdir(exist_ok=True)
    file = root / "usr/lib/sysusers.d/hatchway.conf"
    file.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(DEBIAN / "hatchway.sysusers", file)
    done = subprocess.run([program, f"--root={root}"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    users, groups = (
        {line.split(":")[0]: int(line.split(":")[2]) for line in (root / "etc" / name).read_text().splitlines()}
        for name in ("passwd", "group")
    )
    return users, groups


@pytest.mark.skipif(os.geteuid() != 0, reason="systemd-sysusers makes files root's")
def test_groups_get_the_numbers_of_their_users(tmp_path: Path) -> None:
    users, groups = sysusers(tmp_path)
    assert set(users) == {"hatchway", "hatchway-catalog", "hatchway-keys", "hatchway-web"}
    assert groups == {**users, "hatchway-sftp": Config().ids.service_uids[0] + 3}


@pytest.mark.skipif(os.geteuid() != 0, reason="systemd-sysusers makes files root's")
def test_an_account_that_is_there_already_keeps_its_number(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").write_text("hatchway:x:996:995::/var/lib/hatchway:/usr/sbin/nologin\n")
    (tmp_path / "etc/group").write_text("hatchway:x:995:\nhatchway-sftp:x:994:\n")
    users, groups = sysusers(tmp_path)
    assert (users["hatchway"], groups["hatchway"], groups["hatchway-sftp"]) == (996, 995, 994)
    assert users["hatchway-keys"] == groups["hatchway-keys"] == Config().ids.service_uids[0] + 2


def test_purge_takes_every_account_and_every_group() -> None:
    loops = re.findall(
        r"^    for name in (.*); do\n(?:        #.*\n)*.* getent -s files (\w+) ", script("postrm"), re.MULTILINE
    )
    gone = {database: set(names.split()) for names, database in loops}
    users = {words[1] for words in lines("sysusers") if words[0] == "u"}
    groups = {words[1] for words in lines("sysusers")}
    assert gone == {"passwd": users, "group": groups}


def test_the_jails_in_the_documents_see_what_the_core_writes() -> None:
    """fail2ban by itself opens the journal of system accounts only, and the core's has no number of theirs."""
    for name in ("configure", "security"):
        jail = re.search(r"^\[hatchway\]\n(.*?)^```", (ROOT / f"docs/{name}.md").read_text(), re.MULTILINE | re.DOTALL)
        assert jail is not None
        assert "\nbackend = systemd[journalflags=1]\n" in jail[1], name


def test_directories_are_those_of_the_configuration() -> None:
    paths = Config().paths
    made = {words[1]: words[2:5] for words in lines("tmpfiles")}
    assert made == {
        paths.run_dir: ["0755", "root", "root"],
        Config().mount_dir: ["0700", "root", "root"],
        Config().handover_dir: ["0700", "root", "root"],
        "/run/faillock": ["0755", "root", "root"],  # faillock.conf(5), dir
        paths.state_dir: ["0700", Config().ids.core_user, Config().ids.core_user],
    }
    for variable, value in (
        ("RUN", paths.run_dir),
        ("STATE", paths.state_dir),
        ("RECORDS", paths.userdb_dir),
        ("WEB_STATE", Config().web_dir),
    ):
        assert f"\n{variable}={value}\n" in script("postrm")


def test_what_a_unit_hides_of_the_run_directory_is_made_before_it_starts() -> None:
    """InaccessiblePaths= does nothing about what is not there."""
    made = {words[1] for words in lines("tmpfiles")}
    text = "".join((ROOT / "systemd" / name).read_text() for name in UNITS)
    hidden = re.findall(r"^InaccessiblePaths=(.*)$", text, re.MULTILINE)
    paths = {path.lstrip("-") for line in hidden for path in line.split()}
    ours = {path for path in paths if path.startswith(f"{Config().paths.run_dir}/")}
    assert ours
    assert ours <= made


def test_the_helpers_are_where_the_packaged_configuration_says() -> None:
    assert render.PACKAGED.paths.libexec_dir == "/usr/libexec/hatchway"
    installed = re.search(r"addprefix \$\(VENV\)/libexec/hatchway/,([^)]+)\)", RULES)
    assert installed
    assert set(installed[1].split()) == {*install.HELPERS, "local-port"} == set(os.listdir("src/libexec"))
    assert f"/etc/pam.d/{render.PACKAGED.sshd.pam_service}" in RULES
    assert f"packaging/rendered signin >$(ROOT){Config().signin_pam_path}\n" in RULES


def test_docker_is_noticed_under_both_names_of_its_unit_and_a_new_sshd() -> None:
    assert {tuple(words) for words in lines("triggers")} == {
        ("interest-noawait", "/lib/systemd/system/docker.service"),
        ("interest-noawait", "/usr/lib/systemd/system/docker.service"),
        ("interest-noawait", Config().sshd.binary),
    }


def test_the_package_is_for_machines_the_filter_has_a_table_for() -> None:
    names = {"x86_64": "amd64", "aarch64": "arm64"}
    found = re.search(r"^Architecture: (.*)$", (DEBIAN / "control").read_text(), re.MULTILINE)
    assert found is not None
    assert set(found[1].split()) == {names[machine] for machine in seccomp._ARCH}


def test_what_has_to_load_in_the_package_is_what_the_units_start() -> None:
    modules = runpy.run_path(str(ROOT / "packaging" / "rendered"))["started"]()
    commands = [
        line for name in UNITS for line in (ROOT / "systemd" / name).read_text().splitlines() if "python3" in line
    ]
    assert {"hatchway.cli.main", "hatchway.daemon", "hatchway.host.zygote", "hatchway.sshd.main"} <= set(modules)
    for line in commands:
        assert any(f" -m {name}" in line for name in modules), line


def test_each_lintian_override_says_why() -> None:
    previous = ""
    for line in (DEBIAN / "hatchway.lintian-overrides").read_text().splitlines():
        assert line.startswith(("#", "hatchway: ")), line
        if not line.startswith("#"):
            assert previous.startswith("#"), f"no reason is given for {line}"
        previous = line


def copyright_of(tmp_path: Path, **files: str) -> subprocess.CompletedProcess[str]:
    """packaging/copyright run on an environment with one distribution that has `files` (`__` for `/`)."""
    site = tmp_path / "lib" / "python3.11" / "site-packages"
    info = site / "thing-1.dist-info"
    info.mkdir(parents=True)
    (site / "thing").mkdir()
    (info / "RECORD").write_text("thing/__init__.py,,\nthing-1.dist-info/METADATA,,\n../../bin/thing,,\n")
    (info / "METADATA").write_text("Name: thing\nVersion: 1\nLicense-Expression: MIT\nAuthor: Somebody\n\nText\n")
    for name, text in files.items():
        path = info / name.replace("__", "/")
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    command = [sys.executable, "-I", str(COPYRIGHT), str(ROOT), str(site), "/usr/lib/hatchway"]
    return subprocess.run(command, capture_output=True, text=True)


def test_the_copyright_file_has_the_texts_of_what_is_bundled(tmp_path: Path) -> None:
    done = copyright_of(tmp_path, licenses__LICENSE="Copyright (c) 2020 Her\n\nPermission is granted.\n")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith((DEBIAN / "copyright").read_text())
    for line in (
        "Files: usr/lib/hatchway/lib/python3.11/site-packages/thing/*",
        " usr/lib/hatchway/lib/python3.11/site-packages/thing-1.dist-info/*",
        "Copyright: 2020 Her",
        "License: MIT-thing",
        " Permission is granted.",
    ):
        assert f"\n{line}\n" in done.stdout


def test_a_text_every_debian_has_is_named_only(tmp_path: Path) -> None:
    done = copyright_of(tmp_path, LICENSE=(ROOT / "LICENSE").read_text())
    assert "/usr/share/common-licenses/Apache-2.0" in done.stdout.split("Files: usr")[1]
    assert "TERMS AND CONDITIONS" not in done.stdout


def test_nothing_without_a_licence_is_bundled(tmp_path: Path) -> None:
    done = copyright_of(tmp_path, licenses__AUTHORS="Her\n")
    assert done.returncode == 1
    assert "thing-1.dist-info has no licence text" in done.stderr


def test_nothing_is_linked_in_under_a_licence_nobody_looked_at(tmp_path: Path) -> None:
    part = {"name": "odd", "version": "3", "licenses": [{"expression": "SSPL-1.0"}]}
    done = copyright_of(tmp_path, LICENSE="free", sboms__a_json="{}")
    assert done.returncode == 0
    info = next(tmp_path.rglob("*.dist-info"))
    (info / "sboms" / "a.json").write_text(json.dumps({"components": [part]}))
    command = [sys.executable, "-I", str(COPYRIGHT), str(ROOT), str(info.parent), "/usr/lib/hatchway"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert "SSPL-1.0" in done.stderr
