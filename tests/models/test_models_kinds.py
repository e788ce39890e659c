"""Checkpoints of other kinds than a plain folder, and what a run records of any."""

import json
import shutil

import pytest
import torch
from tiny import tiny_model
from tokenizers_tiny import byte_level
from transformers import AutoModelForCausalLM, Gemma3Config, Gemma3ForConditionalGeneration

import inversion
from inversion import InputError
from inversion.measure import measure_run
from inversion.models import context_length, describe_model, fingerprint
from inversion.models.bridge import plain_model
from inversion.responses import Generation, Problem, generate

TOKENS = torch.tensor([[5, 6, 7, 8]])


@pytest.fixture
def base(tmp_path):
    tiny_model("llama", vocab_size=257).save_pretrained(tmp_path / "base")
    byte_level().save_pretrained(tmp_path / "base")
    return tmp_path / "base"


@pytest.fixture
def adapter(base, tmp_path):
    peft = pytest.importorskip("peft", reason="peft is not installed")
    config = peft.LoraConfig(r=2, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
    adapted = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(base), config)
    with torch.no_grad():
        logits = adapted(TOKENS).logits
    adapted.save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter", logits


def test_an_adapter_is_merged_onto_its_base(adapter, base):
    folder, expected = adapter
    bridge = inversion.load_model(folder)
    torch.testing.assert_close(bridge.original_model(TOKENS).logits, expected)
    assert (describe_model(bridge)["adapter"], describe_model(bridge)["base"]) == (str(folder), str(base))
    assert bridge.tokenizer("Hello")["input_ids"]
    assert inversion.probe(bridge, "Hello", "world", norms=["frobenius"]).sizes["token"] == 5


def test_an_adapter_names_its_base_also_relative_to_itself(adapter):
    folder, expected = adapter
    path = folder / "adapter_config.json"
    settings = json.loads(path.read_text())
    path.write_text(json.dumps({**settings, "base_model_name_or_path": "../base"}))
    torch.testing.assert_close(inversion.load_model(folder).original_model(TOKENS).logits, expected)
    for name, match in (
        ("/no/such/folder", "base of the adapter .* cannot be loaded: there is no model folder"),
        (None, "fill in base_model_name_or_path"),
        (".", "fill in base_model_name_or_path"),
    ):
        path.write_text(json.dumps({**settings, "base_model_name_or_path": name}))
        with pytest.raises(InputError, match=match):
            inversion.load_model(folder)
    path.write_text("{")
    with pytest.raises(InputError, match="does not name the adapter's base"):
        inversion.load_model(folder)


def test_the_revision_of_an_adapter_is_that_of_its_base(adapter, monkeypatch):
    folder, _ = adapter
    for place in (folder, folder.with_name("base")):
        with pytest.raises(InputError, match="has no revision v1; leave the revision out"):
            inversion.load_model(place, revision="v1")
    path = folder / "adapter_config.json"
    settings = {**json.loads(path.read_text()), "revision": "v0"}
    path.write_text(json.dumps(settings))
    inversion.load_model(folder)  # its base is a folder, and was a hub model when the adapter was trained
    path.write_text(json.dumps({**settings, "base_model_name_or_path": "some/base"}))
    asked = []

    def refuses(place, options):
        asked.append((place.name, options["revision"]))
        raise InputError("no network")

    monkeypatch.setattr("inversion.models.load.load_config", refuses)
    with pytest.raises(InputError, match="base of the adapter .* no network"):
        inversion.load_model(folder, revision="v1")
    with pytest.raises(InputError, match="base of the adapter .* no network"):
        inversion.load_model(folder)
    assert asked == [("some/base", "v1"), ("some/base", "v0")]


def test_adapters_that_do_not_fit_or_are_pickled_are_refused(adapter, base, tmp_path):
    folder, _ = adapter
    tiny_model("llama", vocab_size=257, hidden_size=48, head_dim=12).save_pretrained(tmp_path / "other")
    path = folder / "adapter_config.json"
    settings = json.loads(path.read_text())
    path.write_text(json.dumps({**settings, "base_model_name_or_path": str(tmp_path / "other")}))
    with pytest.raises(InputError, match="does not fit its base"):
        inversion.load_model(folder)
    path.write_text(json.dumps({**settings, "target_modules": ["q_proj", "down_proj", "v_proj"]}))
    with pytest.raises(InputError, match="lacks weights"):
        inversion.load_model(folder)
    path.write_text(json.dumps(settings))
    shutil.copy(base / "model.safetensors", folder)
    with pytest.raises(InputError, match="a model and an adapter"):
        inversion.load_model(folder)
    (folder / "model.safetensors").unlink()
    torch.save({}, folder / "adapter_model.bin")
    (folder / "adapter_model.safetensors").unlink()
    with pytest.raises(InputError, match="only safetensors"):
        inversion.load_model(folder)


def write_gguf(path, model, tokenizer):
    """Write a Llama as llama.cpp's converter does: its names, and the rows of q and k in another order."""
    gguf = pytest.importorskip("gguf", reason="the extra real is not installed")
    config = model.config
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("gpt2")
    vocabulary = tokenizer.get_vocab()
    writer.add_token_list(sorted(vocabulary, key=vocabulary.get))
    writer.add_token_types([3 if token == "<|endoftext|>" else 1 for token in sorted(vocabulary, key=vocabulary.get)])
    writer.add_token_merges(["l l"])
    writer.add_eos_token_id(257)
    writer.add_bos_token_id(257)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    for name, weight in model.state_dict().items():
        for part, heads in (("q_proj", config.num_attention_heads), ("k_proj", config.num_key_value_heads)):
            if part in name:
                rows = weight.reshape(heads, 2, weight.shape[0] // heads // 2, -1)
                weight = rows.swapaxes(1, 2).reshape(weight.shape)
        data, place = weight.numpy(), names.get_name(name, (".weight",))
        if "proj" in name:
            kind = gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(place, gguf.quants.quantize(data, kind), raw_dtype=kind)
        else:
            writer.add_tensor(place, data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_a_gguf_file_is_dequantised_and_says_so(tmp_path):
    size = {"hidden_size": 64, "head_dim": 16, "intermediate_size": 64}  # Blocks of 32 weights share a scale.
    model, tokenizer = tiny_model("llama", vocab_size=258, **size), byte_level(merges=(("l", "l"),))
    write_gguf(tmp_path / "tiny.Q8_0.gguf", model, tokenizer)
    by_path = inversion.load_model(tmp_path / "tiny.Q8_0.gguf")
    by_name = inversion.load_model(tmp_path, gguf_file="tiny.Q8_0.gguf")
    for bridge in (by_path, by_name):
        described = describe_model(bridge)
        assert (described["gguf_file"], described["dequantised"]) == ("tiny.Q8_0.gguf", True)
        assert described["dtype"] == "float32"
        assert bridge.tokenizer("Hello world")["input_ids"] == tokenizer("Hello world")["input_ids"]
        # Eight bits are close to the original, not equal to it.
        ours, plain = (m(TOKENS).logits.softmax(-1) for m in (bridge.original_model, model))
        assert 0 < (ours - plain).abs().max() < 0.02
    assert inversion.probe(by_path, "Hello", "world", norms=["frobenius"]).sizes["token"] == 5
    with pytest.raises(InputError, match="holds no file other.gguf"):
        inversion.load_model(tmp_path, gguf_file="other.gguf")
    data = (tmp_path / "tiny.Q8_0.gguf").read_bytes()
    (tmp_path / "cut.gguf").write_bytes(data[:200])
    with pytest.raises(InputError, match=r"cannot load .*cut.gguf|cannot load a model"):
        inversion.load_model(tmp_path / "cut.gguf")


def test_a_run_is_not_continued_with_other_weights_under_the_same_name(base, tmp_path):
    problems = [Problem("Hello", response="world")]
    measure_run(inversion.load_model(base), problems, tmp_path / "run")
    measure_run(inversion.load_model(base), problems, tmp_path / "run")
    tiny_model("llama", vocab_size=257, seed=1).save_pretrained(base)
    with pytest.raises(InputError, match=r"differs in model.fingerprint.weights"):
        measure_run(inversion.load_model(base), problems, tmp_path / "run")


def test_a_fingerprint_is_that_of_weights_configuration_tokenizer_and_template(base, tmp_path):
    first = fingerprint(inversion.load_model(base))
    shutil.copytree(base, tmp_path / "copy")
    assert fingerprint(inversion.load_model(tmp_path / "copy")) == first
    loaded = AutoModelForCausalLM.from_pretrained(base)
    assert fingerprint(inversion.load_model(loaded))["weights"] == first["weights"]
    assert first["chat_template"] is None
    used = inversion.load_model(base)
    inversion.probe(used, "Hello", "world", norms=["frobenius"])
    generate(used, [[5, 6]], Generation(max_new_tokens=2), seed=0)
    assert plain_model(used) is not used.original_model
    assert fingerprint(used) == first

    def differing(change):
        shutil.rmtree(tmp_path / "copy")
        shutil.copytree(base, tmp_path / "copy")
        change(tmp_path / "copy")
        other = fingerprint(inversion.load_model(tmp_path / "copy"))
        return {name for name in first if other[name] != first[name]}

    def another_token(folder):
        tokenizer = byte_level()
        tokenizer.add_tokens(["<new>"])
        tokenizer.save_pretrained(folder)

    def a_template(folder):
        (folder / "chat_template.jinja").write_text("{{ messages }}")

    def another_base(folder):
        path = folder / "config.json"
        path.write_text(path.read_text().replace("10000.0", "20000.0"))

    assert differing(lambda folder: None) == set()
    assert differing(lambda folder: tiny_model("llama", vocab_size=257, seed=1).save_pretrained(folder)) == {"weights"}
    assert differing(another_token) == {"tokenizer"}
    assert differing(a_template) == {"chat_template"}
    assert differing(another_base) == {"config"}
    with torch.no_grad():
        loaded.lm_head.weight[3, 3] += 1e-6
    assert fingerprint(inversion.load_model(loaded))["weights"] != first["weights"]


def test_the_context_of_a_language_model_inside_a_larger_one_is_found():
    text = {"vocab_size": 40, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "head_dim": 8}
    text |= {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 96}
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision |= {"image_size": 28, "patch_size": 14}
    config = Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=4)
    bridge = inversion.load_model(Gemma3ForConditionalGeneration(config))
    assert context_length(bridge) == 96
