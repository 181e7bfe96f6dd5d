"""One question about one account, answered the same way and in about the same time whatever the answer is.

At an account that is no operator's no password is tried: not the one that was given, which would make these pages a
place to guess passwords of everybody on the host, or to have others' accounts locked by modules that count failures
(pam_faillock). PAM does the same work all the same, for an account there is not.
"""

from __future__ import annotations

import secrets
import time

from hatchway.signin import operators, stack
from hatchway.signin.operators import NoOperatorError
from hatchway.wire.signin import PASSWORD_MAX, CheckPassword, CheckStanding, Operator, Verdict

REFUSED_S = 1.0
"""A no is answered after so many seconds at the earliest: nobody guesses faster, however the core asks."""


def verdict(question: CheckPassword | CheckStanding, group: str) -> Verdict:
    """The answer, when the operators are those in `group`. Raises OSError when the host's files cannot be read."""
    earliest = time.monotonic() + REFUSED_S
    try:
        operator = _password(question, group) if isinstance(question, CheckPassword) else _standing(question, group)
        return Verdict(operator=operator)
    except NoOperatorError as exc:
        time.sleep(max(0.0, earliest - time.monotonic()))
        return Verdict(operator=None, reason=str(exc))


def _password(question: CheckPassword, group: str) -> Operator:
    try:
        operator = operators.find(question.name, group)
        _require_password(question.password)
    except NoOperatorError:
        stack.wrong(f"nobody-{secrets.token_hex(6)}", secrets.token_urlsafe(24), "")
        raise
    address = question.address if question.address.isprintable() else ""
    reason = stack.wrong(operator.name, question.password, address)
    if reason is not None:
        raise NoOperatorError(reason)
    return operator


def _require_password(text: str) -> None:
    if not text or len(text.encode()) > PASSWORD_MAX or "\0" in text:
        raise NoOperatorError("no password, or one that cannot be")


def _standing(question: CheckStanding, group: str) -> Operator:
    operator = operators.find(question.name, group)
    if operator.uid != question.uid:
        raise NoOperatorError(f"the account is another one than it was, with uid {operator.uid}")
    if operators.is_locked(operator.name):
        raise NoOperatorError("the account is locked")
    reason = stack.barred(operator.name)
    if reason is not None:
        raise NoOperatorError(reason)
    return operator
