"""What the pages say fits together: names of accounts, what stands in the configuration, and the users' pages."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


USERS = sorted((ROOT / "docs" / "users").glob("*.md"))
DIALOG = ROOT / "src" / "hatchway" / "web" / "templates" / "connect.html"


def named(pattern: str) -> set[str]:
    """What the group of `pattern` is, on any page."""
    return {name for page in PAGES for name in re.findall(pattern, page.read_text(encoding="utf-8"))}


def test_nobody_is_an_operator_and_a_person() -> None:
    """No person has the name of an account of the host: whoever types both examples would be refused."""
    operators = named(r"gpasswd --add (\w+) hatchway-operators") | named(r"operator (\w+) \(web\)")
    people = named(r"hatchway person add (\w+)")
    assert operators and people
    assert not operators & people


def test_the_web_pages_are_switched_on_where_the_example_has_them() -> None:
    """A second [web] would be an error, so nobody is told to paste one."""
    part = re.search(r"^\[web\]\n(.*?)(?=^\[)", (ROOT / "hatchway.toml.example").read_text(), re.MULTILINE | re.DOTALL)
    assert part is not None and "\n#enabled = false\n" in part[1]
    for page in ("README.md", "docs/web.md"):
        text = (ROOT / page).read_text(encoding="utf-8")
        assert "[web]\nenabled" not in text, page
        assert re.search(r"take the `#` off\s`enabled`", text), page


@pytest.mark.parametrize("page", USERS, ids=lambda path: str(path.stem))
def test_a_user_is_told_of_the_web_pages_and_of_logins_of_people(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    head, _, rest = text.partition("\n## ")
    assert "an address that begins with `https://`" in head
    # As docs/people.md shows it; those of instances are at the paths of the container.
    assert "\n## Where the files are\n" in text
    assert "`/shop-web-1/home/work`" in rest
    assert "/shop-web-1/home/work\n" in (ROOT / "docs" / "people.md").read_text(encoding="utf-8")


def test_every_program_of_the_connection_dialog_has_a_page() -> None:
    programs = re.findall(r'<details class="fold"><summary>([^<]+)</summary>', DIALOG.read_text(encoding="utf-8"))
    named = {word.lower() for program in programs for word in re.findall(r"\w+", program)}
    pages = {page.stem for page in USERS}
    assert pages <= named
    for program in programs:
        words = set(re.findall(r"\w+", program.lower()))
        assert words & pages or program.endswith("?"), program
