"""How people are shown."""

from __future__ import annotations

from tests.unit.cli.conftest import Cli, FakeDaemon

from hatchway.model import InstanceKey, InstanceState, Mode, VolumeKind
from hatchway.wire.admin import Access, PersonStatus, PersonVolume
from hatchway.wire.people import GrantPerson, ListPeople, People, PersonChanged

BLOG = InstanceKey("blog", "web", 1)


def person(**more: object) -> PersonStatus:
    """Somebody with one folder."""
    fields = {"refused": ""} | more
    volume = PersonVolume(
        key=BLOG, state=InstanceState.RUNNING, present=True, path="/uploads", folder="photos", name="blog_uploads",
        driver="local", kind=VolumeKind.VOLUME, mode=Mode.READ_WRITE, access=Access.READ_WRITE,
        session_path="/blog-web-1/uploads/photos", granted_at=1.0, granted_by="uid 0",
        **fields,  # type: ignore[arg-type]
    )  # fmt: skip
    return PersonStatus(login="anna", full_name="", created_at=1.0, volumes=(volume,))


def test_a_folder_that_is_not_there_is_told_of(run: Cli, daemon: FakeDaemon) -> None:
    missing = person(refused="there is no folder photos in it now")
    daemon.answers[ListPeople] = People((missing,))
    daemon.answers[GrantPerson] = PersonChanged(person=missing, key=BLOG, changed=("/uploads",))
    told = "      there is no folder photos in it now: they are refused until that changes"
    for words in (("ls",), ("grant", "anna", "blog/web/1", "/uploads", "--folder", "photos")):
        done = run("person", *words)
        assert done.exit_code == 0 and told in done.stdout.splitlines()
    daemon.answers[ListPeople] = People((person(),))
    assert "refused" not in run("person", "ls").stdout
