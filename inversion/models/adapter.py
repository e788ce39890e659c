"""PEFT adapters: a folder of a few extra weights, merged onto the model they were trained for."""

import json
import warnings
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from inversion.errors import InputError, first_line
from inversion.models.checkpoint import ADAPTER, ADAPTER_WEIGHTS, INDEX, WEIGHTS, check_folder


def base_of(folder: Path) -> tuple[str, str | None]:
    """Return the model an adapter was trained for: a folder, also one beside the adapter, or a hub id with a revision.

    The revision is None where the adapter names none, and for a folder, which has none.
    """
    path = folder / ADAPTER
    if any((folder / name).is_file() for name in (WEIGHTS, INDEX)):
        raise InputError(f"{folder} holds a model and an adapter; put them into folders of their own.")
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
        base, revision = settings["base_model_name_or_path"], settings.get("revision")
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} does not name the adapter's base; add base_model_name_or_path.") from error
    if not isinstance(base, str) or not base or (folder / base).resolve() == folder.resolve():
        raise InputError(f"{path} does not name the adapter's base; fill in base_model_name_or_path.")
    if (folder / base).is_dir():
        return str(folder / base), None
    return base, None if Path(base).expanduser().is_dir() else revision


def merge_adapter(base: PreTrainedModel, folder: Path) -> PreTrainedModel:
    """Return the base with the adapter's weights added to its own.

    Raises:
        InputError: peft is not installed, or the adapter does not fit the base.
    """
    try:
        from peft import PeftModel
    except ModuleNotFoundError as error:
        raise InputError(f"{folder} is a PEFT adapter; install peft to merge it onto its base.") from error
    check_folder(folder, ADAPTER_WEIGHTS, "")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            model: Any = PeftModel.from_pretrained(base, str(folder))
            merged = model.merge_and_unload()
        except Exception as error:  # An adapter may ask anything of a model.
            raise InputError(
                f"the adapter {folder} does not fit its base: {first_line(error)}; give the base it was trained for."
            ) from error
    missing = [w for w in caught if "missing adapter keys" in str(w.message)]
    if missing:
        raise InputError(f"the adapter {folder} lacks weights that its configuration names; save it again.")
    return merged
