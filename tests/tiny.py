"""Random causal language models small enough to differentiate by hand."""

import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    GPT2Config,
    GPTJConfig,
    GPTNeoConfig,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    OPTConfig,
    PhiConfig,
    Qwen2Config,
    Qwen3Config,
)

VOCABULARY = 53

_COMMON = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 1,
}
_GROUPED = {**_COMMON, "num_key_value_heads": 2, "head_dim": 8}

FAMILIES = {
    # What each adds to the others: fused and transposed weights; grouped key-values; biases; norms on q and k; soft
    # caps, post-norms and alternating windows; parallel attention with interleaved fused weights; sliding windows.
    "gpt2": lambda **o: GPT2Config(
        n_embd=32, n_layer=3, n_head=4, n_positions=64, bos_token_id=0, eos_token_id=1, pad_token_id=1, **o
    ),
    "llama": lambda **o: LlamaConfig(**{**_GROUPED, **o}),
    "qwen2": lambda **o: Qwen2Config(**{**_GROUPED, **o}),
    "qwen3": lambda **o: Qwen3Config(**{**_GROUPED, **o}),
    "gemma2": lambda **o: Gemma2Config(
        **{**_GROUPED, "sliding_window": 6, "attn_logit_softcapping": 5.0, "final_logit_softcapping": 8.0, **o}
    ),
    "gpt_neox": lambda **o: GPTNeoXConfig(**{**_COMMON, **o}),
    "mistral": lambda **o: MistralConfig(**{**_GROUPED, "sliding_window": 6, **o}),
}


# Met in training only.
TRAINED = {
    # Blocks that return tuples.
    "gpt_neo": lambda **o: GPTNeoConfig(
        hidden_size=32,
        intermediate_size=48,
        num_layers=2,
        num_heads=4,
        attention_types=[[["global", "local"], 1]],
        window_size=6,
        max_position_embeddings=64,
        **{"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1, **o},
    ),
    "gptj": lambda **o: GPTJConfig(
        n_embd=32,
        n_inner=48,
        n_layer=2,
        n_head=4,
        n_positions=64,
        rotary_dim=4,
        **{
            "bos_token_id": 0,
            "eos_token_id": 1,
            "pad_token_id": 1,
            "resid_pdrop": 0,
            "attn_pdrop": 0,
            "embd_pdrop": 0,
            **o,
        },
    ),
    # Positions counted from the mask, no rotary embedding, nothing computed in another precision than the weights'.
    "opt": lambda **o: OPTConfig(
        hidden_size=32,
        ffn_dim=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        word_embed_proj_dim=32,
        max_position_embeddings=64,
        dropout=0.0,
        **{"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1, **o},
    ),
    "phi": lambda **o: PhiConfig(**{**_COMMON, "qk_layernorm": True, **o}),
}


def tiny_model(family: str, *, seed: int = 0, dtype: torch.dtype = torch.float32, **overrides):
    """Draw a model whose weights are large enough for every path through it to matter."""
    config = {**FAMILIES, **TRAINED}[family](**{"vocab_size": VOCABULARY, **overrides})
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, dtype=dtype).eval()
        for name, parameter in model.named_parameters():
            is_scale = parameter.ndim == 1 and name.endswith("weight")
            # Drawn alike for all precisions below double, so that half a model is the rounded whole one.
            drawn = torch.float64 if dtype == torch.float64 else torch.float32
            parameter.data.copy_(torch.normal(float(is_scale), 0.15, parameter.shape, dtype=drawn))
    return model


def token_ids(count: int, seed: int = 0, vocabulary: int = VOCABULARY) -> list[int]:
    return torch.randint(2, vocabulary, (count,), generator=torch.Generator().manual_seed(seed)).tolist()
