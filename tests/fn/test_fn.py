import numpy as np
import pytest
import torch

from tests.helpers import Files, decode_serially, enhance_serially
from torchdali import JpegFolder, TensorList, fn, pipeline_def, types


def define(function, **options):
    return pipeline_def(batch_size=4, device_id=None, last_batch="partial", **options)(function)


def outputs_of(function, **options):
    """The outputs of one epoch, samples of all batches together."""
    with define(function, **options)() as pipe:
        batches = list(pipe)
    return [[sample for batch in column for sample in batch] for column in zip(*batches, strict=True)]


def test_the_graph_shows_the_operators_and_how_they_are_connected(photographs):
    def pipeline():
        jpegs, labels = fn.external_source(Files(photographs), num_outputs=2, batch=False, parallel=True)
        images = fn.decoders.image(jpegs)
        first = fn.brightness_contrast(images, contrast=fn.random.uniform(range=(1, 3)))
        second = fn.brightness_contrast(images, brightness=fn.random.uniform(values=[1, 2]))
        return first, second, labels

    pipe = define(pipeline)()
    targets = [node.target for node in pipe.graph.nodes if node.op == "call_module"]
    assert targets == [
        "decoders_image",
        "random_uniform",
        "brightness_contrast",
        "random_uniform_1",
        "brightness_contrast_1",
    ]
    assert [node.name for node in pipe.graph.nodes if node.op == "placeholder"] == ["source0_0", "source0_1"]
    assert "random_uniform" in str(pipe.graph)
    pipe.close()


def test_images_are_decoded_as_asked(photographs):
    def pipeline():
        jpegs, _ = fn.external_source(Files(photographs), num_outputs=2, batch=False, parallel=True)
        gray = fn.decoders.image(jpegs, device="mixed", output_type=types.GRAY)
        return gray, fn.decoders.image(jpegs, adjust_orientation=False)

    gray, stored = outputs_of(pipeline)
    for path, one, three in zip(JpegFolder(photographs).files, gray, stored, strict=True):
        assert torch.equal(one.permute(2, 0, 1), decode_serially(path, "GRAY"))
        assert torch.equal(three.permute(2, 0, 1), decode_serially(path, exif=False))


def test_a_source_defined_after_an_operator_is_fine(photographs):
    def pipeline():
        first = fn.external_source(lambda info: np.uint8([info.idx_in_epoch]), batch=False, parallel=True)
        brighter = fn.brightness_contrast(first, contrast=2.0)
        jpegs, _ = fn.external_source(Files(photographs), num_outputs=2, batch=False, parallel=True)
        return brighter, fn.decoders.image(jpegs)

    _, images = outputs_of(pipeline)
    assert torch.equal(images[0].permute(2, 0, 1), decode_serially(JpegFolder(photographs).files[0]))


def test_a_draw_can_be_used_twice_and_returned(photographs):
    def pipeline():
        jpegs, _ = fn.external_source(Files(photographs), num_outputs=2, batch=False, parallel=True)
        contrast = fn.random.uniform(range=(1, 3))
        images = fn.decoders.image(jpegs)
        return fn.brightness_contrast(images, contrast=contrast), contrast

    images, contrasts = outputs_of(pipeline, seed=4)
    for path, image, contrast in zip(JpegFolder(photographs).files, images, contrasts, strict=True):
        assert np.array_equal(image.numpy(), enhance_serially(path, float(contrast)))


def test_batch_sources_and_iterables_run_in_the_main_process():
    def batches():
        for start in (0, 4, 8):
            yield np.arange(start, start + 4, dtype=np.int64)

    def pipeline():
        return fn.external_source(batches), fn.external_source(lambda iteration: np.full(4, iteration))

    first, second = outputs_of(pipeline)
    assert [int(x) for x in first] == list(range(12))
    assert [int(x) for x in second] == [0] * 4 + [1] * 4 + [2] * 4


def test_gpu_and_cpu_move_between_the_pipeline_s_device_and_memory():
    def pipeline():
        data = fn.external_source(
            lambda info: np.float32([info.idx_in_epoch]), batch=False, parallel=True, device="gpu"
        )
        return data, data.cpu(), data.cpu().gpu()

    with define(pipeline)() as pipe:
        for output in pipe.run():
            assert isinstance(output, TensorList)
            assert output.as_array()[:, 0].tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("parallel", [False, True])
def test_a_source_says_where_the_channels_are(parallel):
    def image(info):
        n = info.idx_in_epoch
        if n >= 8:
            raise StopIteration
        return np.full((6, 4 + n // 4 * (n % 2), 3), n, np.uint8), np.int64(n)

    def pipeline(layout):
        images, numbers = fn.external_source(image, num_outputs=2, batch=False, parallel=parallel, layout=layout)
        return images, fn.resize(images, size=(9, 8)), numbers

    for layout in (["HWC"], ("HWC", "")):
        with define(pipeline)(layout) as pipe:
            for images, resized, numbers in pipe:
                assert images.layout == resized.layout == "HWC"
                assert resized.shape() == [(9, 8, 3)] * 4
                assert [int(image[0, 0, 0]) for image in resized] == numbers.as_array().tolist()


def test_one_layout_is_for_all_outputs_and_has_to_fit_them():
    def pipeline(layout, count=2):
        return fn.external_source(
            lambda info: (np.zeros((2, 3, 4), np.uint8),) * 2, num_outputs=count, batch=False, layout=layout
        )

    with define(pipeline)("CHW") as pipe:
        assert [output.layout for output in pipe.run()] == ["CHW", "CHW"]
    with define(pipeline)("HW") as pipe, pytest.raises(ValueError, match="does not fit layout 'HW'"):
        pipe.run()
    with pytest.raises(TypeError, match="layout is 3; it is letters"):
        define(pipeline)(3)
    with pytest.raises(ValueError, match="layout has 3 entries, but the source has 2 outputs"):
        define(pipeline)(["CHW"] * 3)
    with pytest.raises(ValueError, match="layout has 1 entries, but the source has one output"):
        define(pipeline)(["CHW"], None)


@pytest.mark.parametrize("device", ["mixed", "cpu"])
def test_the_second_parameter_list_reaches_the_function(photographs, device):
    def pipeline(folder, how):
        jpegs, labels = fn.external_source(Files(folder), num_outputs=2, batch=False, parallel=True)
        return fn.decoders.image(jpegs, device=how), labels

    with define(pipeline)(photographs, how=device, py_num_workers=2) as pipe:
        assert len(pipe.worker_pids) == 2
        assert len(pipe.run()[0]) == 4


# --- what is refused -----------------------------------------------------------------------------------------------------


def test_fn_outside_a_pipeline_function_says_where_it_belongs():
    with pytest.raises(RuntimeError, match=r"fn.random.uniform was called outside .*@pipeline_def"):
        fn.random.uniform()


@pytest.mark.parametrize(
    ("body", "error", "message"),
    [
        (lambda x: None, TypeError, "returned None .*`return` missing"),
        (lambda x: 5, TypeError, "returned 5 as output 0"),
        (lambda x: fn.brightness_contrast(7), TypeError, "fn.brightness_contrast was given a int 7"),
        (lambda x: fn.decoders.image(x, device="tpu"), ValueError, "no device 'tpu'"),
        (lambda x: fn.decoders.image(x, output_type="RGB"), TypeError, "types.RGB or types.GRAY"),
        (lambda x: fn.random.uniform(range=(1, 2), values=[1]), ValueError, "exclude each other"),
        (lambda x: fn.random.uniform(range=(1, 2, 3)), ValueError, "two numbers"),
        (lambda x: fn.random.uniform(range=(3, 1)), ValueError, r"\[3, 1\)"),
        (lambda x: [y for y in x], TypeError, "cannot iterate over a DataNode"),
        (lambda x: x if x else x, TypeError, "the value of a DataNode"),
        (lambda x: fn.external_source(None), ValueError, "needs a source"),
        (lambda x: fn.external_source(lambda: 1, parallel=True, no_copy=False), ValueError, "no_copy=False"),
    ],
)
def test_mistakes_in_a_pipeline_function_are_named(body, error, message):
    def pipeline():
        return body(fn.external_source(lambda info: 1, batch=False, parallel=True))

    with pytest.raises(error, match=message):
        define(pipeline)()


@pytest.mark.parametrize(
    ("source", "options", "error", "message"),
    [
        (lambda: 1, {"batch": False}, TypeError, "takes no argument, but with batch=False"),
        (lambda *args: 1, {"batch": False}, TypeError, r"takes `\*args`"),
        (lambda **kw: 1, {"batch": False}, TypeError, r"takes `\*\*kw`"),
        (lambda a, b: 1, {"batch": False}, TypeError, "takes 2 arguments"),
        ([1, 2], {"parallel": True, "batch": False}, TypeError, "is an iterable of samples"),
        (5, {}, TypeError, "callable or an iterable"),
        (lambda i: 1, {"num_outputs": 0}, ValueError, "num_outputs is 0"),
        (lambda i: 1, {"prefetch_queue_depth": 0}, ValueError, "prefetch_queue_depth is 0"),
        (lambda i: 1, {"bytes_per_sample_hint": -1}, ValueError, "bytes_per_sample_hint is -1"),
        (lambda i: 1, {"cycle": "quiet"}, ValueError, "is for iterables"),
    ],
)
def test_sources_that_cannot_work_are_refused_at_definition(source, options, error, message):
    with pytest.raises(error, match=message):
        define(lambda: fn.external_source(source, **{"parallel": callable(source), **options}))()


def test_options_are_checked():
    def pipeline():
        return fn.external_source(lambda i: 1, batch=False, parallel=True)

    with pytest.raises(TypeError, match="no option colour"):
        pipeline_def(colour="red")
    with pytest.raises(ValueError, match="batch_size is missing"):
        pipeline_def(pipeline)()
    with pytest.raises(ValueError, match="batch_size is 0"):
        pipeline_def(pipeline)(batch_size=0)
    with pytest.raises(ValueError, match="py_num_workers is -1"):
        pipeline_def(pipeline)(batch_size=1, py_num_workers=-1)
    with pytest.raises(ValueError, match="start_method is 'threads'"):
        pipeline_def(pipeline)(batch_size=1, py_start_method="threads")
    with pytest.raises(ValueError, match="on_worker_death is 'ignore'"):
        pipeline_def(pipeline)(batch_size=1, on_worker_death="ignore")
    with pytest.raises(ValueError, match="device is -5"):
        pipeline_def(pipeline)(batch_size=1, device_id=-5)
    with pytest.raises(TypeError, match="has a parameter seed"):
        pipeline_def(lambda seed: None)
    with pytest.raises(TypeError, match="unexpected keyword argument 'colour'"):
        pipeline_def(pipeline)(batch_size=1, colour="red")
    with pytest.raises(ValueError, match="no fn.external_source"):
        pipeline_def(lambda: fn.random.uniform())(batch_size=1)
    pipeline_def(pipeline)(batch_size=1, exec_async=True, prefetch_queue_depth={"cpu_size": 2, "gpu_size": 1}).close()


def test_nodes_of_two_pipelines_do_not_mix():
    kept = []

    def first():
        kept.append(fn.external_source(lambda i: 1, batch=False, parallel=True))
        return kept[0]

    define(first)().close()
    with pytest.raises(ValueError, match="another pipeline"):
        define(lambda: fn.brightness_contrast(kept[0]))()
    with pytest.raises(ValueError, match="belongs to another pipeline"):
        define(lambda: kept[0])()
