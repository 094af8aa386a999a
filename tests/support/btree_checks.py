"""A B-tree's own rules, checked page by page (PostgreSQL's amcheck): what any test may ask of an index."""

from __future__ import annotations

from supervisor.engine.access.btree import ROOT, Btree, Key
from supervisor.engine.access.btree_page import Node


def check_tree(tree: Btree) -> list[tuple[Key, int]]:
    """Walk every level; returns the entries in order. AssertionError names the page that breaks a rule.

    Every level is one chain of right siblings in ascending order; a page's entries lie between its
    separator in the parent and its high key; the high key is the next page's separator; each page of a
    level is the child of exactly one entry of the level above, in the same order.
    """
    root = tree.node(ROOT)
    assert root.right == 0, "the root has a sibling"
    assert root.high is None, "the root has a high key"
    expected = [((tree._layout.least, 0), ROOT)]
    for level in range(root.level, -1, -1):
        nodes: list[Node] = []
        block = expected[0][1]
        for n, (separator, child) in enumerate(expected):
            assert block == child, f"level {level}: page {child} is not where the chain leads, {block}"
            node = tree.node(child)
            nodes.append(node)
            positions = list(zip(node.keys, node.tids, strict=True))
            assert node.level == level, f"page {child} has level {node.level}, not {level}"
            assert positions == sorted(set(positions)), f"page {child} is not in order"
            if positions:
                assert separator <= positions[0], f"page {child} begins before its separator"
            if n + 1 < len(expected):
                assert node.high == expected[n + 1][0], f"page {child}: the high key is not the next separator"
                assert not positions or positions[-1] < node.high, f"page {child} exceeds its high key"
            else:
                assert (node.right, node.high) == (0, None), f"page {child} is last and has a sibling"
            block = node.right
        if level == 0:
            return [entry for node in nodes for entry in zip(node.keys, node.tids, strict=True)]
        expected = [
            ((key, tid), child)
            for node in nodes
            for key, tid, child in zip(node.keys, node.tids, node.children, strict=True)
        ]
        assert expected[0][0] == (tree._layout.least, 0), f"level {level} does not begin with the least key"
        assert len({child for _, child in expected}) == len(expected), f"level {level} names a child twice"
    raise AssertionError("no leaves")
