"""Philox4x32-10, a counter-based random number generator.

Source: J. K. Salmon, M. A. Moraes, R. O. Dror, D. E. Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011. A draw
is a function of a key and a counter, so a sample's draw can be computed by anybody at any time and depends on nothing that
was drawn before.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["SOURCE_STREAM", "philox", "words"]

_MASK = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10

SOURCE_STREAM = _MASK
"""Stream that the sources' generators are seeded from; operators count theirs from 0."""


def philox(counter: tuple[Any, Any, Any, Any], key: tuple[int, int]) -> tuple[Any, Any, Any, Any]:
    """Four random 32-bit words; the counter's words are Python integers or uint64 arrays of values below 2**32."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(_ROUNDS):
        product0, product1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c1, c2, c3 = (
            (product1 >> 32) ^ c1 ^ k0,
            product1 & _MASK,
            (product0 >> 32) ^ c3 ^ k1,
            product0 & _MASK,
        )
        k0, k1 = (k0 + _WEYL[0]) & _MASK, (k1 + _WEYL[1]) & _MASK
    return c0, c1, c2, c3


def words(seed: int, epoch: int, stream: Any, index: Any) -> tuple[Any, Any, Any, Any]:
    """The four words of sample ``index`` in one stream of one epoch.

    ``index`` is an integer, or an int64 array; with an array ``stream`` may be one too, which is broadcast against it.
    """
    if isinstance(index, np.ndarray):
        indices: npt.NDArray[np.uint64] = index.astype(np.uint64)
        zeros = np.zeros_like(indices)
        counter: tuple[Any, Any, Any, Any] = (
            indices & np.uint64(_MASK),
            indices >> np.uint64(32),
            zeros + np.uint64(epoch & _MASK),
            zeros + np.asarray(stream & _MASK, np.uint64),
        )
    else:
        counter = (index & _MASK, index >> 32, epoch & _MASK, stream & _MASK)
    return philox(counter, (seed & _MASK, (seed >> 32) & _MASK))
