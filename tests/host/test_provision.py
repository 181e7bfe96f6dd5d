"""vagrant/provision on a booted host: what `vagrant up` runs makes logins that work, and can be run again."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.host import conftest
from tests.host.booted import HOST4, Host
from tests.host.installed import DOCKER, Installed, Packages

TREE = Path(__file__).parents[2]
FILES = {
    "sample/web/1": ("/home/work/hello.txt", "/home/work/uploads/hello.txt"),
    "sample/archive/1": ("/data/hello.txt",),
    "sample/shared/1": ("/data/hello.txt",),
}


@pytest.fixture(scope="module")
def provisioned(release: str, packages: Packages) -> Iterator[tuple[Installed, Callable[[], str]]]:
    """A host that the script has been run on, as often as is asked for."""
    with conftest.listed(release, *DOCKER[release]) as host:
        made = Installed(host)
        host.run("mkdir", "-p", "/hatchway/vagrant", "/hatchway/scripts", "/hatchway/dist")
        host.put(TREE / "vagrant/provision", "/hatchway/vagrant/provision", mode=0o755)
        host.put(TREE / "scripts/lib.sh", "/hatchway/scripts/lib.sh")
        host.put(packages.new, f"/hatchway/dist/{packages.new.name}")
        # What has to come from the network: the host has none when the script runs.
        host.apt("update")
        made.install(packages.new)
        yield made, lambda: provision(host)


def provision(host: Host) -> str:
    return host.run("env", f"HATCHWAY_HOST={HOST4}", "/hatchway/vagrant/provision", timeout_s=300).stdout


def test_samples_can_be_reached(provisioned: tuple[Installed, Callable[[], str]]) -> None:
    site, run = provisioned
    first = run()
    again = run()
    # Nobody keeps the operator's password: each run says a new one.
    passwords = [
        re.findall(r"Name hatchway-operator +Password (\S{20})$", text, re.MULTILINE) for text in (first, again)
    ]
    assert len(passwords[0]) == len(passwords[1]) == 1
    assert passwords[0] != passwords[1]
    states = site.host.run("docker", "ps", "--all", "--format", "{{.Names}} {{.State}}").stdout.split("\n")
    assert sorted(filter(None, states)) == [
        "sample-archive-1 exited", "sample-shared-1 running", "sample-web-1 running",
    ]  # fmt: skip
    reach_all(site)
    assert sign_in(site, passwords[1][0]) == "303"
    assert sign_in(site, passwords[0][0]) != "303"
    site.host.reboot()
    site.wait_all_run()
    reach_all(site)


def reach_all(site: Installed) -> None:
    """By key and by password, every sample; the address and port that the script has told are those used."""
    for instance, paths in FILES.items():
        info = site.hatchway("show", instance, "--secrets")
        assert (info["host"], info["port"]) == (HOST4, 2022)
        site.fetch_key(instance, info["login"])
        batch = "".join(f"get {path} got\n" for path in paths)
        site.sftp(info["login"], batch)
        site.sftp(info["login"], batch, password=info["password"])
        where = paths[-1].rpartition("/")[0]
        site.sftp(info["login"], f"put got {where}/put.txt\nrm {where}/put.txt\n")


def sign_in(site: Installed, password: str) -> str:
    """The status that the pages answer to the operator with."""
    jar = str(site.client / "cookies")
    curl = ["curl", "--silent", "--insecure", "--max-time", "30", "--cookie", jar, "--cookie-jar", jar]
    curl += ["--header", "Sec-Fetch-Site: same-origin"]
    page = f"https://{HOST4}:8022/sign-in"
    (site.client / "cookies").unlink(missing_ok=True)
    form = subprocess.run(site.host.on_client(*curl, page), capture_output=True, text=True, check=True, timeout=60)
    token = re.search(r'name="csrf" value="([^"]+)"', form.stdout)
    assert token, form.stdout
    fields = [f"csrf={token[1]}", "name=hatchway-operator", f"password={password}", "next=/"]
    curl += ["--output", "/dev/null", "--write-out", "%{http_code}"]
    curl += [word for field in fields for word in ("--data-urlencode", field)]
    done = subprocess.run(site.host.on_client(*curl, page), capture_output=True, text=True, check=True, timeout=60)
    return done.stdout


def test_passwords_are_not_left(provisioned: tuple[Installed, Callable[[], str]]) -> None:
    """Passwords are kept nowhere: not in the script's directories, nor in what it leaves in /tmp."""
    site, _ = provisioned
    secret = site.password("sample/web/1")
    found = site.host.run("grep", "-rlF", secret, "/hatchway", "/tmp", "/etc", "/var/log", check=False)
    assert found.stdout == ""
