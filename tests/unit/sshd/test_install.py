"""Putting sshd's files in place, with a stand-in for sshd and, as root, with the real one."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from hatchway.config import Config, Paths, Sshd
from hatchway.errors import ConfigError, HostError
from hatchway.sshd import install, render
from hatchway.sshd import version as versions

pytestmark = pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="ssh-keygen is not installed")

REAL = "/usr/sbin/sshd"


def trusting(_path: str, _executable: bool) -> None:
    """Everything below a test's own directory is trusted."""


def prepare(config: Config, tmp_path: Path) -> install.Prepared:
    return install.prepare(config, privsep_dir=str(tmp_path / "privsep"), require=trusting)


def test_everything_is_put_in_place(config: Config, tmp_path: Path) -> None:
    prepared = prepare(config, tmp_path)
    run = tmp_path / "run" / "sshd"
    assert prepared.argv == (str(run / "hatchway-sshd"), "-D", "-e", "-f", str(run / "sshd_config"))
    assert prepared.version == (9, 2)
    assert [key.algorithm for key in prepared.host_keys] == ["ssh-ed25519", "ssh-rsa"]
    assert prepared.pam_created
    assert (run / "hatchway-sshd").readlink() == Path(config.sshd.binary)
    assert (run / "hatchway.conf").read_text() == render.policy(config, (9, 2))
    assert (run / "sshd_config").read_text() == render.dedicated(config, (9, 2), str(run / "hatchway.conf"))
    assert Path(prepared.pam_path).read_text() == render.pam_service(config)
    for path in (run / "hatchway.conf", run / "sshd_config", Path(prepared.pam_path)):
        assert stat.S_IMODE(path.stat().st_mode) == 0o644
    for directory in (run, tmp_path / "privsep"):
        assert stat.S_IMODE(directory.stat().st_mode) == 0o755
    asked = (tmp_path / "asked").read_text().splitlines()
    assert asked[-1] == f"{run}/hatchway-sshd -t -f {run}/sshd_config"
    assert sorted(os.listdir(run)) == ["hatchway-sshd", "hatchway.conf", "sshd_config"]


def test_doing_it_again_changes_nothing(config: Config, tmp_path: Path) -> None:
    first = prepare(config, tmp_path)
    second = prepare(config, tmp_path)
    assert second.host_keys == first.host_keys
    assert not second.pam_created
    install.withdraw(second)
    assert Path(second.pam_path).exists()
    install.withdraw(first)
    assert not Path(first.pam_path).exists()
    install.withdraw(first)


def test_an_old_pam_file_of_ours_is_renewed(config: Config, tmp_path: Path) -> None:
    path = Path(install.pam_path(config))
    path.write_text(f"{render.MARKER}\nauth required pam_permit.so\n")
    assert not prepare(config, tmp_path).pam_created
    assert path.read_text() == render.pam_service(config)


def test_a_pam_file_of_somebody_else_is_left_alone(config: Config, tmp_path: Path) -> None:
    path = Path(install.pam_path(config))
    path.write_text("auth required pam_unix.so\n")
    with pytest.raises(ConfigError, match="was not written by Hatchway"):
        prepare(config, tmp_path)
    assert path.read_text() == "auth required pam_unix.so\n"


def packaged(config: Config, tmp_path: Path) -> install.Prepared:
    return install.prepare(config, privsep_dir=str(tmp_path / "privsep"), require=trusting, write_pam=False)


def test_the_packages_pam_file_is_looked_at_and_not_written(
    config: Config, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = Path(install.pam_path(config))
    with pytest.raises(HostError, match="cannot read the PAM service"):
        packaged(config, tmp_path)
    text = render.pam_service(config, render.PACKAGED_PAM)
    assert text.splitlines()[0] == render.PACKAGED_PAM
    path.write_text(text)
    assert not packaged(config, tmp_path).pam_created
    # A run in the foreground beside the package takes it as it is, too, and leaves it there.
    install.withdraw(prepare(config, tmp_path))
    assert path.read_text() == text
    assert "not as Hatchway would have it" not in "".join(capfd.readouterr())
    changed = text + "account required pam_time.so\n"
    path.write_text(changed)
    assert not packaged(config, tmp_path).pam_created
    assert path.read_text() == changed
    assert "not as Hatchway would have it" in "".join(capfd.readouterr())
    path.unlink()


def test_a_pam_file_replaced_meanwhile_is_not_removed(config: Config, tmp_path: Path) -> None:
    prepared = prepare(config, tmp_path)
    Path(prepared.pam_path).write_text("auth required pam_unix.so\n")
    install.withdraw(prepared)
    assert Path(prepared.pam_path).exists()


def test_a_planted_link_is_replaced_not_followed(config: Config, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / "run" / "sshd").mkdir()
    for name in ("sshd_config", ".sshd_config.new"):
        (tmp_path / "run" / "sshd" / name).symlink_to(victim)
    prepare(config, tmp_path)
    assert victim.read_text() == "precious"
    assert not (tmp_path / "run" / "sshd" / "sshd_config").is_symlink()


def test_sshds_own_words_are_passed_on(config: Config, tmp_path: Path, fake_sshd: Path) -> None:
    text = fake_sshd.read_text()
    fake_sshd.write_text(text + 'if [ "$1" = -t ]; then echo "line 7: Bad configuration option" >&2; exit 255; fi\n')
    with pytest.raises(HostError, match=r"sshd refuses .*: line 7: Bad configuration option"):
        prepare(config, tmp_path)
    assert not Path(install.pam_path(config)).exists()


def test_helpers_that_others_can_change_are_refused(config: Config, tmp_path: Path) -> None:
    with pytest.raises(HostError, match="authorized-keys cannot be trusted"):
        install.prepare(config, privsep_dir=str(tmp_path / "privsep"))
    assert not (tmp_path / "asked").exists()


def test_all_that_root_runs_is_looked_at(config: Config, tmp_path: Path) -> None:
    looked: list[tuple[str, bool]] = []
    install.prepare(
        config,
        privsep_dir=str(tmp_path / "privsep"),
        require=lambda path, executable: looked.append((path, executable)),
    )
    assert looked == [
        (f"{tmp_path}/libexec/authorized-keys", True),
        (f"{tmp_path}/libexec/pam", True),
        (config.sshd.binary, True),
        (f"{tmp_path}/run/sshd", False),
    ]


def test_a_directory_that_is_missing(config: Config, tmp_path: Path) -> None:
    (tmp_path / "pam.d").rmdir()
    with pytest.raises(HostError, match="cannot write the PAM service"):
        prepare(config, tmp_path)


@pytest.fixture
def real_config(config: Config, tmp_path: Path) -> Iterator[Config]:
    if not os.access(REAL, os.X_OK):
        pytest.skip(f"no {REAL}")
    if os.geteuid() != 0:
        pytest.skip("not root: sshd -t wants its privilege separation directory")
    had_privsep = os.path.isdir(install.PRIVSEP_DIR)
    yield Config(
        paths=Paths(
            run_dir=str(tmp_path / "run"), pam_dir=str(tmp_path / "pam.d"), libexec_dir="/usr/libexec/hatchway"
        ),
        sshd=Sshd(binary=REAL, host_key_dir=str(tmp_path / "keys"), port=20222),
    )
    if not had_privsep:
        os.rmdir(install.PRIVSEP_DIR)


def test_the_installed_sshd_takes_it(real_config: Config) -> None:
    prepared = install.prepare(real_config, require=trusting)
    assert prepared.version == versions.of(REAL)
    connection = "user=shop-web-1,host=y,addr=192.0.2.1,laddr=192.0.2.2,lport=20222"
    done = subprocess.run(
        [prepared.argv[0], "-T", "-f", install.config_path(real_config), "-C", connection],
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    effective = dict(line.split(" ", 1) for line in done.stdout.splitlines() if " " in line)
    expected = {
        "allowgroups": "hatchway-sftp",
        "authenticationmethods": "any",
        "authorizedkeysfile": "none",
        "authorizedkeyscommanduser": "hatchway-keys",
        "authorizedprincipalsfile": "none",
        "chrootdirectory": f"{real_config.mount_dir}/%u",
        "disableforwarding": "yes",
        "forcecommand": "internal-sftp -u 0 -P users-groups-by-id@openssh.com",
        "gssapiauthentication": "no",
        "hostbasedauthentication": "no",
        "kbdinteractiveauthentication": "no",
        "kerberosauthentication": "no",
        "passwordauthentication": "yes",
        "permitemptypasswords": "no",
        "permitlisten": "none",
        "permitopen": "none",
        "permitrootlogin": "no",
        "permittty": "no",
        "permituserenvironment": "no",
        "permituserrc": "no",
        "trustedusercakeys": "none",
        "usepam": "yes",
        "x11forwarding": "no",
    }
    if prepared.version >= render.SINCE_PAM_SERVICE_NAME:
        expected["pamservicename"] = "hatchway-sshd"
    if prepared.version >= render.SINCE_REQUIRED_RSA_SIZE:
        expected["requiredrsasize"] = "2048"
    assert {keyword: effective.get(keyword) for keyword in expected} == expected
    assert "acceptenv" not in effective
