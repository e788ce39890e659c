"""``inversion recover`` and ``inversion recover save``."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inversion.commands.options import option, required
from inversion.errors import InputError


@dataclass(frozen=True)
class Recover:
    """Recover the texts of a batch from the gradient that a model gives on them."""

    gradient: str = option("safetensors file of inversion recover save, or of another program in its format")
    model: str = required("the model that the gradient was computed from: a shipped one, a folder or a hub id")
    out: str | None = option("also write the texts there, one JSON object per line", None)
    longest: int = option("give up on texts longer than this many tokens", 128, type=int)
    prefixes: int | None = option("most beginnings to keep in the search; the rank by default", None, type=int)
    device: str = option("auto, cpu, cuda, ...", "auto")

    def __call__(self) -> None:
        """Run the command."""
        if self.longest < 1 or (self.prefixes is not None and self.prefixes < 1):
            raise InputError("longest and prefixes count tokens and beginnings; give 1 or more of each.")
        if self.out is not None:
            _require_place(self.out)
        from inversion.recover import load_gradient, recover

        gradient = load_gradient(self.gradient)
        model = _load(self.model, self.device, gradient.dtype)
        found = recover(model, gradient, longest=self.longest, prefixes=self.prefixes)
        texts = [None if model.tokenizer is None else model.tokenizer.decode(ids) for ids in found.sequences]
        print(f"rank {found.ranks[0]} in layer 0 and {found.ranks[1]} in layer 1, of at most {found.width}")
        for ids, text in zip(found.sequences, texts, strict=True):
            print(ids if text is None else repr(text))
        if found.reason:
            print(f"Not all may be here: {found.reason}.")
        if self.out is not None:
            from inversion.files import put_lines

            rows = [{"text": text, "token_ids": ids} for ids, text in zip(found.sequences, texts, strict=True)]
            put_lines(Path(self.out).expanduser(), rows)


@dataclass(frozen=True)
class RecoverSave:
    """Save the gradient that a model gives on a batch of texts, to see what it gives away."""

    prompts: str = option("the texts: JSONL or Parquet with a prompt column (and response), or a reasoning-gym task")
    model: str = required("shipped model (fast, half, slow), model folder or hub id")
    out: str = required("safetensors file to write")
    limit: int | None = option("most texts to use", None, type=int)
    noise: float = option("deviation of added Gaussian noise over the root mean square of all entries", 0.0, type=float)
    dtype: str = option("float32, float64, bfloat16 or float16", "float32")
    device: str = option("auto, cpu, cuda, ...", "auto")
    seed: int = option("seed of the task's generator and of the noise", 0, type=int)

    def __call__(self) -> None:
        """Run the command."""
        _require_place(self.out)
        from inversion.recover import save_gradient, text_gradient
        from inversion.responses import read_problems, require_texts

        problems = require_texts(read_problems(self.prompts, self.limit, self.seed), "inversion recover")
        model = _load(self.model, self.device, self.dtype)
        texts = [problem.prompt + (problem.response or "") for problem in problems]
        file = save_gradient(text_gradient(model, texts, noise=self.noise, seed=self.seed), self.out)
        print(f"{file} holds the gradient of {len(texts)} texts; see what it gives away with:")
        print(f"inversion recover {file} --model {self.model}")


def _load(model: str, device: str, dtype: Any) -> Any:
    from transformers.utils.logging import disable_progress_bar

    from inversion.models import load_model

    disable_progress_bar()
    return load_model(model, device, dtype)


def _require_place(out: str) -> None:
    """Find out before the work whether the file can be written."""
    path = Path(out).expanduser()
    if path.is_dir() or not path.parent.is_dir():
        raise InputError(f"{path} cannot be written; name a file in a folder that is there.")
