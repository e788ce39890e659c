"""A policy whose parameters are split among processes, put together for as long as a rollout lasts.

FSDP2 and ZeRO-3 leave each process a shard of every parameter, and gather them layer by layer in a forward pass that
all processes have to make together. Responses differ in length and number from process to process, so writing and
measuring them takes the parameters whole: each process then works by itself, as without sharding.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from transformers.integrations.deepspeed import set_hf_deepspeed_config, unset_hf_deepspeed_config

from inversion.corrpo.policy import forget_bridge, without_wrapper
from inversion.errors import InputError
from inversion.hooks import replaced
from inversion.models.bridge import skeleton


def is_sharded(accelerator: Any, asked: bool = False) -> bool:
    """Whether processes hold shards of the parameters.

    Args:
        accelerator: The trainer's.
        asked: Whether the settings ask for FSDP.

    Raises:
        InputError: They do in a way that is not offered.
    """
    fsdp, deepspeed = (getattr(accelerator.state, name, None) for name in ("fsdp_plugin", "deepspeed_plugin"))
    if asked and fsdp is None and accelerator.num_processes > 1:
        raise InputError("accelerate shards parameters on GPUs only, and would leave FSDP out in silence; do so here.")
    if fsdp is not None:
        require_second(fsdp.fsdp_version)
        return True
    return deepspeed is not None and deepspeed.zero_stage == 3


def require_second(version: int) -> None:
    """Refuse FSDP of version 1, which keeps parameters in one flat tensor."""
    if version != 2:
        raise InputError("CorR-PO cannot read rho off FSDP of version 1; set its version to 2.")


def save_in_one_piece(accelerator: Any) -> None:
    """Let the trainer save a model whole, whatever the settings say; to be called before training."""
    fsdp, deepspeed = (getattr(accelerator.state, name, None) for name in ("fsdp_plugin", "deepspeed_plugin"))
    if fsdp is not None:
        fsdp.set_state_dict_type("FULL_STATE_DICT")
    if deepspeed is not None:
        deepspeed.deepspeed_config["zero_optimization"]["stage3_gather_16bit_weights_on_model_save"] = True


@contextmanager
def loading_whole(args: Any) -> Iterator[None]:
    """Load and run models whole inside: while settings of ZeRO-3 exist, transformers splits up every model."""
    settings = getattr(args, "hf_deepspeed_config", None)
    if settings is None:
        yield
        return
    unset_hf_deepspeed_config()
    try:
        yield
    finally:
        set_hf_deepspeed_config(settings)


class Whole:
    """A copy of a policy's modules, whose parameters are empty but inside :meth:`gathered`.

    Args:
        policy: The policy, before its parameters are split up.
    """

    def __init__(self, policy: nn.Module) -> None:
        # What patches the forward of the policy would make a copy run the policy.
        with replaced({policy: None, without_wrapper(policy): None}):
            self.model: Any = skeleton(policy)  # pyright: ignore[reportArgumentType]
        own: dict[int, nn.Parameter] = {}
        for module in self.model.modules():
            for name, parameter in module._parameters.items():
                if parameter is not None:  # tied ones stay tied
                    empty = nn.Parameter(parameter.new_empty(0), parameter.requires_grad)
                    module._parameters[name] = own.setdefault(id(parameter), empty)

    @contextmanager
    def gathered(self, policy: nn.Module) -> Iterator[Any]:
        """Yield the copy, holding the parameters that the policy has now, whole; all processes have to take part."""
        pairs = self._pairs(policy)
        self.model.train(policy.training)
        try:
            for own, shard in pairs:
                own.data = _full(shard)
            yield self.model
        finally:
            forget_bridge(self.model)
            for own, _ in pairs:
                own.data = own.new_empty(0)

    def _pairs(self, policy: nn.Module) -> list[tuple[nn.Parameter, nn.Parameter]]:
        shards = dict(policy.named_parameters())
        own = dict(self.model.named_parameters())
        if list(own) != list(shards):
            raise InputError(
                "the policy's modules were wrapped when its parameters were split up, so they cannot be told; leave "
                "out activation checkpointing of FSDP (gradient_checkpointing does the same) and torch_compile."
            )
        for name, buffer in policy.named_buffers():  # they are moved to the device with the policy
            module, _, last = name.rpartition(".")
            self.model.get_submodule(module)._buffers[last] = buffer
        return [(own[name], shards[name]) for name in own]


def _full(shard: nn.Parameter) -> torch.Tensor:
    """Return a parameter put together from the shards of all processes; ones that are whole as they are."""
    if hasattr(shard, "full_tensor"):
        return shard.detach().full_tensor()  # pyright: ignore[reportAttributeAccessIssue]
    if hasattr(shard, "ds_id"):
        import deepspeed  # pyright: ignore[reportMissingImports]

        with deepspeed.zero.GatheredParameters([shard]):
            return shard.detach().clone()
    return shard.detach()
