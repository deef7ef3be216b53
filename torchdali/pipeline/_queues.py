"""How many streams of a process its GPU may look at by themselves.

Streams reach the GPU through hardware queues, eight of them unless the environment says otherwise when CUDA is initialised. Of
two streams that share a queue each waits for what was put into it by the other one. nvJPEG has two streams for each JPEG
engine, which wait for these engines most of the time; sharing queues with a training, each image waits for what the training
has begun. Measured on an H200 (torch 2.11, batches of 256, one run): a thread that does nothing but decode came to 1 243
images/s beside a ResNet-18 with eight queues, to 16 555 with 32; to 260 and 5 150 where the training was a CUDA graph.

Source: CUDA C++ Programming Guide, "CUDA Environment Variables" (CUDA_DEVICE_MAX_CONNECTIONS).
"""

from __future__ import annotations

import os
from pathlib import Path

import torch

__all__ = ["VARIABLE", "allow_queues"]

VARIABLE = "CUDA_DEVICE_MAX_CONNECTIONS"

_MOST = "32"
_DEFAULT_PIPE = Path("/tmp/nvidia-mps")  # of that service, not ours


def allow_queues() -> None:
    """Have CUDA, where it is not initialised yet, give streams as many queues as there can be; what the user set stays.

    Not where processes share the GPU by NVIDIA's Multi-Process Service, which has only so many for all of them.
    """
    shared = "CUDA_MPS_PIPE_DIRECTORY" in os.environ or _DEFAULT_PIPE.exists()
    if not shared and not torch.cuda.is_initialized():
        os.environ.setdefault(VARIABLE, _MOST)
