"""The notebooks, executed in a real kernel, twice over in the same one."""

from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat", reason="needs the extra 'test'")
nbclient = pytest.importorskip("nbclient", reason="needs the extra 'test'")
pytest.importorskip("ipykernel", reason="needs the extra 'notebooks'")
pytest.importorskip("matplotlib", reason="needs the extra 'notebooks'")

FOLDER = Path(__file__).parent.parent / "notebooks"


def pictures(notebook):
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert not [output for output in outputs if output.output_type == "error"]
    return sum("image/png" in output.get("data", {}) for output in outputs)


def needs(path):
    """Skip where a library is not installed that a notebook is about."""
    if path.stem == "lightning":
        pytest.importorskip("lightning", reason="needs the extra 'lightning'")


@pytest.mark.slow
@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.ipynb")), ids=lambda path: path.stem)
def test_run_all_works_twice_in_one_kernel(path):
    needs(path)
    notebook = nbformat.read(path, as_version=4)
    stored = pictures(notebook)
    client = nbclient.NotebookClient(notebook, timeout=100, resources={"metadata": {"path": str(FOLDER)}})
    with client.setup_kernel():
        for _ in range(2):
            for index, cell in enumerate(notebook.cells):
                client.execute_cell(cell, index)
            assert pictures(notebook) == stored > 0


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.ipynb")), ids=lambda path: path.stem)
def test_notebooks_are_stored_executed_and_without_machine_paths(path):
    notebook = nbformat.read(path, as_version=4)
    assert pictures(notebook) > 0
    assert all(cell.execution_count for cell in notebook.cells if cell.cell_type == "code")
    text = path.read_text()
    assert "/home/" not in text
    assert "/tmp/" not in text
