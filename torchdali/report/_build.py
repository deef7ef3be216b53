"""From counters to a report: who did what, and what the consumer waited for.

What is waited for. Sources' workers, the stage and the consumer work at the same time, each on another batch, so what the stage
does while the consumer waits need not be what it waits for: a stage that itself waits for workers is bounded by them. With each
batch comes whether the stage had to wait for its input (see ``Causes``); the consumer's wait is put down to the workers then, and
else to the stage. Within the one and the other it is divided in proportion to what they spent their time on.
"""

from __future__ import annotations

from torchdali._spans import Span
from torchdali.report._counts import Counts, Facts
from torchdali.report._report import QueueFill, Report, StageTime, WorkerTime
from torchdali.report._sentence import Group, Situation, Verdict, judge

__all__ = ["build_report"]

SOURCE, READ, COLLATE, TRANSFER, DECODE, AUGMENT, HAND_OVER = STAGES = (
    "source callback",
    "file read",
    "collation",
    "transfer to shared memory",
    "decode",
    "augment",
    "hand-over",
)


def build_report(counts: Counts, facts: Facts, spans: tuple[Span, ...] = ()) -> Report:
    """A report of these numbers."""
    sources, stage = _of_workers(counts, facts), _of_stage(counts, facts)
    hand_over = counts.for_hand_over
    if not sources.seconds:  # nothing is known of what they did
        stage.waited += counts.for_workers
    if not stage.seconds:
        hand_over += stage.waited
        stage.waited = 0.0
    stages = []
    for name in STAGES:
        for group in (sources, stage):
            if group.parts.get(name):
                waited = group.waited_for(name) + (hand_over if name == HAND_OVER and group is stage else 0.0)
                stages.append(StageTime(name, group.where, group.parts[name], waited, group.rate_of(name)))
    if hand_over and not any(entry.name == HAND_OVER for entry in stages):
        stages.append(StageTime(HAND_OVER, facts.stage_where, 0.0, hand_over, float("inf")))
    # Where nothing waits for the GPU on the host, more can be waited for there than there was time between two calls.
    step = max(0.0, counts.step)
    followed = counts.samples - counts.first_samples
    elapsed = counts.wait + counts.step
    pool, images = counts.sources, counts.images
    situation = Situation(
        sources,
        stage,
        hand_over,
        wait=counts.wait,
        step=step,
        rate=followed / elapsed if elapsed > 0 else 0.0,
        step_rate=followed / step if step > 0 else float("inf"),
        batches=counts.batches,
        copied_bytes=pool.copied_bytes,
        busy_share=pool.busy_seconds / max(pool.busy_seconds + pool.idle_seconds, 1e-12),
        processor_share=pool.processor_seconds / max(pool.busy_seconds, 1e-12),
        operators=counts.operators,
        facts=facts,
    )
    verdict: Verdict = judge(situation)
    return Report(
        name=facts.name,
        epochs=counts.epochs,
        batches=counts.batches,
        images=counts.samples,
        start_seconds=counts.start,
        wait_seconds=counts.wait,
        device_wait_seconds=counts.device_wait,
        step_seconds=step,
        rate=situation.rate,
        step_rate=situation.step_rate,
        stages=tuple(stages),
        operators=dict(counts.operators),
        workers=tuple(
            WorkerTime(index, calls, pool.busy_by_worker.get(index, 0.0))
            for index, calls in sorted(pool.items_by_worker.items())
        ),
        idle_seconds=pool.idle_seconds,
        processor_seconds=pool.processor_seconds,
        queue=QueueFill(counts.ready / max(1, counts.batches - counts.epochs), facts.depth),
        cpu_share=counts.given_images / images if images else 0.0,
        skipped_images=counts.bad_images,
        deaths=pool.deaths + counts.stage_pool.deaths,
        restarts=pool.restarts + counts.stage_pool.restarts,
        growth=pool.growth,
        shared_bytes=pool.committed_bytes,
        copied_bytes=pool.copied_bytes + counts.stage_pool.copied_bytes,
        bound=verdict.bound,
        workers_needed=verdict.workers_needed,
        sentence=verdict.sentence,
        spans=spans,
    )


def _of_workers(counts: Counts, facts: Facts) -> Group:
    """The sources' workers."""
    pool = counts.sources
    decoding = sum(seconds for function, seconds in pool.busy_by_function.items() if function >= facts.source_functions)
    calls = max(
        (number for function, number in pool.items_by_function.items() if function < facts.source_functions), default=0
    )
    known = pool.read_seconds + pool.collate_seconds + pool.write_seconds
    parts = {
        SOURCE: max(0.0, pool.busy_seconds - decoding - known),
        READ: pool.read_seconds,
        COLLATE: pool.collate_seconds,
        TRANSFER: pool.write_seconds,
        DECODE: decoding,
    }
    made = calls * facts.samples_a_call if facts.samples_a_call else float(counts.samples)
    where = f"{facts.workers} worker{'' if facts.workers == 1 else 's'}"
    # One iterable has one worker, however many there are.
    return Group(parts, where, 1 if facts.own_worker else max(1, facts.workers), made, counts.for_workers)


def _of_stage(counts: Counts, facts: Facts) -> Group:
    """What comes after them: in a thread of this process, or in processes of its own."""
    own = counts.read + counts.collate
    parts = {
        SOURCE: max(0.0, counts.source - own),
        READ: counts.read,
        COLLATE: counts.collate,
        DECODE: counts.decode,
        AUGMENT: max(0.0, counts.stage - counts.decode),
        HAND_OVER: counts.hand_over,
    }
    number = facts.stage_workers
    where = f"{number} stage worker{'' if number == 1 else 's'}" if number else facts.stage_where
    return Group(parts, where, max(1, number), float(counts.samples), counts.for_stage)
