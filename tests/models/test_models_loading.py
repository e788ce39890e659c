import copy

import pytest
import torch
from tiny import FAMILIES, tiny_model, token_ids
from transformers import AutoConfig, AutoModelForCausalLM

import inversion
from inversion import InputError
from inversion.models import describe_model

TOKENS = torch.tensor([token_ids(12)])


@pytest.mark.parametrize("family", FAMILIES)
def test_a_loaded_model_is_wrapped_without_being_touched(family, tmp_path):
    model = tiny_model(family)
    keys, weights = list(model.state_dict()), copy.deepcopy(model.state_dict())
    logits = model(TOKENS).logits
    bridge = inversion.load_model(model)
    torch.testing.assert_close(bridge.original_model(TOKENS).logits, logits)
    assert list(model.state_dict()) == keys
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    torch.testing.assert_close(model(TOKENS).logits, logits, rtol=0, atol=0)
    model.save_pretrained(tmp_path)
    again = inversion.load_model(tmp_path)
    torch.testing.assert_close(again.original_model(TOKENS).logits, logits)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox"])
def test_training_the_original_shows_through_the_bridge(family):
    model = tiny_model(family)
    bridge = inversion.load_model(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(TOKENS, labels=TOKENS).loss.backward()
    optimizer.step()
    torch.testing.assert_close(bridge.original_model(TOKENS).logits, model(TOKENS).logits)


@pytest.mark.parametrize("family", FAMILIES)
def test_parameters_are_those_of_the_model_and_no_copies(family):
    model = tiny_model(family)
    bridge = inversion.load_model(model)
    assert describe_model(bridge)["parameters"] == model.num_parameters()


def test_a_folder_loads_with_its_tokenizer_and_dtype(checkpoint):
    bridge = inversion.load_model(checkpoint(), dtype="bfloat16")
    assert bridge.tokenizer("7 + 5", add_special_tokens=False)["input_ids"]
    described = describe_model(bridge)
    assert (described["dtype"], described["attention"], described["device"]) == ("bfloat16", "eager", "cpu")
    assert inversion.load_model(bridge) is bridge


def test_a_folder_without_a_tokenizer_can_be_probed_by_token_ids(tmp_path):
    tiny_model("llama").save_pretrained(tmp_path)
    bridge = inversion.load_model(tmp_path)
    assert inversion.probe(bridge, [3, 4], [5, 6, 7]).sizes["token"] == 3


def test_random_weights_keep_the_architecture_and_follow_the_seed(checkpoint):
    folder = checkpoint()
    first, again, other = (inversion.load_model(folder, random_weights=True, seed=s) for s in (1, 1, 2))
    logits = [model.original_model(TOKENS).logits for model in (first, again, other)]
    assert torch.equal(logits[0], logits[1])
    assert not torch.allclose(logits[0], logits[2])
    assert describe_model(first)["parameters"] == describe_model(inversion.load_model(folder))["parameters"]
    assert "random" in describe_model(first)["model"]


GPT2_SIZE = {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 64}
SIZE = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4}
OTHER = {
    "gpt2": {**GPT2_SIZE, "scale_attn_weights": False},
    "falcon": {**SIZE, "alibi": True, "multi_query": False, "new_decoder_architecture": False, "bias": True},
}
UNKNOWN = {
    "falcon": {**SIZE, "new_decoder_architecture": True, "num_kv_heads": 2},
    "gpt_neox": {**SIZE, "attention_bias": False},
    "phi": {**SIZE, "qk_layernorm": True},
    "gpt_bigcode": {**GPT2_SIZE, "multi_query": False},
}


def configured(model_type, settings, dtype=torch.float32):
    ids = {"vocab_size": 53, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **ids, **settings)).eval()
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.15)
    return model.to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("model_type", OTHER)
def test_a_bridge_that_computes_something_else_than_its_model_is_refused(model_type, dtype):
    with pytest.raises(InputError, match="computes other logits than the model itself"):
        inversion.load_model(configured(model_type, OTHER[model_type], dtype))


@pytest.mark.parametrize("model_type", UNKNOWN)
def test_a_setting_that_no_bridge_knows_is_one_sentence(model_type):
    with pytest.raises(InputError, match="TransformerLens cannot bridge"):
        inversion.load_model(configured(model_type, UNKNOWN[model_type]))


def test_running_out_of_memory_is_no_missing_bridge(monkeypatch):
    def fail(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("inversion.models.bridge.build_bridge_from_module", fail)
    with pytest.raises(torch.OutOfMemoryError):
        inversion.load_model(tiny_model("llama"))


@pytest.mark.parametrize("value", [0, torch.nan])
def test_weights_that_say_nothing_of_a_bridge_do_not_speak_against_it(value):
    model = tiny_model("llama")
    torch.nn.init.constant_(model.lm_head.weight, value)
    assert inversion.load_model(model)


def test_a_model_in_training_is_compared_too():
    model = tiny_model("gpt2", resid_pdrop=0.5).train()
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.inference_mode():
        assert inversion.load_model(model)
    assert model.training


def test_pickled_weights_are_refused(checkpoint):
    folder = checkpoint()
    weights = folder / "model.safetensors"
    torch.save({}, folder / "pytorch_model.bin")
    weights.unlink()
    with pytest.raises(InputError, match="safetensors"):
        inversion.load_model(folder)


def test_remote_code_is_not_run_unasked(checkpoint):
    folder = checkpoint()
    config = folder / "config.json"
    marker = folder / "ran"
    (folder / "evil.py").write_text(f"open({str(marker)!r}, 'w')\n")
    config.write_text(
        config.read_text()
        .replace('"model_type": "llama"', '"model_type": "strange"')
        .replace("{", '{"auto_map": {"AutoConfig": "evil.Config"},', 1)
    )
    with pytest.raises(InputError, match="trust_remote_code"):
        inversion.load_model(folder)
    assert not marker.exists()


@pytest.mark.parametrize(
    ("source", "match"),
    [
        ("./nowhere", "no model folder"),
        ("nobody/nothing", "cannot load a model from nobody/nothing"),
        (torch.nn.Linear(2, 2), "not a Hugging Face causal language model"),
    ],
)
def test_a_missing_model_is_one_sentence(source, match):
    with pytest.raises(InputError, match=match):
        inversion.load_model(source)


def test_other_kinds_of_model_are_refused(tmp_path):
    from transformers import BertConfig, BertForMaskedLM, T5Config, T5ForConditionalGeneration

    size = {"vocab_size": 20, "num_hidden_layers": 1}
    bert = BertForMaskedLM(BertConfig(hidden_size=8, num_attention_heads=2, intermediate_size=8, **size))
    t5 = T5ForConditionalGeneration(T5Config(d_model=8, d_ff=8, d_kv=4, num_heads=2, num_layers=1, vocab_size=20))
    for model in (bert, t5):
        with pytest.raises(InputError, match="not a causal language model"):
            inversion.load_model(model)
        model.save_pretrained(tmp_path / type(model).__name__)
        with pytest.raises(InputError, match="not a causal language model"):
            inversion.load_model(tmp_path / type(model).__name__)


@pytest.mark.parametrize(
    ("options", "match"), [({"dtype": "int8"}, "choose one of float32"), ({"device": "gpu"}, "is not available")]
)
def test_a_wrong_option_is_one_sentence(checkpoint, options, match):
    with pytest.raises(InputError, match=match):
        inversion.load_model(checkpoint(), **options)
