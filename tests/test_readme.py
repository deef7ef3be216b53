"""What the README shows, run as it stands."""

import re
import select
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


TEMPLATE = """
import gc, os, runpy, sys
import torch, torchdali, torchdali.loader, torchdali.fn, torchvision.transforms.v2
gc.freeze()  # at the end of each, garbage is not looked for among what was imported
for line in sys.stdin:
    program, folder = line.rstrip("\\n").split("\\t")
    child = os.fork()
    if not child:
        os.chdir(folder)
        sys.argv = [program]
        for descriptor, name in enumerate((os.devnull, "out.txt", "err.txt")):
            os.dup2(os.open(name, os.O_RDONLY if name == os.devnull else os.O_WRONLY | os.O_CREAT), descriptor)
        runpy.run_path(program, run_name="__main__")
        break  # the interpreter ends as any other
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""
"""Makes processes that have done what takes most of an example's time: the imports."""


@pytest.fixture(scope="module")
def template():
    with subprocess.Popen(
        [sys.executable, "-c", TEMPLATE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as it:
        yield it
        it.stdin.close()


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_example_runs_in_a_process_of_its_own(name, tmp_path, template):
    trainer = re.search(r"^(?:import|from) (lightning|accelerate|transformers)", EXAMPLES[name], re.MULTILINE)
    if trainer and find_spec(trainer[1]) is None:
        pytest.skip(f"needs the extra {trainer[1]!r}")
    program = tmp_path / "example.py"
    program.write_text(EXAMPLES[name])
    if trainer:  # it may start processes by its own name, and says what it likes
        done = subprocess.run(
            [sys.executable, program], cwd=tmp_path, capture_output=True, text=True, timeout=100, check=False
        )
        assert done.returncode == 0, done.stderr
        return
    print(program, tmp_path, sep="\t", file=template.stdin, flush=True)
    assert select.select([template.stdout], [], [], 100)[0], "it hangs"
    code, said = int(template.stdout.readline()), (tmp_path / "err.txt").read_text()
    assert code == 0, said
    assert said == ""
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
