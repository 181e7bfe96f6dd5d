"""Every link between our pages leads somewhere, and every page can be found from the README.

In the source as in the package, which has them below /usr/share/doc.
"""

from __future__ import annotations

import re
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
README = ROOT / "README.md"
PAGES = [README, ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]

_FENCE = re.compile(r"^ *(```+|~~~+).*?^ *\1 *$", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"(`+)(?!`).*?(?<!`)\1(?!`)", re.DOTALL)
_LINK = re.compile(r"!?\[(?:[^\[\]]|\[[^\]]*\])*\]\(\s*<?([^\s()<>]*)>?\s*\)")
_ELSEWHERE = re.compile(r"[a-z][a-z0-9+.-]*:")


def prose(text: str) -> str:
    """`text` without what is code, where brackets are no links."""
    return _CODE.sub("", _FENCE.sub("", text))


def links(page: Path) -> Iterator[str]:
    """Where the links of `page` lead, those to other sites left out."""
    for found in _LINK.finditer(prose(page.read_text(encoding="utf-8"))):
        if not _ELSEWHERE.match(found[1]):
            yield found[1]


def anchors(page: Path) -> set[str]:
    """The anchors that the headings of `page` get: in lower case, blanks as "-", without punctuation."""
    seen: Counter[str] = Counter()
    made = set()
    for heading in re.findall(r"^#{1,6} +(.+?) *#*$", _FENCE.sub("", page.read_text(encoding="utf-8")), re.MULTILINE):
        shown = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        name = re.sub(r"[^\w\- ]", "", shown.lower()).replace(" ", "-")
        made.add(f"{name}-{seen[name]}" if seen[name] else name)
        seen[name] += 1
    return made


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def broken(page: Path, top: Path) -> list[str]:
    """What is wrong with the links of `page`; they must stay below `top`."""
    found = []
    for link in links(page):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.is_relative_to(top) or not target.exists():
            found.append(f"{link}: there is no such file")
        elif anchor and (target.suffix != ".md" or anchor not in anchors(target)):
            found.append(f"{link}: there is no such heading")
    return found


def installed(top: Path) -> None:
    """Put the documents into `top` as debian/ puts them into /usr/share/doc/hatchway."""
    for line in (ROOT / "debian" / "hatchway.docs").read_text().split():
        # As dh_installdocs does: by their last name, directories with what is in them.
        if (ROOT / line).is_dir():
            shutil.copytree(ROOT / line, top / Path(line).name)
        else:
            shutil.copy(ROOT / line, top)
    for line in (ROOT / "debian" / "hatchway.links").read_text().splitlines():
        if (place := Path(line.split()[1])).is_relative_to("usr/share/doc/hatchway"):
            (top / place.name).touch()
    rules = (ROOT / "debian" / "rules").read_text()
    shown = r"\$\(ROOT\)/usr/share/doc/hatchway/"
    for target, pattern in re.findall(rf"-t {shown}(\S+) (\S+)$", rules, re.MULTILINE):
        (top / target).mkdir(parents=True)
        for path in ROOT.glob(pattern):
            shutil.copy(path, top / target)
    for source, target in re.findall(rf"install -m 0644 (\S+\.md) {shown}(\S+)$", rules, re.MULTILINE):
        shutil.copy(ROOT / source, top / target)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_link_leads_somewhere(page: Path) -> None:
    assert not broken(page, ROOT)


def test_the_same_in_the_package(tmp_path: Path) -> None:
    installed(tmp_path)
    pages = sorted(path for path in tmp_path.rglob("*.md") if "results" not in path.parts)
    assert {str(path.relative_to(tmp_path)) for path in pages} == {name(page) for page in PAGES}
    assert {str(page): broken(page, tmp_path) for page in pages if broken(page, tmp_path)} == {}
    # Links that end in what debhelper compresses would have another name.
    assert "dh_compress -X.md -X.toml.example" in (ROOT / "debian" / "rules").read_text()


def test_every_page_is_linked_from_the_readme() -> None:
    linked = {(ROOT / link.partition("#")[0]).resolve() for link in links(README)}
    assert [name(page) for page in PAGES if page != README and page not in linked] == []


def test_links_and_anchors_are_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# A `code` [name](x.md), and more\n## Twice\n## Twice\n"
        "[one](a.md#b) ![two](c.png) [three [x]](#d) [away](https://example.org/) `[no](link)`\n"
        "```\n# no heading\n[no](link)\n```\n"
    )
    assert list(links(page)) == ["x.md", "a.md#b", "c.png", "#d"]
    assert anchors(page) == {"a-code-name-and-more", "twice", "twice-1"}
