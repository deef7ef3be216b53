"""A report as a picture: a second of the consumer, and what each stage could make."""

from __future__ import annotations

import io
import math
import textwrap
from typing import TYPE_CHECKING, Any

from torchdali.report._table import show_rate

if TYPE_CHECKING:
    from torchdali.report._report import Report

__all__ = ["draw"]

_STEP, _RATE, _BOUND = "#a9b4c0", "#2a6fbb", "#c8452f"
_PARTS = ("#c8452f", "#e08a3c", "#e6c34a", "#7c9b4e", "#4a8f8c", "#7a5ea8", "#8d6b53")
_TEXT = "#1c2530"
_SMALLEST = 0.005
"""Shares below this are not drawn."""


def draw(report: Report) -> Any:
    """Draw it.

    Raises:
        ImportError: there is no matplotlib.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise ImportError(
            "Report.plot() needs matplotlib, which is not installed: pip install 'torchdali[notebooks]'; print(report) shows "
            "the same as text"
        ) from None
    bars = [(f"{stage.name}\n{stage.where}", stage.rate, stage.name) for stage in report.stages]
    bars.append(("step\nconsumer", report.step_rate, "step"))
    bars = [entry for entry in bars if not math.isinf(entry[1])]
    height = 2.4 + 0.5 * len(bars)
    picture = type(
        "Picture", (Figure,), {"_repr_png_": _png}
    )  # shows itself in a notebook, whichever backend is chosen there
    figure = picture(figsize=(8.5, height), facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    above, below = figure.subplots(2, 1, height_ratios=(1.0, max(1.0, 0.55 * len(bars))))
    _second(above, report)
    _rates(below, bars, report)
    figure.suptitle("\n".join(textwrap.wrap(report.sentence, 88)), fontsize=10.5, color=_TEXT, x=0.02, ha="left")
    return figure


def _png(figure: Any) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()


def _second(axes: Any, report: Report) -> None:
    total = max(report.step_seconds + report.wait_seconds, 1e-12)
    left = 0.0
    parts = [("step", report.step_seconds, _STEP)]
    waits = [stage for stage in report.stages if stage.waited / total >= _SMALLEST]
    parts += [(f"wait: {stage.name}", stage.waited, _PARTS[number % 7]) for number, stage in enumerate(waits)]
    for name, seconds, colour in parts:
        share = seconds / total
        axes.barh([0], [share], left=left, color=colour, height=0.6, label=f"{name} {share:.0%}")
        left += share
    axes.set_xlim(0, 1)
    axes.set_yticks([])
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "25 %", "50 %", "75 %", "100 %"])
    axes.set_xlabel("of the consumer's time", fontsize=9)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=3, frameon=False, fontsize=8.5)


def _rates(axes: Any, bars: list[tuple[str, float, str]], report: Report) -> None:
    if not bars:
        axes.set_axis_off()
        return
    names, rates = [name for name, _, _ in bars], [rate for _, rate, _ in bars]
    colours = [_BOUND if key == report.bound else _RATE for _, _, key in bars]
    axes.barh(range(len(bars)), rates, color=colours, height=0.62)
    for row, rate in enumerate(rates):
        axes.text(rate, row, f" {show_rate(rate)}", va="center", fontsize=9, color=_TEXT)
    if report.rate:
        axes.axvline(report.rate, color=_TEXT, linewidth=1, linestyle="--")
    axes.set_yticks(range(len(bars)), names, fontsize=8.5)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set_xlabel("images a second that each could make (logarithmic); dashed: what arrived", fontsize=9)
    axes.margins(x=0.12)
    axes.spines[["top", "right"]].set_visible(False)
