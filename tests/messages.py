"""The messages of the package's exceptions and warnings, collected from its source; what varies in them is "…"."""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torchdali

PACKAGE = Path(torchdali.__file__).parent
VALUE = "…"


class Message(NamedTuple):
    place: str
    kind: str
    """Name of the exception, or "warning"."""
    text: str


def messages() -> Iterator[Message]:
    """Of everything that is raised or warned of with a message of its own."""
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
                call, kind = node.exc, _name(node.exc.func)
            elif isinstance(node, ast.Call) and _name(node.func) == "warn":
                call, kind = node, "warning"
            else:
                continue
            text = _text(call.args[0]) if call.args else ""
            if any(part.strip(" .,;:") for part in text.split(VALUE)):
                yield Message(f"{path.relative_to(PACKAGE)}:{node.lineno}", kind, text)


def all_texts() -> list[str]:
    """Every string of the package that is no docstring: messages are also put together elsewhere than where they are raised."""
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        tree = ast.parse(path.read_text())
        inner = {id(value) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for value in node.values}
        found += [
            _text(node)
            for node in ast.walk(tree)
            if isinstance(node, ast.JoinedStr)
            or (isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inner)
        ]
    return found


def _name(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def _text(node: ast.expr) -> str:
    if isinstance(node, ast.Constant):
        return str(node.value) if isinstance(node.value, str) else VALUE
    if isinstance(node, ast.JoinedStr):
        return "".join(_text(value) for value in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return _text(node.left) + _text(node.right)
    if isinstance(node, ast.IfExp):
        return _text(node.body)
    return VALUE
