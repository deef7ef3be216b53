"""Messages arrive whole, once, in order, of any size; the end is noticed."""

import os
import select

import pytest

from tests.pool.support import Tally
from torchdali.pool._channel import INLINE_LIMIT, channel, memory_file, read_file, write_file

pytestmark = pytest.mark.timeout(30)


@pytest.fixture
def ends():
    sender, receiver = channel()
    yield sender, receiver
    sender.close()
    receiver.close()


@pytest.mark.parametrize("size", [0, 1, 1000, INLINE_LIMIT - 1, INLINE_LIMIT, INLINE_LIMIT + 1, 3_000_000])
def test_a_payload_of_any_size_arrives_whole(ends, size):
    sender, receiver = ends
    payload = os.urandom(size)
    assert sender.send(payload)
    message = receiver.receive()
    assert message.payload == payload
    assert message.fd is None


def test_messages_keep_their_order_and_their_bounds(ends):
    sender, receiver = ends
    sizes = [5, INLINE_LIMIT + 5, 0, 7, INLINE_LIMIT * 3, 1]
    for number, size in enumerate(sizes):
        sender.send(bytes([number]) * size)
    assert [receiver.receive().payload for _ in sizes] == [bytes([number]) * size for number, size in enumerate(sizes)]


@pytest.mark.parametrize("size", [0, 5, INLINE_LIMIT])
def test_a_descriptor_travels_along(ends, size):
    sender, receiver = ends
    fd = memory_file(3)
    write_file(fd, memoryview(b"abc"), 0)
    sender.send(b"x" * size, fd)
    os.close(fd)
    message = receiver.receive()
    content = bytearray(3)
    read_file(message.fd, memoryview(content))
    os.close(message.fd)
    assert (len(message.payload), content) == (size, b"abc")


def test_a_descriptor_that_arrives_is_not_inherited_by_other_programs(ends):
    sender, receiver = ends
    fd = memory_file(1)
    sender.send(b"", fd)
    received = receiver.receive().fd
    assert not os.get_inheritable(received)
    assert not os.get_inheritable(fd)
    os.close(received)
    os.close(fd)


def test_a_descriptor_does_not_go_with_a_payload_larger_than_a_packet(ends):
    fd = memory_file(1)
    with pytest.raises(ValueError, match="cannot be sent together with a descriptor"):
        ends[0].send(bytes(INLINE_LIMIT + 1), fd)
    os.close(fd)


def test_nothing_there_is_said_at_once_where_waiting_is_not_wanted(ends):
    with pytest.raises(BlockingIOError):
        ends[1].receive(block=False)


@pytest.mark.parametrize("size", [10, INLINE_LIMIT, INLINE_LIMIT + 1])
def test_a_full_channel_says_so_and_loses_nothing(ends, size):
    sender, receiver = ends
    sent = 0
    while sender.send(sent.to_bytes(4, "big") * (size // 4 + 1), block=False):
        sent += 1
    assert 1 < sent < 10_000
    for number in range(sent):
        assert receiver.receive(block=False).payload[:4] == number.to_bytes(4, "big")
    with pytest.raises(BlockingIOError):
        receiver.receive(block=False)
    assert sender.send(b"room again", block=False)


def test_several_messages_of_the_largest_packet_fit(ends):
    assert [ends[0].send(bytes(INLINE_LIMIT), block=False) for _ in range(2)] == [True, True]


def test_the_end_comes_after_all_that_was_sent(ends):
    sender, receiver = ends
    sender.send(b"last")
    sender.close()
    assert receiver.receive().payload == b"last"
    assert receiver.receive() is None
    assert receiver.receive(block=False) is None


def test_an_empty_message_is_not_the_end(ends):
    sender, receiver = ends
    sender.send(b"")
    assert receiver.receive().payload == b""
    with pytest.raises(BlockingIOError):
        receiver.receive(block=False)


def test_sending_to_nobody_raises(ends):
    sender, receiver = ends
    receiver.close()
    with pytest.raises((BrokenPipeError, ConnectionResetError)):
        sender.send(b"x")


def test_an_end_may_be_closed_twice(ends):
    sender, _ = ends
    sender.close()
    sender.close()
    assert sender.fileno() == -1


def test_a_hang_up_is_reported_without_being_asked_for(ends):
    sender, receiver = ends
    poll = select.poll()
    poll.register(receiver.fileno(), 0)
    sender.send(b"something to read")
    assert poll.poll(0) == []
    sender.close()
    assert poll.poll(1000)


def test_no_descriptor_is_left_by_any_kind_of_message(ends):
    sender, receiver = ends
    before = len(os.listdir("/proc/self/fd"))
    for size in (10, INLINE_LIMIT + 1, 1_000_000):
        sender.send(bytes(size))
        receiver.receive()
    while sender.send(bytes(INLINE_LIMIT + 1), block=False):
        pass
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("receivers", [1, 3])
def test_each_message_goes_to_exactly_one_of_several_receivers(ends, receivers):
    sender, receiver = ends
    seen = Tally(201)
    pids = []
    for _ in range(receivers):
        pids.append(os.fork())
        if pids[-1] == 0:
            sender.close()
            while (message := receiver.receive()) is not None:
                number = len(message.payload) // 400
                seen.add(number if message.payload == bytes([number]) * (400 * number) else 0)
            os._exit(0)
    receiver.close()
    for number in range(1, 201):
        sender.send(bytes([number]) * (400 * number))
    sender.close()
    for pid in pids:
        os.waitpid(pid, 0)
    assert seen.counts(201) == [0] + [1] * 200


def test_a_memory_file_that_is_too_short_is_an_error():
    fd = memory_file(3)
    with pytest.raises(EOFError, match="of 5 bytes ended after 3 bytes"):
        read_file(fd, memoryview(bytearray(5)))
    os.close(fd)


def test_memory_files_are_written_and_read_in_parts():
    fd = memory_file(10)
    write_file(fd, memoryview(b"cdefg"), 2)
    write_file(fd, memoryview(b"ab"), 0)
    content = bytearray(10)
    read_file(fd, memoryview(content))
    os.close(fd)
    assert content == b"abcdefg\0\0\0"


def test_a_receiver_says_what_it_took_before_it_reads_a_large_message(ends, monkeypatch):
    """Else a large message looks lost to somebody who asks meanwhile, and is sent again."""
    from torchdali.pool import _channel

    events = []
    read = _channel.read_file
    monkeypatch.setattr(_channel, "read_file", lambda *arguments: events.append("read") or read(*arguments))
    sender, receiver = ends
    sender.send(bytes(INLINE_LIMIT + 1), key=2**40)
    sender.send(b"small", key=7)
    assert len(receiver.receive(taken=events.append).payload) == INLINE_LIMIT + 1
    assert receiver.receive(taken=events.append).payload == b"small"
    assert events == [2**40, "read", 7]
