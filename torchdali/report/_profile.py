"""``with torchdali.profile() as p:``: reports of what is used within, and what happened when."""

from __future__ import annotations

import os
import weakref
from pathlib import Path
from types import TracebackType
from typing import Any

from torchdali import _spans
from torchdali.report._build import build_report
from torchdali.report._counts import Counts
from torchdali.report._meter import Meter, all_meters
from torchdali.report._report import Report

__all__ = ["Profile", "profile"]


class Profile:
    """What pipelines and loaders did within a ``with``; made by :func:`profile`.

    Attributes:
        reports: one for each of which a batch was taken, those with the most batches first; empty until the end.
    """

    def __init__(self) -> None:
        self.reports: list[Report] = []
        self._recorder: _spans.Recorder | None = None
        self._before: weakref.WeakKeyDictionary[Meter, Counts] = weakref.WeakKeyDictionary()

    def __enter__(self) -> Profile:
        if self.reports or self._recorder is not None:
            raise RuntimeError("this profile was used already; call torchdali.profile() for another one")
        before = {}
        for meter in all_meters():
            read = meter.read()
            if read is not None:
                before[meter] = read[0]
        self._before.update(before)
        self._recorder = _spans.begin_recording()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        recorder = self._recorder
        assert recorder is not None
        _spans.end_recording()
        spans = tuple(recorder.spans)
        for meter, _ in recorder.seen.values():
            read = meter.read()
            if read is not None:
                counts, facts = read
                before = self._before.get(meter)
                own = tuple(span for span in spans if span.owner in (meter.name, f"{meter.name}-stage"))
                self.reports.append(build_report(counts if before is None else counts.since(before), facts, own))
        self.reports.sort(key=lambda report: -report.batches)
        self._spans = spans
        recorder.seen.clear()
        recorder.spans.clear()

    def report(self, name: str | None = None) -> Report:
        """The report of one of them.

        Args:
            name: of the pipeline or loader; None: the one with the most batches.

        Raises:
            RuntimeError: the ``with`` is not at its end yet, or no batch was taken in it.
            KeyError: there is none of that name.
        """
        if not self.reports:
            raise RuntimeError(
                "there is no report: the `with torchdali.profile()` is not at its end yet, or no batch of a torchdali Pipeline "
                "or DataLoader was taken in it"
            )
        for report in self.reports:
            if name is None or report.name == name:
                return report
        raise KeyError(f"there is no report of {name!r}; there are {', '.join(report.name for report in self.reports)}")

    def __str__(self) -> str:
        return "\n\n".join(map(str, self.reports)) or "no batch was taken"

    def to_dict(self) -> dict[str, Any]:
        """All reports, in types of JSON."""
        return {"reports": [report.to_dict() for report in self.reports]}

    def plot(self) -> Any:
        """The picture of :meth:`report`; see :meth:`Report.plot`."""
        return self.report().plot()

    def save_trace(self, path: str | os.PathLike[str]) -> Path:
        """Write what all of them did into one file; see :meth:`Report.save_trace`."""
        from torchdali.report._chrome import write_trace

        return write_trace(self._spans if self.reports else (), path)


def profile() -> Profile:
    """Record what pipelines and loaders do, to see who waits for whom.

    Print it for a table, with a sentence on what to change::

        with torchdali.profile() as p:
            for images, labels in pipeline:
                train(images, labels)
        print(p)
        p.save_trace("trace.json")  # for https://ui.perfetto.dev

    Numbers are counted always, see ``report()`` of :class:`~torchdali.Pipeline` and :class:`~torchdali.DataLoader`; this takes
    what comes within the ``with``, and records beside what happened when. What gives a batch within is held until its end.
    There can be one at a time in a process.

    ``torch.profiler`` shows the same stages as ranges named ``torchdali: decode`` and so on; those of a pipeline's stage
    thread where it records all threads, see ``torch._C._profiler._ExperimentalConfig(profile_all_threads=True)``.
    """
    return Profile()
