"""Files and folders that are written whole or not at all."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any


def put(path: Path, write: Callable[[Path], Any]) -> None:
    """Let ``write`` make a file or folder beside its place, and move it there in one step.

    A file of that name is replaced; a folder that is there stays as it is.
    """
    part = path.with_name(f".{path.name}.part")
    path.parent.mkdir(parents=True, exist_ok=True)
    if part.is_dir():
        shutil.rmtree(part)
    if not path.is_dir():
        write(part)
        os.replace(part, path)
