import json
from dataclasses import FrozenInstanceError, replace

import numpy as np
import pandas as pd
import pytest
from statistics_samples import make_run

import inversion
from inversion.statistics import controls, plan_sample_size, segments, specification_curve, trajectory, within_between
from inversion.statistics import within_response_shuffle as shuffle
from inversion.statistics.results import number, shorten

RUN = make_run(k=8)
RESULTS = {
    "correlate": inversion.correlate(RUN),
    "compare": inversion.compare(RUN, make_run(k=8, seed=1)),
    "controls": controls(RUN),
    "parts": within_between(RUN),
    "shuffle": shuffle(RUN, resamples=20),
    "segments": segments(RUN, "entropy"),
    "curve": specification_curve(RUN, resamples=50),
    "plan": plan_sample_size(RUN),
    "trajectory": trajectory([RUN, make_run(k=8, seed=1), make_run(k=8, seed=2)]),
}


@pytest.mark.parametrize("name", RESULTS)
def test_every_result_shows_and_converts_itself(name):
    result = RESULTS[name]
    assert repr(result) == str(result)
    assert len(str(result).splitlines()) > 3
    assert max(len(line) for line in str(result).splitlines()) < 160
    assert json.loads(json.dumps(result.to_dict()))
    assert len(result.to_pandas()) >= 1
    html = result._repr_html_()
    assert html.count("<tr") == html.count("</tr>")
    assert "http" not in html
    assert "<script" not in html
    with pytest.raises(FrozenInstanceError):
        result.seed = 1


def test_a_correlation_says_everything_that_is_needed_to_judge_it():
    text = str(RESULTS["correlate"])
    for part in (
        "spearman",
        "positions",
        "nuclear",
        "logit",
        "signflip",
        "0.95",
        "8 responses",
        "seed 0",
        "2000",
        "toy",
    ):
        assert part in text


def test_a_row_holds_the_fields_and_rows_concatenate():
    table = pd.concat([inversion.correlate(RUN, seed=s).to_pandas() for s in (0, 1)])
    assert table.seed.tolist() == [0, 1]
    assert table.layers.tolist() == ["0 1", "0 1"]
    assert {"estimate", "low", "high", "p_value", "method", "unit", "norm", "interval", "level"} <= set(table.columns)


def test_a_row_of_a_difference_holds_both_sides():
    row = RESULTS["compare"].to_pandas().iloc[0]
    assert row.estimate == pytest.approx(row.b_estimate - row.a_estimate)
    assert row.a_n_responses == 8


def test_html_escapes_what_comes_from_outside():
    bad = replace(RESULTS["correlate"], model="<img src=x onerror=alert(1)>", notes=("<b>",), reason="<i>")
    html = bad._repr_html_()
    assert "<img" not in html
    assert "<b>" not in html
    assert "<i>" not in html
    assert "&lt;img" in html


def test_nan_and_its_reason_are_shown():
    text = str(inversion.correlate(RUN.isel(token=slice(0, 2))))
    assert "[NaN, NaN]" in text
    assert "why NaN: 2 tokens are too few" in text


def test_numbers_for_reading():
    assert number(0.12345) == "+0.123"
    assert number(np.nan) == "NaN"
    assert shorten((0, 1, 2, 3)) == "0..3"
    assert shorten((0, 2)) == "0 2"
