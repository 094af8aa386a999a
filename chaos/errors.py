"""What ends a campaign before its plan does."""

from __future__ import annotations

from pathlib import Path


class CampaignError(Exception):
    """The harness or the server did something that no cycle plans for; the message says what and where to look."""


class Unobservable(Exception):
    """The recovered server cannot show its data: recorded, to be judged, and the end of the campaign."""


class Corrupted(Unobservable):
    """A stopped server's files are damaged: recorded, to be judged, and the end of the campaign, or they would be lost."""


class PlanError(ValueError):
    """An option or selector that makes no plan: the message says which and what would."""


class DiskFull(CampaignError):
    """There is no room for a run, or for its server: no finding, whatever it was that did not work."""

    def __init__(self, directory: Path, what: object) -> None:
        super().__init__(
            f"the disk that holds {directory} is full: free some space or choose another place with --out ({what})"
        )
