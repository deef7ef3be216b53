"""Who waits for whom: where a consumer's time goes, and what to change."""

from torchdali.report._counts import Causes, Counts, Facts
from torchdali.report._meter import Meter
from torchdali.report._profile import Profile, profile
from torchdali.report._progress import progress
from torchdali.report._report import QueueFill, Report, StageTime, WorkerTime

__all__ = [
    "Causes",
    "Counts",
    "Facts",
    "Meter",
    "Profile",
    "QueueFill",
    "Report",
    "StageTime",
    "WorkerTime",
    "profile",
    "progress",
]
