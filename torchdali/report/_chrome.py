"""Spans as a file for Perfetto and chrome://tracing.

Source: "Trace Event Format", events of phase X (complete) and M (metadata), with times in microseconds.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torchdali._spans import Span

__all__ = ["write_trace"]

_ORDER = {"consumer": 0, "stage": 1}


def write_trace(spans: Sequence[Span], path: str | os.PathLike[str]) -> Path:
    """Write them; returns where.

    Raises:
        ValueError: there are none.
    """
    if not spans:
        raise ValueError(
            "there is nothing to trace: what happens when is recorded only within `with torchdali.profile() as p:`; then call "
            "p.save_trace(path)"
        )
    start = min(span.begin for span in spans)
    tracks = sorted({(span.owner, span.track) for span in spans}, key=lambda pair: (pair[0], _place(pair[1])))
    owners = {owner: number for number, owner in enumerate(dict.fromkeys(owner for owner, _ in tracks), 1)}
    threads = {pair: number for number, pair in enumerate(tracks, 1)}
    events: list[dict[str, Any]] = [
        {"ph": "M", "pid": number, "name": "process_name", "args": {"name": owner}} for owner, number in owners.items()
    ]
    for (owner, track), number in threads.items():
        place = {"ph": "M", "pid": owners[owner], "tid": number}
        events.append({**place, "name": "thread_name", "args": {"name": track}})
        events.append({**place, "name": "thread_sort_index", "args": {"sort_index": number}})
    events += [
        {
            "ph": "X",
            "pid": owners[span.owner],
            "tid": threads[span.owner, span.track],
            "name": span.name,
            "ts": round((span.begin - start) * 1e6, 3),
            "dur": round((span.end - span.begin) * 1e6, 3),
            "args": {
                name: round(value, 4) if isinstance(value, float) else value for name, value in span.detail.items()
            },
        }
        for span in spans
    ]
    target = Path(path)
    target.write_text(json.dumps({"traceEvents": events, "displayTimeUnit": "ms"}))
    return target


def _place(track: str) -> tuple[int, str, int]:
    kind, _, rest = track.partition(" ")
    number = rest.partition(" ")[0]
    return _ORDER.get(track, 2), kind, int(number) if number.isdigit() else 0
