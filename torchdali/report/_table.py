"""A report as text."""

from __future__ import annotations

import math
import textwrap
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torchdali.report._report import Report

__all__ = ["show_rate", "table_of"]

_WIDTH = 96


def show_rate(rate: float) -> str:
    """Images a second, as people read it: two digits that mean something, and thousands apart."""
    if math.isinf(rate):
        return "-"
    if rate < 10:
        return f"{rate:.1f}"
    rounded = round(rate, 2 - len(str(int(rate))) if rate >= 1000 else 0)
    return f"{int(rounded):,}".replace(",", " ")


def _megabytes(nbytes: int) -> str:
    return f"{nbytes / 1e6:,.1f}".replace(",", " ") + " MB"


def table_of(report: Report) -> str:
    """The table, with the sentence below."""
    total = max(report.wait_seconds + report.step_seconds, 1e-12)
    lines = [
        f"{report.name}: {report.images} images in {report.batches} batches, {show_rate(report.rate)} images/s; "
        f"start {report.start_seconds:.2f} s, then {total:.2f} s",
        "",
        f"{'of the consumer':<26} {'share':>6}   {'could make':>14}",
        f"{'step':<26} {report.step_seconds / total:>6.1%}   {_could(report.step_rate):>14}",
        f"{'wait':<26} {report.wait_share:>6.1%}",
    ]
    if report.device_wait_seconds:
        lines.append(f"{'  of it on the GPU':<26} {report.device_wait_seconds / total:>6.1%}")
    lines += ["", f"{'waited for':<26} {'share':>6}   {'could make':>14}   {'took':>9}   {'where'}"]
    lines += [
        f"{stage.name:<26} {stage.waited / total:>6.1%}   {_could(stage.rate):>14}   {stage.seconds:>7.2f} s   {stage.where}"
        for stage in report.stages
    ]
    lines += ["", *_facts(report), "", *textwrap.wrap(report.sentence, _WIDTH)]
    return "\n".join(lines)


def _could(rate: float) -> str:
    return "-" if math.isinf(rate) else f"{show_rate(rate)}/s"


def _facts(report: Report) -> list[str]:
    facts = [f"ready when one was handed out: {report.queue.mean:.1f} of {report.queue.depth} batches"]
    if report.operators:
        shown = sorted(report.operators.items(), key=lambda entry: -entry[1])
        facts.append("operators: " + ", ".join(f"{name} {seconds:.2f} s" for name, seconds in shown))
    if report.workers:
        busy = sum(worker.busy_seconds for worker in report.workers)
        share = busy / max(busy + report.idle_seconds, 1e-12)
        each = ", ".join(f"{worker.index}: {worker.calls}" for worker in report.workers)
        facts.append(f"workers: busy {share:.0%}, on a processor {report.processor_seconds:.2f} s; calls of {each}")
    if report.cpu_share:
        facts.append(f"decoded by the sources' workers: {report.cpu_share:.0%} of the images")
    if report.skipped_images:
        facts.append(f"images that could not be decoded: {report.skipped_images}")
    if report.deaths:
        facts.append(f"workers that died: {report.deaths}, replaced: {report.restarts}")
    if report.growth:
        facts.append(f"shared memory: {_megabytes(report.shared_bytes)}, added to {report.growth} times")
    if report.copied_bytes:
        facts.append(f"copied, as shared memory was short: {_megabytes(report.copied_bytes)}")
    return [line for fact in facts for line in textwrap.wrap(fact, _WIDTH, subsequent_indent="  ")]
