"""The sentence of a report: what bounds the consumer, and what to change.

A consumer that hardly waits is bounded by its own step. Else the stage that it waited for most bounds it. More workers help if
the workers do it; how many follows from what one of them makes and from what is the next to bound, the stage or the step,
with a reserve: a worker more than needed costs little, one too few keeps the consumer waiting.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

from torchdali.ops import available_cpus
from torchdali.report._counts import Facts
from torchdali.report._table import show_rate

__all__ = ["Group", "Situation", "Verdict", "judge"]

READY_SHARE = 0.05
"""Below this part of its time waited the consumer bounds itself."""

RESERVE = 1.15
"""Workers are counted for so many times the rate that is wanted."""

BUSY_SHARE = 0.4
"""Workers that are busy less than this are not what bounds: batches are asked for too late."""

PROCESSOR_SHARE = 0.6
"""Of the workers' busy time on a processor: above it, more workers than processors do not help."""

FEWEST_BATCHES = 3


@dataclass
class Group:
    """Those who work one beside the other, each on all of these."""

    parts: dict[str, float]
    """Seconds by stage, summed over them."""
    where: str
    number: int
    samples: float
    """That they made in these seconds."""
    waited: float
    """Seconds that the consumer waited for them."""

    @property
    def seconds(self) -> float:
        """In all."""
        return sum(self.parts.values())

    @property
    def rate(self) -> float:
        """Samples a second that they could make."""
        return self.number * self.samples / self.seconds if self.seconds > 0 else math.inf

    def rate_of(self, name: str) -> float:
        """The same if they did only this."""
        seconds = self.parts[name]
        return self.number * self.samples / seconds if seconds > 0 else math.inf

    def waited_for(self, name: str) -> float:
        """Seconds of the wait that go to this."""
        return self.waited * self.parts[name] / self.seconds if self.seconds > 0 else 0.0

    @property
    def heaviest(self) -> str:
        """What takes them longest."""
        return max(self.parts, key=lambda name: self.parts[name])


class Situation(NamedTuple):
    """All that is judged."""

    sources: Group
    stage: Group
    hand_over: float
    """Seconds waited though the batch was there."""
    wait: float
    step: float
    rate: float
    step_rate: float
    batches: int
    copied_bytes: int
    busy_share: float
    """Of the workers."""
    processor_share: float
    operators: dict[str, float]
    facts: Facts


class Verdict(NamedTuple):
    """What is said of it."""

    bound: str
    workers_needed: int | None
    sentence: str


_DOING = {
    "source callback": "The source callback bounds you",
    "file read": "Reading files bounds you",
    "collation": "Putting samples together (collate_fn) bounds you",
    "transfer to shared memory": "The transfer to shared memory bounds you",
    "decode": "Decoding bounds you",
    "augment": "Augmentation bounds you",
    "hand-over": "Handing batches over bounds you",
}


def judge(situation: Situation) -> Verdict:
    """What bounds the consumer, and what to change."""
    total = situation.wait + situation.step
    if situation.batches < FEWEST_BATCHES or total <= 0:
        return Verdict("", None, f"Too little was measured to tell: {situation.batches} batches.")
    share = situation.wait / total
    if share < READY_SHARE:
        return Verdict(
            "step",
            None,
            f"Your training step bounds you: the data is ready {1 - share:.0%} of the time, and would be there for "
            f"{_at(min(situation.sources.rate, situation.stage.rate))}.",
        )
    sources, stage = situation.sources, situation.stage
    waits = {"sources": sources.waited, "stage": stage.waited, "hand-over": situation.hand_over}
    most = max(waits, key=lambda name: waits[name])
    if most == "hand-over" or not (sources if most == "sources" else stage).seconds:
        return _of_hand_over(situation)
    return _of_workers(situation) if most == "sources" else _of_stage(situation)


def _at(rate: float) -> str:
    return "any rate" if math.isinf(rate) else f"{show_rate(rate)} images/s"


def _enough(wanted: float, each: float) -> int | None:
    """How many are needed for a rate; None where that is not known."""
    return None if math.isinf(wanted) or each <= 0 else math.ceil(RESERVE * wanted / each)


# --- the sources' workers ---------------------------------------------------------------------------------------------


def _of_workers(situation: Situation) -> Verdict:
    group, facts = situation.sources, situation.facts
    name = group.heaviest
    begin = f"{_DOING[name]} at {_at(group.rate)} with {facts.workers} worker{'' if facts.workers == 1 else 's'}"
    if facts.own_worker:
        hint = "an iterable has one worker: a callable of the sample can have several"
        return Verdict(name, None, f"{begin}; {hint}.")
    if situation.busy_share < BUSY_SHARE:
        argument = "prefetch_factor" if facts.kind == "DataLoader" else "prefetch"
        busy = f"which are busy only {situation.busy_share:.0%} of the time"
        return Verdict(name, None, f"{begin}, {busy}: a larger {argument} asks them for more batches ahead.")
    needed, hint = _more(situation, group.rate / group.number)
    return Verdict(name, needed, f"{begin}{hint}.")


def _more(situation: Situation, each: float) -> tuple[int | None, str]:
    """How many workers would do, and what is said of it.

    Args:
        situation: in which workers bound.
        each: images a second that one makes.
    """
    cpus, workers = available_cpus(), situation.facts.workers
    name = situation.sources.heaviest
    needed = _enough(min(situation.step_rate, situation.stage.rate), each)
    if situation.processor_share > PROCESSOR_SHARE and (needed is None or needed > cpus):
        if workers >= cpus:
            return None, f", as many as there are processors ({cpus}) or more: {_cheaper(name)}"
        return cpus, f"; {cpus} would help, as many as there are processors, and then: {_cheaper(name)}"
    if needed is None:
        return None, f"; each further one adds about {show_rate(each)}"
    if needed <= workers:  # they would do as it is, were they never kept waiting
        return None, f", though not by much: {_cheaper(name)}, or take one worker more"
    also = f", or {_cheaper(name)}" if name == "transfer to shared memory" else ""
    return needed, f"; {needed} would do{also}"


def _cheaper(name: str) -> str:
    return {
        "file read": "keep fewer and larger files, or faster storage",
        "collation": "make collate_fn cheaper",
        "transfer to shared memory": "return less, such as files in place of pixels, or uint8 in place of float32",
        "decode": "lower cpu_share",
    }.get(name, "make the call cheaper, or move work from it into the stage")


# --- the stage --------------------------------------------------------------------------------------------------------


def _of_stage(situation: Situation) -> Verdict:
    group, facts = situation.stage, situation.facts
    name = group.heaviest
    begin = f"{_DOING[name]} at {_at(group.rate)}"
    if name in ("source callback", "file read", "collation"):
        needed = _enough(situation.step_rate, group.rate)
        how = "num_workers" if facts.kind == "DataLoader" else "parallel=True of the source and num_workers"
        many = "" if needed is None else f"; {needed} would do"
        return Verdict(name, needed, f"{begin} in {group.where}: move it to workers ({how}){many}.")
    if name == "hand-over":
        return _of_hand_over(situation)
    if name == "augment" and situation.operators:
        others = {key: seconds for key, seconds in situation.operators.items() if seconds}
        heaviest = max(others, key=lambda key: others[key], default="")
        if heaviest:
            begin += f", {heaviest} most of all ({others[heaviest] / max(group.seconds, 1e-12):.0%} of the stage)"
    if facts.stage_workers:
        needed = _enough(min(situation.step_rate, situation.sources.rate), group.rate / group.number)
        more = "more gpu_workers" if needed is None else f"gpu_workers={needed} would do"
        return Verdict(name, needed, f"{begin}, in {group.where}; {more}.")
    if facts.kind == "DataLoader":
        hint = "do it in the dataset, whose workers do it side by side, or in a torchdali.Pipeline, in a thread or processes"
        return Verdict(name, None, f"{begin}, in {group.where}: {hint}.")
    return Verdict(name, None, f"{begin}, in {group.where}: {_hint_for_stage(name, facts)}.")


def _hint_for_stage(name: str, facts: Facts) -> str:
    """What helps a pipeline whose stage in this process bounds."""
    if facts.stage_where == "this thread":
        return "stage_thread=True does it beside your step"
    if facts.device != "cpu":
        hint = 'placement="workers" does it in several processes'
        return f"{hint}, and cpu_share has the sources' workers decode a part" if name == "decode" else hint
    if name == "decode" and facts.threads >= available_cpus():
        hint = "ops.DecodeRandomCrop decodes only what is kept, and a GPU has an engine for it"
        return f"all processors work on it ({facts.threads}); {hint}"
    return 'placement="workers" does it in several processes, as far as there are processors for them'


def _of_hand_over(situation: Situation) -> Verdict:
    begin = f"{_DOING['hand-over']} at {_at(situation.rate)}"
    if situation.copied_bytes:
        copied = f"{situation.copied_bytes / 1e6:.0f} MB were copied, as shared memory was short"
        hint = f"{copied}: keep fewer batches, or raise its limit"
    else:
        hint = "return tensors, arrays and numbers, which need not be unpickled here"
    return Verdict("hand-over", None, f"{begin}: {hint}.")
