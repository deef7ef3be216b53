"""torchdali in Hugging Face's ``Trainer``."""

from __future__ import annotations

from typing import Any

from torchdali._optional import missing
from torchdali.accelerate import keep_engine

try:
    from transformers import Trainer
except ModuleNotFoundError as error:
    raise missing("torchdali.transformers", "transformers", "transformers") from error

__all__ = ["TorchdaliTrainer", "TrainerMixin"]


class TrainerMixin:
    """Has a ``Trainer`` read its datasets with torchdali's loader; it comes before ``Trainer`` among the bases.

    ``TrainingArguments`` mean what they mean: ``dataloader_num_workers``, ``dataloader_persistent_workers`` and so on. Going on
    from a checkpoint passes over the batches that were trained with, as ever; their samples are not read.

    Attributes:
        loader_options: arguments of :class:`~torchdali.DataLoader` beyond torch's, such as
            ``{"on_worker_death": "restart"}``; set it in the class, or before training.
    """

    loader_options: dict[str, Any] = {}  # noqa: RUF012

    def get_train_dataloader(self) -> Any:
        """As of ``Trainer``."""
        return keep_engine(super().get_train_dataloader(), **self.loader_options)  # type: ignore[misc]

    def get_eval_dataloader(self, eval_dataset: Any = None) -> Any:
        """As of ``Trainer``."""
        return keep_engine(super().get_eval_dataloader(eval_dataset), **self.loader_options)  # type: ignore[misc]

    def get_test_dataloader(self, test_dataset: Any) -> Any:
        """As of ``Trainer``."""
        return keep_engine(super().get_test_dataloader(test_dataset), **self.loader_options)  # type: ignore[misc]


class TorchdaliTrainer(TrainerMixin, Trainer):
    """``transformers.Trainer`` over torchdali's loader; see :class:`TrainerMixin`."""
