"""Checkpoints on disk: where they are, and whether their files are what they claim to be, before anything is loaded."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inversion.errors import InputError, first_line
from inversion.shipped import MODELS, SMOLLM2

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
PROVENANCE = "provenance.json"
"""Beside converted weights: what they were made from, for the record."""
ADAPTER, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
LFS = b"version https://git-lfs.github.com/spec"
PLAIN_TYPES = frozenset({"F64", "F32", "F16", "BF16", "I64", "I32", "I16", "I8", "U8", "BOOL"})
"""What safetensors may hold of a model that is not quantised; the integers are buffers such as masks."""


@dataclass(frozen=True)
class Place:
    """Where a checkpoint is.

    name: A folder, or a hub id.
    local: Whether it is a folder; the network is then never asked.
    gguf_file: Name of the GGUF file in it that holds everything, or None.
    """

    name: str
    local: bool
    gguf_file: str | None = None

    @property
    def adapter(self) -> bool:
        """Whether the folder holds a PEFT adapter."""
        return self.local and not self.gguf_file and (Path(self.name) / ADAPTER).is_file()


def locate(source: str | os.PathLike[str], gguf_file: str | None = None) -> Place:
    """Return where ``source`` is.

    Args:
        source: Name of a shipped model, ``"smollm2"``, a folder, a ``.gguf`` file or a hub id.
        gguf_file: Name of a GGUF file inside the folder or hub repository.

    Raises:
        InputError: It looks like a path and nothing is there, or a folder without a model.
    """
    text = os.fspath(source)
    if text in MODELS:
        return Place(str(MODELS[text]), True)
    if text == SMOLLM2:
        from inversion.models.smollm2 import model_folder

        return Place(str(model_folder()), True)
    path = Path(text).expanduser()
    if path.suffix == ".gguf" and path.is_file():
        return Place(str(path.parent), True, path.name)
    if path.is_dir():
        place = Place(str(path), True, gguf_file)
        if gguf_file is not None and not (path / gguf_file).is_file():
            raise InputError(f"{text} holds no file {gguf_file}; name one of its GGUF files.")
        if not (gguf_file or place.adapter or (path / "config.json").is_file()):
            raise InputError(f"{text} holds no config.json; give a folder in Hugging Face format.")
        return place
    looks_local = path.is_absolute() or text.startswith((".", "~")) or text.count("/") > 1 or path.exists()
    if looks_local:
        raise InputError(f"there is no model folder {text}; give a folder in Hugging Face format or a hub id.")
    return Place(text, False, gguf_file)


def check_folder(folder: Path, weights: str = WEIGHTS, index: str = INDEX) -> None:
    """Make sure that a folder's weights are whole, plain and its own.

    Raises:
        InputError: The weights are pickled, missing, cut short, quantised, kept elsewhere, or mere git-lfs pointers.
    """
    for path in sorted(folder.glob("*.json")):
        refuse_pointer(path)
    files = [folder / weights] if (folder / weights).exists() else _shards(folder, index)
    if not files:
        raise InputError(
            f"{folder} has no {weights}; only safetensors files are read, since other formats can run code when they "
            "are opened: save the model again with save_pretrained."
        )
    for path in files:
        _check_safetensors(path)


def refuse_pointer(path: Path) -> None:
    """Refuse what git stores in place of a large file."""
    with path.open("rb") as file:
        if file.read(len(LFS)) == LFS:
            raise InputError(f"{path} is a git-lfs pointer, not the file itself; run git lfs pull in its folder.")


def _shards(folder: Path, index: str) -> list[Path]:
    """Return the files that an index of shards names."""
    path = folder / index
    if not path.is_file():
        return []
    try:
        names = sorted(set(json.loads(path.read_text(encoding="utf-8"))["weight_map"].values()))
        files = [folder / name for name in names]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path} is damaged ({first_line(error)}); download it again.") from error
    for name, file in zip(names, files, strict=True):
        if Path(name).name != name:
            raise InputError(
                f"{path} names the file {name}, which is not in its folder; correct it or download it again."
            )
        if not file.is_file():
            raise InputError(f"{file} is missing, though {index} names it; download it again.")
    return files


def _check_safetensors(path: Path) -> None:
    """Compare the length of a file with what its header says, and look for types that plain weights do not have."""
    refuse_pointer(path)
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > size - 8:
            raise InputError(f"{path} is cut short or no safetensors file; download it again.")
        try:
            header: dict[str, Any] = json.loads(file.read(length))
            header.pop("__metadata__", None)
            end = max((entry["data_offsets"][1] for entry in header.values()), default=0)
            strange = {entry["dtype"] for entry in header.values()} - PLAIN_TYPES
        except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
            raise InputError(f"the header of {path} is damaged ({first_line(error)}); download it again.") from error
    if size != 8 + length + end:
        raise InputError(f"{path} has {size} bytes instead of {8 + length + end}; download it again.")
    if strange:
        refuse_quantised(str(path), ", ".join(sorted(strange)))


def refuse_quantised(name: str, how: str) -> None:
    """Refuse weights that are stored in fewer bits than can be differentiated."""
    raise InputError(
        f"{name} is quantised ({how}), so it has no plain weights to differentiate; give the unquantised checkpoint, "
        "one that was dequantised and saved again, or a GGUF file, which is dequantised when it is loaded."
    )
