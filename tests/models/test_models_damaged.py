"""Checkpoints that are not what they should be: one sentence each, and never numbers drawn at random."""

import json
import shutil
import struct

import pytest
import safetensors.torch
import torch
from tiny import tiny_model
from tokenizers_tiny import byte_level

import inversion
from inversion import InputError


def model_folder(folder, **options):
    tiny_model("llama", vocab_size=257).save_pretrained(folder, **options)
    byte_level().save_pretrained(folder)
    return folder


def change_weights(folder, change):
    path = folder / "model.safetensors"
    safetensors.torch.save_file(change(safetensors.torch.load_file(path)), path, metadata={"format": "pt"})


def change_config(folder, **entries):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **entries}))


def without(part):
    return lambda weights: {name: w for name, w in weights.items() if part not in name}


def prefixed(prefix):
    return lambda weights: {prefix + name: w for name, w in weights.items()}


WEIGHTS = {
    "no head": (without("lm_head"), "lacks lm_head.weight"),
    "no query": (without("1.self_attn.q_proj"), r"lacks model.layers.1.self_attn.q_proj.weight;"),
    "module.": (prefixed("module."), r"lacks lm_head.weight, .* and holds, beyond its model, module.lm_head.weight"),
    "_orig_mod.": (prefixed("_orig_mod."), "beyond its model, _orig_mod.lm_head.weight"),
    "not a float": (
        lambda w: {**w, "lm_head.weight": w["lm_head.weight"].to(torch.float8_e4m3fn)},
        r"quantised \(F8_E4M3\)",
    ),
}


@pytest.mark.parametrize("fault", WEIGHTS)
def test_weights_that_do_not_fit_are_refused(fault, tmp_path):
    change, match = WEIGHTS[fault]
    change_weights(model_folder(tmp_path), change)
    with pytest.raises(InputError, match=match):
        inversion.load_model(tmp_path)
    # The control model needs no weights.
    assert inversion.load_model(tmp_path, random_weights=True)


@pytest.mark.parametrize(
    ("entries", "match"),
    [
        ({"num_hidden_layers": 4}, "lacks model.layers.3"),
        ({"num_hidden_layers": 2}, "beyond its model, model.layers.2"),
        ({"vocab_size": 300}, r"another shape than its config.json says, such as lm_head.weight with \[257, 32\]"),
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, r"quantised \(gptq\)"),
        ({"quantization_config": {"quant_method": "awq", "bits": 4}}, r"quantised \(awq\)"),
        ({"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}}, r"\(bitsandbytes"),
        ({"quantization_config": {"load_in_8bit": True}}, "is quantised"),
        ({"num_hidden_layers": "three"}, "cannot load"),
        ({"num_attention_heads": 0}, "cannot load"),
        ({"model_type": "no such type"}, "cannot load"),
    ],
)
def test_a_configuration_of_other_weights_is_refused(entries, match, tmp_path):
    change_config(model_folder(tmp_path), **entries)
    with pytest.raises(InputError, match=match):
        inversion.load_model(tmp_path)


def test_buffers_that_older_libraries_saved_are_no_fault(tmp_path):
    change_weights(
        model_folder(tmp_path), lambda w: {**w, "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}
    )
    assert inversion.load_model(tmp_path)


def test_tied_weights_need_no_head(tmp_path):
    tiny_model("llama", tie_word_embeddings=True).save_pretrained(tmp_path)
    assert "lm_head.weight" not in safetensors.torch.load_file(tmp_path / "model.safetensors")
    assert inversion.load_model(tmp_path)


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12\n"


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json", "generation_config.json"])
def test_a_git_lfs_pointer_is_named(name, tmp_path):
    (model_folder(tmp_path) / name).write_bytes(POINTER)
    with pytest.raises(InputError, match=f"{name} is a git-lfs pointer"):
        inversion.load_model(tmp_path)


@pytest.mark.parametrize(
    ("damage", "match"),
    [
        (lambda data: data[:-100], r"bytes instead of \d+; download it again"),
        (lambda data: data + b"0", "bytes instead of"),
        (lambda data: data[:40], "is cut short"),
        (lambda data: b"", "is cut short"),
        (lambda data: struct.pack("<Q", 2**60) + data[8:], "is cut short"),
        (lambda data: data[:8] + b"x" + data[9:], "header of .* is damaged"),
    ],
)
def test_a_damaged_weights_file_is_named(damage, match, tmp_path):
    path = model_folder(tmp_path) / "model.safetensors"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(InputError, match=f"model.safetensors.*{match}|{match}"):
        inversion.load_model(tmp_path)


def test_shards_load_and_a_missing_or_foreign_one_is_named(tmp_path):
    whole = inversion.load_model(model_folder(tmp_path / "whole"))
    folder = model_folder(tmp_path / "shards", max_shard_size="60KB")
    shards = sorted(folder.glob("model-*.safetensors"))
    assert len(shards) > 1
    tokens = torch.tensor([[5, 6, 7]])
    expected = whole.original_model(tokens).logits
    torch.testing.assert_close(inversion.load_model(folder).original_model(tokens).logits, expected)
    index = folder / "model.safetensors.index.json"
    shutil.move(shards[1], tmp_path / "elsewhere.safetensors")
    with pytest.raises(InputError, match=f"{shards[1].name} is missing"):
        inversion.load_model(folder)
    for outside in ("../elsewhere.safetensors", str(tmp_path / "elsewhere.safetensors")):
        map_ = json.loads(index.read_text())["weight_map"]
        moved = {k: outside if v in (shards[1].name, "../elsewhere.safetensors") else v for k, v in map_.items()}
        index.write_text(json.dumps({"metadata": {}, "weight_map": moved}))
        with pytest.raises(InputError, match="not in its folder"):
            inversion.load_model(folder)
        index.write_text(json.dumps({"metadata": {}, "weight_map": map_}))
    for text in ("{", "{}", '{"weight_map": 3}', '{"weight_map": {"a": 3}}', "[]"):
        index.write_text(text)
        with pytest.raises(InputError, match=r"index.json is damaged"):
            inversion.load_model(folder)


@pytest.mark.parametrize("text", ["{}", "{", "[]", '{"model": {"type": "BPE"}}'])
def test_a_damaged_tokenizer_is_one_sentence(text, tmp_path):
    (model_folder(tmp_path) / "tokenizer.json").write_text(text)
    with pytest.raises(InputError, match="cannot load the tokenizer"):
        inversion.load_model(tmp_path)


def test_a_loaded_quantised_model_is_refused():
    model = tiny_model("llama")
    weight = model.model.layers[0].self_attn.q_proj
    weight.weight = torch.nn.Parameter(weight.weight.to(torch.int8), requires_grad=False)
    with pytest.raises(InputError, match=r"quantised \(torch.int8\)"):
        inversion.load_model(model)
