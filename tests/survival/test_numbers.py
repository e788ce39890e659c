"""Numbers at their edges: what has no correlation, or no reading at all, is counted and named, never dropped."""

import math

import numpy as np
import pytest
import torch
from tiny import tiny_model, token_ids

import inversion
from inversion import Generation, InputError
from inversion.demo.tokenizer import build_tokenizer
from inversion.measure import measure_run
from inversion.responses import Problem
from inversion.runs import summary

IDS = [Problem("", prompt_token_ids=(9, 8, 7), response_token_ids=tuple(token_ids(8, seed=s))) for s in range(3)]


def test_equal_logits_have_the_entropy_of_the_vocabulary_and_no_correlation(tmp_path):
    model = tiny_model("llama")
    torch.nn.init.zeros_(model.lm_head.weight)
    run = inversion.load_run(measure_run(inversion.load_model(model), IDS, tmp_path / "run"))
    np.testing.assert_allclose(run.entropy_bits, math.log2(model.config.vocab_size), rtol=1e-6)
    np.testing.assert_allclose(run.surprisal_bits, math.log2(model.config.vocab_size), rtol=1e-6)
    assert (run.nuclear == 0).all()
    result = inversion.correlate(run, resamples=20)
    assert math.isnan(result.estimate)
    assert "constant" in result.reason
    assert run.attrs["not_finite"] == 0


def test_a_vocabulary_of_one_token_is_certain_and_has_no_correlation(tmp_path):
    model = tiny_model("llama", vocab_size=1, bos_token_id=None, eos_token_id=None, pad_token_id=None)
    bridge = inversion.load_model(model)
    problem = Problem("", prompt_token_ids=(0, 0), response_token_ids=(0,) * 6)
    run = inversion.load_run(measure_run(bridge, [problem] * 2, tmp_path / "run"))
    for name in ("entropy_bits", "surprisal_bits", "logit_space"):
        assert (run[name] == 0).all(), name
    assert (run.nuclear > 0).any()  # the one logit still moves with the weights
    assert math.isnan(inversion.correlate(run, resamples=20).estimate)


def test_half_precision_that_overflows_is_counted_by_response_and_said(tmp_path, caplog):
    model = tiny_model("llama", dtype=torch.float16)
    with torch.no_grad():
        model.lm_head.weight[5] = 6e4  # finite itself; its logits are not, at some positions in either direction
    bridge = inversion.load_model(model, dtype="float16")
    assert (bridge.original_model(torch.tensor([[9, 8, 7]])).logits.isinf()).any()
    folder = measure_run(bridge, IDS, tmp_path / "run")
    run, responses = inversion.load_run(folder), inversion.load_responses(folder)
    readings = [run[name].values.reshape(run.sizes["token"], -1) for name in ("entropy_bits", "nuclear", "frobenius")]
    broken = ~np.isfinite(np.concatenate(readings, axis=1)).all(1)
    assert 0 < broken.sum() < broken.size
    by_response = [int(broken[run.response == number].sum()) for number in range(len(IDS))]
    assert responses.not_finite.tolist() == by_response
    assert f"{broken.sum()} tokens of" in caplog.text
    assert f"{broken.sum()} tokens have readings that are not finite numbers" in summary(folder)
    result = inversion.correlate(run, resamples=20)
    assert result.n_tokens == broken.size - broken.sum()
    assert any(str(broken.sum()) in note for note in result.notes)


def test_a_model_whose_logits_overflow_writes_nothing_and_says_so(tmp_path):
    tokenizer = build_tokenizer()
    model = tiny_model("llama", vocab_size=len(tokenizer), dtype=torch.float16)
    torch.nn.init.constant_(model.lm_head.weight, 6e4)
    bridge = inversion.load_model(model, dtype="float16", tokenizer=tokenizer)
    problems = [Problem("1 + 2 ="), Problem("1 + 3 =")]
    folder = measure_run(bridge, problems, tmp_path / "run")
    responses = inversion.load_responses(folder)
    assert responses.ended.tolist() == ["not finite"] * 2
    assert responses.error.str.contains("logits behind its prompt are not finite").all()
    assert "2 of 2 responses could not be measured" in summary(folder)


def test_no_response_is_empty_in_silence(checkpoint, tmp_path, caplog):
    bridge = inversion.load_model(checkpoint())
    with pytest.raises(InputError, match="max_new_tokens is 0"):
        Generation(max_new_tokens=0)
    given = [Problem("1 + 2 =", "3 + 4"), Problem("1 + 3 =", "")]
    folder = measure_run(bridge, given, tmp_path / "run")
    assert "1 of 2 problems are left out: problem 2" in caplog.text
    assert "1 problems were left out beforehand" in summary(folder)


def test_a_response_stops_at_the_context_and_says_so(tmp_path):
    tokenizer = build_tokenizer()
    bridge = inversion.load_model(tiny_model("llama", vocab_size=len(tokenizer)), tokenizer=tokenizer)
    problem, settings = Problem("", prompt_token_ids=tuple(token_ids(60))), Generation(max_new_tokens=20)
    folder = measure_run(bridge, [problem], tmp_path / "run", generation=settings)
    row = inversion.load_responses(folder).loc[0]
    assert (row.n_tokens, row.ended, row.finished) == (4, "context", False)
