"""Run by hand: fuzz what reads files, guided by coverage. Anything but a value or one sentence stops it.

    pip install atheris
    python tests/survival/fuzz_atheris.py prompts -max_total_time=60 -max_len=256

Targets: prompts, configuration, thinking, record.
"""

import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["inversion"]):
    from inversion.errors import InputError
    from inversion.experiments.spec import read_spec
    from inversion.responses import Source
    from inversion.responses.thinking import token_parts
    from inversion.shards import read_manifest, read_record

FOLDER = Path(tempfile.mkdtemp())
SUFFIXES = ("jsonl", "json", "csv", "tsv")


def prompts(data):
    path = FOLDER / f"prompts.{SUFFIXES[data[0] % len(SUFFIXES)] if data else 'jsonl'}"
    path.write_bytes(data[1:])
    Source(str(path)).read()


def configuration(data):
    path = FOLDER / "config.yaml"
    path.write_bytes(data)
    read_spec(str(path))


def thinking(data):
    provider = atheris.FuzzedDataProvider(data)
    pieces = [provider.ConsumeUnicodeNoSurrogates(12) for _ in range(provider.ConsumeIntInRange(0, 8))]
    tags = (provider.ConsumeUnicodeNoSurrogates(3) or "<", provider.ConsumeUnicodeNoSurrogates(3) or ">")
    if tags[0] != tags[1]:
        assert len(token_parts(pieces, tags, provider.ConsumeBool())) == len(pieces)


def record(data):
    (FOLDER / "run.json").write_bytes(data)
    (FOLDER / "shard-00000.json").write_bytes(data)
    for read in (lambda: read_manifest(FOLDER), lambda: read_record(FOLDER / "shard-00000.json")):
        try:
            read()
        except InputError:
            continue


TARGETS = {"prompts": prompts, "configuration": configuration, "thinking": thinking, "record": record}


def one_input(data):
    try:
        TARGET(data)
    except InputError:
        return


if __name__ == "__main__":
    TARGET = TARGETS[sys.argv.pop(1)]
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
