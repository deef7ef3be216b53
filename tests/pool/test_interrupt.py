"""Ctrl-C is held back for a short stretch, and then acted on."""

import os
import signal
import threading

import pytest

from torchdali.pool import deferred_interrupt


@pytest.fixture
def handler():
    """The handler that is installed: Python's own, whatever the test runner has set."""
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield signal.default_int_handler
    signal.signal(signal.SIGINT, previous)


def interrupt():
    os.kill(os.getpid(), signal.SIGINT)


def test_an_interrupt_waits_for_the_end_of_the_block(handler):
    reached = []

    def run():
        with deferred_interrupt():
            interrupt()
            reached.append(1)
        reached.append(2)

    with pytest.raises(KeyboardInterrupt):
        run()
    assert reached == [1]
    assert signal.getsignal(signal.SIGINT) is handler


def test_without_an_interrupt_nothing_happens(handler):
    with deferred_interrupt():
        assert signal.getsignal(signal.SIGINT) is not handler
    assert signal.getsignal(signal.SIGINT) is handler


def test_blocks_may_be_nested_and_the_outermost_counts(handler):
    reached = []

    def run():
        with deferred_interrupt():
            with deferred_interrupt():
                interrupt()
                reached.append("inner")
            reached.append("outer")
        reached.append("after")

    with pytest.raises(KeyboardInterrupt):
        run()
    assert reached == ["inner", "outer"]


def test_several_interrupts_are_one(handler):
    def run():
        with deferred_interrupt():
            interrupt()
            interrupt()

    with pytest.raises(KeyboardInterrupt):
        run()


def test_the_users_own_handler_is_called_with_signal_and_frame():
    calls = []
    previous = signal.signal(signal.SIGINT, lambda number, frame: calls.append((number, frame)))
    try:
        with deferred_interrupt():
            interrupt()
            assert calls == []
    finally:
        signal.signal(signal.SIGINT, previous)
    assert [number for number, _ in calls] == [signal.SIGINT]
    assert calls[0][1] is not None


@pytest.mark.parametrize("setting", [signal.SIG_IGN, signal.SIG_DFL])
def test_other_settings_are_left_alone(setting):
    previous = signal.signal(signal.SIGINT, setting)
    try:
        with deferred_interrupt():
            assert signal.getsignal(signal.SIGINT) is setting
        assert signal.getsignal(signal.SIGINT) is setting
    finally:
        signal.signal(signal.SIGINT, previous)


def test_an_error_in_the_block_passes_through(handler):
    with pytest.raises(LookupError, match="inside"), deferred_interrupt():
        raise LookupError("inside")
    assert signal.getsignal(signal.SIGINT) is handler


def test_other_threads_leave_the_handler_alone(handler):
    seen = []

    def run():
        with deferred_interrupt():
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert seen == [handler]
