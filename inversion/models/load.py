"""Load a causal language model, from anywhere, as a TransformerLens bridge.

Weights stay raw: nothing is folded or centred, since that would change the gradients that are measured.
"""

import os
from pathlib import Path
from typing import Any

import torch
from transformer_lens.model_bridge import TransformerBridge
from transformers import PreTrainedModel

from inversion.errors import InputError, first_line
from inversion.models.adapter import base_of, merge_adapter
from inversion.models.bridge import as_bridge, skeleton
from inversion.models.checkpoint import Place, locate, refuse_quantised
from inversion.models.spread import spread
from inversion.models.weights import load_config, load_tokenizer, load_weights, provenance, random_model, require_causal

DTYPES = {
    "float32": torch.float32,
    "float64": torch.float64,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


def load_model(
    source: str | os.PathLike[str] | PreTrainedModel | TransformerBridge,
    device: str = "auto",
    dtype: str | torch.dtype = "float32",
    *,
    tokenizer: Any = None,
    revision: str | None = None,
    gguf_file: str | None = None,
    trust_remote_code: bool = False,
    random_weights: bool = False,
    seed: int = 0,
    device_map: str | dict[str, Any] | None = None,
) -> TransformerBridge:
    """Return ``source`` as a ``TransformerBridge`` in evaluation mode.

    Args:
        source: A Hugging Face hub id, a local folder, the name of a shipped model (``"fast"``, ``"half"``,
            ``"slow"``), ``"smollm2"`` (see ``inversion.models.smollm2``), a ``.gguf`` file, the folder of a PEFT
            adapter, which is merged onto its base, or a loaded Hugging Face causal language model. A loaded model keeps
            its device and dtype, is left as it is, and shares its parameters with the bridge: later training steps show
            through. A bridge is returned unchanged.
        device: ``"auto"`` takes a CUDA device where there is one, else the CPU.
        dtype: One of ``float32``, ``float64``, ``bfloat16``, ``float16``.
        tokenizer: Replaces the tokenizer found beside the weights; a loaded model has none of its own.
        revision: Branch, tag or commit of a hub model; of its base for an adapter, in place of the one it names itself.
        gguf_file: Name of a GGUF file in the folder or hub repository; it is dequantised, and a run says so.
        trust_remote_code: Run Python code that comes with the checkpoint. Off unless asked for.
        random_weights: Keep the architecture but draw new weights with ``seed``: the control model.
        seed: Seed of ``random_weights``.
        device_map: Spread the model over the devices of this machine instead: ``"auto"``, or which module goes where;
            see ``inversion.models.spread``.

    Raises:
        InputError: Nothing is there, it is not a causal language model, its weights are pickled, quantised, damaged
            or not those that its configuration describes, or the architecture has no TransformerLens bridge.
    """
    if isinstance(source, TransformerBridge):
        return source
    if isinstance(source, PreTrainedModel):
        require_causal(source.config, type(source).__name__, type(source).__name__)
        _require_plain(source)
        name = source.config.name_or_path or type(source).__name__
        return as_bridge(skeleton(source), name, tokenizer, trained=True)
    if isinstance(source, torch.nn.Module):
        raise InputError(
            f"{type(source).__name__} is not a Hugging Face causal language model; load it with "
            "AutoModelForCausalLM first, or give its folder or hub id."
        )
    model, found = load_checkpoint(
        source,
        device if device_map is None else "cpu",
        dtype,
        revision=revision,
        gguf_file=gguf_file,
        trust_remote_code=trust_remote_code,
        random_weights=random_weights,
        seed=seed,
    )
    if device_map is not None:
        model = spread(model, device_map)
    label = str(source) + (" (random weights)" if random_weights else "")
    return as_bridge(model, label, found if tokenizer is None else tokenizer)


def load_checkpoint(
    source: str | os.PathLike[str],
    device: str = "auto",
    dtype: str | torch.dtype = "float32",
    *,
    revision: str | None = None,
    gguf_file: str | None = None,
    trust_remote_code: bool = False,
    random_weights: bool = False,
    seed: int = 0,
) -> tuple[PreTrainedModel, Any]:
    """Return the Hugging Face model and the tokenizer that ``load_model`` puts into a bridge.

    The arguments are those of ``load_model``. The tokenizer is None where the checkpoint has none.
    """
    place, wanted, target = locate(source, gguf_file), _dtype(dtype), _device(device)
    if place.adapter:
        return _load_adapted(
            Path(place.name),
            target,
            {
                "dtype": dtype,
                "revision": revision,
                "trust_remote_code": trust_remote_code,
                "random_weights": random_weights,
                "seed": seed,
            },
        )
    if revision is not None and place.local:
        raise InputError(f"{source} is a folder or file, which has no revision {revision}; leave the revision out.")
    options: dict[str, Any] = {
        "revision": revision,
        "trust_remote_code": trust_remote_code,
        "local_files_only": place.local,
        **({"gguf_file": place.gguf_file} if place.gguf_file else {}),
    }
    config = load_config(place, options)
    if random_weights:
        model = random_model(config, wanted, seed, trust_remote_code)
    else:
        model = load_weights(place, config, wanted, options)
        model.provenance = provenance(place)  # pyright: ignore
    return model.to(target), load_tokenizer(place, options)  # pyright: ignore[reportArgumentType]


def _load_adapted(folder: Path, device: torch.device, options: dict[str, Any]) -> tuple[PreTrainedModel, Any]:
    """Load the base of an adapter and merge the adapter onto it, unless the weights are to be random."""
    base, revision = base_of(folder)
    try:
        model, tokenizer = load_checkpoint(base, "cpu", **{**options, "revision": options["revision"] or revision})
    except InputError as error:
        raise InputError(f"the base of the adapter {folder} cannot be loaded: {error}") from error
    if not options["random_weights"]:
        model = merge_adapter(model, folder)
        model.provenance = {"adapter": str(folder), "base": base}  # pyright: ignore
    own = load_tokenizer(Place(str(folder), True), {"local_files_only": True})
    return model.to(device), own or tokenizer  # pyright: ignore[reportArgumentType]


def _require_plain(model: PreTrainedModel) -> None:
    """Refuse a loaded model whose weights are still quantised."""
    stored = {p.dtype for p in model.parameters() if not p.is_floating_point() or p.dtype.itemsize < 2}
    if stored:
        refuse_quantised(type(model).__name__, ", ".join(sorted(map(str, stored))))


def _dtype(dtype: str | torch.dtype) -> torch.dtype:
    if isinstance(dtype, torch.dtype):
        return dtype
    if dtype not in DTYPES:
        raise InputError(f"unknown dtype {dtype!r}; choose one of {', '.join(DTYPES)}.")
    return DTYPES[dtype]


def _device(device: str) -> torch.device:
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"device {device!r} is not available here: {first_line(error)}; use auto or cpu.") from error
    return chosen
