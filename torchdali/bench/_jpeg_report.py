"""What measurements of engines come to: medians over rounds, what torchdali is to each of the others, JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torchdali.bench._jpeg_feeds import ENGINE_TITLES
from torchdali.bench._jpeg_run import Results, Run
from torchdali.bench._summary import Summary

__all__ = ["EngineReport", "Group", "Line"]

_FORMAT = 1
"""Of the JSON; another number where an older one cannot be read any more."""
_OWN = "torchdali"
_UNIT = "synthetic"


@dataclass(frozen=True)
class Line:
    """One way of using an engine, for one job and batch size."""

    engine: str
    variant: str
    workers: int
    best: bool
    """Whether this is the fastest way of using the engine."""
    images_per_second: Summary
    cpu_seconds_per_1000: Summary
    first_batch_seconds: Summary
    gpu_bytes: Summary | None
    waited_share: Summary | None
    """Of the time: the consumer waited for batches."""
    stalled_share: Summary | None
    """The same as the engine counts it."""
    ratios: Mapping[str, Summary]
    """torchdali's figure divided by this one's, round by round."""
    of_synthetic: Summary | None
    """Its throughput divided by that without any loading."""
    output: str

    @property
    def title(self) -> str:
        """The engine, and its variant where there are several."""
        return ENGINE_TITLES[self.engine] + (f", {self.variant}" if self.variant else "")


@dataclass(frozen=True)
class Group:
    """What can be compared: one job and batch size."""

    job: str
    batch_size: int
    lines: list[Line]

    @property
    def best_lines(self) -> list[Line]:
        """One of each engine."""
        return [line for line in self.lines if line.best]


_FIGURES: dict[str, Callable[[Run], float | None]] = {
    "images_per_second": lambda run: run.images_per_second,
    "cpu_seconds_per_1000": lambda run: run.cpu_seconds_per_1000,
    "first_batch_seconds": lambda run: run.first_batch_seconds,
    "gpu_bytes": lambda run: run.gpu_bytes,
    "waited_share": lambda run: None if run.waited_seconds is None else run.waited_seconds / run.seconds,
    "stalled_share": lambda run: None if run.stalled_seconds is None else run.stalled_seconds / run.seconds,
}
_COMPARED = ("images_per_second", "cpu_seconds_per_1000", "first_batch_seconds", "gpu_bytes")


def _summary(name: str, runs: list[Run]) -> Summary | None:
    values = [value for run in runs if (value := _FIGURES[name](run)) is not None]
    return Summary.of(values) if values else None


def _ratio(name: str, above: list[Run], below: list[Run]) -> Summary | None:
    """Of the rounds that both have: what slowed both of them does not count."""
    of = _FIGURES[name]
    upper = {run.round: of(run) for run in above}
    pairs = [(upper.get(run.round), of(run)) for run in below]
    values = [a / b for a, b in pairs if a is not None and b]
    return Summary.of(values) if values else None


@dataclass(frozen=True)
class EngineReport:
    """All that a benchmark of engines found, where and how."""

    benchmark: str
    """``"jpeg"`` or ``"train"``."""
    settings: Mapping[str, Any]
    machine: Mapping[str, Any]
    """``processor``, ``cpus``, ``driver``, ``versions``, ``date``, ``command``."""
    results: Results

    def groups(self) -> Iterator[Group]:
        """In the order in which they were measured."""
        keys = dict.fromkeys((run.job, run.batch_size) for run in self.results.runs)
        for job, batch_size in keys:
            runs = [run for run in self.results.runs if (run.job, run.batch_size) == (job, batch_size)]
            yield Group(job, batch_size, list(_lines(runs)))

    @property
    def rounds(self) -> int:
        """That were carried out; fewer than were wanted where the benchmark was ended before."""
        return len({run.round for run in self.results.runs})

    @property
    def versions(self) -> dict[str, str]:
        """Of the engines too."""
        found = dict(self.machine["versions"])
        for run in self.results.runs:
            found.update(run.versions)
        return found

    def as_dict(self) -> dict[str, Any]:
        """For JSON: all measurements, and what they come to."""
        return {
            "format": _FORMAT,
            "benchmark": self.benchmark,
            "settings": dict(self.settings),
            "machine": {**self.machine, "versions": self.versions, "gpu": self.results.gpu_name},
            "results": dataclasses.asdict(self.results),
            "groups": [dataclasses.asdict(group) for group in self.groups()],
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> EngineReport:
        """What :meth:`as_dict` made.

        Raises:
            ValueError: these are figures of something else.
        """
        if data.get("format") != _FORMAT or data.get("benchmark") not in ("jpeg", "train"):
            raise ValueError(
                "these are no figures of torchdali bench jpeg or train, or of another version of it; measure again with --json"
            )
        return cls(data["benchmark"], data["settings"], data["machine"], Results.from_dict(data["results"]))


def _lines(runs: list[Run]) -> Iterator[Line]:
    variants: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        variants.setdefault((run.engine, run.variant), []).append(run)
    rates = {key: Summary.of([run.images_per_second for run in several]).median for key, several in variants.items()}
    own = next((several for (engine, _), several in variants.items() if engine == _OWN), [])
    unit = next((several for (engine, _), several in variants.items() if engine == _UNIT), [])
    for (engine, variant), several in variants.items():
        figures: dict[str, Any] = {name: _summary(name, several) for name in _FIGURES}
        compared = () if engine in (_OWN, _UNIT) else _COMPARED
        yield Line(
            engine,
            variant,
            several[0].workers,
            rates[engine, variant] == max(rate for (name, _), rate in rates.items() if name == engine),
            ratios={name: ratio for name in compared if (ratio := _ratio(name, own, several)) is not None},
            of_synthetic=None if engine == _UNIT else _ratio("images_per_second", several, unit),
            output=several[0].output,
            **figures,
        )
