"""The swap-in for ``torch.utils.data.DataLoader``."""

from torchdali.loader._collate import ragged_collate
from torchdali.loader._loader import DataLoader
from torchdali.loader._start import start

__all__ = ["DataLoader", "ragged_collate", "start"]
