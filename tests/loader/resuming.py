"""What the tests of resuming share: a run that is cut in two, and what has to come after the cut."""

from __future__ import annotations

import io
import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from torchdali.loader import DataLoader

SEED = 11
END = -1
"""As the place of a cut: after the loop has come to its end."""

Make = Callable[[], DataLoader[Any]]
Before = Callable[[Any, int], None]


# --- generators -----------------------------------------------------------------------------------------------------------


def seed_all(seed: int = SEED) -> None:
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def generators() -> tuple[Any, ...]:
    """The states of this process's generators, which are the user's to save."""
    name, key, *rest = np.random.get_state()
    return random.getstate(), (name, key.tolist(), *rest), torch.get_rng_state().tolist()


def set_generators(states: tuple[Any, ...]) -> None:
    random.setstate(states[0])
    np.random.set_state(states[1])
    torch.set_rng_state(torch.tensor(states[2], dtype=torch.uint8))


def draws() -> tuple[float, ...]:
    """One of each generator."""
    return random.random(), float(np.random.rand()), float(torch.rand((), dtype=torch.float64))


# --- an epoch cut in two --------------------------------------------------------------------------------------------------


@dataclass
class Cut:
    """What an uninterrupted run gave after the place where its state was saved."""

    state: dict[str, Any]
    generators: tuple[Any, ...]
    epoch: int
    """The next one, or the one that goes on."""
    epochs: list[list[Any]]
    """The rest of the epoch, then those after it."""
    place: int


def plain(batch: Any) -> Any:
    """A batch that can be compared."""
    if isinstance(batch, (torch.Tensor, np.ndarray)):
        return batch.tolist()
    if isinstance(batch, (list, tuple)):
        return [plain(part) for part in batch]
    if isinstance(batch, dict):
        return {name: plain(part) for name, part in batch.items()}
    return batch


def contents(batches: Any) -> list[Any]:
    return [plain(batch) for batch in batches]


def take(iterator: Iterator[Any], count: int) -> list[Any]:
    return [plain(next(iterator)) for _ in range(count)]


def run_epoch(loader: DataLoader[Any], epoch: int, before: Before | None) -> list[Any]:
    if before is not None:
        before(loader, epoch)
    return contents(loader)


def cuts(
    loader: DataLoader[Any], places: Iterable[int], *, epoch: int = 0, later: int = 1, before: Before | None = None
) -> list[Cut]:
    """Run epochs, save the state at several places of one of them, and run on.

    Args:
        loader: of a run that is not interrupted; the process's generators are seeded first.
        places: numbers of batches, or END.
        epoch: in which.
        later: how many epochs follow it.
        before: called with the loader and a number before each epoch.
    """
    seed_all()
    for number in range(epoch):
        run_epoch(loader, number, before)
    if before is not None:
        before(loader, epoch)
    found: list[Cut] = []
    batches: list[Any] = []
    iterator = iter(loader)
    while True:
        if len(batches) in places:
            found.append(Cut(loader.state_dict(), generators(), epoch, [], len(batches)))
        try:
            batches.append(plain(next(iterator)))
        except StopIteration:
            break
    if END in places:
        found.append(Cut(loader.state_dict(), generators(), epoch + 1, [], END))
    following = [run_epoch(loader, epoch + 1 + number, before) for number in range(later)]
    for cut in found:
        cut.epochs = following if cut.place == END else [batches[cut.place :], *following]
    return found


def cut(loader: DataLoader[Any], place: int, **options: Any) -> Cut:
    """The same for one place."""
    return cuts(loader, [place], **options)[0]


def go_on(loader: DataLoader[Any], cut: Cut, *, before: Before | None = None, saved: bool = True) -> list[list[Any]]:
    """The epochs of a fresh loader from a saved state on, with the process's generators as they were then."""
    seed_all(SEED + 1)  # as another process would be
    loader.load_state_dict(through_file(cut.state) if saved else cut.state)
    set_generators(cut.generators)
    return [run_epoch(loader, cut.epoch + number, before) for number in range(len(cut.epochs))]


def through_file(state: Any) -> Any:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def faults(make: Make, places: Iterable[int], *, before: Before | None = None, **options: Any) -> list[int]:
    """The places from which a fresh loader does not go on as the uninterrupted run does."""
    found = cuts(make(), places, before=before, **options)
    assert [cut.place for cut in found] == list(places)
    return [cut.place for cut in found if go_on(make(), cut, before=before) != cut.epochs]


def take_all(iterator: Iterator[Any]) -> list[Any]:
    """Batches to the end, errors in their places."""
    found: list[Any] = []
    while len(found) < 100:
        try:
            found.append(plain(next(iterator)))
        except StopIteration:
            return found
        except ValueError:
            found.append("error")
    raise AssertionError(f"there is no end: {found[-3:]}")
