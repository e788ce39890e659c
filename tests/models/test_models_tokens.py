import pytest
import torch
from tiny import tiny_model
from tokenizers_tiny import KINDS, byte_level, metaspace, sentencepiece_like
from transformers import AutoModelForCausalLM, AutoTokenizer

import inversion
from inversion import InputError
from inversion.models import decode, encode, prompt_ids, response_ids, retokenizes, token_texts

TEXT = "Hello world, this is"
HARD = [
    "Hello world",
    " Hello",
    "Hello  world",
    "\nHello 😀 é world",
    "日本 is",
    "Hello</s>",
    "a\n\n b",
    "<s>Hello world",
]


def saved(folder, tokenizer, **overrides):
    tiny_model("llama", vocab_size=len(tokenizer), **overrides).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_the_bridges_tokenizer_is_the_checkpoints_own(kind, tmp_path):
    folder = saved(tmp_path, KINDS[kind]())
    own = AutoTokenizer.from_pretrained(folder)
    bridge = inversion.load_model(folder)
    assert bridge.tokenizer(TEXT)["input_ids"] == own(TEXT)["input_ids"] == prompt_ids(bridge.tokenizer, TEXT)
    assert bridge.tokenizer.special_tokens_map == own.special_tokens_map
    assert bridge.tokenizer.padding_side == own.padding_side
    # Given by hand it is the very object, unchanged.
    mine = KINDS[kind]()
    before = mine.special_tokens_map
    assert inversion.load_model(folder, tokenizer=mine).tokenizer is mine
    assert mine.special_tokens_map == before


@pytest.mark.parametrize("kind", KINDS)
def test_entropy_is_that_of_plain_transformers_with_explicit_ids(kind, tmp_path):
    folder = saved(tmp_path, KINDS[kind]())
    own, plain = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
    prompt, response = own(TEXT)["input_ids"], own(" world is", add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        logits = plain(torch.tensor([prompt + response])).logits[0, len(prompt) - 1 : -1].double()
    expected = torch.distributions.Categorical(logits=logits).entropy() / torch.log(torch.tensor(2.0))
    capture = inversion.probe(inversion.load_model(folder), TEXT, " world is", norms=["frobenius"], layers=[-1])
    assert capture["token_id"].values.tolist() == response
    torch.testing.assert_close(torch.tensor(capture["entropy_bits"].values), expected, rtol=1e-5, atol=1e-5)


def test_special_tokens_stand_once_whoever_writes_them():
    tokenizer = sentencepiece_like()
    chat = tokenizer.apply_chat_template([{"role": "user", "content": "Hello"}], tokenize=False)
    assert chat.startswith("<s>")
    assert tokenizer(chat)["input_ids"][:2] == [1, 1]  # What transformers does without looking.
    assert prompt_ids(tokenizer, chat).count(1) == 1
    assert prompt_ids(tokenizer, chat) == tokenizer(chat, add_special_tokens=False)["input_ids"]
    assert prompt_ids(tokenizer, "Hello").count(1) == 1
    # A second start token that the text itself asks for is its own affair.
    assert prompt_ids(tokenizer, "<s><s>Hello").count(1) == 2
    assert prompt_ids(byte_level(), "<|endoftext|>Hello") == byte_level()("<|endoftext|>Hello")["input_ids"]


@pytest.mark.parametrize("text", HARD)
@pytest.mark.parametrize("kind", KINDS)
def test_token_texts_join_to_the_text(kind, text):
    tokenizer = KINDS[kind]()
    ids = response_ids(tokenizer, text)
    texts = token_texts(tokenizer, ids)
    assert len(texts) == len(ids)
    assert "".join(texts) == decode(tokenizer, ids)


@pytest.mark.parametrize("build", [sentencepiece_like, metaspace])
def test_a_space_inside_a_piece_is_kept(build):
    tokenizer = build()
    assert token_texts(tokenizer, response_ids(tokenizer, "Hello world is")) == ["Hello", " world", " is"]


def test_a_character_of_several_tokens_belongs_to_the_last_and_broken_ones_are_not_lost():
    tokenizer = byte_level()
    ids = response_ids(tokenizer, "a😀b")
    assert token_texts(tokenizer, ids) == ["a", "", "", "", "😀", "b"]
    for cut in (ids[:3], ids[2:], [ids[1]] * 9, [*ids[:3], *ids[:3]]):
        assert "".join(token_texts(tokenizer, cut)) == decode(tokenizer, cut)


def test_ids_that_no_text_gives_are_found(tmp_path):
    bridge = inversion.load_model(saved(tmp_path, sentencepiece_like()))
    ids = response_ids(bridge.tokenizer, "Hello world")
    assert retokenizes(bridge, ids)
    by_letters = bridge.tokenizer.convert_tokens_to_ids(["▁", *"Hello", "▁world"])
    assert not retokenizes(bridge, by_letters)


def test_a_tokenizer_larger_than_the_embedding_is_refused_where_it_matters(tmp_path):
    folder = saved(tmp_path, byte_level())
    larger = byte_level()
    larger.add_tokens(["<new>"])
    larger.save_pretrained(folder)
    bridge = inversion.load_model(folder)
    assert encode(bridge, "Hello", "Hello")
    with pytest.raises(InputError, match="token ids outside 0..256"):
        encode(bridge, "Hello <new>", "Hello")
