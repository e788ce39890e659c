"""Fine-tuning with rho steered: its loss against the recipe's, the whole road on few steps, resuming, bad input."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from inversion.cli import main
from inversion.corrpo.direct import allow_second_order
from inversion.demo.recipe import SLOW, batches, build_model, response_loss
from inversion.demo.tokenizer import build_tokenizer
from inversion.errors import InputError
from inversion.experiments import supervised
from inversion.experiments.supervised import loss_parts, read_supervised_spec, run_supervised


def test_the_cross_entropy_is_the_recipes_and_the_term_moves_rho():
    small = replace(SLOW, batch_size=12)
    model, batch = build_model(0), next(batches(build_tokenizer(), small))[0]
    allow_second_order(model)
    cross_entropy, term, rho = loss_parts(model, batch, None)
    assert (term, rho) == (None, None)
    torch.testing.assert_close(cross_entropy, response_loss(model, batch))
    optimizer, values = torch.optim.Adam(model.parameters(), 2e-3), []
    for _ in range(8):
        _, term, rho = loss_parts(model, batch, -0.7)
        values.append(rho.nanmean().item())
        assert term.item() == pytest.approx((rho + 0.7).square().mean().item(), rel=1e-4)
        optimizer.zero_grad()
        term.backward()
        optimizer.step()
    assert abs(values[-1] + 0.7) < 0.5 * abs(values[0] + 0.7)


TINY = ("steps=2", "seeds=1", "batch_size=6", "problems=2", "max_new_tokens=12", "targets={down: -0.5}")


def test_every_condition_is_trained_measured_and_resumed(tmp_path, capsys, monkeypatch):
    spec = read_supervised_spec("demo", [*TINY, f"out={tmp_path / 'whole'}"])
    run_supervised(spec)
    rows = pd.read_csv(tmp_path / "whole" / "supervised.csv")
    assert list(zip(rows.condition, rows.step, strict=True)) == [("none", 0), ("none", 2), ("down", 0), ("down", 2)]
    first = rows[rows.step == 0].drop(columns="condition").drop_duplicates()
    assert len(first) == 1
    assert np.isfinite(rows.rho_position).all()

    measured = supervised._measured

    def cut_off(spec, checkpoint, seed):
        if "down" in checkpoint.parts:
            raise KeyboardInterrupt
        return measured(spec, checkpoint, seed)

    out = f"out={tmp_path / 'cut'}"
    with monkeypatch.context() as patched:
        patched.setattr(supervised, "_measured", cut_off)
        with pytest.raises(SystemExit):
            main(["train", "supervised", "demo", *TINY, out])
    assert main(["train", "supervised", "demo", *TINY, out, "weight=0.5"]) == 2
    assert "differs in weight" in capsys.readouterr().err
    assert main(["train", "supervised", "demo", *TINY, out]) == 0
    assert "rho, positions" in capsys.readouterr().out
    assert (tmp_path / "cut" / "supervised.csv").read_text() == (tmp_path / "whole" / "supervised.csv").read_text()


def test_parts_make_the_table_of_the_whole(tmp_path):
    tiny = [*TINY, "seeds=2", "targets={}"]
    for out, parts in (("whole", [[]]), ("parts", [["--part", "2/2"], ["--part", "1/2"]])):
        for part in parts:
            assert main(["train", "supervised", "demo", *tiny, f"out={tmp_path / out}", *part]) == 0
    assert (tmp_path / "parts" / "supervised.csv").read_text() == (tmp_path / "whole" / "supervised.csv").read_text()
    for none in ("3/3", "0/2", "1/0"):
        assert main(["train", "supervised", "demo", *tiny, f"out={tmp_path / 'parts'}", "--part", none]) == 2


@pytest.mark.parametrize(
    ("override", "message"),
    [("targets={none: 0.1}", "other than none"), ("targets={up: 2}", "from -1 to 1"), ("steps=0", "at least 1")],
)
def test_bad_experiments_are_one_sentence(override, message):
    with pytest.raises(InputError, match=message) as caught:
        read_supervised_spec("demo", [override])
    assert str(caught.value).endswith(".")
