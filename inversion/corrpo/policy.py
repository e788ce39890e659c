"""Find one's way about a policy: its last layer, the model inside an adapter's wrapper, a bridge around it."""

import weakref
from typing import Any

import torch
from torch import nn

from inversion.errors import InputError
from inversion.hooks import replaced
from inversion.models import load_model


def last_projections(model: nn.Module) -> dict[str, nn.Module]:
    """Return the q and o projections of the last layer's attention.

    Raises:
        InputError: The last layer has no attention with separate projections, as where q, k and v are fused.
    """
    count = getattr(getattr(model, "config", None), "num_hidden_layers", None)
    for name, module in reversed(list(model.named_modules())):
        q = module._modules.get("q_proj")
        o = next((module._modules[n] for n in ("o_proj", "out_proj", "dense") if n in module._modules), None)
        if q is not None and o is not None:
            if str((count or 0) - 1) in name.split("."):
                return {"q": q, "o": o}
            break
    raise InputError(
        f"the last layer of {type(model).__name__} has no attention with separate q and o projections; take the exact "
        "signal with layers -1 instead."
    )


def decoder_layers(model: nn.Module) -> nn.ModuleList:
    """Return the list of layers, of whose last one :func:`last_projections` returns projections."""
    q = last_projections(model)["q"]
    for module in model.modules():
        if isinstance(module, nn.ModuleList) and len(module) and any(q is part for part in module[-1].modules()):
            return module
    raise InputError(f"{type(model).__name__} keeps its layers in no list; take the exact signal.")


_BRIDGES: weakref.WeakKeyDictionary[Any, Any] = weakref.WeakKeyDictionary()


def bridge_of(model: Any) -> Any:
    """Return the bridge that shares the policy's parameters, built on first use."""
    model = without_wrapper(model)
    if model not in _BRIDGES:
        _BRIDGES[model] = new_bridge(model)
    return _BRIDGES[model]


def new_bridge(model: Any, tokenizer: Any = None) -> Any:
    """Return a bridge that shares the policy's parameters and can write, given a tokenizer."""
    model = without_wrapper(model)
    # TRL and accelerate patch the instance's forward with closures over the policy. A copy would inherit them, run the
    # policy instead of itself, and no hook of the bridge would fire.
    with replaced({model: None}), torch.random.fork_rng():
        return load_model(model, tokenizer=tokenizer)


def forget_bridge(model: Any) -> None:
    """Let go of the policy's bridge, whose views of parameters hold as long as these stay where they are."""
    _BRIDGES.pop(without_wrapper(model), None)


def without_wrapper(model: Any) -> Any:
    """Return the model inside PEFT's wrapper, if any; adapters sit in its layers, so it computes what all do."""
    if not hasattr(model, "get_base_model"):
        return model
    if model.active_peft_config.is_prompt_learning:
        raise InputError("rho cannot be read behind learnt prompts, which shift the tokens; train adapters instead.")
    return model.get_base_model()
