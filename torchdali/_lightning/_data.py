"""The data module, without Lightning: of two libraries there is a class of that name."""

from __future__ import annotations

import copy
import inspect
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

from torch.utils.data import DataLoader as TorchDataLoader
from typing_extensions import Self

from torchdali._lightning._feed import Feed
from torchdali._lightning._folders import FolderPipeline
from torchdali._lightning._rank import Rank
from torchdali.errors import CudaInitializedError
from torchdali.loader import DataLoader
from torchdali.loader._again import arguments_of
from torchdali.pipeline import Pipeline
from torchdali.source import Rest

__all__ = ["DataModule"]

_STAGES = {"fit": ("train", "validation"), "validate": ("validation",), "test": ("test",), "predict": ("predict",)}
"""What a trainer's functions read."""

_HOOKS = {
    "train": "train_dataloader",
    "validation": "val_dataloader",
    "test": "test_dataloader",
    "predict": "predict_dataloader",
}
_LIMITS = {
    "train": "limit_train_batches",
    "validation": "limit_val_batches",
    "test": "limit_test_batches",
    "predict": "limit_predict_batches",
}

_BEFORE_CUDA = (
    "the data module's workers are to be forked now, when the trainer has taken the data module and has not yet touched the "
    "GPU; but something before it has.\n"
    "What to do: do not move a model or a tensor to the GPU before `trainer.fit`, which does so by itself; do not ask for "
    "`torch.cuda.current_device()` or a device's name. If that cannot be, start any pipeline first: "
    "`torchdali.start(pipeline)` at the beginning of the program leaves a process from which others get their workers later."
)


class DataModule:
    """Gives a trainer batches of pipelines and loaders; see the classes that are made of it.

    Args:
        train, validation, test, predict: a :class:`~torchdali.Pipeline`, a ``DataLoader``, a list or a dict of them; or a
            function that makes these, which is called in each process with its :class:`Rank`, if it takes an argument. A
            loader of torch's becomes one of torchdali's.
        rest: what becomes of samples that do not give each rank the same number: ``"pad"``, ``"drop"`` or ``"uneven"``, as
            of :meth:`~torchdali.Pipeline.shard`. For prediction it is ``"uneven"``: each sample once.
        batch_size: told to the functions (:attr:`Rank.batch_size`); Lightning's finder of batch sizes changes it.

    Raises:
        TypeError: something else was given.
        ValueError: there is no such policy; or a batch size goes with a pipeline or loader that is made already.
    """

    def __init__(
        self,
        train: Any = None,
        validation: Any = None,
        test: Any = None,
        predict: Any = None,
        *,
        rest: Rest = "pad",
        batch_size: int | None = None,
    ) -> None:
        self._trainer: Any = None
        super().__init__()
        if rest not in get_args(Rest):
            raise ValueError(f'rest is {rest!r}; it is "pad", "drop" or "uneven"')
        self.rest: Rest = rest
        self._made_by = os.getpid()
        self._given = {"train": train, "validation": validation, "test": test, "predict": predict}
        self._feeds: dict[str, list[Feed]] = {}
        self._structures: dict[str, Any] = {}
        self._handed: set[str] = set()
        self._sizes: dict[str, int | None] = {}
        """The batch size with which each stage was opened."""
        if batch_size is not None:
            self.batch_size = batch_size  # no attribute at all else: Lightning looks whether there is one
        for stage, given in self._given.items():
            if given is None:
                continue
            _check(given, stage)
            if batch_size is not None and not _is_factory(given):
                raise ValueError(
                    f"batch_size={batch_size} is for functions that make pipelines and loaders of that size; what is given "
                    f"for {stage} is made already. Leave batch_size out, or give a function"
                )
            if getattr(type(self), _HOOKS[stage], None) in _plain_hooks(type(self), _HOOKS[stage]):
                # Lightning looks whether a module has this hook; it has those that something was given for.
                setattr(self, _HOOKS[stage], _Hook(self, stage))

    @classmethod
    def from_folders(
        cls,
        train: str | os.PathLike[str] | None = None,
        validation: str | os.PathLike[str] | None = None,
        test: str | os.PathLike[str] | None = None,
        predict: str | os.PathLike[str] | None = None,
        *,
        batch_size: int = 32,
        size: int = 224,
        num_workers: int = 4,
        seed: int = 0,
        rest: Rest = "pad",
        **options: Any,
    ) -> Self:
        """Of folders of JPEGs, as :class:`~torchdali.JpegFolder` reads them.

        Batches are images, float32 (N, 3, size, size) with ImageNet's statistics taken off, and labels, int64 (N,), on the
        device that the rank trains on. Training images come in another order in each epoch, cropped and mirrored at random;
        the others are resized and cropped in the middle.

        Args:
            train, validation, test, predict: the folders.
            batch_size, num_workers: of each rank.
            size: of the images, height and width in pixels.
            seed: of order and draws.
            rest: as of the class.
            **options: further ones of :class:`~torchdali.Pipeline`, such as ``placement`` or ``prefetch``.

        Raises:
            FileNotFoundError: no such folder, or no JPEG in it; now, and not in the processes.
        """
        for folder in (train, validation, test, predict):
            if folder is not None and not Path(folder).is_dir():
                raise FileNotFoundError(f"there is no folder {str(folder)!r}")

        def factory(folder: str | os.PathLike[str], training: bool) -> Callable[[Rank], Pipeline]:
            return FolderFactory(
                folder,
                training,
                {"size": size, "num_workers": num_workers, "seed": seed, **options},
            )

        folders = {"train": train, "validation": validation, "test": test, "predict": predict}
        made = {stage: factory(folder, stage == "train") for stage, folder in folders.items() if folder is not None}
        return cls(**made, rest=rest, batch_size=batch_size)

    # --- the trainer --------------------------------------------------------------------------------------------------

    @property
    def trainer(self) -> Any:
        """That this is attached to. It is set in each process, before the trainer touches a device: workers start then."""
        return self._trainer

    @trainer.setter
    def trainer(self, trainer: Any) -> None:
        self._trainer = trainer
        function = None if trainer is None else trainer.state.fn
        if function is None:
            return
        self.close()
        self._check_finder(trainer)
        stages = [
            stage for stage in _STAGES[str(getattr(function, "value", function))] if self._given[stage] is not None
        ]
        try:
            for stage in stages:
                if getattr(trainer, _LIMITS[stage], 1) != 0:
                    self._open(stage)
            for feeds in self._feeds.values():
                for feed in feeds:
                    feed.start()
        except CudaInitializedError as error:
            self.close()
            raise CudaInitializedError(_BEFORE_CUDA) from error
        except BaseException:
            self.close()
            raise

    def _check_finder(self, trainer: Any) -> None:
        """Refuse to be asked for other batch sizes where that would change nothing."""
        for callback in trainer.callbacks:
            name = getattr(callback, "_batch_arg_name", None)  # Lightning's BatchSizeFinder has it, of both libraries
            if name is not None and (name != "batch_size" or not hasattr(self, "batch_size")):
                raise ValueError(
                    f"a finder of batch sizes is to change {name!r}, which is nothing that this data module reads: give it "
                    "functions and a size to begin with, TorchdaliDataModule(train=make_train, batch_size=32), where make_train "
                    'makes a pipeline or loader with batch_size=rank.batch_size; and have the finder change "batch_size"'
                )

    def _open(self, stage: str) -> None:
        """Make what a stage reads."""
        given, trainer = self._given[stage], self._trainer
        size = getattr(self, "batch_size", None)
        rank = Rank(batch_size=size) if trainer is None else Rank.of(trainer, size)
        owned = _is_factory(given)
        if not owned and self._made_by != os.getpid():
            raise RuntimeError(
                f"the data module was given a {stage} pipeline or loader that belongs to process {self._made_by}, and "
                f"the trainer has started this one, {os.getpid()}, from it: give it a function that makes it, which each "
                "process calls (TorchdaliDataModule(train=make_train)); or use the strategy ddp, or torchrun, which run the "
                "whole program in each process"
            )
        rest: Rest = "uneven" if stage == "predict" else self.rest
        repeat = trainer is not None and bool(trainer.overfit_batches) and stage in ("train", "validation")
        if stage == "train" and rest == "uneven" and rank.ranks > 1:
            warnings.warn(
                'with rest="uneven" ranks make different numbers of steps, and those that make more wait for ever for the '
                'others, unless the strategy has them join (torch.distributed.algorithms.join.Join); give "pad" or "drop"',
                RuntimeWarning,
                stacklevel=2,
            )
        made = _call(given, rank) if owned else given
        feeds = self._feeds[stage] = []

        def feed(source: Any) -> Feed:
            feeds.append(Feed(_of_torchdali(source, stage), rank, rest, owned=owned, repeat=repeat))
            return feeds[-1]

        self._structures[stage] = _map(made, feed, stage)
        self._handed.discard(stage)
        self._sizes[stage] = size

    def loaders(self, stage: str) -> Any:
        """What a trainer iterates over in a stage: what was given, with a :class:`Feed` for each pipeline and loader."""
        trainer = self._trainer
        again = stage in self._handed and trainer is not None and trainer.reload_dataloaders_every_n_epochs
        size, before = getattr(self, "batch_size", None), self._sizes.get(stage)
        resized = stage in self._feeds and size != before
        if (again or resized) and _is_factory(self._given[stage]):
            had = [feed.source.batch_size for feed in self._feeds[stage]]
            self._close(stage)
            self._open(stage)
            alone = stage != "validation" or "train" not in self._feeds  # it may have a size of its own beside training
            if resized and alone and had == [feed.source.batch_size for feed in self._feeds[stage]]:
                raise ValueError(
                    f"batch_size is {size} now, it was {before}, and the function for {stage} still makes batches of {had[0]}: "
                    "have it make its pipeline or loader with batch_size=rank.batch_size"
                )
        elif stage not in self._feeds:
            self._open(stage)
        self._handed.add(stage)
        return self._structures[stage]

    @property
    def feeds(self) -> dict[str, list[Feed]]:
        """What is open, by stage."""
        return self._feeds

    # --- the end ------------------------------------------------------------------------------------------------------

    def _close(self, stage: str) -> None:
        self._structures.pop(stage, None)
        for feed in self._feeds.pop(stage, []):
            feed.close()

    def close(self) -> None:
        """End the workers. Pipelines that were given, and not made here, are their owner's to close."""
        for stage in list(self._feeds):
            self._close(stage)

    def teardown(self, stage: str) -> None:
        """Called by the trainer at the end; ends the workers."""
        self.close()

    def on_exception(self, exception: BaseException) -> None:
        """Called by the trainer when it ends by an exception; ends the workers."""
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        """Without what is open: for a strategy that sends the data module to processes that it starts."""
        for stage, given in self._given.items():
            if given is not None and not _is_factory(given):
                raise TypeError(
                    f"the data module was given a {stage} pipeline or loader, which cannot be sent to other processes: give it a "
                    "function that makes it, which each process calls; or use the strategy ddp, or torchrun"
                )
        return {**self.__dict__, "_trainer": None, "_feeds": {}, "_structures": {}, "_handed": set()}


class FolderFactory:
    """Makes a pipeline of a folder, for a rank; it can be sent to another process."""

    def __init__(self, folder: str | os.PathLike[str], training: bool, options: dict[str, Any]) -> None:
        self._folder, self._training, self._options = folder, training, options

    def __call__(self, rank: Rank) -> Pipeline:
        options = {"device": rank.device, "batch_size": rank.batch_size, **self._options}
        return FolderPipeline(self._folder, training=self._training, **options)


class _Hook:
    """One of the hooks that give a trainer its loaders."""

    def __init__(self, module: DataModule, stage: str) -> None:
        self._module, self._stage = module, stage

    def __call__(self) -> Any:
        return self._module.loaders(self._stage)

    @property
    def __code__(self) -> Any:
        """By which Lightning tells a hook of the user's from its own."""
        return _Hook.__call__.__code__

    @property
    def __name__(self) -> str:
        return _HOOKS[self._stage]


def _plain_hooks(kind: type, name: str) -> list[Any]:
    """The hook as Lightning has it, in which nobody has written anything."""
    return [
        vars(base)[name]
        for base in kind.__mro__
        if name in vars(base) and base.__module__.startswith(("lightning", "pytorch_l"))
    ]


def _is_source(value: Any) -> bool:
    return isinstance(value, (Pipeline, TorchDataLoader))


def _is_factory(value: Any) -> bool:
    return callable(value) and not _is_source(value)


def _check(given: Any, stage: str) -> None:
    if _is_factory(given):
        return
    _map(given, lambda source: source, stage)


def _map(given: Any, function: Callable[[Any], Any], stage: str) -> Any:
    """``function`` of each source."""
    if _is_source(given):
        return function(given)
    if isinstance(given, (list, tuple)) and given:
        return [_map(entry, function, stage) for entry in given]
    if isinstance(given, dict) and given:
        return {name: _map(entry, function, stage) for name, entry in given.items()}
    if hasattr(given, "flattened") and hasattr(given, "iterables"):  # Lightning's CombinedLoader
        combined = copy.copy(given)
        combined.flattened = [_map(entry, function, stage) for entry in given.flattened]
        return combined
    raise TypeError(
        f"for {stage} the data module has a {type(given).__name__}; it takes Pipelines and DataLoaders, lists and dicts of them, "
        "or a function that makes them"
    )


def _call(factory: Callable[..., Any], rank: Rank) -> Any:
    try:
        parameters = inspect.signature(factory).parameters.values()
        takes = any(p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) and p.default is p.empty for p in parameters)
    except (TypeError, ValueError):
        takes = True
    return factory(rank) if takes else factory()


def _of_torchdali(source: Any, stage: str) -> Any:
    if isinstance(source, (Pipeline, DataLoader)):
        return source
    if type(source) is not TorchDataLoader:
        raise TypeError(
            f"for {stage} the data module has a {type(source).__name__}, of whose class nothing is known: make it a subclass of "
            "torchdali.DataLoader, or give it to the trainer by a data module of your own"
        )
    return DataLoader(**arguments_of(source))
