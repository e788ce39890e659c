"""The saved gradient, the command, and what they say to bad input."""

import json

import pytest
import torch
from safetensors.torch import save_file
from tiny import tiny_model, token_ids

import inversion
from inversion import InputError
from inversion.cli import main
from inversion.recover import load_gradient, recover, save_gradient, text_gradient


@pytest.fixture
def model():
    return inversion.load_model(tiny_model("llama"))


def test_a_saved_gradient_comes_back_the_same(model, tmp_path):
    gradient = text_gradient(model, [token_ids(6)], noise=1e-3)
    loaded = load_gradient(save_gradient(gradient, tmp_path / "g.safetensors"))
    assert loaded.weights.keys() == gradient.weights.keys()
    assert all(torch.equal(loaded.weights[key], gradient.weights[key]) for key in loaded.weights)
    assert (loaded.dtype, loaded.noise, loaded.model) == (gradient.dtype, gradient.noise, gradient.model)
    assert loaded.noise > 0


def test_the_command_recovers_what_it_saved(capsys, tmp_path):
    texts = ["Spell this word backward (example: sun -> nus): cat", "7 + 5 is 12, so"]
    prompts = tmp_path / "texts.jsonl"
    prompts.write_text("\n".join(json.dumps({"prompt": text}) for text in texts))
    file, out = tmp_path / "g.safetensors", tmp_path / "texts-found.jsonl"
    assert main(["recover", "save", str(prompts), "--model", "fast", "--out", str(file)]) == 0
    assert main(["recover", str(file), "--model", "fast", "--out", str(out)]) == 0
    found = [json.loads(line)["text"] for line in out.read_text().splitlines()]
    assert sorted(found) == sorted(text[:-1] for text in texts)  # the last token, here a letter, is never read
    assert repr(texts[1][:-1]) in capsys.readouterr().out


@pytest.mark.parametrize(
    ("tensors", "metadata"),
    [
        ({"layers.0.q": torch.ones(2, 2)}, None),
        ({"layers.0.q": torch.ones(2, 2)}, {"format": "inversion-gradient-1", "dtype": "int3"}),
        ({"other": torch.ones(2, 2)}, {"format": "inversion-gradient-1", "dtype": "float32"}),
        ({"layers.0.q": torch.ones(2)}, {"format": "inversion-gradient-1", "dtype": "float32"}),
        ({"layers.0.q": torch.tensor([[torch.nan]])}, {"format": "inversion-gradient-1", "dtype": "float32"}),
        ({"layers.0.q": torch.ones(2, 2)}, {"format": "inversion-gradient-1", "dtype": "float32", "noise": "much"}),
    ],
)
def test_other_files_are_refused(tensors, metadata, tmp_path):
    file = tmp_path / "g.safetensors"
    save_file(tensors, file, metadata)
    with pytest.raises(InputError, match="make it"):
        load_gradient(file)


def test_a_file_that_is_not_safetensors_is_refused(tmp_path):
    file = tmp_path / "g.safetensors"
    file.write_text("no")
    with pytest.raises(InputError, match="not a readable safetensors"):
        load_gradient(file)
    with pytest.raises(InputError, match="there is no file"):
        load_gradient(tmp_path / "none")


def test_a_gradient_of_another_model_or_dtype_is_refused(model):
    gradient = text_gradient(model, [token_ids(6)])
    with pytest.raises(InputError, match="load it in float32"):
        recover(inversion.load_model(tiny_model("llama", dtype=torch.bfloat16)), gradient)
    with pytest.raises(InputError, match="width 32"):
        recover(inversion.load_model(tiny_model("llama", hidden_size=16, head_dim=4)), gradient)
    half = {key: weight for key, weight in gradient.weights.items() if key[0] == 0}
    with pytest.raises(InputError, match="of layer 1"):
        recover(model, inversion.recover.SharedGradient(half, gradient.dtype))


def test_texts_that_cannot_be_used_are_refused(model):
    with pytest.raises(InputError, match="no text"):
        text_gradient(model, [])
    with pytest.raises(InputError, match="fewer than two"):
        text_gradient(model, [[3]])
    with pytest.raises(InputError, match="the context is 64"):
        text_gradient(model, [[3] * 65])
    with pytest.raises(InputError, match="without a tokenizer"):
        text_gradient(model, ["text"])
    with pytest.raises(InputError, match="noise is -1"):
        text_gradient(model, [[3, 4]], noise=-1)


def test_the_command_says_what_is_wrong_before_it_works(capsys, tmp_path):
    assert main(["recover", str(tmp_path / "none"), "--model", "fast"]) == 2
    assert main(["recover", "save", "none.jsonl", "--model", "fast", "--out", str(tmp_path / "no" / "g")]) == 2
    assert main(["recover", str(tmp_path / "none"), "--model", "fast", "--longest", "0"]) == 2
    assert "Traceback" not in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
