import numpy as np
import pytest

from torchdali._philox import philox, words

# Known answers of the algorithm's authors (Random123, kat_vectors, philox4x32-10).
KNOWN = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize(("counter", "key", "answer"), KNOWN)
def test_the_generator_gives_its_authors_known_answers(counter, key, answer):
    assert philox(counter, key) == answer


@pytest.mark.parametrize(("counter", "key", "answer"), KNOWN)
def test_arrays_give_the_same_as_integers(counter, key, answer):
    columns = tuple(np.full(3, word, np.uint64) for word in counter)
    assert [tuple(map(int, row)) for row in zip(*philox(columns, key), strict=True)] == [answer] * 3


def test_a_sample_has_the_same_words_alone_and_among_others():
    indices = np.array([0, 5, 2**33 + 7], np.int64)
    together = words(seed=2**40 + 3, epoch=2, stream=1, index=indices)
    for position, index in enumerate(indices):
        alone = words(seed=2**40 + 3, epoch=2, stream=1, index=int(index))
        assert alone == tuple(int(word[position]) for word in together)


def test_seed_epoch_stream_and_index_all_matter():
    base = words(1, 1, 1, 1)
    others = [words(2, 1, 1, 1), words(1, 2, 1, 1), words(1, 1, 2, 1), words(1, 1, 1, 2), words(2**32 + 1, 1, 1, 1)]
    assert len({base, *others}) == 6
