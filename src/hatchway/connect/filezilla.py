"""FileZilla: the fields of its site manager, and the file it imports (File > Import)."""

from __future__ import annotations

import base64
import itertools
from collections.abc import Sequence
from xml.etree import ElementTree

import msgspec

from hatchway.connect.keyfiles import in_directory, key_file_name
from hatchway.connect.logon import Logon
from hatchway.wire.admin import ConnectionInfo
from hatchway.wire.entry import Confidential, PasswordKind

_LOGON_TYPES = {Logon.PASSWORD: "1", Logon.ASK: "2", Logon.KEY: "5", Logon.OWN_KEY: "5"}
_SFTP = "1"
_UNIX_PATHS = "1"


class FileZillaSite(Confidential, frozen=True, kw_only=True):
    """What to enter in FileZilla's site manager; field by field its own labels. None: leave the field alone.

    `logon_type` is "Key file", "Normal" (with `password`) or "Ask for password".
    """

    protocol: str
    host: str
    port: int
    logon_type: str
    user: str
    password: str | None = None
    key_file: str | None = None


class ChosenSite(msgspec.Struct, frozen=True, kw_only=True):
    """A login for the site manager's file. `key_dir` is the directory of the key on the computer it is imported on."""

    info: ConnectionInfo
    logon: Logon
    key_dir: str | None = None


def fields(info: ConnectionInfo) -> tuple[FileZillaSite, ...]:
    """FileZilla's fields, one set per credential, the key first."""
    sites = []
    if info.key_fingerprint is not None:
        sites.append(_fields(info, "Key file", key_file=key_file_name(info.login)))
    if info.password_kind is not PasswordKind.NONE:
        logon_type = "Ask for password" if info.password is None else "Normal"
        sites.append(_fields(info, logon_type, password=info.password))
    return tuple(sites)


def sitemanager(sites: Sequence[ChosenSite]) -> str:
    """The XML file with a folder for each environment, and in it a site for each login, called by that.

    Each site has a bookmark for each volume, and its host keys' fingerprints in the comment. What is not plainly
    visible is left out of names, and no path is made of a part of one.
    """
    root = ElementTree.Element("FileZilla3")
    servers = ElementTree.SubElement(root, "Servers")
    ordered = sorted(sites, key=lambda site: (site.info.environment, site.info.whose, site.info.login))
    for environment, group in itertools.groupby(ordered, key=lambda site: site.info.environment):
        folder = ElementTree.SubElement(servers, "Folder", expanded="1")
        folder.text = _visible(environment)
        for site in group:
            _add(folder, site)
    ElementTree.indent(root)
    # References for all that is not ASCII: whatever the text goes through, it arrives as it is meant.
    text = ElementTree.tostring(root, encoding="us-ascii", xml_declaration=False).decode("ascii")
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{text}\n'


def _add(folder: ElementTree.Element, site: ChosenSite) -> None:
    info = site.info
    server = ElementTree.SubElement(folder, "Server")

    def put(name: str, text: str, **attributes: str) -> None:
        ElementTree.SubElement(server, name, attributes).text = text

    put("Host", info.host)
    put("Port", str(info.port))
    put("Protocol", _SFTP)
    put("Type", "0")
    put("User", info.login)
    if site.logon is Logon.PASSWORD:
        assert info.password is not None
        put("Pass", base64.b64encode(info.password.encode()).decode("ascii"), encoding="base64")
    if site.logon is Logon.KEY and site.key_dir is not None:
        put("Keyfile", in_directory(site.key_dir, key_file_name(info.login)))
    put("Logontype", _LOGON_TYPES[site.logon])
    put("EncodingType", "UTF-8")
    put("BypassProxy", "0")
    put("Name", info.login)
    put("Comments", _comment(site))
    for place in info.places:
        if (path := remote_path(place)) is not None:
            bookmark = ElementTree.SubElement(server, "Bookmark")
            ElementTree.SubElement(bookmark, "Name").text = _visible(place)
            ElementTree.SubElement(bookmark, "RemoteDir").text = path


def remote_path(path: str) -> str | None:
    """`path`, absolute, as FileZilla stores it: `1 0 4 home 4 work`. None for one that is not plainly visible.

    That is the kind of path, the length of what stands before it, and each name behind its length. Lengths are in
    characters as FileZilla counts them, which on Windows are UTF-16's: of a name with others there is none that is
    right everywhere.
    """
    names = [name for name in path.split("/") if name]
    if not names or not path.isprintable() or any(ord(char) > 0xFFFF for char in path):
        return None
    return " ".join((_UNIX_PATHS, "0", *(f"{len(name)} {name}" for name in names)))


def _visible(text: str) -> str:
    """`text` without control characters, marks that turn it around, and what XML cannot hold."""
    return "".join(char for char in text if char.isprintable())


def _comment(site: ChosenSite) -> str:
    info = site.info
    lines = [_visible(info.whose)]
    lines += [f"{key.algorithm} {key.fingerprint}" for key in info.host_keys]
    if site.logon is Logon.KEY and site.key_dir is None:
        lines.append(f"Key file: choose {key_file_name(info.login)} where you have saved it")
    if site.logon is Logon.OWN_KEY:
        lines.append("Key file: choose your own")
    return "\n".join(lines)


def _fields(
    info: ConnectionInfo, logon_type: str, *, password: str | None = None, key_file: str | None = None
) -> FileZillaSite:
    return FileZillaSite(
        protocol="SFTP - SSH File Transfer Protocol",
        host=info.host,
        port=info.port,
        logon_type=logon_type,
        user=info.login,
        password=password,
        key_file=key_file,
    )
