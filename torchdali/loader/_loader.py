"""The class that takes the place of torch's."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import torch
from torch import nn
from torch.utils.data import DataLoader as TorchDataLoader
from torch.utils.data import Dataset, Sampler

from torchdali.loader._crew import Crew
from torchdali.loader._iterator import WorkersIterator
from torchdali.loader._measure import meter_of
from torchdali.loader._own import PUBLIC, Own, is_iterable
from torchdali.loader._resume import Resume
from torchdali.loader._serial import SerialIterator
from torchdali.loader._stage import Stage, StagedIterator, check_stage
from torchdali.loader._state import Progress
from torchdali.pool import OnWorkerDeath
from torchdali.report import Meter, Report

__all__ = ["DataLoader"]

T_co = TypeVar("T_co", covariant=True)


class DataLoader(TorchDataLoader[T_co]):
    """``torch.utils.data.DataLoader`` over this project's worker pool: the same call, the same batches, faster.

    Arguments, order, random draws, exceptions, attributes and warnings are torch's; it is a subclass of it. What differs:
    batches lie in memory that the workers share with this process, without a file or a descriptor for each tensor, and
    ``default_collate`` writes them there at once; and there is what stands below.

    Args:
        dataset, batch_size, shuffle, sampler, batch_sampler, num_workers, collate_fn, drop_last, timeout, worker_init_fn, \
multiprocessing_context, generator, prefetch_factor, persistent_workers, pin_memory_device, in_order: as of torch's.
        pin_memory: as of torch's; with CUDA the workers' memory itself is pinned, and what was written there is not copied.
        on_worker_death: what is done when a worker dies. ``"raise"``: its batch raises
            :class:`~torchdali.WorkerDiedError`, a RuntimeError. ``"restart"``: another one takes its place, makes its
            batches again, and a warning tells of it.
        memory_limit: bytes of shared memory that batches may take, kept ones included; beyond it they are copied, with a
            warning. None: half of the machine's memory.
        snapshot_every_n_steps: how often a worker sends the state of its dataset and its generators along, in batches of
            its own, for :meth:`state_dict`; 0: never.
        pipeline: an ``nn.Module``, or another callable, that each batch goes through on ``device``. A batch that is a tuple
            or a list is passed as so many arguments if the module's ``forward`` takes as many, else whole.
        device: where batches arrive, brought there asynchronously. None: where the module's parameters are; without
            a module nothing is brought anywhere.
        prefetch: how many batches the device stage is ahead of the consumer.

    Raises:
        ValueError: as torch's; and a policy, limit or number that does not exist.
        TypeError: ``pipeline`` is nothing that a batch can go through.
    """

    def __init__(
        self,
        dataset: Dataset[T_co],
        batch_size: int | None = 1,
        shuffle: bool | None = None,
        sampler: Sampler[Any] | Iterable[Any] | None = None,
        batch_sampler: Sampler[list[Any]] | Iterable[list[Any]] | None = None,
        num_workers: int = 0,
        collate_fn: Callable[[list[Any]], Any] | None = None,
        pin_memory: bool = False,
        drop_last: bool = False,
        timeout: float = 0,
        worker_init_fn: Callable[[int], None] | None = None,
        multiprocessing_context: Any = None,
        generator: torch.Generator | None = None,
        *,
        prefetch_factor: int | None = None,
        persistent_workers: bool = False,
        pin_memory_device: str = "",
        in_order: bool = True,
        on_worker_death: OnWorkerDeath = "raise",
        memory_limit: int | None = None,
        snapshot_every_n_steps: int = 1,
        pipeline: nn.Module | Callable[..., Any] | None = None,
        device: torch.device | str | int | None = None,
        prefetch: int = 2,
    ) -> None:
        if on_worker_death not in ("raise", "restart"):
            raise ValueError(f'on_worker_death is {on_worker_death!r}; it is "raise" or "restart"')
        if memory_limit is not None and memory_limit < 1:
            raise ValueError(f"memory_limit is {memory_limit}; it is a number of bytes, at least 1, or None")
        if snapshot_every_n_steps < 0:
            raise ValueError(
                f"snapshot_every_n_steps is {snapshot_every_n_steps}; it is a number of batches, or 0: never"
            )
        check_stage(pipeline, prefetch, device)
        self._torchdali = Own(
            on_worker_death=on_worker_death,
            memory_limit=memory_limit,
            snapshot_every_n_steps=snapshot_every_n_steps,
            pipeline=pipeline,
            device=device,
            prefetch=prefetch,
        )
        super().__init__(
            dataset,
            batch_size,
            shuffle,
            sampler,
            batch_sampler,
            num_workers,
            collate_fn,
            pin_memory,
            drop_last,
            timeout,
            worker_init_fn,
            multiprocessing_context,
            generator,
            prefetch_factor=prefetch_factor,
            persistent_workers=persistent_workers,
            pin_memory_device=pin_memory_device,
            in_order=in_order,
        )
        self._torchdali.set_public(self)

    def __setattr__(self, name: str, value: Any) -> None:
        # A subclass may call its own attributes as it likes; it had the chance to pass these on.
        if type(self) is DataLoader and name in PUBLIC and name in vars(self):
            raise ValueError(f"{name} attribute should not be set after {type(self).__name__} is initialized")
        super().__setattr__(name, value)

    # --- iteration ----------------------------------------------------------------------------------------------------

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]  # torch promises a private class
        """One epoch."""
        self._meter.begin()
        host: Any = super().__iter__()
        own = self._torchdali
        if own.pipeline is None and own.device is None:
            return host  # type: ignore[no-any-return]
        if own.stage is None:
            own.stage = Stage(own.pipeline, own.device)
        return StagedIterator(host, own.stage, own.prefetch, self.batch_size or 1)

    def _get_iterator(self) -> Any:
        if self.num_workers == 0:
            return SerialIterator(self)
        self.check_worker_number_rationality()
        return WorkersIterator(self)

    # --- workers ------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the workers now: before anything touches CUDA, when forking is cheap and safe.

        The next ``iter()`` uses them. With ``persistent_workers=True`` so do all later ones; else each later epoch starts
        workers of its own, as with torch's. Called again, and without workers, it does nothing.

        Workers get the dataset as it is now: what is changed in it between this and ``iter()`` they do not see.
        """
        if self.num_workers == 0 or self._torchdali.crew is not None or self._iterator is not None:
            return
        if torch.cuda.is_initialized():
            warnings.warn(
                "CUDA is initialised already: the workers are started all the same, as torch's are, and must not use it. Call "
                "start() before the first `.cuda()`, if that is possible",
                RuntimeWarning,
                stacklevel=2,
            )
        world_size, rank = _distributed()
        crew = Crew.of(self, self.dataset, world_size, rank)
        crew.pool.start()
        self._torchdali.crew = crew

    def close(self) -> None:
        """End the workers now, and not when the last iterator is dropped. The next ``iter()`` starts others."""
        crew = self._torchdali.take_crew()
        if crew is not None:
            crew.pool.close()
        iterator: Any = self._iterator
        if isinstance(iterator, WorkersIterator):
            iterator._shutdown_workers()
        self._iterator = None

    def __getstate__(self) -> dict[str, Any]:
        """Without workers, which do not follow it into another process."""
        return {**self.__dict__, "_torchdali": self._torchdali.for_another_process()}

    @property
    def _is_accelerate_prepared(self) -> bool:
        """Asked by accelerate before it makes a loader of its own of this one, which is to keep the engine then."""
        own = self._torchdali
        if not own.accelerated and "accelerate" in sys.modules:
            from torchdali.accelerate import remember

            remember(self)
        return own.accelerated

    @_is_accelerate_prepared.setter
    def _is_accelerate_prepared(self, value: bool) -> None:
        self._torchdali.accelerated = value

    # --- reports ------------------------------------------------------------------------------------------------------

    @property
    def _meter(self) -> Meter:
        return meter_of(self)

    def report(self) -> Report:
        """Who waited for whom so far: print it for a table, and a sentence on what bounds you and what to change.

        :func:`torchdali.profile` reports on a part of a program, and records what happened when.
        """
        return self._meter.report()

    # --- state --------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Where the epoch is, as far as batches were handed out: numbers, tensors and what stateful parts give.

        A loader of the same arguments that is given it by :meth:`load_state_dict` gives exactly the remaining batches: the
        sampler is begun anew from the random state that it began with and taken to the same place, or is asked for its
        state, if it has ``state_dict`` and ``load_state_dict``. Workers' generators go on where they were. An iterable dataset
        that has those methods, or whose iterator has, is asked for its state too; another one is read again up to the
        same place. After the last batch the state is that of a finished epoch, and the next one is begun from it.

        Without workers, the draws that a dataset makes come from this process's generators, which are the user's to save.
        """
        own = self._torchdali
        if own.resume is not None:
            return dict(own.resume.state)
        if own.progress is None:
            return Progress.before(self.num_workers, is_iterable(self)).to_dict(self)
        return own.progress.to_dict(self)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Have the next ``iter()`` go on from a state of :meth:`state_dict`.

        Args:
            state_dict: of a loader over the same data, with the same batches. The number of workers may be another one if
                the dataset is map-style; random draws in the workers then differ.

        Raises:
            ValueError: it is no such state, or of another kind of dataset, or of an iterable one with another number of workers.
        """
        self._torchdali.resume = Resume(state_dict, self)


def _distributed() -> tuple[int, int]:
    """World size and rank, as torch's iterators find them."""
    from torch import distributed

    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_world_size(), distributed.get_rank()
    return 1, 0
