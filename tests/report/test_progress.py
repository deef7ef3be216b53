"""The bar: images a second and the share of waiting, on a terminal only."""

import io
import re

import pytest
import torch

import torchdali
from tests.report.support import BATCH, BATCHES, SLOW, Source, Stages


class Terminal(io.StringIO):
    def isatty(self):
        return True


def loader(**options):
    return torchdali.DataLoader(torch.arange(30), batch_size=BATCH, **options)


def test_the_batches_are_those_of_the_loader():
    shown = [batch.tolist() for batch in torchdali.progress(loader(), file=Terminal())]
    assert shown == [batch.tolist() for batch in loader()]


def test_images_a_second_and_the_share_of_waiting_are_shown():
    terminal = Terminal()
    with Stages(Source(SLOW / BATCH)) as pipeline:
        for _ in torchdali.progress(pipeline, "training", file=terminal, mininterval=0):
            pass
    shown = terminal.getvalue()
    assert "training" in shown
    assert f"{BATCH * BATCHES} images" in shown
    assert re.search(r"\d images/s", shown)
    assert re.search(r"waiting (9\d|100)%", shown)


def test_a_known_length_is_reached_at_the_end():
    terminal = Terminal()
    list(torchdali.progress(loader(), file=terminal))
    assert "100%" in terminal.getvalue()
    assert "30/30" in terminal.getvalue()


def test_it_is_silent_where_there_is_no_terminal_and_where_it_is_asked_to_be(capfd):
    assert len(list(torchdali.progress(loader()))) == 8
    terminal = Terminal()
    assert len(list(torchdali.progress(loader(), file=terminal, disable=True))) == 8
    assert terminal.getvalue() == ""
    assert capfd.readouterr() == ("", "")


def test_what_gives_no_waits_is_refused_at_once():
    with pytest.raises(TypeError, match="progress got a list"):
        torchdali.progress([1, 2])
