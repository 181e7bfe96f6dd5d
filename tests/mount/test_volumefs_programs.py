"""Ordinary programs on a mounted volume, run as the session's uid: what they are told must make them work.

Over SFTP, see tests/sshd/test_mounting_clients.py. Here it is the file system itself, as a shell would use it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import sqlite3
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.mount.served import OWNER_GID, OWNER_UID, Served, put, refused

from hatchway.kernel import mounts

TIMEOUT_S = 60

PICTURE = """
mkdir -p tree/dir/deep tree/empty
echo text >tree/dir/file
ln -s file tree/dir/link
ln -s /nonexistent tree/dangling
ln tree/dir/file tree/dir/second
seq 100000 >tree/dir/deep/large
truncate -s 5M tree/sparse
printf x | dd of=tree/sparse bs=1 seek=3000000 conv=notrunc status=none
touch -d '2001-02-03 04:05:06.123456789' tree/dir/file tree/dir/deep
chmod 640 tree/dir/file
chmod 1777 tree/empty
"""
"""Shell commands that make a tree with something of everything."""


def shell(volume: Served, script: str, *, at: Path | None = None) -> str:
    """Standard output of `script`, run by the session in the volume, or `at`. It must succeed without a complaint."""
    done = subprocess.run(
        ["/bin/bash", "-euc", "set -o pipefail\n" + script],
        cwd=at or volume.path,
        user=volume.uid,
        group=volume.uid,
        extra_groups=[],
        umask=0o022,
        env={"HOME": str(at or volume.path), "PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, ""), f"{script}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture
def elsewhere(volume: Served) -> Iterator[Path]:
    """A plain directory of the session's, outside the volume, with the tree of PICTURE in it."""
    with tempfile.TemporaryDirectory(prefix="hatchway-plain-") as name:
        path = Path(name)
        os.chown(path, volume.uid, volume.uid)
        path.chmod(0o755)
        shell(volume, PICTURE, at=path)
        yield path


def all_theirs(volume: Served) -> None:
    """Everything on disk belongs to whom the volume belongs."""
    for path in volume.backing.rglob("*"):
        st = path.lstat()
        assert (st.st_uid, st.st_gid) == (OWNER_UID, OWNER_GID), path


DESCRIBE = (
    r"cd {}; find . -mindepth 1 -printf '%P %y %m %n %s %l %T@\n' |"
    r" sed -E '/ d /s/ [0-9]+  / /; / [dl] /s/[.][0-9]+$//' | sort"
)
"""Lists a tree: path, type, mode, links, size, target, time. A directory's size is the file system's affair, and rsync
sets times of directories and symlinks to the second."""


def same_trees(volume: Served, one: str | Path, other: str | Path) -> None:
    """Two trees have the same contents, modes, links and times."""
    shell(volume, f"diff -r --no-dereference '{one}' '{other}'")
    assert shell(volume, DESCRIBE.format(one)) == shell(volume, DESCRIBE.format(other))


def test_tar(volume: Served, elsewhere: Path) -> None:
    shell(volume, f"tar -C {elsewhere} --format=posix -cSf - tree | tar -xpf -")
    same_trees(volume, elsewhere / "tree", "tree")
    shell(volume, f"tar --format=posix -cSf - tree | tar -C {elsewhere} --transform 's,^tree,back,' -xpf -")
    same_trees(volume, elsewhere / "back", "tree")
    # The hole stays one on the way in.
    assert (volume.backing / "tree" / "sparse").stat().st_blocks * 512 < 1 << 20
    all_theirs(volume)


def test_rsync(volume: Served, elsewhere: Path) -> None:
    sync = "rsync -aHS --delete --itemize-changes"
    assert ">f+++++++++ dir/deep/large" in shell(volume, f"{sync} {elsewhere}/tree/ copy/")
    same_trees(volume, elsewhere / "tree", "copy")
    # What is the same is seen to be: times to the nanosecond, modes, sizes, links.
    assert shell(volume, f"{sync} {elsewhere}/tree/ copy/") == ""
    assert shell(volume, f"{sync} copy/ {elsewhere}/tree/") == ""
    shell(volume, f"echo more >>{elsewhere}/tree/dir/deep/large; rm {elsewhere}/tree/sparse; echo other >copy/extra")
    changed = shell(volume, f"{sync} --inplace --no-whole-file {elsewhere}/tree/ copy/")
    assert "*deleting   extra" in changed
    assert ">f.s" in changed
    same_trees(volume, elsewhere / "tree", "copy")
    all_theirs(volume)


def test_git(volume: Served) -> None:
    """Lock files, rename over, hard links, mmap of packs, and the index's comparison of stat data."""
    said = shell(
        volume,
        """
        git -c init.defaultBranch=main init -q repo
        cd repo
        git config user.name n
        git config user.email e@example.invalid
        for number in $(seq 40); do
            echo $number >file$number
            git add file$number
            git commit -qm $number
        done
        git status --porcelain
        git gc -q
        git fsck --full --no-progress
        git mv file1 moved
        git commit -qam moved
        git checkout -q HEAD~5
        test ! -e file36 -o ! -e file40
        git checkout -q main
        git repack -adq
        git clone -q . ../second
        cd ../second
        git log --oneline | wc -l
        git status --porcelain
        cat moved
        """,
    )
    assert said.split() == ["41", "1"]
    all_theirs(volume)


def test_cp(volume: Served, elsewhere: Path) -> None:
    shell(volume, f"cp -a {elsewhere}/tree tree")
    same_trees(volume, elsewhere / "tree", "tree")
    shell(
        volume,
        """
        cp -a tree copy
        diff -r --no-dereference tree copy
        cp --reflink=auto --sparse=always tree/sparse holes
        cmp tree/sparse holes
        cp --sparse=never tree/sparse full
        cmp tree/sparse full
        """,
    )
    assert (volume.backing / "holes").stat().st_blocks * 512 < 1 << 20
    assert (volume.backing / "full").stat().st_blocks * 512 >= 5 << 20
    # No reflink: pyfuse3 knows no ioctl.
    with pytest.raises(AssertionError, match="Operation not supported"):
        shell(volume, "cp --reflink=always full clone")


def test_dd(volume: Served) -> None:
    shell(
        volume,
        """
        dd if=/dev/zero of=file bs=1M count=2 oflag=direct status=none
        printf middle | dd of=file bs=1 seek=1000 conv=notrunc status=none
        dd if=file of=out bs=512 iflag=direct status=none
        cmp file out
        printf end | dd of=file oflag=append conv=notrunc,fsync status=none
        dd if=/dev/null of=out bs=1 seek=5000000 status=none
        """,
    )
    data = (volume.backing / "file").read_bytes()
    assert (len(data), data[1000:1006], data[-3:]) == (2 * 2**20 + 3, b"middle", b"end")
    assert (volume.backing / "out").stat().st_size == 5_000_000


def test_find_and_du(volume: Served, elsewhere: Path) -> None:
    shell(volume, f"cp -a {elsewhere}/tree tree")
    everything = DESCRIBE.format("tree")
    assert shell(volume, everything) == shell(volume, everything.replace("tree", f"{elsewhere}/tree"))
    # find relies on directories' link counts, on d_type and on inode numbers.
    assert shell(volume, "find tree -links 2 -type f | sort").split() == ["tree/dir/file", "tree/dir/second"]
    assert shell(volume, "find tree -samefile tree/dir/second | wc -l") == "2\n"
    assert shell(volume, "find tree -depth -type d -empty") == "tree/empty\n"
    # A file with two names counts once, a hole not at all.
    assert shell(volume, "du -sk tree | cut -f1") == shell(volume, f"du -sk {elsewhere}/tree | cut -f1")
    assert shell(volume, "find tree -delete; ls -A") == ""


def test_saving_as_editors_do(volume: Served) -> None:
    """A new file renamed over the old one, a backup by hard link or rename, and a lock as a dangling symlink."""
    (volume.backing / "conf").write_text("old\n")
    (volume.backing / "conf").chmod(0o640)
    shell(
        volume,
        """
        sed -i s/old/new/ conf
        grep -qx new conf
        ln conf conf~
        printf 'newer\\n' >.conf.tmp
        chmod --reference=conf .conf.tmp
        mv -f .conf.tmp conf
        ln -s nobody@nowhere.1234 '.#conf'
        readlink '.#conf'
        rm '.#conf'
        mv conf conf.bak
        cp conf.bak conf
        install -m 600 conf installed
        """,
    )
    assert (volume.backing / "conf").read_text() == "newer\n"
    assert (volume.backing / "conf~").read_text() == "new\n"
    # As vim does it, if it is here: it renames, writes anew, and sets mode and times.
    if shutil.which("vim"):
        shell(volume, "vim -es -u NONE -c 'set backup writebackup' -c 's/newer/newest/' -c wq conf")
        assert (volume.backing / "conf").read_text() == "newest\n"
    assert (volume.backing / "conf").stat().st_mode & 0o777 == 0o640
    all_theirs(volume)


def test_a_shell_in_a_root_of_its_own(volume: Served) -> None:
    """As in a session's root: the volume stands in a directory tree with nothing else but the shell's program."""
    busybox = shutil.which("busybox")
    assert busybox is not None
    with tempfile.TemporaryDirectory(prefix="hatchway-root-") as name:
        root = Path(name)
        root.chmod(0o755)
        (root / "data").mkdir()
        shutil.copy(busybox, root / "busybox")
        mounts.mount(str(volume.path), str(root / "data"), "none", 4096)  # MS_BIND
        try:

            def session() -> None:
                pid = os.fork()
                if pid == 0:
                    os.chdir("/data")
                    os.execve("/busybox", ["sh", "-euc", SCRIPT], {"PATH": "/nowhere"})
                assert os.waitpid(pid, 0)[1] == 0

            in_root(volume, root, session)
        finally:
            mounts.unmount(str(root / "data"))
    assert (volume.backing / "said").read_text().split() == ["/data/a/b", str(volume.uid), "50", "root:/", "up:/data"]
    all_theirs(volume)


SCRIPT = """
busybox() { /busybox "$@"; }
busybox mkdir -p a/b
cd a/b
exec >../../said
pwd
busybox stat -c %u .
for number in $(busybox seq 50); do echo "$number" >"file$number"; done
busybox ls | busybox wc -l
busybox tar -cf - . | busybox tar -C /data -xf -
busybox cmp file7 /data/file7
busybox ln -s / root
busybox ln -s ../.. up
echo "root:$(cd root && pwd -P)"
echo "up:$(cd up && pwd -P)"
busybox rm -r /data/a/b
busybox rm /data/file*
"""


def in_root(volume: Served, root: Path, function: object) -> None:
    """Call `function` in a process of the session's uid whose root is `root`."""
    assert callable(function)
    pid = os.fork()
    if pid == 0:
        status = 1
        with contextlib.suppress(BaseException):
            os.chroot(root)
            os.setgroups([])
            os.setresgid(volume.uid, volume.uid, volume.uid)
            os.setresuid(volume.uid, volume.uid, volume.uid)
            function()
            status = 0
        os._exit(status)
    assert os.waitpid(pid, 0)[1] == 0


# Databases and locks


def test_sqlite_with_a_rollback_journal(volume: Served) -> None:
    def work(first: int) -> None:
        for number in range(first, first + 40):
            with contextlib.closing(sqlite3.connect("data.db", timeout=20)) as database, database:
                database.execute("insert into t values (?)", (number,))

    def begin() -> None:
        with contextlib.closing(sqlite3.connect("data.db")) as database, database:
            assert database.execute("pragma journal_mode").fetchone() == ("delete",)
            database.execute("create table t (a)")

    volume.as_session(begin)
    pid = os.fork()
    if pid == 0:
        try:
            volume.as_session(work, 1000)
            os._exit(0)
        finally:
            os._exit(1)
    volume.as_session(work, 0)
    assert os.waitpid(pid, 0)[1] == 0

    def check() -> list[tuple[object, ...]]:
        with contextlib.closing(sqlite3.connect("data.db")) as database:
            found = database.execute("pragma integrity_check").fetchall()
            return found + database.execute("select count(*), sum(a) from t").fetchall()

    # Two sessions at once: none of the 80 transactions is lost.
    assert volume.as_session(check) == [("ok",), (80, sum(range(40)) + sum(range(1000, 1040)))]
    assert volume.as_session(os.listdir) == ["data.db"]


def test_sqlite_with_a_write_ahead_log(volume: Served) -> None:
    """Its index is shared memory, which direct_io cannot give: an error, except for one user alone."""
    with contextlib.closing(sqlite3.connect(volume.backing / "data.db")) as database, database:
        assert database.execute("pragma journal_mode = wal").fetchone() == ("wal",)
        database.execute("create table t (a)")
        database.execute("insert into t values (1)")

    def session() -> list[tuple[object, ...]]:
        with contextlib.closing(sqlite3.connect("data.db")) as database, pytest.raises(sqlite3.OperationalError):
            database.execute("select * from t").fetchall()
        with contextlib.closing(sqlite3.connect("data.db")) as database, database:
            database.execute("pragma locking_mode = exclusive")
            database.execute("insert into t values (2)")
            return database.execute("select * from t").fetchall()

    assert volume.as_session(session) == [(1,), (2,)]
    with contextlib.closing(sqlite3.connect(volume.backing / "data.db")) as database:
        assert database.execute("select * from t").fetchall() == [(1,), (2,)]
        assert database.execute("pragma integrity_check").fetchall() == [("ok",)]


@pytest.mark.parametrize("kind", ["flock", "fcntl"])
def test_locks_hold_among_sessions_and_not_against_the_container(volume: Served, kind: str) -> None:
    """They are the kernel's own on the mount: pyfuse3 passes none on."""
    volume.as_session(put, b"file", b"x")
    take = {"flock": fcntl.flock, "fcntl": fcntl.lockf}[kind]

    def session() -> None:
        held = os.open(b"file", os.O_RDWR)
        take(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        pid = os.fork()
        if pid == 0:
            with contextlib.suppress(BaseException):
                os.close(held)
                fd = os.open(b"file", os.O_RDWR)
                with refused(11):
                    take(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os._exit(0)
            os._exit(1)
        assert os.waitpid(pid, 0)[1] == 0
        os.write(ready_w, b"x")
        assert os.read(go_on, 1) == b"x"

    ready, ready_w = os.pipe()
    go_on, go_on_w = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            volume.as_session(session)
            os._exit(0)
        finally:
            os._exit(1)
    try:
        assert os.read(ready, 1) == b"x"
        with (volume.backing / "file").open("r+b") as file:
            take(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    finally:
        os.write(go_on_w, b"x")
        assert os.waitpid(pid, 0)[1] == 0
        for fd in (ready, ready_w, go_on, go_on_w):
            os.close(fd)
