"""The ragged batch: tensors of equal type and device, of any shape."""

from torchdali.tensorlist._tensorlist import TensorList

__all__ = ["TensorList"]
