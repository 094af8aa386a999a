"""What ends a campaign before its plan does."""

from __future__ import annotations


class CampaignError(Exception):
    """The harness or the server did something that no cycle plans for; the message says what and where to look."""


class Unobservable(Exception):
    """The recovered server cannot show its data: recorded, to be judged, and the end of the campaign."""


class Corrupted(Unobservable):
    """The server's files are damaged: recorded, to be judged, and the end of the campaign, which would overwrite them."""
