"""What the README shows, run as it stands."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

README = Path(__file__).parent.parent / "README.md"
EXAMPLES = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_every_example_runs_in_a_process_of_its_own(number, tmp_path):
    program = tmp_path / "example.py"
    program.write_text(EXAMPLES[number])
    done = subprocess.run(
        [sys.executable, program], cwd=tmp_path, capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    if number == 0:
        assert (tmp_path / "training.png").stat().st_size > 50_000


def test_there_are_examples_and_the_two_commands_are_one_line_each():
    assert len(EXAMPLES) >= 3
    for kind in ("demo", "test"):
        block = re.search(rf"<!-- {kind} command -->\n```bash\n(.*?)```", README.read_text(), re.DOTALL)
        assert block is not None
        assert block[1].count("\n") == 1


def test_every_file_that_the_readme_links_to_is_there():
    for target in re.findall(r"\]\((\S+?)\)", README.read_text()):
        assert (README.parent / target).exists(), target
