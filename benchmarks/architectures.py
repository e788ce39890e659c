"""Probe a tiny random model of every architecture and hold it against autograd on its weights.

python benchmarks/architectures.py            # prints the table
python benchmarks/architectures.py --write    # puts it into docs/architectures.md
"""

import argparse
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM

import inversion
from inversion.probes.capture import PROJECTIONS, attention_layers
from inversion.probes.gradients import plan_for

DOCS = Path(__file__).parents[1] / "docs" / "architectures.md"
TILED = {"gemma2", "gpt_oss"}
"""Soft caps and sinks, which no fused kernel of torch knows."""
TOKENS = [3, 17, 5, 40, 21, 8, 33, 12, 29, 6, 45, 2, 19]
PROMPT = 4

SIZE = {
    "vocab_size": 48,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 1,
}
EXPERTS = {"num_local_experts": 4, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
GPT2_SIZE = {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 64}
SMALL_ROPE = {"qk_nope_head_dim": 8, "qk_rope_head_dim": 8, "v_head_dim": 8, "kv_lora_rank": 8, "q_lora_rank": 8}


@dataclass(frozen=True)
class Case:
    """One architecture: what it adds to the others, its model type and its configuration."""

    trait: str
    model_type: str
    settings: dict


CASES = [
    Case("fused, transposed q, k, v", "gpt2", GPT2_SIZE),
    Case(
        "local attention",
        "gpt_neo",
        {"attention_types": [[["global", "local", "global"], 1]], "num_layers": 3, "num_heads": 4, "window_size": 4},
    ),
    Case("parallel attention", "gptj", {**GPT2_SIZE, "rotary_dim": 4}),
    Case("interleaved fused q, k, v", "gpt_neox", {}),
    Case("biases, learned positions", "opt", {"ffn_dim": 48, "word_embed_proj_dim": 32}),
    Case("ALiBi", "bloom", {"n_head": 4, "n_layer": 3}),
    Case("one key-value head", "falcon", {"multi_query": True, "new_decoder_architecture": False}),
    Case("fused q, k, v in blocks", "codegen", {**GPT2_SIZE, "rotary_dim": 4}),
    Case("partial rotary, parallel", "phi", {"num_key_value_heads": 4}),
    Case("fused q, k, v; fused gate", "phi3", {}),
    Case("grouped key-values", "llama", {}),
    Case("sliding window", "mistral", {"sliding_window": 5}),
    Case("mixture of experts", "mixtral", EXPERTS),
    Case("biases on q, k, v", "qwen2", {}),
    Case("norms on q and k", "qwen3", {}),
    Case("shared expert", "qwen2_moe", {**EXPERTS, "shared_expert_intermediate_size": 16}),
    Case("norms on q and k, experts", "qwen3_moe", EXPERTS),
    Case("tied embeddings, wide heads", "gemma", {}),
    Case("soft caps, post-norms", "gemma2", {"sliding_window": 5}),
    Case("local and global rotary", "gemma3_text", {"sliding_window": 5}),
    Case("no norm parameters", "olmo", {}),
    Case("post-norm only", "olmo2", {}),
    Case("norms before heads, experts", "olmoe", EXPERTS),
    Case("partial rotary, layer norm", "stablelm", {}),
    Case("sliding window, biases", "starcoder2", {"sliding_window": 5}),
    Case("parallel, scaled logits", "cohere", {}),
    Case("scaled residuals and logits", "granite", {"residual_multiplier": 0.5, "logits_scaling": 2.0}),
    Case("interleaved rotary", "glm", {"pad_token_id": 1}),
    Case("layers without rotary", "smollm3", {"no_rope_layers": [1, 0, 1]}),
    Case("attention sinks, experts", "gpt_oss", {**EXPERTS, "sliding_window": 5}),
    Case("squared ReLU", "nemotron", {}),
    Case(
        "latent attention",
        "deepseek_v3",
        {
            **SMALL_ROPE,
            "num_key_value_heads": 4,
            "n_routed_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 16,
            "n_group": 2,
            "topk_group": 1,
            "first_k_dense_replace": 3,
        },
    ),
    Case("convolutions and attention", "lfm2", {"layer_types": ["conv", "full_attention", "conv"]}),
    Case(
        "state space and attention",
        "jamba",
        {
            "attn_layer_period": 2,
            "attn_layer_offset": 1,
            "expert_layer_period": 2,
            "expert_layer_offset": 1,
            "num_experts": 2,
            "mamba_d_state": 4,
            "mamba_d_conv": 2,
            "use_mamba_kernels": False,
        },
    ),
    Case(
        "state space and attention in one block",
        "falcon_h1",
        {"mamba_d_ssm": 32, "mamba_n_heads": 4, "mamba_d_head": 8, "mamba_d_state": 4, "mamba_chunk_size": 8},
    ),
    Case("state space only", "mamba", {"state_size": 4}),
    Case("one key-value head, fused", "gpt_bigcode", GPT2_SIZE),
    # Settings of architectures above that TransformerLens's bridges do not know.
    Case("scores that are not scaled", "gpt2", {**GPT2_SIZE, "scale_attn_weights": False}),
    Case("`multi_query` off", "gpt_bigcode", {**GPT2_SIZE, "multi_query": False}),
    Case("ALiBi", "falcon", {"alibi": True, "multi_query": False, "new_decoder_architecture": False, "bias": True}),
    Case("grouped key-values", "falcon", {"new_decoder_architecture": True, "num_kv_heads": 2}),
    Case("no biases in attention", "gpt_neox", {"attention_bias": False}),
    Case("norms on q and k", "phi", {"num_key_value_heads": 4, "qk_layernorm": True}),
]


def draw_model(case: Case) -> torch.nn.Module:
    """Draw a model whose weights are large enough for every path through it to matter."""
    known = AutoConfig.for_model(case.model_type)
    settable = {
        name for name in SIZE if hasattr(known, name) and not isinstance(getattr(type(known), name, 0), property)
    }
    settings = {name: SIZE[name] for name in settable} | case.settings
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(case.model_type, **settings)).eval()
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1 and "A_log" not in name:
            torch.nn.init.normal_(parameter, std=0.15)
    return model


def largest_error(model: torch.nn.Module, bridge, capture) -> float:
    """Compare nuclear and Frobenius norms with autograd on the bridge's own projection weights."""
    keys = [(layer, name) for layer in attention_layers(bridge) for name in PROJECTIONS]
    weights = [getattr(bridge.blocks[layer].attn, name).original_component.weight for layer, name in keys]
    for weight in weights:
        weight.requires_grad_(True)
    logits = bridge.original_model(input_ids=torch.tensor([TOKENS]), use_cache=False).logits[0]
    worst = 0.0
    for i, token in enumerate(TOKENS[PROMPT:]):
        gradients = torch.autograd.grad(logits[PROMPT + i - 1, token], weights, retain_graph=True, allow_unused=True)
        for (layer, name), gradient in zip(keys, gradients, strict=True):
            values = torch.linalg.svdvals(gradient)
            for norm, expected in (("nuclear", values.sum()), ("frobenius", values.norm())):
                found = float(capture[norm].sel(layer=layer, projection=name)[i])
                worst = max(worst, abs(found - float(expected)) / float(expected))
    return worst


def row(case: Case) -> str:
    """Probe one architecture and return its line of the table."""
    try:
        model = draw_model(case)
        bridge = inversion.load_model(model)
        probed = attention_layers(bridge)
        capture = inversion.probe(bridge, TOKENS[:PROMPT], TOKENS[PROMPT:])
    except inversion.InputError as error:
        return f"| {case.model_type} | {case.trait} | no | | | {error} |"
    plan = plan_for(bridge)
    error = largest_error(model, bridge, capture)
    notes = []
    if len(probed) < len(bridge.blocks):
        notes.append(f"layers {', '.join(map(str, probed))} of {len(bridge.blocks)}")
    if plan.method == "whole":
        notes.append("whole graph")
    elif plan.method == "cut":
        notes.append("no shortcut in the last block")
    if not plan.batched:
        notes.append("one token at a time")
    attention = "with pattern" if not plan.piecewise else "tiled" if case.model_type in TILED else "fused"
    return f"| {case.model_type} | {case.trait} | yes | {error:.0e} | {attention} | {'; '.join(notes)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="put the table into docs/architectures.md")
    parser.add_argument("--only", default="", help="comma-separated model types")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    lines = [
        "| model type | what it adds | probed | largest relative error | attention | notes |",
        "|---|---|---|---|---|---|",
    ]
    for case in CASES:
        if not options.only or case.model_type in options.only.split(","):
            lines.append(row(case))
            print(lines[-1], flush=True)
    if options.write:
        head = DOCS.read_text().split("<!-- table -->")[0]
        DOCS.write_text(head + "<!-- table -->\n\n" + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
