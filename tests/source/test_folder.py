"""A folder of JPEGs in its three forms, its order, its errors."""

import pickle
import shutil

import numpy as np
import pytest

from torchdali.source import ExternalSource, JpegFolder, SampleInfo

NAMES = ["bee.jpg", "cat.jpg", "owl.jpg"]


def info(index, epoch=0):
    return SampleInfo(index, index % 4, index // 4, epoch)


@pytest.fixture
def plain(tmp_path, photographs):
    """Images side by side."""
    for name in NAMES:
        shutil.copy(photographs / name, tmp_path / name)
    return tmp_path


def read_all(folder, epoch=0):
    return [folder(info(index, epoch)) for index in range(len(folder))]


def test_images_side_by_side_all_have_label_0(plain):
    folder = JpegFolder(plain)
    assert len(folder) == 3
    assert [path.name for path in folder.files] == NAMES
    assert folder.labels == [0, 0, 0]
    assert folder.classes == []
    for name, (data, label) in zip(NAMES, read_all(folder), strict=True):
        assert data.dtype == np.uint8
        assert data.tobytes() == (plain / name).read_bytes()
        assert (label, label.dtype) == (0, np.int64)


def test_sub_folders_are_classes_in_the_order_of_their_names(tmp_path, photographs):
    for place in ("zebra/cat.jpg", "ape/owl.jpg", "ape/bee.jpg", "empty/notes.txt"):
        (tmp_path / place).parent.mkdir(exist_ok=True)
        if place.endswith("jpg"):
            shutil.copy(photographs / place.split("/")[1], tmp_path / place)
        else:
            (tmp_path / place).write_text("nothing")
    folder = JpegFolder(tmp_path)
    assert [str(path.relative_to(tmp_path)) for path in folder.files] == ["ape/bee.jpg", "ape/owl.jpg", "zebra/cat.jpg"]
    assert folder.labels == [0, 0, 1]
    assert folder.classes == ["ape", "zebra"]
    assert [folder.class_name(label) for label in (0, 1, 2, -1)] == ["ape", "zebra", "2", "-1"]


def test_a_list_names_files_and_labels(plain):
    (plain / "file_list.txt").write_text("owl.jpg 7\n\nbee.jpg   2\nowl.jpg 0\n")
    (plain / "labels.txt").write_text("first\nsecond\nthird\n")
    folder = JpegFolder(plain)
    assert [path.name for path in folder.files] == ["owl.jpg", "bee.jpg", "owl.jpg"]
    assert [int(label) for _, label in read_all(folder)] == [7, 2, 0]
    assert read_all(folder)[0][0].tobytes() == (plain / "owl.jpg").read_bytes()
    assert [folder.class_name(label) for label in (0, 2, 7)] == ["first", "third", "7"]


def test_a_list_may_name_files_in_folders_and_with_spaces(plain):
    (plain / "in here").mkdir()
    shutil.move(plain / "bee.jpg", plain / "in here" / "a bee.jpg")
    (plain / "file_list.txt").write_text("in here/a bee.jpg 1\n")
    folder = JpegFolder(plain)
    assert folder(info(0))[0].size > 1000
    assert folder.labels == [1]


@pytest.mark.parametrize("suffix", ["jpg", "jpeg", "JPG", "Jpeg", "jpe", "jfif"])
def test_a_jpeg_is_known_by_its_suffix(plain, suffix):
    for name in NAMES:
        (plain / name).unlink()
    (plain / f"x.{suffix}").write_bytes(b"data")
    (plain / "y.png").write_bytes(b"other")
    assert [path.name for path in JpegFolder(plain).files] == [f"x.{suffix}"]


def test_the_bundled_photographs_are_read(photographs):
    folder = JpegFolder(photographs)
    assert len(folder) == len((photographs / "file_list.txt").read_text().split("\n")) - 1
    assert len(folder.classes) == len(set(folder.labels))
    assert all(data[:2].tobytes() == b"\xff\xd8" for data, _ in read_all(folder))


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no folder .*nowhere"):
        JpegFolder(tmp_path / "nowhere")


def test_a_file_is_no_folder(plain):
    with pytest.raises(NotADirectoryError, match="cat.jpg.* is a file; a folder of JPEGs is wanted"):
        JpegFolder(plain / "cat.jpg")


@pytest.mark.parametrize("content", [[], ["notes.txt"], ["sub/notes.txt"]])
def test_a_folder_without_jpegs_is_an_error(tmp_path, content):
    for name in content:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("text")
    with pytest.raises(FileNotFoundError, match="no JPEG .* and no file_list.txt in"):
        JpegFolder(tmp_path)


@pytest.mark.parametrize("text", ["", "\n \n"])
def test_an_empty_list_is_an_error(plain, text):
    (plain / "file_list.txt").write_text(text)
    with pytest.raises(FileNotFoundError, match="file_list.txt' lists no file"):
        JpegFolder(plain)


@pytest.mark.parametrize("line", ["bee.jpg", "bee.jpg bee", "bee.jpg 1.5", "5"])
def test_a_bad_line_of_the_list_is_shown_with_its_number(plain, line):
    (plain / "file_list.txt").write_text(f"cat.jpg 0\n{line}\n")
    with pytest.raises(ValueError, match=f"line 2 of .*file_list.txt' is '{line}'; a line is \"name label\""):
        JpegFolder(plain)


def test_a_file_that_has_gone_is_an_error_of_its_sample_alone(plain, make_reader):
    folder = JpegFolder(plain)
    (plain / "cat.jpg").unlink()
    reader = make_reader(ExternalSource(folder, 2), batch_size=1)
    assert len(reader.next().outputs) == 2
    with pytest.raises(FileNotFoundError, match=r"cat\.jpg"):
        reader.next()
    assert reader.next().outputs[0][0].numpy().tobytes() == (plain / "owl.jpg").read_bytes()


def test_an_empty_file_is_read_as_it_is(plain):
    (plain / "cat.jpg").write_bytes(b"")
    assert read_all(JpegFolder(plain))[1][0].shape == (0,)


def test_beyond_the_end_it_stops_again_and_again(plain):
    folder = JpegFolder(plain)
    for index in (3, 4, 1000, 3):
        with pytest.raises(StopIteration):
            folder(info(index))


def order(folder, epoch):
    return [folder.index(info(index, epoch)) for index in range(len(folder))]


def test_without_shuffling_the_order_is_that_of_the_files(photographs):
    folder = JpegFolder(photographs)
    assert order(folder, 0) == order(folder, 3) == list(range(len(folder)))


def test_shuffling_gives_each_epoch_a_permutation_of_its_own(photographs):
    folder = JpegFolder(photographs, shuffle=True, seed=3)
    orders = [order(folder, epoch) for epoch in range(6)]
    assert all(sorted(each) == list(range(len(folder))) for each in orders)
    assert len({tuple(each) for each in orders}) == 6
    with pytest.raises(StopIteration):
        folder.index(info(len(folder)))


def test_the_order_depends_on_seed_and_epoch_alone(photographs):
    one, two = (JpegFolder(photographs, shuffle=True, seed=3) for _ in range(2))
    expected = order(one, 2)
    order(two, 5)
    assert order(two, 2) == expected
    assert order(JpegFolder(photographs, shuffle=True, seed=4), 2) != expected


def test_labels_go_with_their_images_when_shuffled(photographs):
    folder = JpegFolder(photographs, shuffle=True, seed=1)
    labels = {path.read_bytes(): label for path, label in zip(folder.files, folder.labels, strict=True)}
    read = read_all(folder, 4)
    assert {data.tobytes() for data, _ in read} == set(labels)
    assert all(labels[data.tobytes()] == label for data, label in read)


def test_the_repr_counts_images_and_classes(plain):
    assert repr(JpegFolder(plain)) == f"JpegFolder({str(plain)!r}, 3 images, 1 classes)"


def test_it_can_be_pickled(photographs):
    folder = pickle.loads(pickle.dumps(JpegFolder(photographs, shuffle=True)))
    assert len(read_all(folder)) == len(folder)


@pytest.mark.parametrize("workers", [1, 3])
def test_in_workers_every_image_comes_once_per_epoch(make_reader, photographs, workers):
    folder = JpegFolder(photographs, shuffle=True)
    reader = make_reader(ExternalSource(folder, 2), num_workers=workers)
    seen = []
    for epoch in range(2):
        images, labels = [], []
        while True:
            try:
                batch = reader.next()
            except StopIteration:
                break
            images += [tensor.numpy().tobytes() for tensor in batch.outputs[0]]
            labels += [int(tensor) for tensor in batch.outputs[1]]
        assert images == [folder.files[index].read_bytes() for index in order(folder, epoch)]
        assert labels == [folder.labels[index] for index in order(folder, epoch)]
        seen.append(images)
        reader.reset()
    assert seen[0] != seen[1]
