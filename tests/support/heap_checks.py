"""What must hold of a table's pages at any moment: each index entry leads to the first version of a row with its key."""

from __future__ import annotations

from supervisor.engine.access.tuple import HEADER, HEADER_BYTES, HEAP_ONLY, HOT_UPDATED
from supervisor.engine.engine import Engine
from supervisor.engine.storage import page as pages


def check_table(engine: Engine, name: str) -> None:
    """Raise AssertionError when the index and the heap of a table do not fit each other."""
    table = engine.tables.find(name)
    pool, mm = engine.pool, engine.pool.mm
    roots: set[int] = set()
    for key, tid in table.btree.scan():
        assert tid not in roots, f"two index entries lead to {tid >> 16}/{tid & 0xFFFF}"
        roots.add(tid)
        buffer = pool.lock(table.heap, tid >> 16)
        page = pool.page_offset(buffer)
        where = f"entry {key!r} -> {tid >> 16}/{tid & 0xFFFF}"
        assert 0 < tid & 0xFFFF <= pages.line_count(mm, page), f"{where}: no such line"
        state, at, length = pages.item(mm, page, tid & 0xFFFF)
        if state == pages.REDIRECT:
            state, at, length = pages.item(mm, page, at)
            assert state == pages.NORMAL, f"{where}: redirects to state {state}"
            assert HEADER.unpack_from(mm, page + at)[4] & HEAP_ONLY, f"{where}: redirects to a first version"
        else:
            assert state == pages.NORMAL, f"{where}: state {state}"
            assert not HEADER.unpack_from(mm, page + at)[4] & HEAP_ONLY, f"{where}: is a later version"
        assert table.codec.has_key(mm[page + at + HEADER_BYTES : page + at + length], key), f"{where}: another key"
        pool.unlock(buffer)
    for block in range(pool.relation_size(table.heap)):
        _check_page(engine, table.heap, block)


def _check_page(engine: Engine, relation: int, block: int) -> None:
    pool, mm = engine.pool, engine.pool.mm
    buffer = pool.lock(relation, block)
    page = pool.page_offset(buffer)
    lines = pages.lines(mm, page) if pages.kind(mm, page) else ()
    led_to: set[int] = set()
    for number, raw in enumerate(lines, 1):
        state, at, _ = pages.line_fields(raw)
        if state == pages.REDIRECT:
            target, before = at, 0
        elif state == pages.NORMAL and HEADER.unpack_from(mm, page + at)[4] & HOT_UPDATED:
            _, before, _, target, _ = HEADER.unpack_from(mm, page + at)
        else:
            continue
        if not 0 < target <= len(lines):
            continue
        state, at, _ = pages.line_fields(lines[target - 1])
        if state != pages.NORMAL or not HEADER.unpack_from(mm, page + at)[4] & HEAP_ONLY:
            continue  # What followed was aborted and its line given away.
        if before and HEADER.unpack_from(mm, page + at)[0] != before:
            continue
        assert target not in led_to, f"two versions on block {block} lead to line {target} (from {number})"
        led_to.add(target)
    pool.unlock(buffer)
