"""The dumb way: autograd on the weights of the original Hugging Face model, token by token, then an SVD."""

import re

import torch


def projection_weights(model):
    """Return {(layer, projection): (parameter, function from its gradient to the projection's gradient)}."""
    found = {}
    for name, parameter in model.named_parameters():
        if not name.endswith("weight") or not (number := re.search(r"\.(\d+)\.", name)):
            continue
        layer = int(number.group(1))
        if re.search(r"attn\.[qkvo]_proj\.weight$", name):
            found[layer, name.split(".")[-2][0]] = parameter, lambda gradient: gradient
        elif re.search(r"(attn\.c_proj|attention\.dense)\.weight$", name):
            found[layer, "o"] = parameter, lambda gradient: gradient
        elif name.endswith("c_attn.weight"):
            for j, projection in enumerate("qkv"):
                found[layer, projection] = parameter, lambda gradient, j=j: gradient.chunk(3, dim=1)[j]
        elif name.endswith("query_key_value.weight"):
            heads = model.config.num_attention_heads
            for j, projection in enumerate("qkv"):
                found[layer, projection] = (
                    parameter,
                    lambda gradient, j=j, heads=heads: gradient.view(heads, 3, -1, gradient.shape[1])[:, j].flatten(
                        0, 1
                    ),
                )
    return found


def scalar(logits, token, quantity):
    if quantity == "logit":
        return logits[token]
    distribution = torch.distributions.Categorical(logits=logits)
    if quantity == "log_prob":
        return distribution.log_prob(torch.tensor(token))
    return distribution.entropy() / torch.log(torch.tensor(2.0, dtype=logits.dtype))


def weight_gradients(model, prompt, response, quantity="logit"):
    """Yield (token index, layer, projection, gradient of the token's scalar with respect to the weight)."""
    model.set_attn_implementation("eager")
    weights = projection_weights(model)
    tokens = torch.tensor([prompt + response])
    for i, token in enumerate(response):
        logits = model(input_ids=tokens).logits[0, len(prompt) + i - 1]
        gradients = torch.autograd.grad(
            scalar(logits, token, quantity), [p for p, _ in weights.values()], materialize_grads=True
        )
        for (key, (_, cut)), gradient in zip(weights.items(), gradients, strict=True):
            yield i, *key, cut(gradient)


def norms(gradient):
    values = torch.linalg.svdvals(gradient)
    return {
        "nuclear": values.sum().item(),
        "frobenius": values.square().sum().sqrt().item(),
        "spectral": values.max().item(),
        "l1": gradient.abs().sum().item(),
    }
