"""A cluster with one of everything, and its bytes to damage.

`build` makes, through sessions as a server would: a heap with an update on its page, one that was rolled back, one
whose versions were pruned to a redirect, one to another page, a row that was deleted and rows that never committed;
an index of eight-byte keys and one of bytes, each with several leaves. `Files` finds such places and changes bytes
there, as a bad disk or a wrong line of the server would.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from supervisor.engine.access.btree_bytes import BytesLayout
from supervisor.engine.access.btree_page import Layout, Node
from supervisor.engine.access.btree_words import WordLayout
from supervisor.engine.access.tuple import HEADER
from supervisor.engine.recovery.control import CONTROL_FILE, ControlData, decode_control, encode_control
from supervisor.engine.storage import page as pages
from supervisor.engine.storage.page import PAGE_BYTES
from tests.support.engine_rig import Rig

CATALOG_HEAP, CATALOG_INDEX, CLOG = 1, 2, 3
HEAP, HEAP_INDEX = 16, 17
WORDS, WORDS_INDEX = 18, 19
BYTES, BYTES_INDEX = 20, 21
MOVED_KEY = 8


def build(rig: Rig) -> None:
    """Fill a cluster whose server runs; what is open at the end never commits."""
    session = rig.session()

    def put(table: str, key: int | str, value: str, *, change: bool, keep: bool = True) -> None:
        session.begin()
        if change:
            assert session.update(table, key, (key, value))
        else:
            session.insert(table, (key, value))
        if keep:
            session.commit()
        else:
            session.rollback()

    for name, key_type in (("heap", "integer"), ("words", "integer"), ("bytes", "text")):
        session.create_table(name, [("id", key_type), ("v", "text")], "id")
    for key in range(10):
        put("heap", key, "once", change=False)
    put("heap", 3, "twice", change=True)
    put("heap", 4, "rolled back", change=True, keep=False)
    for n in range(40):
        put("heap", 5, f"version {n}", change=True)
    put("heap", 20, "never", change=False, keep=False)
    put("heap", MOVED_KEY, "x" * 5000, change=True)
    put("heap", MOVED_KEY, "y" * 5000, change=True)
    put("heap", 3, "thrice", change=True)
    session.delete("heap", 6)
    assert len(list(session.scan("heap"))) == 9  # which leaves hints behind
    session.begin()
    for key in range(1200):
        session.insert("words", (key, ""))
    session.commit()
    session.begin()
    for key in range(400):
        session.insert("bytes", (f"{key:060}", ""))
    session.commit()
    session.begin()
    session.insert("heap", (30, "open"))


@dataclass(frozen=True, slots=True)
class Place:
    """A row version: where it is, and its header."""

    block: int
    line: int
    at: int
    length: int
    xmin: int
    xmax: int
    next_block: int
    next_line: int
    flags: int


class Files:
    """The files of a data directory on which no server runs."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def path(self, relation: int) -> Path:
        return self.directory / "base" / str(relation)

    def blocks(self, relation: int) -> int:
        return self.path(relation).stat().st_size // PAGE_BYTES

    def page(self, relation: int, block: int) -> bytes:
        return self.path(relation).read_bytes()[block * PAGE_BYTES : (block + 1) * PAGE_BYTES]

    def put(self, relation: int, block: int, data: bytes) -> None:
        """Write bytes as they are."""
        with self.path(relation).open("r+b") as file:
            file.seek(block * PAGE_BYTES)
            file.write(data)

    @contextmanager
    def edit(self, relation: int, block: int) -> Iterator[mmap.mmap]:
        """The page to change, at offset 0; it is written with the checksum that its new content needs."""
        mm = mmap.mmap(-1, PAGE_BYTES)
        mm[:] = self.page(relation, block)
        yield mm
        self.put(relation, block, pages.seal(mm[:], relation, block))
        mm.close()

    def change(self, relation: int, block: int, at: int, form: str, *values: int) -> None:
        """Store values at a byte of a page, in the form of `struct`, little-endian."""
        with self.edit(relation, block) as mm:
            struct.pack_into("<" + form, mm, at, *values)

    def set_line(self, relation: int, block: int, line: int, state: int, offset: int = 0, length: int = 0) -> None:
        with self.edit(relation, block) as mm:
            pages.set_line(mm, 0, line, state, offset, length)

    def set_header(self, relation: int, place: Place, **changed: int) -> None:
        names = ("xmin", "xmax", "next_block", "next_line", "flags")
        values = [changed.get(name, getattr(place, name)) for name in names]
        self.change(relation, place.block, place.at, HEADER.format.removeprefix("<"), *values)

    def versions(self, relation: int) -> Iterator[Place]:
        for block in range(self.blocks(relation)):
            data = self.page(relation, block)
            if data.strip(b"\0"):
                count = (struct.unpack_from("<H", data, pages.LOWER_AT)[0] - pages.HEADER_BYTES) // pages.LINE_BYTES
                for line, raw in enumerate(struct.unpack_from(f"<{count}I", data, pages.HEADER_BYTES), 1):
                    state, at, length = pages.line_fields(raw)
                    if state == pages.NORMAL:
                        yield Place(block, line, at, length, *HEADER.unpack_from(data, at))

    def version(self, relation: int, fits: Callable[[Place], bool]) -> Place:
        return next(place for place in self.versions(relation) if fits(place))

    def line_of_state(self, relation: int, block: int, state: int) -> int:
        data = self.page(relation, block)
        count = (struct.unpack_from("<H", data, pages.LOWER_AT)[0] - pages.HEADER_BYTES) // pages.LINE_BYTES
        raws = struct.unpack_from(f"<{count}I", data, pages.HEADER_BYTES)
        return next(line for line, raw in enumerate(raws, 1) if pages.line_fields(raw)[0] == state)

    def tree(self, relation: int) -> Tree:
        return Tree(self, relation)

    @property
    def control(self) -> ControlData:
        return decode_control((self.directory / CONTROL_FILE).read_bytes())

    def put_control(self, control: ControlData) -> None:
        (self.directory / CONTROL_FILE).write_bytes(encode_control(control))

    def segment_of_checkpoint(self) -> tuple[Path, int]:
        """The WAL segment that has the last checkpoint's record, and the byte where that begins."""
        control = self.control
        number, offset = divmod(control.checkpoint_lsn, control.segment_size)
        per_id = 0x1_0000_0000 // control.segment_size
        name = f"{control.timeline:08X}{number // per_id:08X}{number % per_id:08X}"
        return self.directory / "pg_wal" / name, offset


class Tree:
    """The pages of an index, as nodes to change."""

    def __init__(self, files: Files, relation: int) -> None:
        self._files = files
        self._relation = relation

    def _layout(self, mm: mmap.mmap) -> Layout:
        if pages.kind(mm, 0) == pages.KIND_BTREE_BYTES:
            return BytesLayout(mm)
        return WordLayout(mm, memoryview(bytes(mm)).cast("q"))

    def node(self, block: int) -> Node:
        mm = mmap.mmap(-1, PAGE_BYTES)
        mm[:] = self._files.page(self._relation, block)
        return self._layout(mm).read(0)

    def put(self, block: int, node: Node) -> None:
        """Store a page anew; its LSN stays."""
        with self._files.edit(self._relation, block) as mm:
            self._layout(mm).write(0, node)
