"""Keys a container keeps in a named volume: see test_volume_keys, where there is no engine."""

from __future__ import annotations

import pytest
from docker.types import Mount
from tests.sshd.bench import benched
from tests.sshd.entering import Credential, Verdict, attempt, make_key
from tests.sshd.running import wait_until

pytestmark = pytest.mark.engine

IN, DENIED = Verdict.IN, Verdict.DENIED

SSH_DIRECTORY = "/home/u/.ssh"


def test_a_named_volume_of_a_container(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Written from inside, while it runs; and it goes on to count when the container is stopped."""
    with benched(tmp_path_factory.mktemp("e") / "d") as bench:
        data, keys = bench.shop.volume("data"), bench.shop.volume("keys")
        instance = bench.container("web", Mount("/data", data.name), Mount(SSH_DIRECTORY, keys.name), start=True)
        login = bench.hatchway.enable(instance, "/data")
        public = make_key(bench.hatchway, "inside").strip()
        container = bench.shop.client.containers.get(bench.shop.name("web"))

        def inside(script: str) -> None:
            code, said = container.exec_run(["sh", "-c", script])
            assert code == 0, said

        def enter() -> Verdict:
            return attempt(bench.hatchway, login, Credential(key="inside"))

        inside(f"umask 077 && echo '{public}' > {SSH_DIRECTORY}/authorized_keys")
        assert enter() is DENIED
        bench.hatchway.command("key", "volumes", instance, "--allow")
        (listed,) = [one for one in bench.hatchway.command("key", "list", instance)["keys"] if one["place"]]
        assert listed["place"] == f"{SSH_DIRECTORY}/authorized_keys:1"
        assert enter() is IN
        container.stop(timeout=1)
        assert enter() is IN
        container.start()
        inside(f"rm {SSH_DIRECTORY}/authorized_keys")
        wait_until(lambda: enter() is DENIED, "the key is gone")
        # A container that is made anew without it has no keys of its own.
        inside(f"umask 077 && echo '{public}' > {SSH_DIRECTORY}/authorized_keys")
        wait_until(lambda: enter() is IN, "the key is back")
        bench.remove("web")
        wait_until(lambda: not bench.is_there(instance), "the catalog sees that it is gone")
        assert enter() is DENIED
        bench.container("web", Mount("/data", data.name))
        wait_until(lambda: bench.is_there(instance), "the catalog sees the new one")
        assert enter() is DENIED
        assert attempt(bench.hatchway, login, Credential(key=login)) is IN
