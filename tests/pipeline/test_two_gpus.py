"""A pipeline of one GPU takes nothing of the others."""

import numpy as np
import pytest
import torch

import torchdali
from torchdali import ExternalSource, JpegFolder, ops

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices"),
]


class OnTheSecond(torchdali.Pipeline):
    """Photographs, and whether the process that decodes them has touched the first GPU. They come in ever more memory."""

    def __init__(self, folder, **options):
        files = JpegFolder(folder)

        def read(info):
            if info.idx_in_epoch >= 400:
                raise StopIteration
            file = np.fromfile(files.files[info.idx_in_epoch % len(files.files)], np.uint8)
            return file, np.zeros(1 + 500 * info.idx_in_epoch, np.uint8)

        source = ExternalSource(read, num_outputs=2)
        super().__init__(source, batch_size=8, num_workers=2, device="cuda:1", seed=1, **options)
        self.decode, self.resize = ops.DecodeRandomCrop(), ops.Resize(64)

    def forward(self, files, growing):
        images = self.resize(self.decode(files)).as_tensor()
        return images, growing, torch.tensor(torch._C._cuda_hasPrimaryContext(0), device=images.device)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"pin_memory": True},
        {"stage_thread": False},
        {"cpu_share": 0.5},
        {"placement": "workers", "gpu_workers": 2},
        {"placement": "workers", "gpu_workers": 2, "cpu_share": 0.5},
    ],
)
def test_a_pipeline_of_the_second_gpu_leaves_the_first_alone(photographs, options):
    with OnTheSecond(photographs, **options) as pipeline, torchdali.profile():
        for _ in range(2):
            for images, growing, touched in pipeline:
                assert images.device == growing.device == torch.device("cuda:1")
                assert not touched
        pipeline.report()
        pipeline.statistics()
    del pipeline, images, growing
    assert not torch._C._cuda_hasPrimaryContext(0)


@pytest.mark.parametrize("pin_memory", [False, True])
def test_so_does_a_loader(photographs, pin_memory):
    files = JpegFolder(photographs)

    class Files(torch.utils.data.Dataset):
        def __len__(self):
            return 200

        def __getitem__(self, index):
            return np.fromfile(files.files[index % len(files.files)], np.uint8), index

    loader = torchdali.DataLoader(
        Files(),
        batch_size=8,
        num_workers=2,
        collate_fn=torchdali.ragged_collate,
        pin_memory=pin_memory,
        pipeline=ops.DecodeImage(),
        device="cuda:1",
    )
    for images, _ in loader:
        assert images.device == torch.device("cuda:1")
    assert not torch._C._cuda_hasPrimaryContext(0)
