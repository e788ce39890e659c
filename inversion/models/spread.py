"""Spread a model over the devices of one machine."""

from typing import Any

from accelerate import dispatch_model, infer_auto_device_map
from accelerate.utils import get_balanced_memory
from transformers import PreTrainedModel

from inversion.errors import InputError, first_line


def spread(model: PreTrainedModel, device_map: str | dict[str, Any], *, force_hooks: bool = False) -> PreTrainedModel:
    """Put the parts of a model onto several devices; every part then fetches its inputs to its own.

    Args:
        model: A loaded model.
        device_map: ``"auto"`` fills all GPUs evenly and keeps every block whole; or which module goes where, as in
            ``accelerate``.
        force_hooks: Fetch inputs also where there is one device only.

    Raises:
        InputError: The map cannot be followed, or the devices do not hold the model.
    """
    hf_model: Any = model
    if device_map == "auto":
        whole = list(hf_model._no_split_modules or [])
        room = get_balanced_memory(hf_model, no_split_module_classes=whole)
        device_map = infer_auto_device_map(hf_model, max_memory=room, no_split_module_classes=whole)
    if not isinstance(device_map, dict):
        raise InputError(f"device map {device_map!r} is not known; give auto, or a dictionary of modules and devices.")
    places = {str(place) for place in device_map.values()}
    if "disk" in places or ("cpu" in places and len(places) > 1):
        raise InputError(
            "the GPUs do not hold the model, and weights kept elsewhere are not probed; use a smaller dtype."
        )
    try:
        return dispatch_model(hf_model, device_map, force_hooks=force_hooks)  # pyright: ignore[reportReturnType]
    except (ValueError, RuntimeError, AssertionError) as error:
        raise InputError(f"the device map cannot be followed: {first_line(error)}; use auto.") from error
