import errno
import io
import subprocess
import sys

import pytest

import torchdali
from tests.cli.conftest import own_environment
from torchdali.cli import demo, main


def test_without_a_command_the_help_is_printed(capsys):
    assert main([]) == 0
    printed = capsys.readouterr().out
    assert "demo" in printed
    assert "info" in printed


def test_the_version_is_printed(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"torchdali {torchdali.__version__}\n"


def test_each_command_has_help(capsys):
    for command in ("demo", "info"):
        assert main([command, "--help"]) == 0
        assert f"usage: torchdali {command}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "program", "message"),
    [
        (["dmeo"], "torchdali", "dmeo"),
        (["--verbose"], "torchdali", "unrecognized arguments: --verbose"),
        (["demo", "--bogus"], "torchdali demo", "unrecognized arguments: --bogus"),
        (["demo", "--batch", "4"], "torchdali demo", "unrecognized arguments: --batch 4"),
        (["info", "more"], "torchdali info", "unrecognized arguments: more"),
    ],
)
def test_wrong_arguments_are_one_line_and_status_2(arguments, program, message, capsys):
    assert main(arguments) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith(f"{program}: error: ")
    assert message in printed.err
    assert printed.err.count("\n") == 1
    assert printed.out == ""


def test_an_interrupted_command_has_status_130_and_says_nothing(monkeypatch, capsys):
    def interrupted(arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(demo, "run", interrupted)
    assert main(["demo"]) == 130
    assert capsys.readouterr() == ("", "")


def test_a_bug_keeps_its_traceback(monkeypatch):
    def broken(arguments):
        raise ZeroDivisionError

    monkeypatch.setattr(demo, "run", broken)
    with pytest.raises(ZeroDivisionError):
        main(["demo"])


def test_importing_it_neither_initialises_cuda_nor_starts_a_process():
    program = (
        "import multiprocessing, threading, torch, torchdali.cli\n"
        "assert not torch.cuda.is_initialized()\n"
        "assert not multiprocessing.active_children()\n"
        "assert threading.active_count() == 1\n"
        "from torchdali.cli import _environment as environment\n"
        "environment.gpu_jpeg_decoder(), environment.cuda_driver_version(), environment.cpu_name()\n"
        "assert not torch.cuda.is_initialized()\n"
    )
    subprocess.run([sys.executable, "-c", program], env=own_environment(), check=True, timeout=100)


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (BrokenPipeError(), 141, ""),
        (OSError(errno.ENOSPC, "No space left on device"), 2, "the output cannot be written: No space left on device"),
    ],
    ids=["nobody reads it", "the disk is full"],
)
def test_output_that_cannot_be_written_is_no_traceback(monkeypatch, capsys, error, status, message):
    def writes(arguments):
        raise error

    monkeypatch.setattr(demo, "run", writes)
    assert main(["demo"]) == status
    assert message in capsys.readouterr().err


def test_it_runs_where_its_streams_are_closed_or_know_few_characters(monkeypatch):
    def writes(arguments):
        sys.stdout.write("\N{SNOWMAN}\n")
        sys.stderr.write("\N{SNOWMAN}\n")
        return 0

    monkeypatch.setattr(demo, "run", writes)
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="ascii"))
    monkeypatch.setattr(sys, "stderr", None)
    assert main(["demo"]) == 0
    assert written.getvalue() == rb"\u2603" + b"\n"
    sys.stderr.close()
    monkeypatch.setattr(sys, "stdout", None)
    assert main(["demo"]) == 0
    sys.stdout.close()


def test_head_ends_it_without_a_word(tmp_path):
    info = f"{sys.executable} -m torchdali info"
    program = f"set -o pipefail; {info} | true; echo $?; {info} > /dev/full"
    ended = subprocess.run(
        ["bash", "-c", program],
        env=own_environment(),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert ended.stdout.split() in (["0"], ["141"])  # it may have been quick enough
    assert ended.stderr == "torchdali: error: the output cannot be written: No space left on device\n"
