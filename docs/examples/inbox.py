"""The workload `inbox`, an example of one that a distribution of its own offers: messages, and counts of them.

    inbox          (id, boxes)      one row: what it was set up with
    inbox_box      (id, messages)   how many messages each box has
    inbox_message  (op, box)        the messages, by the operation that sent them

A transaction counts a message in its box and inserts it. Its fate is told from the row of its own: there with the box
that was asked for, committed; there with another, torn; not there, absent. What a box counts must be what it counted
when it was last looked at, plus the messages found since.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

from workloads.calls import procedures, require
from workloads.session import NO_DATA_FOUND, Row, Session, WorkloadError
from workloads.workload import ROLLBACK_KIND, Fate, Observation, Operation, Request, Rule, Violation

BOXES_DEFAULT = 16


class Inbox:
    """Messages to `boxes` boxes."""

    name = "inbox"

    def __init__(self, boxes: int = BOXES_DEFAULT) -> None:
        require("boxes", boxes, 1, 1000)
        self.boxes = boxes

    # In the server or over a connection.

    def setup(self, session: Session) -> None:
        """Make the tables, every box empty."""
        session.create_table("inbox", [("id", "bigint"), ("boxes", "bigint")], "id")
        session.create_table("inbox_box", [("id", "bigint"), ("messages", "bigint")], "id")
        session.create_table("inbox_message", [("op", "bigint"), ("box", "bigint")], "op")
        session.begin()
        for box in range(self.boxes):
            session.insert("inbox_box", (box, 0))
        session.insert("inbox", (1, self.boxes))
        session.commit()

    def requests(self, worker: int, first: int, count: int, seed: int) -> Iterator[Request]:
        """One message each; one in 16 is rolled back, so that a change that should be gone can be found."""
        draw = random.Random(seed).randrange
        for operation in range(first, first + count):
            kind = "send" if draw(16) else ROLLBACK_KIND
            yield Request(operation, worker, kind, {"box": draw(self.boxes)})

    def perform(self, session: Session, request: Request) -> None:
        """Count the message, then insert it."""
        box = request.values["box"]
        row = session.get("inbox_box", box, True)
        if row is None:
            raise WorkloadError(f"box {box} does not exist", sqlstate=NO_DATA_FOUND)
        session.update("inbox_box", box, (box, row[1] + 1))
        session.insert("inbox_message", (request.operation, box))

    def observe(self, session: Session, after: int) -> Iterator[Row]:
        """The boxes, then the messages of operations after `after`."""
        for box, messages in session.scan("inbox_box"):
            yield ("box", box, messages)
        for operation, box in session.scan("inbox_message", after):
            yield ("message", operation, box)

    # In the judge.

    def observation(self, rows: Iterable[Row], after: int, previous: Observation | None) -> dict[str, Any]:
        """Pairs by kind of row, and as `base` what the boxes counted before these messages."""
        found: dict[str, Any] = {"box": [], "message": []}
        for kind, key, value in rows:
            found[kind].append([key, value])
        base = [[box, 0] for box in range(self.boxes)] if previous is None else previous["box"]
        return {"after": after, "base": base, **found}

    def fates(self, operations: Iterable[Operation], observation: Observation) -> dict[int, Fate]:
        """By the messages found; one that nobody asked for is committed, and so is found out."""
        boxes = dict(observation["message"])
        fates = dict.fromkeys(boxes, Fate.COMMITTED)
        for operation in operations:
            number = operation.operation
            if number not in boxes:
                fates[number] = Fate.ABSENT
            elif boxes[number] != operation.values["box"]:
                fates[number] = Fate.TORN
        return fates

    def invariant(self, observation: Observation) -> list[Violation]:
        """Every box is there and counts its messages."""
        now = dict(observation["box"])
        since = Counter(box for _, box in observation["message"])
        return [
            Violation(Rule.ATOMICITY, f"box {box} counts {now.get(box)} messages, and {before + since[box]} were sent")
            for box, before in observation["base"]
            if now.get(box) != before + since[box]
        ]

    def lists(self, observation: Observation) -> None:
        """None: no transaction tells what it read."""

    def found(self, operation: int, observation: Observation) -> str:
        """The message of one operation, in words."""
        boxes = [box for number, box in observation["message"] if number == operation]
        return f"inbox_message holds operation {operation} in box {boxes}" if boxes else "no such message"


WORKLOAD = Inbox()
PROCEDURES = procedures(
    "inbox",
    Inbox,
    (("boxes", "integer", BOXES_DEFAULT),),
    (("kind", "text"), ("key", "bigint"), ("value", "bigint")),
)
