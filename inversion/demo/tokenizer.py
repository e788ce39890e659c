"""The tokenizer of the shipped models: one token a byte, plus a few whole phrases.

Instruction sentences, tags and the connecting words of a chain of thought are one token each, which keeps
sequences short; digits and letters stay single tokens, so that every computed symbol is a token of its own.
Any text can be encoded and decoded without loss.
"""

from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from inversion.demo.tasks import CONNECTORS, EQUALS, LEAVING, TAKES

PAD, EOS = "<|pad|>", "<|end|>"
PAD_ID, EOS_ID = 0, 1
TAGS = ("<think>", "</think>", "<answer>", "</answer>")
_SORTED = "['-69', '-13', '1', '7', '11', '43', '59', '61']"
INSTRUCTIONS = (
    "State the final answer to the following arithmetic problem:",
    "Sort these numbers in ascending order:",
    "Sort these numbers in descending order:",
    "\nPlease follow the instruction below:\n## 1. Let all your answers be a list of numbers. "
    f"Instead of reporting your answer as -69, -13, 1, 7, 11, 43, 59, 61, use {_SORTED} instead\n"
    f"## 2. Convert all numbers in the square brackets as strings. For example, {_SORTED}\n",
    "Spell this word backward (example: sun -> nus):",
)
"""The fixed sentences of the three tasks, in reasoning-gym's own words."""


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Build the tokenizer; ids: 0 padding, 1 end of sequence, 2..257 bytes, then the phrases."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate((PAD, EOS, *alphabet))}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([PAD, EOS])
    phrases = (*TAGS, *INSTRUCTIONS, *CONNECTORS, *EQUALS, *TAKES, LEAVING)
    # Not "special": a decoder that skips special tokens must keep the tags, or no answer could be found.
    tokenizer.add_tokens([AddedToken(phrase, normalized=False, special=False) for phrase in phrases])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=EOS,
        padding_side="left",
        clean_up_tokenization_spaces=False,
        model_max_length=8192,
    )


def save_tokenizer(folder: Path) -> None:
    """Write the tokenizer files to ``folder``."""
    build_tokenizer().save_pretrained(folder)
