"""The table of docs/decoding.md, made of what happens."""

import os
import re
from pathlib import Path

import torchdali
from tests.ops.decode.oddities import oddities, tensor
from torchdali import DecodeError
from torchdali.ops import DecodeImage
from torchdali.ops.decode._cpu import CpuDecoder
from torchdali.ops.decode._select import _ON_CUDA

DOCUMENT = Path(torchdali.__file__).parent.parent / "docs" / "decoding.md"
ON_CUDA = [candidate.name for candidate in _ON_CUDA]
COLUMNS = ["CPU", *(f"CUDA, {name}" for name in ON_CUDA)]
NOT_RUN = "not run"
TOLERANCE = 3.0  # mean difference in grey levels, of decoders that upsample chroma in different ways


def cpu_cell(data: bytes) -> str:
    try:
        (image,) = DecodeImage()([tensor(data)])
    except DecodeError as error:
        why = re.sub(r"^.* cannot be decoded: ", "", str(error))
        return "error: " + re.split(r"[;:(,]", why)[0].strip()
    return "x".join(map(str, image.shape))


def cuda_cell(data: bytes, decoder: str, monkeypatch) -> str:
    """How the result on CUDA compares with the CPU's, and which of the two decoded it."""
    by_cpu = []
    original = CpuDecoder.decode

    def spy(self, files, infos, mode, device):
        by_cpu.extend(infos)
        return original(self, files, infos, mode, device)

    expected = errors = None
    try:
        (expected,) = DecodeImage()([tensor(data)])
    except DecodeError as error:
        errors = str(error)
    with monkeypatch.context() as patch:
        patch.setattr(CpuDecoder, "decode", spy)
        try:
            (image,) = DecodeImage(decoder=decoder, device="cuda")([tensor(data)])
        except DecodeError as error:
            return "the same error" if str(error) == errors else f"another error: {error}"
    if expected is None:
        return "pixels, where the CPU has an error"
    if image.shape != expected.shape or image.device.type != "cuda":
        return f"{'x'.join(map(str, image.shape))} on {image.device}"
    difference = (image.cpu().int() - expected.int()).abs().float().mean().item()
    if difference >= TOLERANCE:
        return f"differs by {difference:.1f} grey levels on average"
    return "the same, from the CPU" if by_cpu else "the same, from the engine"


def read_table() -> dict[str, dict[str, str]]:
    """Cells by row and column, as they stand in the document."""
    rows = {}
    for line in _between()[1].splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 1 + len(COLUMNS) and cells[0] in oddities():
            rows[cells[0]] = dict(zip(COLUMNS, cells[1:], strict=True))
    return rows


def write_column(column: str, cells: dict[str, str]) -> None:
    """Put a column into the document's table; others stay."""
    before, _, after = _between()
    old = read_table()
    lines = ["| file | " + " | ".join(COLUMNS) + " |", "|---" * (1 + len(COLUMNS)) + "|"]
    for name in oddities():
        row = {**dict.fromkeys(COLUMNS, NOT_RUN), **old.get(name, {}), column: cells[name]}
        lines.append(f"| {name} | " + " | ".join(row[key] for key in COLUMNS) + " |")
    DOCUMENT.write_text(before + "\n".join(lines) + "\n" + after)


def _between() -> tuple[str, str, str]:
    start, end = "<!-- table -->\n", "<!-- end of table -->"
    before, rest = DOCUMENT.read_text().split(start)
    table, after = rest.split(end)
    return before + start, table, end + after


def write_is_wanted() -> bool:
    return os.environ.get("TORCHDALI_WRITE_DOCS") == "1"


__all__ = ["COLUMNS", "NOT_RUN", "ON_CUDA", "cpu_cell", "cuda_cell", "read_table", "write_column", "write_is_wanted"]
