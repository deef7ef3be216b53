"""The report on engines as a picture: bars of images a second."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

from torchdali.bench._jpeg_feeds import ENGINE_TITLES, JOBS
from torchdali.bench._jpeg_report import EngineReport, Group, Line

__all__ = ["MissingMatplotlibError", "require_matplotlib", "write_chart"]

_WIDTH = 8.0
_BAR_INCHES = 0.5
_PANEL_INCHES = 0.85
"""Of a panel without its bars."""
_LEFT, _BREADTH = 0.255, 0.72
"""Where bars begin and how long they may be, as shares of the width."""
_MARGIN = 0.02
_CAPTION_COLUMNS = 125
_LINE_INCHES = 0.17
_DPI = 150
_OWN_COLOUR, _OTHER_COLOUR, _UNIT_COLOUR = "#2a6fbb", "#a9b4c0", "#e3e7eb"
_TEXT, _FAINT = "#1c2530", "#5b6672"
_ROOM = 1.22
"""Beyond the longest bar, for what is written at its end."""


class MissingMatplotlibError(ImportError):
    """The picture needs matplotlib."""


def require_matplotlib() -> Any:
    """Matplotlib's figures, to be drawn on without a screen.

    Raises:
        MissingMatplotlibError: it is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingMatplotlibError(
            "--chart needs matplotlib, which is not installed: pip install 'torchdali[notebooks]'"
        ) from None
    return Figure, FigureCanvasAgg


def write_chart(report: EngineReport, path: Path) -> None:
    """Draw a panel for each job, with a bar for each engine at its best, and save it as PNG.

    Of several batch sizes the largest is drawn.

    Raises:
        MissingMatplotlibError: there is no matplotlib.
        ValueError: nothing was measured.
        OSError: the file cannot be written.
    """
    figure_class, canvas_class = require_matplotlib()
    largest: dict[str, Group] = {}
    for group in report.groups():
        if group.job not in largest or group.batch_size > largest[group.job].batch_size:
            largest[group.job] = group
    if not largest:
        raise ValueError("nothing was measured, so there is nothing to draw")
    groups = list(largest.values())
    caption = textwrap.wrap(_caption(report), _CAPTION_COLUMNS)
    heights = [_PANEL_INCHES + _BAR_INCHES * len(group.best_lines) for group in groups]
    foot = _LINE_INCHES * (len(caption) + 1)
    total = sum(heights) + foot
    figure = figure_class(figsize=(_WIDTH, total), facecolor="white")
    canvas_class(figure)
    top = total
    for group, height in zip(groups, heights, strict=True):
        bars = _BAR_INCHES * len(group.best_lines)
        axes = figure.add_axes((_LEFT, (top - height + 0.15) / total, _BREADTH, bars / total))
        _draw(axes, group, _title(report, group))
        top -= height
    figure.text(
        _MARGIN, _LINE_INCHES / 2 / total, "\n".join(caption), fontsize=7.5, color=_FAINT, va="bottom", linespacing=1.35
    )
    figure.savefig(path, dpi=_DPI, format="png")


def _draw(axes: Any, group: Group, title: str) -> None:
    lines = sorted(group.best_lines, key=lambda line: -line.images_per_second.median)
    rates = [line.images_per_second for line in lines]
    places = range(len(lines))
    axes.barh(places, [rate.median for rate in rates], height=0.62, color=[_colour(line) for line in lines])
    longest = max(rate.max for rate in rates)
    for place, line, rate in zip(places, lines, rates, strict=True):
        if len(rate.rounds) > 1:
            axes.plot([rate.min, rate.max], [place, place], color=_TEXT, linewidth=1.0, solid_capstyle="butt")
        axes.annotate(
            f"{rate.median:,.0f}".replace(",", "\N{NARROW NO-BREAK SPACE}"),
            (max(rate.median, rate.max), place),
            xytext=(6, 0),
            textcoords="offset points",
            va="center",
            fontsize=10.5,
            fontweight="bold" if line.engine == "torchdali" else "normal",
            color=_TEXT,
        )
        above = ENGINE_TITLES[line.engine]
        axes.annotate(
            above,
            (0, place),
            xytext=(-8, 6 if line.variant else 0),
            textcoords="offset points",
            ha="right",
            va="center",
            fontsize=10.5,
            fontweight="bold" if line.engine == "torchdali" else "normal",
            color=_TEXT,
        )
        if line.variant:
            axes.annotate(
                line.variant,
                (0, place),
                xytext=(-8, -7),
                textcoords="offset points",
                ha="right",
                va="center",
                fontsize=7.5,
                color=_FAINT,
            )
    axes.set_xlim(0, longest * _ROOM)
    axes.set_ylim(len(lines) - 0.5, -0.5)
    axes.set_yticks([])
    axes.set_xticks([])
    for side in ("top", "right", "bottom"):
        axes.spines[side].set_visible(False)
    axes.spines["left"].set_color(_OTHER_COLOUR)
    heading, _, detail = title.partition("\n")
    x = (_MARGIN - _LEFT) / _BREADTH
    axes.annotate(
        heading, (x, 1), xycoords="axes fraction", xytext=(0, 24), textcoords="offset points", fontsize=12,
        fontweight="bold", color=_TEXT, annotation_clip=False,
    )  # fmt: skip
    axes.annotate(
        detail, (x, 1), xycoords="axes fraction", xytext=(0, 9), textcoords="offset points", fontsize=8.5, color=_FAINT,
        annotation_clip=False,
    )  # fmt: skip


def _colour(line: Line) -> str:
    return {"torchdali": _OWN_COLOUR, "synthetic": _UNIT_COLOUR}.get(line.engine, _OTHER_COLOUR)


def _title(report: EngineReport, group: Group) -> str:
    if report.benchmark == "train":
        return (
            f"{report.settings['model']} training, images per second\n"
            f"batches of {group.batch_size}; synthetic: one batch that is on the device already"
        )
    return f"{group.job}, images per second\n{JOBS[group.job]}; batches of {group.batch_size}"


def _caption(report: EngineReport) -> str:
    machine, results, rounds = report.machine, report.results, report.rounds
    versions = ", ".join(f"{name} {version}" for name, version in report.versions.items() if name != "python")
    cpus = f"{machine['processor']} ({machine['cpus']} CPUs)"
    where = f"{results.gpu_name}, {cpus}" if results.gpu_name else f"CPU only: {cpus}"
    several = f" Medians of {rounds} rounds; the lines are from the least to the most." if rounds > 1 else ""
    missing = "".join(f" {ENGINE_TITLES[engine]} was not installed." for engine in results.missing)
    return f"{where}. {versions}.{several}{missing} {str(machine['date'])[:10]}."
