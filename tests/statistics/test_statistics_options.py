import numpy as np
import pytest
from statistics_samples import make_run

import inversion
from inversion import InputError
from inversion.statistics import (
    Correlation,
    Difference,
    Estimate,
    controls,
    overview,
    partial,
    per_response,
    plan_sample_size,
    segments,
    specification_curve,
    trajectory,
    within_between,
    within_response_shuffle,
)
from inversion.statistics import options as choices

RUN = make_run(k=7)
FUNCTIONS = {
    controls: choices.Choices,
    overview: choices.Overviewed,
    partial: choices.Partial,
    per_response: choices.Sites,
    plan_sample_size: choices.Planned,
    lambda run, **given: segments(run, "entropy", **given): choices.Choices,
    specification_curve: choices.Specified,
    lambda run, **given: trajectory([run, run], **given): choices.Choices,
    within_between: choices.Positions,
    within_response_shuffle: choices.Moved,
}
VALUES = {
    "method": "pearson",
    "unit": "token_type",
    "layers": -1,
    "projections": "q",
    "level": 0.9,
    "resamples": 30,
    "seed": 3,
    "given": "position",
    "interval": "jackknife",
    "cluster": "prompt",
}


@pytest.mark.parametrize("function", FUNCTIONS)
def test_every_option_that_a_signature_names_is_taken(function):
    for name in FUNCTIONS[function].__annotations__:
        function(RUN, **{name: VALUES[name]})


@pytest.mark.parametrize("function", FUNCTIONS)
def test_options_that_do_not_apply_are_refused_by_name(function):
    named = {"partial": {"given", "norm"}, "per_response": {"method"}, "within_between": {"method"}}
    named |= {"within_response_shuffle": {"method", "resamples"}, "plan_sample_size": {"level"}}
    for name in set(VALUES) - set(FUNCTIONS[function].__annotations__) - named.get(function.__name__, set()):
        with pytest.raises(InputError, match=rf"does not use {name}.*leave it out\.$"):
            function(RUN, **{name: VALUES[name]})


@pytest.mark.parametrize("function", FUNCTIONS)
def test_misspelt_options_are_told_the_nearest_name(function):
    with pytest.raises(InputError, match=r"^\w+ has no option 'projection'; did you mean 'projections'\?$"):
        function(RUN, projection="q")
    with pytest.raises(InputError, match=r"^\w+ has no option 'xyz'; choose among .*projections"):
        function(RUN, xyz=1)


def test_misspelt_values_are_told_the_nearest_one():
    for given, message in (
        ({"method": "spearmann"}, "did you mean 'spearman'"),
        ({"unit": "token-type"}, "did you mean 'token_type'"),
        ({"interval": "jack"}, "did you mean 'jackknife'"),
        ({"level": "high"}, "level must lie between 0 and 1"),
        ({"resamples": True}, "resamples must be a whole number of at least 1"),
        ({"seed": 1.5}, "seed must be a whole number of at least 0"),
        ({"layers": 1.5}, "layers must be whole numbers, not 1.5"),
        ({"layers": [[0]]}, r"layers must be whole numbers, not \[\[0\]\]"),
        ({"layers": "0"}, "layers must be whole numbers, not '0'"),
        ({"projections": 3}, "projections must be names, not 3"),
        ({"projections": [["q"]]}, "projections must be names"),
        ({"given": 3}, "given must be names, not 3"),
        ({"given": [["position"]]}, "given must be names"),
        ({"norm": ["nuclear"]}, r"norm must be the name of a norm, such as 'nuclear', not \['nuclear'\]"),
    ):
        with pytest.raises(InputError, match=message):
            inversion.correlate(RUN, **given)


def test_layers_and_projections_may_stand_in_any_row():
    expected = inversion.correlate(RUN, layers=[0, 1], projections=["q"], resamples=20)
    for layers, projections in ((range(2), ("q",)), (np.arange(2), np.array(["q"])), (iter([0, 1]), {"q": 1})):
        assert inversion.correlate(RUN, layers=layers, projections=projections, resamples=20) == expected


def test_values_of_another_type_are_refused_in_a_sentence():
    for function, given, message in (
        (plan_sample_size, {"width": "0.1"}, "width must lie between 0 and 2"),
        (plan_sample_size, {"width": None}, "width must lie between 0 and 2"),
        (segments, {"by": "entropy", "top": None}, "top must lie between 0 and 1"),
        (segments, {"by": "score", "right": "1"}, "right must be a number"),
        (lambda run, **steps: trajectory([run, run], **steps), {"steps": ["a", "b"]}, "steps must be one increasing"),
        (lambda run, **steps: trajectory([run, run], **steps), {"steps": 5}, "steps must be one increasing"),
        (lambda run, **steps: trajectory([run, run], **steps), {"steps": [0, np.nan]}, "steps must be one increasing"),
    ):
        with pytest.raises(InputError, match=message):
            function(RUN, **given)
    with pytest.raises(InputError, match="level between 0 and 1"):
        plan_sample_size(inversion.correlate(RUN, resamples=20), level="0.9")


def test_a_finished_pilot_takes_no_more_choices():
    pilot = inversion.correlate(RUN)
    assert plan_sample_size(pilot, level=0.9).level == 0.9
    with pytest.raises(InputError, match="method cannot be chosen"):
        plan_sample_size(pilot, method="pearson")


def test_length_from_which_a_response_counts_is_checked():
    for function in (per_response, within_between):
        with pytest.raises(InputError, match="min_tokens must be a whole number"):
            function(RUN, min_tokens=0)


def test_correlations_and_differences_share_what_an_estimate_says():
    found = inversion.correlate(RUN), inversion.compare(RUN, make_run(k=7, seed=1))
    for result, kind in zip(found, (Correlation, Difference), strict=True):
        assert isinstance(result, kind)
        assert isinstance(result, Estimate)
        for name in Estimate.__dataclass_fields__:
            assert name in result.to_dict()
        assert np.isfinite(result.standard_error)
