"""What is sent to workers of a fresh interpreter: datasets and functions that are found by name."""

import multiprocessing

import numpy as np
import torch
from torch.utils.data import Dataset, IterableDataset, get_worker_info


class Squares(Dataset):
    def __init__(self, size=7):
        self.size = size

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        info = get_worker_info()
        return torch.full((300,), index**2), np.float32(index), str(index), -1 if info is None else info.num_workers


class Tallying(Dataset):
    """Holds what multiprocessing shares, of a context."""

    def __init__(self, context):
        self.value = context.Value("i", 0)
        self.lock = context.Lock()
        self.queue = context.Queue()
        self.event = context.Event()
        self.tensor = torch.zeros(6, dtype=torch.int64).share_memory_()

    def __len__(self):
        return 6

    def __getitem__(self, index):
        with self.lock:
            self.value.value += index
            self.tensor[index] += 1
        self.event.set()
        self.queue.put(index)
        return index


class Stream(IterableDataset):
    def __iter__(self):
        info = get_worker_info()
        return iter(range(info.id, 9, info.num_workers))


def method_of_worker(worker):
    """Worker init function: leaves behind how this worker was started."""
    get_worker_info().dataset.size = len(multiprocessing.current_process().name)
    torch.set_num_threads(1)


def doubled(batch):
    return torch.utils.data.default_collate([sample[0] * 2 for sample in batch])
