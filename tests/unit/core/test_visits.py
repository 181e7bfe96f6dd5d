"""Who is signed in, by token: what is no token, what is over, and how many there may be."""

from __future__ import annotations

import hashlib

import pytest

from hatchway.admin import visits
from hatchway.admin.visits import Visits
from hatchway.wire.web import ViewerKind

OPERATOR, PERSON = ViewerKind.OPERATOR, ViewerKind.PERSON


def test_a_token_is_for_one_visit_until_it_ends() -> None:
    found = Visits(100.0, 1000.0)
    token, visit = found.begin(OPERATOR, "anna", 1000, 0.0)
    other, _ = found.begin(OPERATOR, "anna", 1000, 0.0)
    assert token != other
    assert len(token) >= 43, "32 bytes"
    assert found.find(token, 1.0) is visit
    assert found.end(token, 2.0) is visit
    assert found.end(token, 2.0) is None
    assert found.find(token, 2.0) is None
    assert found.find(other, 2.0) is not None


@pytest.mark.parametrize("forge", [str.lower, str.upper, lambda token: token[:-1], lambda token: token + "A"])
def test_what_is_like_a_token_is_none(forge: object) -> None:
    found = Visits(100.0, 1000.0)
    token, _ = found.begin(OPERATOR, "anna", 1000, 0.0)
    assert callable(forge)
    for text in (forge(token), "", "\ud800", "x" * 100_000, hashlib.sha256(token.encode()).hexdigest()):
        assert found.find(text, 1.0) is None
        assert found.end(text, 1.0) is None
    assert found.find(token, 1.0) is not None


def test_a_token_is_not_kept() -> None:
    found = Visits(100.0, 1000.0)
    token, visit = found.begin(OPERATOR, "anna", 1000, 0.0)
    assert token not in repr(vars(found))
    assert token not in repr(visit)


def test_who_does_nothing_is_out_and_nobody_stays_for_ever() -> None:
    found = Visits(100.0, 1000.0)
    token, visit = found.begin(OPERATOR, "anna", 1000, 0.0)
    for now in range(99, 1000, 99):
        assert found.find(token, float(now)) is visit
    assert found.find(token, 999.9) is visit
    assert found.find(token, 1000.0) is None
    token, _ = found.begin(OPERATOR, "anna", 1000, 2000.0)
    assert found.end(token, 2100.0) is None, "it was over"
    token, _ = found.begin(OPERATOR, "anna", 1000, 3000.0)
    assert found.find(token, 3100.0) is None
    assert len(found) == 0
    found.begin(OPERATOR, "anna", 1000, 4000.0)
    found.begin(OPERATOR, "bert", 1001, 5000.0)
    assert len(found) == 1, "what is over is not kept"


def test_each_viewer_has_a_few_and_no_kind_pushes_out_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(visits, "PER_VIEWER_MAX", 3)
    monkeypatch.setattr(visits, "PER_KIND_MAX", 5)
    found = Visits(1000.0, 1000.0)
    bert, _ = found.begin(OPERATOR, "bert", 1001, 0.0)
    person, _ = found.begin(PERSON, "anna", 0, 0.0)
    anna = [found.begin(OPERATOR, "anna", 1000, float(now))[0] for now in range(1, 4)]
    assert found.find(anna[0], 5.0) is not None
    more, _ = found.begin(OPERATOR, "anna", 1000, 6.0)
    assert [found.find(token, 7.0) is not None for token in (*anna, more, bert)] == [True, False, True, True, True]
    for number in range(10):
        found.begin(PERSON, f"p{number}", 0, 8.0)
    assert len(found) == 9
    assert found.find(person, 9.0) is None
    assert found.find(bert, 9.0) is not None
    for number in range(10):
        found.begin(OPERATOR, f"o{number}", 0, 10.0)
    assert len(found) == 10


def test_all_of_one_viewer_end_together() -> None:
    found = Visits(100.0, 1000.0)
    mine = [found.begin(OPERATOR, "anna", 1000, 0.0)[0] for _ in range(3)]
    other, _ = found.begin(OPERATOR, "bert", 1001, 0.0)
    person, _ = found.begin(PERSON, "anna", 0, 0.0)
    assert found.end_all(OPERATOR, "anna") == 3
    assert found.end_all(OPERATOR, "anna") == 0
    assert [found.find(token, 1.0) for token in mine] == [None] * 3
    assert found.find(other, 1.0) is not None
    assert found.find(person, 1.0) is not None
