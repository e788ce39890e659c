"""Models: from a folder, a hub id or a loaded Hugging Face model to a TransformerLens bridge, and what it is."""

from inversion.models.context import context_length, text_config
from inversion.models.describe import describe_model, processor_of
from inversion.models.fingerprint import fingerprint
from inversion.models.load import DTYPES, load_checkpoint, load_model
from inversion.models.tokenization import decode, encode, prompt_ids, response_ids, retokenizes, token_ids, token_texts

__all__ = [
    "DTYPES",
    "context_length",
    "decode",
    "describe_model",
    "encode",
    "fingerprint",
    "load_checkpoint",
    "load_model",
    "processor_of",
    "prompt_ids",
    "response_ids",
    "retokenizes",
    "text_config",
    "token_ids",
    "token_texts",
]
