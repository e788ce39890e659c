import json

import numpy as np
import pytest
import xarray as xr
from statistics_samples import make_run
from xarray.backends import BackendArray
from xarray.core import indexing

import inversion
from inversion import InputError
from inversion.statistics import Columns, controls, per_response, segments, specification_curve, within_between
from inversion.statistics import within_response_shuffle as shuffle
from inversion.statistics.layout import Selection
from inversion.statistics.segmentation import recorded_tags
from inversion.statistics.strengths import mean_strength, strength

RUN = make_run(k=9)
MIXED = RUN.isel(token=np.random.default_rng(0).permutation(RUN.sizes["token"]))


class Watched(BackendArray):
    """An array that can be taken in rows, and counts how often any of it is taken."""

    def __init__(self, values):
        self.values, self.shape, self.dtype, self.reads = values, values.shape, values.dtype, 0

    def __getitem__(self, key):
        def read(part):
            self.reads += 1
            return self.values[part]

        return indexing.explicit_indexing_adapter(key, self.shape, indexing.IndexingSupport.BASIC, read)


def watched(run):
    """The run with columns that are read when they are looked at, and these columns."""
    arrays = {str(name): Watched(run[name].values) for name in run.variables if "token" in run[name].dims}
    found = {name: xr.Variable(run[name].dims, indexing.LazilyIndexedArray(a)) for name, a in arrays.items()}
    data, coords = ({k: v for k, v in found.items() if k in part} for part in (run.data_vars, run.coords))
    return run.assign(data).assign_coords(coords), arrays


def test_controls_read_the_run_once():
    run, arrays = watched(RUN)
    found = controls(run, resamples=50)
    assert found.to_dict() == controls(RUN, resamples=50).to_dict()
    reads = {name: array.reads for name, array in arrays.items()}
    assert reads == dict.fromkeys(reads, 1) | {"frobenius": 0}


def test_a_specification_curve_reads_each_norm_once():
    run, arrays = watched(RUN)
    specification_curve(run, resamples=20)
    assert (arrays["nuclear"].reads, arrays["frobenius"].reads, arrays["entropy_bits"].reads) == (1, 1, 1)


def test_columns_stand_by_response_and_position():
    found, expected = Columns.of(MIXED), Columns.of(RUN)
    assert expected.order is None
    assert found.n_tokens == RUN.sizes["token"]
    for name in ("entropy_bits", "response", "token_id", "prompt"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
    for name in ("position", "surprisal_bits", "score"):
        np.testing.assert_array_equal(found.number(name), RUN[name].values)
    chosen = Selection("nuclear", (1,), ("q",))
    np.testing.assert_array_equal(found.strength(chosen).values, RUN.nuclear.sel(layer=1, projection="q"))
    assert found.prompt_names.tolist() == sorted(set(RUN.prompt_id.values))
    assert Columns.of(found) is found


def test_columns_whose_shapes_do_not_fit_are_refused():
    columns = Columns.of(RUN)
    fields = {name: getattr(columns, name) for name in Columns.__dataclass_fields__}
    with pytest.raises(InputError, match="entropy_bits should have one value per token"):
        Columns(**fields | {"entropy_bits": columns.entropy_bits[1:]})
    with pytest.raises(InputError, match="prompt should have one value per response"):
        Columns(**fields | {"prompt": columns.prompt[1:]})
    with pytest.raises(InputError, match="response by response"):
        Columns(**fields | {"response": columns.response[::-1]})


def test_statistics_take_columns_as_well_as_runs():
    columns = Columns.of(RUN)
    assert inversion.correlate(columns, seed=2) == inversion.correlate(RUN, seed=2)
    assert inversion.compare(columns, columns).estimate == 0


def test_strength_is_the_mean_over_sites_that_were_measured():
    norms = np.random.default_rng(0).normal(size=(6, 3, 2))
    norms[:, 1, 0] = np.nan
    norms[4, 2, 1] = np.inf
    expected = [np.mean(np.delete(row.ravel(), 2)) for row in norms]
    expected[4] = np.nan
    np.testing.assert_allclose(mean_strength(norms), expected)
    assert np.isnan(mean_strength(norms * np.nan)).all()


def test_strength_outside_the_statistics_keeps_the_order_of_rows():
    values, layers, projections = strength(MIXED, "nuclear", layers=-1)
    np.testing.assert_allclose(values, MIXED.nuclear.sel(layer=1).mean("projection"))
    assert (layers, projections) == ((1,), ("q", "o"))


def damaged():
    nuclear, entropy = RUN.nuclear.values.copy(), RUN.entropy_bits.values.copy()
    nuclear[RUN.response.values == 3] = np.nan
    nuclear[0], entropy[1], entropy[2] = np.inf, np.nan, np.nan
    score = np.where(RUN.response.values < 2, np.nan, RUN.score.values)
    return RUN.assign(nuclear=(RUN.nuclear.dims, nuclear), entropy_bits=("token", entropy), score=("token", score))


def test_every_statistic_says_what_it_left_out_and_why():
    run, lost = damaged(), int((RUN.response.values == 3).sum())
    tokens = f"{lost + 3} tokens left out: {lost + 1} without strength, 2 without entropy"
    responses = "1 response left out: none of the tokens can be used"
    found = inversion.correlate(run, resamples=50)
    assert (found.n_tokens_left_out, found.n_responses_left_out) == (lost + 3, 1)
    assert (found.n_tokens, found.n_responses) == (RUN.sizes["token"] - lost - 3, 8)
    for said in (
        found.notes,
        shuffle(run, resamples=20).notes,
        within_between(run, resamples=50).total.notes,
        controls(run, resamples=50).main.notes,
        specification_curve(run, norms=["nuclear"], resamples=20).notes,
        per_response(run).attrs["notes"],
        inversion.layer_map(run, resamples=20).attrs["notes"],
        inversion.trajectory([run] * 3, resamples=20).notes,
        inversion.compare(run, run, resamples=20)._notes(),
    ):
        assert tokens in said
        assert responses in said


def test_unscored_responses_are_dropped_and_counted():
    run = damaged()
    found = segments(run, "score", resamples=50)
    unscored = int((RUN.response.values < 2).sum())
    assert f"2 responses left out ({unscored} tokens): no score" in str(found)
    assert found.a.n_responses + found.b.n_responses == 6
    assert "2 tokens left out: no entropy" in str(segments(run, "entropy", resamples=50))


def test_what_the_run_itself_lacks_is_said():
    run = RUN.assign_attrs(unmeasured=2, complete=False)
    said = inversion.correlate(run, resamples=20).notes
    assert said == (
        "2 responses could not be measured and are not in the run",
        "the run is not finished: more responses are to come",
    )
    assert inversion.correlate(RUN.assign_attrs(unmeasured=0, complete=True), resamples=20).notes == ()


def test_what_a_run_says_of_its_responses_may_be_text_as_netcdf_holds_it():
    told = {"temperature": 0.7, "think_tags": ["[", "]"], "skipped": [{"reason": "no answer"}]}
    for responses in (told, json.dumps(told)):
        columns = Columns.of(RUN.assign_attrs(responses=responses))
        assert columns.measured.temperature == "0.7"
        assert columns.notes == ("1 problems were left out beforehand (no answer)",)
        assert recorded_tags(columns.run) == ("[", "]")
    for responses in ("a file", "[1]", 3):
        assert Columns.of(RUN.assign_attrs(responses=responses)).notes == ()


def test_that_drawn_tokens_count_once_each_is_said():
    drawn, whole = (RUN.assign(weight=("token", np.full(RUN.sizes["token"], w))) for w in (3.0, 1.0))
    (note,) = inversion.correlate(drawn, resamples=20).notes
    assert "each of them counts once" in note
    assert inversion.correlate(whole, resamples=20).notes == ()
