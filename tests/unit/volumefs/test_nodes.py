"""The inode table against a model: ids, names, forgetting, and inode numbers that are used again."""

from __future__ import annotations

import errno
import gc
import os
import stat
import tracemalloc

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from tests.unit.volumefs.harness import refused

from hatchway.volumefs.nodes import MAX_OTHER_NAMES, ROOT_ID, Node, NodeTable
from hatchway.volumefs.ownership import DIRECTORY

DEVICE = 41


def status(inode: int, *, kind: int = stat.S_IFREG, links: int = 1, device: int = DEVICE) -> os.stat_result:
    """What stat(2) says of an object."""
    return os.stat_result((kind | 0o644, inode, device, links, 0, 0, 0, 0, 0, 0))


def table() -> NodeTable:
    return NodeTable(status(2, kind=stat.S_IFDIR, links=2))


def test_the_same_object_is_the_same_node() -> None:
    nodes = table()
    node = nodes.seen(ROOT_ID, b"a", status(10))
    assert nodes.seen(ROOT_ID, b"a", status(10)) is node
    assert nodes.get(node.id) is node
    assert nodes.known(status(10)) is node
    assert nodes.seen(ROOT_ID, b"b", status(10, device=DEVICE + 1)) is not node


def test_hard_links_are_one_node_with_names() -> None:
    nodes = table()
    node = nodes.seen(ROOT_ID, b"a", status(10, links=2))
    assert nodes.seen(ROOT_ID, b"b", status(10, links=2)) is node
    assert set(node.names()) == {(ROOT_ID, b"a"), (ROOT_ID, b"b")}
    assert node.names()[0] == (ROOT_ID, b"b")
    node.drop_name(ROOT_ID, b"b")
    assert node.names() == [(ROOT_ID, b"a")]
    node.drop_name(ROOT_ID, b"a")
    assert node.names() == []


def test_names_are_bounded() -> None:
    nodes = table()
    for number in range(5000):
        node = nodes.seen(ROOT_ID, b"%d" % number, status(10, links=5000))
    assert len(node.names()) == MAX_OTHER_NAMES + 1
    assert node.names()[0] == (ROOT_ID, b"4999")


def test_a_directory_has_one_name() -> None:
    nodes = table()
    node = nodes.seen(ROOT_ID, b"a", status(10, kind=stat.S_IFDIR, links=2))
    node.fd = 99
    assert nodes.seen(ROOT_ID, b"b", status(10, kind=stat.S_IFDIR, links=2)) is node
    assert node.names() == [(ROOT_ID, b"b")]


def test_another_name_and_nothing_held_is_another_node() -> None:
    nodes = table()
    old = nodes.seen(ROOT_ID, b"removed", status(10))
    new = nodes.seen(ROOT_ID, b"made", status(10))
    assert new is not old
    assert old.names() == [(ROOT_ID, b"removed")]
    old.lookups = new.lookups = 1
    assert nodes.forget(old.id, 1) is old
    assert nodes.known(status(10)) is new


def test_another_name_of_what_we_hold_is_the_same_node() -> None:
    nodes = table()
    node = nodes.seen(ROOT_ID, b"before", status(10))
    node.fd = 99
    assert nodes.seen(ROOT_ID, b"after", status(10)) is node


def test_another_type_is_another_node() -> None:
    nodes = table()
    node = nodes.seen(ROOT_ID, b"a", status(10))
    node.fd = 99
    fifo = nodes.seen(ROOT_ID, b"a", status(10, kind=stat.S_IFIFO))
    assert fifo is not node
    assert nodes.known(status(10)) is None


def test_what_was_made_is_never_what_was_there() -> None:
    nodes = table()
    old = nodes.seen(ROOT_ID, b"a", status(10))
    assert nodes.made(ROOT_ID, b"a", status(10)) is not old


def test_the_root_stays() -> None:
    nodes = table()
    assert nodes.forget(ROOT_ID, 1 << 40) is None
    assert nodes.get(ROOT_ID) is nodes.root
    assert nodes.root.kind == DIRECTORY


def test_an_unknown_id_is_stale() -> None:
    with refused(errno.ESTALE):
        table().get(77)
    assert table().forget(77, 1) is None


def test_memory_of_a_large_listing_comes_back() -> None:
    nodes = table()
    count = 200_000
    tracemalloc.start()
    try:
        before, _peak = tracemalloc.get_traced_memory()
        for inode in range(1000, 1000 + count):
            nodes.seen(ROOT_ID, b"%d" % inode, status(inode)).lookups += 1
        listed, _peak = tracemalloc.get_traced_memory()
        assert (listed - before) / count < 500
        for node_id in range(ROOT_ID + 1, ROOT_ID + 1 + count):
            assert nodes.forget(node_id, 1) is not None
        after, _peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(nodes) == 1
    assert after - before < 4 * 1024 * 1024
    assert nodes.seen(ROOT_ID, b"next", status(1)).id == ROOT_ID + 1 + count


def test_what_python_keeps_of_a_large_listing_is_freed() -> None:
    """Freed objects that are kept for later pin the memory of all others: see NodeTable.drop_unused."""
    nodes = table()
    for inode in range(1000, 51_000):
        nodes.seen(ROOT_ID, b"%d" % inode, status(inode)).lookups += 1
    before = gc.get_stats()[2]["collections"]
    for node_id in range(ROOT_ID + 1, ROOT_ID + 1 + 50_000):
        nodes.forget(node_id, 1)
    assert gc.get_stats()[2]["collections"] > before


class Kernel(RuleBasedStateMachine):
    """The kernel's side: what it was told and has not taken back, while names move and numbers are used again."""

    def __init__(self) -> None:
        super().__init__()
        self.nodes = table()
        self.told: dict[int, int] = {}
        self.held: dict[int, Node] = {}
        self.ids: set[int] = {ROOT_ID}

    def tell(self, node: Node, count: int = 1) -> None:
        if node.id not in self.told:
            assert node.id not in self.ids
            self.ids.add(node.id)
        node.lookups += count
        self.told[node.id] = self.told.get(node.id, 0) + count

    @rule(inode=st.integers(10, 16), name=st.sampled_from([b"a", b"b", b"c"]), links=st.integers(1, 2), data=st.data())
    def look_up(self, inode: int, name: bytes, links: int, data: st.DataObject) -> None:
        kind = data.draw(st.sampled_from([stat.S_IFREG, stat.S_IFDIR, stat.S_IFIFO]))
        held = next((node for node in self.held.values() if node.key & 0xFFFF == inode), None)
        if held is not None:
            kind = held.kind << 12  # an inode that is held is not used again
        st_ = status(inode, kind=kind, links=links)
        node = self.nodes.seen(ROOT_ID, name, st_)
        assert node.is_at(st_)
        assert (ROOT_ID, name) in node.names()
        if held is not None:
            assert node is held
        self.tell(node)

    @rule(inode=st.integers(10, 16), name=st.sampled_from([b"a", b"b", b"c"]))
    def make(self, inode: int, name: bytes) -> None:
        if any(node.key & 0xFFFF == inode for node in self.held.values()):
            return
        node = self.nodes.made(ROOT_ID, name, status(inode))
        assert node.names() == [(ROOT_ID, name)]
        self.tell(node)

    @rule(data=st.data(), count=st.integers(1, 3))
    def take_back(self, data: st.DataObject, count: int) -> None:
        candidates = sorted(set(self.told) - set(self.held))
        if not candidates:
            return
        node_id = data.draw(st.sampled_from(candidates))
        count = min(count, self.told[node_id])
        gone = self.nodes.forget(node_id, count)
        self.told[node_id] -= count
        assert (gone is not None) == (self.told[node_id] == 0)
        if gone is not None:
            del self.told[node_id]

    @rule(data=st.data())
    def hold(self, data: st.DataObject) -> None:
        candidates = [i for i in sorted(self.told) if self.nodes.known(self._status(i)) is self.nodes.get(i)]
        if candidates:
            node = self.nodes.get(data.draw(st.sampled_from(candidates)))
            node.fd = 1000
            self.held[node.id] = node

    @rule(data=st.data())
    def let_go(self, data: st.DataObject) -> None:
        if self.held:
            node = self.held.pop(data.draw(st.sampled_from(sorted(self.held))))
            node.fd = -1

    @rule(data=st.data(), name=st.sampled_from([b"a", b"b", b"c", b"d"]))
    def drop(self, data: st.DataObject, name: bytes) -> None:
        if self.told:
            node = self.nodes.get(data.draw(st.sampled_from(sorted(self.told))))
            node.drop_name(ROOT_ID, name)
            assert (ROOT_ID, name) not in node.names()

    def _status(self, node_id: int) -> os.stat_result:
        node = self.nodes.get(node_id)
        return status(node.key & 0xFFFF, kind=node.kind << 12)

    @invariant()
    def what_is_known_is_what_was_told(self) -> None:
        assert len(self.nodes) == len(self.told) + 1
        for node_id, count in self.told.items():
            node = self.nodes.get(node_id)
            assert node.id == node_id
            assert node.lookups == count
            assert len(node.names()) == len(set(node.names()))


TestKernel = Kernel.TestCase
