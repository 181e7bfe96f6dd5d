"""What the web process asks the core, on the socket "web". The core authorises each Call by what its viewer may do.

The web process has no rights of its own: it holds the token of whoever is signed in for as long as it answers them,
and passes it on.
"""

from __future__ import annotations

import enum

import msgspec

from hatchway.wire.entry import Confidential, PasswordKind


class ViewerKind(enum.StrEnum):
    """Who looks: an operator of this host, a person with a Hatchway account, or whoever opened a link."""

    OPERATOR = "operator"
    PERSON = "person"
    LINK = "link"


class Viewer(msgspec.Struct, frozen=True, kw_only=True, tag="viewer"):
    """Who is signed in. `name` is the operator's account, the person's login, or the key of the link's instance.

    `expires_at` is Unix seconds. `uses_left` is how often the link can be opened after this, None for others.
    """

    kind: ViewerKind
    name: str
    expires_at: float
    uses_left: int | None = None


class SignIn(Confidential, frozen=True, kw_only=True, tag="sign-in"):
    """Sign in from `address`, the client's. Answer: SignedIn. Raises SignInError, SignInWaitError."""

    name: str
    password: str
    address: str


class OpenLink(Confidential, frozen=True, kw_only=True, tag="open-link"):
    """Sign in by a share link's token, from `address`, the client's. Answer: SignedIn. Raises SignInError for one that
    opens nothing, PassphraseError when a passphrase is asked for and `passphrase` is "" or another, SignInWaitError.
    """

    token: str
    passphrase: str
    address: str


class SignedIn(Confidential, frozen=True, kw_only=True, tag="signed-in"):
    """`token` stands for the viewer from now on."""

    token: str
    viewer: Viewer


class WhoIs(Confidential, frozen=True, tag="who-is"):
    """Whose token is this? Answer: Viewer. Raises SignedOutError when it is not valid any more."""

    token: str


class SignOut(Confidential, frozen=True, tag="sign-out"):
    """Forget the token. Answer: SignedOut, also when there is no such token."""

    token: str


class SignedOut(msgspec.Struct, frozen=True, tag="signed-out"):
    """The token is of no use any more."""


class ChangePassword(Confidential, frozen=True, kw_only=True, tag="change-password"):
    """Have the password of the person whose token this is be `password`, kept as `kind` says, None as is configured.

    `current` is the one they have: whoever found a browser open does not know it. Their other visits end, and the
    sessions that came in by it. Answer: Password, without it. Raises SignInError when `current` is wrong, and
    SignInWaitError, as SignIn.
    """

    token: str
    address: str
    current: str
    password: str
    kind: PasswordKind | None = None


class Call(Confidential, frozen=True, kw_only=True, tag="call"):
    """Do `request`, one encoded request of wire.admin or wire.entry, for the viewer of `token`, who comes from
    `address`. Answer: that request's own. Raises SignedOutError, RefusedError for what the viewer may not do, and
    SignInWaitError when they have too much done at once.
    """

    token: str
    address: str
    request: msgspec.Raw
