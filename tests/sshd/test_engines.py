"""Engines as they are in the wild: elsewhere, remapped, late, hung, replaced, gone mad, in a hurry."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from docker.types import Mount
from tests.figures import note
from tests.sshd.dockerd import (
    IMAGE,
    PrivateDockerd,
    Workshop,
    client_of,
    make_image,
    need_private,
    running_engine,
    workshop,
)
from tests.sshd.proxy import Answer, Proxy
from tests.sshd.running import Hatchway, running, wait_until
from tests.sshd.test_lifecycle import children

from hatchway.kernel import mounts
from hatchway.wire.admin import InstanceStatus, Listing, ListInstances, SourceStatus
from hatchway.wire.frames import call_blocking

pytestmark = pytest.mark.engine

LATE_S = 30.0
"""How long a test waits for what shall take 2 s: machines that test are busy. What it took is noted."""


# What Hatchway sees


def look(hatchway: Hatchway) -> Listing:
    """What `hatchway ls` is told, without a program to start."""
    return call_blocking(f"{hatchway.run_dir}/admin.sock", ListInstances(), Listing)


def found(hatchway: Hatchway, instance: str) -> InstanceStatus | None:
    return next((one for one in look(hatchway).instances if str(one.key) == instance and one.present), None)


def state(hatchway: Hatchway, instance: str) -> str:
    one = found(hatchway, instance)
    return "" if one is None else one.state.value


def engine_source(hatchway: Hatchway) -> SourceStatus:
    return next(source for source in look(hatchway).sources if source.source == "docker")


def problem(hatchway: Hatchway) -> str | None:
    return next((source.problem for source in look(hatchway).sources if source.source == "docker"), "nothing yet")


def took(condition: Callable[[], object], what: str, since: float | None = None) -> float:
    """Wait for `condition`; note and return how many seconds it took since `since` (now)."""
    since = time.monotonic() if since is None else since
    wait_until(condition, what, LATE_S)
    seconds = time.monotonic() - since
    note(f"{what}: {seconds:.2f} s")
    return seconds


def resident_mib(pid: int, what: str = "VmRSS") -> float:
    """Memory of a process in MiB; with "VmHWM" the most it ever was."""
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith(f"{what}:")) / 1024


# Engines


@contextmanager
def place(parent: str | None = None) -> Iterator[Path]:
    """A directory for an engine, where the catalog's own user can reach the socket."""
    directory = Path(tempfile.mkdtemp(prefix="hwt-", dir=parent))
    directory.chmod(0o755)
    try:
        yield directory
    finally:
        directory.rmdir()


@contextmanager
def own_engine(*options: str, parent: str | None = None) -> Iterator[PrivateDockerd]:
    """An engine the test may do to what it likes, with an image. `{}` in an option is its directory."""
    need_private()
    with place(parent) as directory:
        engine = PrivateDockerd(directory / "d", *(option.format(directory / "d") for option in options))
        try:
            engine.start()
            make_image(engine.url)
            yield engine
        finally:
            engine.stop()


@contextmanager
def shop_of(engine: PrivateDockerd) -> Iterator[Workshop]:
    with client_of(engine.url) as client, workshop(client) as shop:
        yield shop


def instance_of(shop: Workshop, name: str) -> str:
    return f"default/{shop.name(name)}/1"


def volume_root(shop: Workshop) -> str:
    return f"{shop.client.info()['DockerRootDir']}/volumes"


def make(shop: Workshop, name: str, *command: str, **options: Any) -> str:
    """A container with the volume NAME-data at /data. Returns its instance."""
    volume = shop.volume(f"{name}-data")
    shop.container(
        name, command or ("sleep", "1000000"), mounts=[Mount("/data", volume.name)], stop_signal="SIGKILL", **options
    )
    return instance_of(shop, name)


def round_trip(hatchway: Hatchway, login: str, directory: Path, text: str) -> float:
    """Log in, put, get and compare; returns how many seconds that took."""
    began = time.monotonic()
    (directory / "sent").write_text(text)
    (directory / "got").unlink(missing_ok=True)
    hatchway.sftp(login, f"put {directory}/sent /data/file\nget /data/file {directory}/got\n")
    assert (directory / "got").read_text() == text
    return time.monotonic() - began


# Elsewhere


@contextmanager
def subordinate_ids(user: str, first: int) -> Iterator[None]:
    """65,536 ids from `first` on for `user` in /etc/subuid and /etc/subgid, in the tests' own mount namespace."""
    if os.environ.get("HATCHWAY_TEST_NAMESPACE") != "1":
        pytest.skip("/etc/subuid is changed in the name spaces of scripts/test only")
    with tempfile.TemporaryDirectory() as directory:
        made = []
        try:
            for name in ("subuid", "subgid"):
                copy = Path(directory) / name
                copy.write_text(f"{user}:{first}:65536\n")
                Path("/etc", name).touch()
                subprocess.run(["mount", "--bind", copy, f"/etc/{name}"], check=True)
                made.append(name)
            yield
        finally:
            for name in made:
                subprocess.run(["umount", f"/etc/{name}"], check=True)


def test_user_namespaces(tmp_path: Path) -> None:
    first = 300000
    with (
        subordinate_ids("daemon", first),
        own_engine("--userns-remap=daemon:daemon") as engine,
        shop_of(engine) as shop,
    ):
        remapped = f"{engine.directory}/data/{first}.{first}/volumes"
        assert volume_root(shop) == remapped
        instance = make(shop, "web")
        container = shop.client.containers.get(shop.name("web"))
        # What the image's first start does: the volume is its user's, and something is in it.
        prepare = (
            "chown 1000:1000 /data && echo 'by the container' >/data/of-container && chown 1000 /data/of-container"
        )
        assert container.exec_run(["sh", "-c", prepare]).exit_code == 0

        named_otherwise = f"{engine.directory}/data/volumes"
        with running(engine_url=engine.url, volume_root=named_otherwise) as hatchway:
            wait_until(lambda: found(hatchway, instance), "the catalog sees it")
            words = f"the engine keeps its volumes in {remapped}, which is not beneath host.volume_roots"
            (volume,) = found(hatchway, instance).volumes  # type: ignore[union-attr] # it was there
            assert words in (volume.refusal or "")
            refused = hatchway.cli("enable", instance, "/data")
            assert refused.returncode != 0
            assert f'add "{remapped}" there' in " ".join(refused.stderr.split())
            examined = hatchway.cli("--json", "doctor").stdout
            assert f'add \\"{remapped}\\" to host.volume_roots' in examined

        with running(engine_url=engine.url, volume_root=remapped) as hatchway:
            wait_until(lambda: found(hatchway, instance), "the catalog sees it")
            login = hatchway.enable(instance, "/data")
            round_trip(hatchway, login, tmp_path, "from the user")
            out = hatchway.sftp(login, f"mkdir made\nget of-container {tmp_path}/of\nls -ln\n").stdout
            assert (tmp_path / "of").read_text() == "by the container\n"
            assert "of-container" in out
            backing = Path(remapped) / shop.name("web-data") / "_data"
            for name in ("file", "made"):
                seen = container.exec_run(["stat", "-c", "%u:%g", f"/data/{name}"]).output
                on_disk = (backing / name).stat()
                assert seen == b"1000:1000\n"
                assert (on_disk.st_uid, on_disk.st_gid) == (first + 1000, first + 1000)
            # And the container's user may do as it likes with what came.
            assert (
                container.exec_run(["sh", "-c", "echo more >>/data/file && rmdir /data/made"], user="1000").exit_code
                == 0
            )
            assert hatchway.sftp(login, f"get file {tmp_path}/again\n").returncode == 0
            assert (tmp_path / "again").read_text() == "from the usermore\n"
            # Ids that are named are the container's.
            for number, (name, ids) in enumerate((("0:0", "0:0"), ("1234:5", "1234:5"), ("container", "0:0"))):
                hatchway.command("enable", instance, "/data", "--owner", name)
                hatchway.sftp(login, f"put {tmp_path}/again named{number}\n")
                told = container.exec_run(["stat", "-c", "%u:%g", f"/data/named{number}"]).output
                assert told == f"{ids}\n".encode()
                on_disk = (backing / f"named{number}").stat()
                assert on_disk.st_uid == first + int(ids.partition(":")[0])
            refused = hatchway.cli("enable", instance, "/data", "--owner", "70000:0")
            assert "have no such ids" in " ".join(refused.stderr.split())


def test_a_data_root_elsewhere(tmp_path: Path) -> None:
    """With a space in its name, and named by a symlink: the engine reports where that leads."""
    need_private()
    with place() as directory:
        real, link = directory / "data of engines" / "docker", directory / "link"
        real.mkdir(parents=True)
        link.symlink_to(real)
        engine = PrivateDockerd(directory / "d", "--data-root", str(link))
        try:
            engine.start()
            make_image(engine.url)
            with shop_of(engine) as shop:
                elsewhere(engine, shop, real, link, tmp_path)
        finally:
            engine.stop()
            # The engine mounts its data root on itself, and leaves it so.
            for entry in reversed(mounts.mount_table()):
                if entry.target.startswith(f"{real.parent}/"):
                    mounts.unmount(entry.target)
            link.unlink()
            shutil.rmtree(directory / "data of engines")


def elsewhere(engine: PrivateDockerd, shop: Workshop, real: Path, link: Path, tmp_path: Path) -> None:
    instance = make(shop, "web", start=False)
    # Docker's packages and many hosts have /var/lib/docker as a link.
    with running(engine_url=engine.url, volume_root=f"{link}/volumes") as hatchway:
        wait_until(lambda: found(hatchway, instance), "the catalog sees it")
        refused = hatchway.cli("enable", instance, "/data")
        assert refused.returncode != 0
        assert f'add "{real}/volumes" there' in " ".join(refused.stderr.split())
    with running(engine_url=engine.url, volume_root=f"{real}/volumes") as hatchway:
        wait_until(lambda: found(hatchway, instance), "the catalog sees it")
        login = hatchway.enable(instance, "/data")
        round_trip(hatchway, login, tmp_path, "from the user")
    assert (real / "volumes" / shop.name("web-data") / "_data" / "file").read_text() == "from the user"


# Late, hung, replaced


def test_an_engine_that_is_absent_at_start(tmp_path: Path) -> None:
    with own_engine() as engine, shop_of(engine) as shop:
        instance, root = make(shop, "web", start=False), volume_root(shop)
        engine.halt(signal.SIGTERM)
        try:
            with running("shop/web/1", engine_url=engine.url, volume_root=root) as hatchway:
                listed = hatchway.cli("ls")
                assert listed.returncode == 0
                assert "does not answer: No such file or directory" in " ".join(listed.stdout.split())
                assert "never seen" in listed.stdout
                login = hatchway.enable("shop/web/1", "/data")
                round_trip(hatchway, login, tmp_path, "without an engine")
                time.sleep(5)  # as many attempts as it makes in its first moments
                engine.resume()
                took(lambda: found(hatchway, instance), "an instance, since the engine was seen to answer")
                assert problem(hatchway) is None
                round_trip(hatchway, hatchway.enable(instance, "/data"), tmp_path, "with one")
        finally:
            if not (engine.directory / "docker.sock").exists():
                engine.resume()


def test_an_engine_that_hangs(tmp_path: Path) -> None:
    with own_engine() as engine, shop_of(engine) as shop:
        ends = make(shop, "ends", "sh", "-c", "until [ -e /data/end ]; do sleep 0.1; done")
        stays = make(shop, "stays")
        with running(engine_url=engine.url, volume_root=volume_root(shop), engine_timeout_s=3) as hatchway:
            wait_until(lambda: found(hatchway, ends) and found(hatchway, stays), "the catalog sees them")
            logins = [hatchway.enable(instance, "/data") for instance in (ends, stays)]
            session = hatchway.open_sftp(logins[0])
            wait_until(lambda: hatchway.sessions() == 1, "a session")
            (tmp_path / "end").touch()
            os.kill(engine.pid, signal.SIGSTOP)
            try:
                renamed = threading.Thread(target=rename, args=(engine, shop.name("stays"), shop.name("renamed")))
                renamed.start()
                note(f"a new login while the engine hangs: {round_trip(hatchway, logins[1], tmp_path, 'new'):.2f} s")
                assert session.stdin is not None
                session.stdin.write(f"put {tmp_path}/end /data/end\n")
                session.stdin.flush()
                backing = Path(volume_root_on_disk(engine)) / shop.name("ends-data") / "_data"
                wait_until((backing / "end").exists, "the open session's file")
                took(lambda: problem(hatchway) is not None, "the hang is told after")
                assert problem(hatchway) == f"the engine at {engine.url} does not answer: nothing within 3 s"
                time.sleep(3)
                began = time.monotonic()
                listed = hatchway.cli("ls")
                note(f"ls while the engine hangs: {time.monotonic() - began:.2f} s; {listed.stdout.splitlines()[-1]}")
                assert time.monotonic() - began < 10
                assert "does not answer: nothing within 3 s" in " ".join(listed.stdout.split())
                age = engine_source(hatchway).age_s
                assert age is not None
                assert age >= 3
                # Also to a login that nobody used yet since.
                note(f"another new login: {round_trip(hatchway, logins[1], tmp_path, 'later'):.2f} s")
                assert found(hatchway, ends).volumes[0].access == "rw"  # type: ignore[union-attr] # it is there
                assert state(hatchway, ends) == "running"
            finally:
                os.kill(engine.pid, signal.SIGCONT)
            began = time.monotonic()
            took(lambda: state(hatchway, ends) == "exited", "what ended during the hang is seen", began)
            took(lambda: found(hatchway, instance_of(shop, "renamed")), "what was renamed during it", began)
            took(lambda: problem(hatchway) is None, "no problem any more", began)
            renamed.join(30)
            session.communicate("ls\nbye\n", timeout=30)
            assert session.returncode == 0


def rename(engine: PrivateDockerd, name: str, new: str) -> None:
    with client_of(engine.url) as client:
        client.containers.get(name).rename(new)


def volume_root_on_disk(engine: PrivateDockerd) -> str:
    """Without asking it."""
    return f"{engine.directory}/data/volumes"


def test_an_engine_that_is_replaced(tmp_path: Path) -> None:
    """Stopped as an upgrade stops it, with its containers, its run-time state lost, started again."""
    big = tmp_path / "big"
    big.write_bytes(os.urandom(8 * 2**20))
    with own_engine() as engine, shop_of(engine) as shop:
        instance = make(shop, "web")
        backing = Path(volume_root(shop)) / shop.name("web-data") / "_data"
        with running(engine_url=engine.url, volume_root=volume_root(shop)) as hatchway:
            wait_until(lambda: state(hatchway, instance) == "running", "the catalog sees it")
            login = hatchway.enable(instance, "/data")
            command = ["sftp", "-l", str(8 * 2**13 // 15), *hatchway.options(), *hatchway.key_options(login)]
            with subprocess.Popen(
                [*command, "-b", "-", f"{login}@127.0.0.1"],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            ) as upload:  # fmt: skip
                assert upload.stdin is not None
                upload.stdin.write(f"put {big} /data/big\n")
                upload.stdin.flush()
                wait_until((backing / "big").exists, "the upload's begin")
                engine.halt(signal.SIGTERM)
                took(lambda: problem(hatchway) is not None, "its end is told after")
                note(f"a login without the engine: {round_trip(hatchway, login, tmp_path, 'between'):.2f} s")
                shutil.rmtree(engine.directory / "x")
                (engine.directory / "x").mkdir()
                engine.resume()
                took(lambda: problem(hatchway) is None, "the new one is followed after")
                wait_until(lambda: state(hatchway, instance) == "exited", "its containers ended with it")
                began = time.monotonic()
                shop.client.containers.get(shop.name("web")).start()
                took(lambda: state(hatchway, instance) == "running", "an event of the new one", began)
                assert (backing / "big").stat().st_size < big.stat().st_size, "it was still on its way"
                output, _ = upload.communicate("bye\n", timeout=60)
                assert upload.returncode == 0, output
        digests = {hashlib.sha256(path.read_bytes()).hexdigest() for path in (big, backing / "big")}
        assert len(digests) == 1


# In a hurry

EVENTS = 10_000
THREADS = 4
CONTAINERS = 40


class Caller(http.client.HTTPConnection):
    """The engine's API without a library between: as quick as the engine is."""

    def __init__(self, url: str) -> None:
        super().__init__("engine", timeout=60)
        self._path = url.removeprefix("unix://")

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(60)
        self.sock.connect(self._path)

    def call(self, method: str, path: str, body: object = None) -> Any:
        """Raises AssertionError for a refusal."""
        text = None if body is None else json.dumps(body)
        self.request(method, path, text, {"Content-Type": "application/json"} if text else {})
        answer = self.getresponse()
        data = answer.read()
        assert answer.status < 300, f"{method} {path}: {answer.status} {data!r}"
        return json.loads(data) if data.strip() else None


@contextmanager
def caller(url: str) -> Iterator[Caller]:
    made = Caller(url)
    try:
        yield made
    finally:
        made.close()


class Counter:
    """Counts the engine's events about containers and volumes, from a stream of its own."""

    def __init__(self, url: str) -> None:
        self.count = 0
        self._caller = Caller(url)
        self._caller.request("GET", "/events?filters=%7B%22type%22%3A%5B%22container%22%2C%22volume%22%5D%7D")
        self._answer = self._caller.getresponse()
        self._caller.sock.settimeout(None)
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        while line := self._answer.readline():
            self.count += bool(line.strip())

    def close(self) -> None:
        assert self._caller.sock is not None
        self._caller.sock.shutdown(socket.SHUT_RDWR)
        self._thread.join(10)
        self._answer.close()
        self._caller.close()


def hurry(url: str, idents: list[str], number: int, failures: list[str]) -> None:
    """One thread's share: each round renames a container and makes and removes a volume, which are three events."""
    try:
        with caller(url) as engine:
            for turn in range(EVENTS // THREADS // 3 + 1):
                which = turn % len(idents)
                engine.call("POST", f"/containers/{idents[which]}/rename?name=n{number}-{which}-{turn}")
                engine.call("POST", "/volumes/create", {"Name": f"v{number}-{turn}"})
                engine.call("DELETE", f"/volumes/v{number}-{turn}")
            for which, ident in enumerate(idents):
                engine.call("POST", f"/containers/{ident}/rename?name=last-{number}-{which}")
    except (AssertionError, OSError, http.client.HTTPException) as exc:
        failures.append(str(exc))


def test_ten_thousand_events() -> None:
    # In memory, where the engine is five times as quick.
    with own_engine(parent="/dev/shm" if Path("/dev/shm").is_dir() else None) as engine, caller(engine.url) as api:
        idents = [
            api.call("POST", f"/containers/create?name=c{number}", {"Image": IMAGE})["Id"]
            for number in range(CONTAINERS)
        ]
        with running(engine_url=engine.url, volume_root=volume_root_on_disk(engine)) as hatchway:
            wait_until(lambda: len(look(hatchway).instances) == CONTAINERS, "the catalog sees them", LATE_S)
            (catalog,) = children(hatchway, "hatchway.catalog.main")
            before = resident_mib(catalog)
            counter = Counter(engine.url)
            failures: list[str] = []
            share = CONTAINERS // THREADS
            try:
                began = time.monotonic()
                threads = [
                    threading.Thread(
                        target=hurry,
                        args=(engine.url, idents[number * share : (number + 1) * share], number, failures),
                    )
                    for number in range(THREADS)
                ]
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join()
                last = time.monotonic()
                expected = {f"last-{number}-{which}" for number in range(THREADS) for which in range(share)}
                assert failures == []
                took(lambda: names(hatchway) == expected, "after the last event the view is right", last)
                wait_until(lambda: counter.count >= EVENTS, "the engine made that many events")
            finally:
                counter.close()
            note(f"{counter.count} events in {last - began:.1f} s, {counter.count / (last - began):.0f} a second")
            after, most = resident_mib(catalog), resident_mib(catalog, "VmHWM")
            note(f"the catalog: {before:.0f} MiB before, {after:.0f} MiB after, {most:.0f} MiB at most")
            assert most < before + 60
            assert problem(hatchway) is None


def names(hatchway: Hatchway) -> set[str]:
    return {one.runtime_name for one in look(hatchway).instances}


# Gone mad


class Scene:
    """A Hatchway with an engine behind a proxy, one volume enabled and one session open in it."""

    def __init__(self, hatchway: Hatchway, proxy: Proxy, instance: str) -> None:
        self.hatchway = hatchway
        self.proxy = proxy
        self.instance = instance
        self.login = hatchway.enable(instance, "/data")
        self.session = hatchway.open_sftp(self.login)
        wait_until(lambda: hatchway.sessions() == 1, "a session")
        (self.catalog,) = children(hatchway, "hatchway.catalog.main")


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with (
        running_engine(tmp_path_factory.mktemp("e") / "d") as url,
        client_of(url) as client,
        workshop(client) as shop,
        place() as directory,
    ):
        path = directory / "docker.sock"
        proxy = Proxy(path, url.removeprefix("unix://"))
        try:
            instance = make(shop, "web")
            options = {"engine_url": f"unix://{path}", "engine_timeout_s": 2, "volume_root": volume_root(shop)}
            with running(**options) as hatchway:
                wait_until(lambda: found(hatchway, instance), "the catalog sees it")
                made = Scene(hatchway, proxy, instance)
                yield made
                output, _ = made.session.communicate("ls\nbye\n", timeout=30)
                assert made.session.returncode == 0, output
        finally:
            proxy.close()
            path.unlink()


def http_answer(
    body: bytes, status: str = "200 OK", kind: str = "application/json", length: int | None = None
) -> Answer:
    head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nConnection: close\r\n"
    head += f"Content-Length: {len(body) if length is None else length}\r\n\r\n"

    def answer(client: socket.socket, _path: str) -> bool:
        client.sendall(head.encode() + body)
        return True

    return answer


def raw(data: bytes) -> Answer:
    def answer(client: socket.socket, _path: str) -> bool:
        client.sendall(data)
        return True

    return answer


def endless(part: bytes, pause_s: float = 0.0, status: str = "200 OK") -> Answer:
    """Until whoever asked hangs up."""

    def answer(client: socket.socket, _path: str) -> bool:
        client.sendall(f"HTTP/1.1 {status}\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n".encode())
        while True:
            client.sendall(b"%x\r\n%b\r\n" % (len(part), part))
            time.sleep(pause_s)

    return answer


def beyond(answer: Answer, *well: str) -> Answer:
    """`answer` to all but the version and what else is `well`: an engine that can be connected to."""

    def chosen(client: socket.socket, path: str) -> bool:
        return path not in ("/version", *well) and answer(client, path)

    return chosen


def only(answer: Answer, path: str) -> Answer:
    def chosen(client: socket.socket, asked: str) -> bool:
        return asked == path and answer(client, asked)

    return chosen


def wrong_types(client: socket.socket, path: str) -> bool:
    """JSON of no sense, as much of it as gets past the first look."""
    known: dict[str, object] = {"/containers/json": [5, "x", None, {}], "/volumes": {"Volumes": [5, {}]}}
    body: object = known.get(path, ["odd"])
    return path == "/events" or http_answer(json.dumps(body).encode())(client, path)


def odd_containers(client: socket.socket, path: str) -> bool:
    """A list as ever, of containers that are no such thing."""
    inspect = path.startswith("/containers/") and path != "/containers/json"
    return inspect and http_answer(b'{"Id": 5, "Mounts": "none"}')(client, path)


CUT = "it ended the stream of events"
"""All that is said at first, when what was under way is cut off."""

NONSENSE = {
    "no http": raw(b"\x00\xff\r\n\r\n"),
    "no json": http_answer(b'{"ApiVersion": '),
    "html later": beyond(http_answer(b"<html><h1>It works!</h1>", kind="text/html"), "/events"),
    "half later": beyond(http_answer(b'[{"Id": "', length=1000), "/events"),
    "500": http_answer(b'{"message": "out of \\u001b[2J sorts"}', status="500 Oops"),
    "500 later": beyond(http_answer(b"<html>", status="500 Oops", kind="text/html"), "/events"),
    "endless": endless(b"[" * 65536),
    "endless later": beyond(endless(b"[" * 65536), "/events"),
    "trickling": beyond(endless(b"[", 0.2), "/events"),
    "wrong types": beyond(wrong_types, "/events", "/info"),
    "odd containers": odd_containers,
    "rubbish events": only(endless(b"\xff\x00" * 30000), "/events"),
    "no json events": only(endless(b"<html>\n", 0.1), "/events"),
}


@pytest.mark.parametrize("kind", NONSENSE)
def test_an_engine_that_talks_nonsense(scene: Scene, tmp_path: Path, kind: str) -> None:
    hatchway = scene.hatchway
    wait_until(lambda: problem(hatchway) is None, "the engine is followed", LATE_S)
    scene.proxy.flick(NONSENSE[kind])
    try:
        wait_until(lambda: not (problem(hatchway) or CUT).endswith(CUT), "the nonsense is told")
        note(f"{kind}: {problem(hatchway)}")
        # A while of it, with attempts to make sense of it.
        end = time.monotonic() + 1.5
        while time.monotonic() < end:
            one = found(hatchway, scene.instance)
            assert one is not None
            assert one.volumes[0].access == "rw"
            time.sleep(0.2)
        assert "\x1b" not in (problem(hatchway) or "")
        listed = hatchway.cli("ls")
        assert listed.returncode == 0
        assert scene.instance in listed.stdout
        round_trip(hatchway, scene.login, tmp_path, kind)
        assert scene.session.poll() is None
        assert hatchway.sessions() >= 1
    finally:
        scene.proxy.flick(None)
    took(lambda: problem(hatchway) is None, f"{kind}: followed again after")
    assert children(hatchway, "hatchway.catalog.main") == [scene.catalog], "it did not end"
    most = resident_mib(scene.catalog, "VmHWM")
    note(f"{kind}: the catalog had at most {most:.0f} MiB")
    assert most < 300
