"""What the README shows, run as it stands."""

import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md"))]
EXAMPLES = {
    f"{page.name}-{number}": block
    for page in PAGES
    for number, block in enumerate(re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL))
    if page == README
    or (re.match("import|from", block) and block not in README.read_text())  # else: a part of another one
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_example_runs_in_a_process_of_its_own(name, tmp_path):
    trainer = re.search(r"^(?:import|from) (lightning|accelerate|transformers)", EXAMPLES[name], re.MULTILINE)
    if trainer and find_spec(trainer[1]) is None:
        pytest.skip(f"needs the extra {trainer[1]!r}")
    program = tmp_path / "example.py"
    program.write_text(EXAMPLES[name])
    done = subprocess.run(
        [sys.executable, program], cwd=tmp_path, capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stderr
    assert trainer or done.stderr == ""  # those say what they like
    if name == "README.md-0":
        assert (tmp_path / "torchdali_show.png").stat().st_size > 50_000


def test_there_are_examples_and_the_two_commands_are_one_line_each():
    assert sum(name.startswith("README") for name in EXAMPLES) >= 3
    for kind in ("demo", "test"):
        block = re.search(rf"<!-- {kind} command -->\n```bash\n(.*?)```", README.read_text(), re.DOTALL)
        assert block is not None
        assert block[1].count("\n") == 1


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_file_that_is_linked_to_is_there(page):
    for target in re.findall(r"\]\((?!https?:)([^)#\s]+)", page.read_text()):
        assert (page.parent / target).exists(), target
