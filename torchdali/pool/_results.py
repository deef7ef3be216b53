"""What has come back of a job, made into the results that the user gets."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np

from torchdali.pool._arena import Bytes
from torchdali.pool._codec import ALIGNMENT, SMALL, decode_all
from torchdali.pool._failure import Failure
from torchdali.pool._failure import unpack as unpack_failure
from torchdali.pool._job import Job, Part, Raised, Run, Stacked
from torchdali.pool._ragged import SMALL_BLOCK, Outline, Ragged, gather
from torchdali.pool._structure import Structure
from torchdali.pool._worker import describe_item

__all__ = ["unpack"]


def unpack(job: Job, known: list[type[BaseException]], name: str) -> list[Any] | Stacked | Ragged:
    """The results of a complete job.

    Args:
        job: its parts are used up.
        known: exception classes that parent and workers have in common.
        name: of the pool, for notes on exceptions.
    """
    root: Bytes = np.empty(0, np.uint8)
    if job.slot is not None:
        root = job.slot.lease()
        job.slot = None
    blocks: list[Any] = []
    if job.structure is not None:
        blocks = job.structure.blocks(root, job.offsets(), len(job.items), SMALL_BLOCK)
        if all(part.described == [] for part in job.parts.values()):
            job.parts.clear()
            return Stacked(job.structure.stack(blocks), len(job.items))
    elif job.agreed is None and job.parts and all(part.ragged and part.memory is None for part in job.parts.values()):
        ragged = _join(job, root)
        if ragged is not None:
            job.parts.clear()
            return ragged
    outcomes: list[Any] = [None] * len(job.items)
    for number, run in job.runs.items():
        outcomes[run.first : run.first + run.size] = _unpack_run(job, run, job.parts.pop(number), root, blocks)
    for position, outcome in enumerate(outcomes):
        if isinstance(outcome, Failure):
            note = f"raised for {describe_item(job.items[position])} in a worker of {name}"
            outcomes[position] = Raised(unpack_failure(outcome, known, note))
    return outcomes if job.agreed is None else _stack(job.agreed, outcomes)


def _join(job: Job, root: Bytes) -> Ragged | None:
    """All results as columns, if those of all runs are nested alike."""
    runs = sorted(job.runs.items(), key=lambda entry: entry[1].first)
    outlines, tables, copies, bases = set(), [], [], []
    for number, run in runs:
        packed, table, copied = pickle.loads(job.parts[number].descriptions or b"")
        outlines.add(packed)
        tables.append(table)
        copies.append(copied)
        bases.append(job.place(run)[0])
    try:
        outline, *others = [Outline.load(packed) for packed in outlines]
    except Exception:  # a class of the user's that cannot be loaded here
        return None
    if any(other.nesting != outline.nesting for other in others):
        return None
    return gather(outline, tables, copies, np.repeat(bases, [run.size for _, run in runs]), root)


def _stack(structure: Structure, values: list[Any]) -> list[Any] | Stacked:
    """What was not expected to be of one structure, or had no slot, and is: put together here, by a copy.

    As it is where a value has changed on its way: NumPy's pickle turns some types into the machine's byte order.
    """
    offsets, size = structure.offsets(len(values), ALIGNMENT)
    memory = np.empty(size, np.uint8)
    places = structure.places(memory.data, offsets, 0, len(values))
    if not all(structure.write(places, position, value) for position, value in enumerate(values)):
        return values
    return Stacked(structure.stack(structure.blocks(memory, offsets, len(values), 0)), len(values))


def _unpack_run(job: Job, run: Run, part: Part, root: Bytes, blocks: list[Any]) -> list[Any]:
    if part.error is not None:
        return [Raised(part.error)] * run.size
    assert part.descriptions is not None
    memory = part.memory
    if memory is None:
        offset, capacity = job.place(run)
        memory = root[offset : offset + capacity]
    if part.ragged:
        try:
            packed, table, _ = pickle.loads(part.descriptions)
            return Outline.load(packed).items(table, memory, run.size)
        except BaseException as error:  # unpickling runs the user's code
            return [Raised(_without_exit(error))] * run.size
    values = decode_all(pickle.loads(part.descriptions), memory, lambda position, error: Raised(_without_exit(error)))
    if part.described is None:
        return values
    assert job.structure is not None
    outcomes: list[Any] = [None] * run.size
    described = dict(zip(part.described, values, strict=True))
    for position in range(run.size):
        if position in described:
            outcomes[position] = described[position]
        else:
            outcomes[position] = job.structure.item(blocks, run.first + position, SMALL)
    return outcomes


def _without_exit(error: BaseException) -> BaseException:
    """What is told of an error in loading a result; one that would end the program is put into words."""
    if isinstance(error, Exception):
        return error
    return RuntimeError(f"loading a result raised {type(error).__name__}({error})")
