"""The order of rooms that CONTRIBUTING states: who imports whom, and who may load torch."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "inversion"
FRONT = {"__init__", "__main__"}
"""The public face: it looks everything up when it is asked for."""
HEAVY = {"torch", "transformers", "transformer_lens", "trl", "peft"}


def table() -> list[tuple[set[str], bool]]:
    """The lines of CONTRIBUTING's table, from the ground up: rooms, and whether they may load torch."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    rows = [line.split("|")[1:3] for line in text.splitlines() if re.match(r"\| `", line)]
    return [(set(re.findall(r"`(\w+)`", rooms)), torch.strip() == "yes") for rooms, torch in rows]


TABLE = table()
LEVEL = {room: level for level, (rooms, _) in enumerate(TABLE) for room in rooms}
MODULES = sorted(PACKAGE.rglob("*.py"))


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path, *, at_once: bool = False) -> Iterator[str]:
    """Every module that a file names in an import, inside functions too unless ``at_once``."""
    todo: list[ast.AST] = [ast.parse(path.read_text(encoding="utf-8"))]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports by a relative name"
            module = node.module or ""
            yield from (f"{module}.{name.name}" for name in node.names) if module == "inversion" else [module]
        elif isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif not (at_once and (isinstance(node, ast.FunctionDef | ast.Lambda) or _for_types_only(node))):
            todo.extend(ast.iter_child_nodes(node))


def _for_types_only(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def rooms_imported(path: Path) -> set[str]:
    return {name.split(".")[1] for name in imports(path) if name.startswith("inversion.")} - {room_of(path)}


def test_the_table_lists_every_room():
    assert len(TABLE) > 10
    assert not {room_of(path) for path in MODULES} - FRONT - set(LEVEL)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_run_downward(path):
    if room_of(path) in FRONT:
        return
    upward = {room for room in rooms_imported(path) if LEVEL.get(room, -1) > LEVEL[room_of(path)]}
    assert not upward, f"{path.relative_to(ROOT)} imports {upward}, which CONTRIBUTING lists below {room_of(path)}"


def test_no_two_rooms_import_each_other():
    above = {room: set() for room in LEVEL}
    for path in MODULES:
        if room_of(path) not in FRONT:
            above[room_of(path)] |= rooms_imported(path) & set(LEVEL)
    while free := {room for room, others in above.items() if not others}:
        above = {room: others - free for room, others in above.items() if room not in free}
    assert not above, f"these rooms import each other in a circle: {above}"


def test_only_rooms_that_may_do_so_load_torch():
    light = {room for rooms, torch in TABLE if not torch for room in rooms}
    for path in MODULES:
        if room_of(path) in light:
            loaded = {name.split(".")[0] for name in imports(path, at_once=True)} & HEAVY
            assert not loaded, f"{path.relative_to(ROOT)} loads {loaded}"


def test_the_checks_see_what_they_look_for(tmp_path):
    path = tmp_path / "room.py"
    path.write_text(
        "from inversion import cli\nfrom typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import torch\n"
        "def f():\n    import trl.trainer\n    from inversion.bench import table\n"
    )
    assert set(imports(path)) == {"inversion.cli", "typing", "torch", "trl.trainer", "inversion.bench"}
    assert set(imports(path, at_once=True)) == {"inversion.cli", "typing"}
