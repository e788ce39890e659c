"""Small tokenizers of the kinds that real checkpoints come with."""

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

CHAT = "{{ bos_token }}{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{% endfor %}<assistant>"


def sentencepiece_like(*, start: bool = True) -> PreTrainedTokenizerFast:
    """Build a Llama-2 kind: spaces are part of the pieces, unknown characters fall back to bytes, a start token."""
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    letters = sorted(set("▁Helowrdthisanb.,"))
    merges = [("H", "e"), ("l", "l"), ("He", "ll"), ("Hell", "o"), ("▁", "Hello"), ("o", "r"), ("w", "or")]
    merges += [("l", "d"), ("wor", "ld"), ("▁", "world"), ("i", "s"), ("▁", "is")]
    pieces += [*letters, *("".join(merge) for merge in merges)]
    model = models.BPE(
        {p: i for i, p in enumerate(pieces)}, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True
    )
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    if start:
        tokenizer.post_processor = processors.TemplateProcessing("<s> $A", "<s> $A $B", [("<s>", 1)])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    fast.chat_template = CHAT
    return fast


def metaspace() -> PreTrainedTokenizerFast:
    """Build the newer form of the same, where a pre-tokenizer marks the spaces."""
    fast = sentencepiece_like()
    tokenizer = fast.backend_tokenizer
    tokenizer.normalizer = normalizers.Sequence([])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def byte_level(
    *, start: str | None = "<|endoftext|>", end: str | None = "<|endoftext|>", merges: tuple[tuple[str, str], ...] = ()
) -> PreTrainedTokenizerFast:
    """Build a GPT-2 kind: one token per byte unless merged, and a start token that is known but not added."""
    pieces = [*sorted(pre_tokenizers.ByteLevel.alphabet()), *("".join(merge) for merge in merges)]
    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(pieces)}, list(merges)))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    specials = [token for token in dict.fromkeys((start, end)) if token]
    tokenizer.add_special_tokens(specials)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=start, eos_token=end)


KINDS = {
    "adds its start token": sentencepiece_like,
    "metaspace": metaspace,
    "has a start token but does not add it": byte_level,
    "has neither start nor end token": lambda: byte_level(start=None, end=None),
}
