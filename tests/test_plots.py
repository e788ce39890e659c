import sys
from itertools import pairwise
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import xarray as xr

sys.path.insert(0, str(Path(__file__).parent / "statistics"))
from statistics_samples import make_run

import inversion
from inversion import InputError, plots, reference
from inversion.plots.style import diverging, ink_on, look
from inversion.statistics import specification_curve, trajectory

RUN = make_run(k=12, layers=2, projections="qo")
RUN["token_text"] = ("token", np.array([["a", " b", "\n", "$x$", "漢"][i % 5] for i in range(RUN.sizes["token"])]))
FAST = {"interval": "jackknife", "resamples": 50}
RESULT = inversion.correlate(RUN, **FAST)
MAP = inversion.layer_map(RUN, **FAST)
STEPS = (0, 100, 300, 400)
SEEDS = [
    trajectory([make_run(k=12, rho=r, seed=10 * s + i) for i, r in enumerate((0, 0, -1, -1))], STEPS, **FAST)
    for s in range(3)
]
CURVE = specification_curve(RUN, methods=("spearman", "pearson"), **FAST)
FRAME = pd.DataFrame(
    [
        {"step": step, "value": step / 10 + seed + (method == "b"), "method": method, "seed": seed}
        for method in "ba"
        for seed in range(3)
        for step in (0, 10, 20)
    ]
)
PLOTS = {
    "entropy_strength": lambda ax=None: plots.entropy_strength(RUN, ax, result=RESULT),
    "layer_heat_map": lambda ax=None: plots.layer_heat_map(MAP, ax),
    "trajectory": lambda ax=None: plots.trajectory(SEEDS[0], ax, reference=reference.SFT),
    "fingerprint": lambda ax=None: plots.fingerprint({"a": RESULT}, ax, reference=reference.FINGERPRINT),
    "specification_curve": lambda ax=None: plots.specification_curve(CURVE, ax),
    "token_strip": lambda ax=None: plots.token_strip(RUN, ax, response=1),
    "training_comparison": lambda ax=None: plots.training_comparison(FRAME, ax),
}


@pytest.mark.parametrize("name", PLOTS)
def test_a_plot_draws_where_it_is_told_and_leaves_the_rest_alone(name):
    before, figures = dict(mpl.rcParams), plt.get_fignums()
    _, axes = plots.new_figure(3, 2)
    ax = axes[0, 0]
    assert PLOTS[name](ax) is ax
    assert ax.has_data()
    assert dict(mpl.rcParams) == before
    assert plt.get_fignums() == figures


def test_a_plot_without_axes_makes_a_figure_in_the_house_style():
    before = dict(mpl.rcParams)
    ax = PLOTS["training_comparison"]()
    assert ax.figure.number in plt.get_fignums()
    assert ax.xaxis.label.get_size() == plots.STYLE["axes.labelsize"]
    assert ax.figure.get_size_inches()[0] == plots.COLUMN_INCHES
    plt.close(ax.figure)
    assert dict(mpl.rcParams) == before


@pytest.mark.parametrize("name", PLOTS)
def test_the_same_call_gives_the_same_bytes_and_truetype_fonts(name, tmp_path):
    for stem in ("a", "b"):
        figure, axes = plots.new_figure(4, 3)
        with plots.style():
            PLOTS[name](axes[0, 0])
        plots.save_figure(figure, str(tmp_path / stem))
    for kind in ("pdf", "png"):
        assert (tmp_path / f"a.{kind}").read_bytes() == (tmp_path / f"b.{kind}").read_bytes()
    pdf = (tmp_path / "a.pdf").read_bytes()
    assert b"/Subtype /Type3" not in pdf
    assert b"/FontFile2" in pdf  # an embedded TrueType font
    assert b"/CreationDate" not in pdf


def test_density_keeps_the_tokens_that_have_both_numbers():
    run = RUN.copy(deep=True)
    run["entropy_bits"][0], run["entropy_bits"][1] = np.nan, 0.0
    run["nuclear"][2] = 0.0
    found = plots.entropy_strength_points(run, layers=[1], projections=["q"], bins=4)
    expected = run.nuclear.sel(layer=1, projection="q").values[[1, *range(3, run.sizes["token"])]]
    np.testing.assert_array_equal(found.strength, expected)
    assert found.entropy_bits[0] == plots.LOWEST_BITS
    assert found.not_drawn == 1
    for drawn, notes in ((run, ["not drawn: 1 token of strength 0"]), (RUN, [])):
        _, axes = plots.new_figure()
        assert [text.get_text() for text in plots.entropy_strength(drawn, axes[0, 0]).texts] == notes
    order = np.argsort(found.entropy_bits, kind="stable")
    first = np.array_split(order, 4)[0]
    assert found.middle_strength[0] == np.median(found.strength[first])
    with pytest.raises(InputError, match="nothing to draw"):
        plots.entropy_strength_points(run.assign(nuclear=run.nuclear * 0))


def layer_table(estimate, q):
    shape = np.shape(estimate)
    names = {"layer": range(shape[0]), "projection": [f"p{j}" for j in range(shape[1])]}
    arrays = {"estimate": estimate, "q_value": q}
    return xr.Dataset({k: (("layer", "projection"), np.array(v, float)) for k, v in arrays.items()}, names)


def test_heat_map_marks_what_is_clear():
    estimate, q = [[-0.5, 0.2, np.nan], [0.01, -0.3, 0.4]], [[0.01, 0.2, np.nan], [1, 0.05, 0.049]]
    found = plots.heat_map_cells(layer_table(estimate, q))
    assert found.layers == (0, 1)
    assert found.marks.tolist() == [["−0.50*", "+0.01"], ["+0.20", "−0.30"], ["–", "+0.40*"]]
    assert found.limit == 0.5
    many = plots.heat_map_cells(layer_table(np.linspace(-1, 1, 60).reshape(20, 3), np.full((20, 3), 0.01)))
    assert set(many.marks[:, :9].ravel()) == {"▾"}
    assert set(many.marks[:, 10:].ravel()) == {"▴"}
    with pytest.raises(InputError, match="layer_map"):
        plots.heat_map_cells(RUN)


def test_one_trajectory_has_intervals_and_several_seeds_a_range():
    (one,) = plots.trajectory_bands(SEEDS[0])
    assert one.kind == "interval"
    np.testing.assert_array_equal(one.low, [c.low for c in SEEDS[0].correlations])
    (several,) = plots.trajectory_bands(SEEDS)
    values = np.array([[c.estimate for c in seed.correlations] for seed in SEEDS])
    assert several.kind == "range"
    np.testing.assert_allclose(several.middle, values.mean(0))
    np.testing.assert_array_equal(several.high, values.max(0))
    named = plots.trajectory_bands({"a": SEEDS, "b": SEEDS[1]})
    assert [(band.label, band.kind) for band in named] == [("a", "range"), ("b", "interval")]
    for broken in ([], [RESULT], {"a": 3}):
        with pytest.raises(InputError, match="no trajectory"):
            plots.trajectory_bands(broken)


def test_reference_marks_are_drawn_where_they_were_reported():
    _, axes = plots.new_figure()
    ax = plots.trajectory(SEEDS[0], axes[0, 0], reference={"Llama": reference.RL["Llama"]})
    marks = next(line for line in ax.lines if line.get_label() == "Llama, as reported")
    assert marks.get_xdata().tolist() == [0, 2000, 4000, 6000, 8000]
    assert marks.get_ydata().tolist() == [0.036, -0.637, -0.637, -0.6, -0.649]
    base = {"Llama": "Llama-3.1-8B base", "Qwen": "Qwen base"}
    for family in (reference.SFT, reference.RL, reference.RL_FROM_BASE, reference.SFT_THEN_RL):
        for name, series in family.items():
            assert len(series.steps) == len(series.correlations)
            assert series.correlations[0] == reference.FINGERPRINT[base[name]]


def test_bars_stand_side_by_side_within_their_group():
    other = inversion.correlate(RUN, norm="logit_space", **FAST)
    found = plots.fingerprint_bars({"a": {"s": RESULT, "c": other}, "b": {"c": other}})
    assert [(bar.group, bar.series) for bar in found] == [("a", "s"), ("a", "c"), ("b", "c")]
    assert [bar.place for bar in found] == pytest.approx([-0.2, 0.2, 1.2])
    assert (found[0].estimate, found[0].low, found[0].high) == (RESULT.estimate, RESULT.low, RESULT.high)
    assert plots.fingerprint_bars([RESULT])[0].group == "toy"
    assert plots.fingerprint_bars(RESULT) == plots.fingerprint_bars([RESULT])
    for broken in ({}, [], {"a": 0.3}, [RESULT, 0.3], 0.3, "toy", [found[0], RESULT]):
        for function in (plots.fingerprint_bars, plots.fingerprint):
            with pytest.raises(InputError, match="no correlation"):
                function(broken)
    with pytest.raises(InputError, match="several correlations are called 'toy'; pass a mapping"):
        plots.fingerprint([RESULT, other])


def test_specification_rows_name_only_choices_that_vary():
    found = plots.specification_rows(CURVE)
    assert (np.diff(found.estimate) >= 0).all()
    np.testing.assert_array_equal(found.estimate, CURVE.estimates)
    assert not any(choice.startswith("quantity") for choice in found.choices)
    varied = {"norm: nuclear", "norm: frobenius", "unit: position", "method: pearson", "layers: last"}
    assert varied <= set(found.choices)
    column = dict(zip(found.choices, found.chosen, strict=True))
    assert (column["norm: nuclear"] ^ column["norm: frobenius"]).all()
    p = np.array([c.p_value for c in CURVE.correlations])
    np.testing.assert_array_equal(found.clear, ((found.low > 0) | (found.high < 0)) & (p <= 0.05))


def test_estimates_without_an_interval_are_drawn_and_named_as_such():
    curve = specification_curve(RUN.isel(token=RUN.response.values == 0), methods=("spearman", "pearson"), **FAST)
    assert all(np.isnan(c.low) for c in curve.correlations)
    _, axes = plots.new_figure()
    ax = plots.specification_curve(curve, axes[0, 0])
    (drawn,) = (line for line in ax.lines if line.get_label() == "no interval")
    assert drawn.get_ydata().tolist() == curve.estimates.tolist()
    bottom, top = ax.get_ylim()
    assert bottom < curve.estimates.min() < curve.estimates.max() < top
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["no interval"]


def test_a_strip_wraps_lines_and_keeps_values():
    capture = RUN.isel(token=RUN.response.values == 0).isel(token=slice(5))
    capture["token_text"] = ("token", ["abcd", "efgh", "\nxy", "z" * 20, " "])
    found = plots.token_strip_cells(capture, by="nuclear", layer=1, projection="o", width=10)
    assert found.pieces == ("abcd", "efgh", "↵xy", "zzzzzzzzz…", "·")
    assert found.columns.tolist() == [0, 4, 0, 0, 0]
    assert found.lines.tolist() == [0, 0, 1, 2, 3]
    np.testing.assert_array_equal(found.quantity.values, capture.nuclear.sel(layer=1, projection="o").values)
    with pytest.raises(InputError, match="8 or more"):
        plots.token_strip_cells(capture, width=4)


def test_training_bands_span_the_seeds():
    found = plots.training_bands(FRAME)
    assert [band.label for band in found] == ["b", "a"]
    np.testing.assert_allclose(found[1].middle, [1, 2, 3])
    np.testing.assert_allclose((found[1].low[0], found[1].high[0]), (0, 2))
    assert found[0].members.shape == (3, 3)
    gone = FRAME[~((FRAME.seed == 1) & (FRAME.step == 10))]
    np.testing.assert_allclose(plots.training_bands(gone)[1].middle, [1, 2, 3])
    with pytest.raises(InputError, match="seed"):
        plots.training_bands(FRAME.drop(columns="seed"))
    with pytest.raises(InputError, match="two values"):
        plots.training_bands(pd.concat([FRAME, FRAME]))
    with pytest.raises(InputError, match="no columns low and high"):
        plots.table_bands(FRAME, "method", intervals=True)


def test_neighbouring_lines_differ_in_lightness_marker_or_dashes():
    looks = [look(i) for i in range(7)]
    assert len({(one["marker"], one["linestyle"]) for one in looks}) == 7
    grey = [float(np.dot(mpl.colors.to_rgb(one["color"]), [0.2126, 0.7152, 0.0722])) for one in looks]
    assert min(abs(a - b) for a, b in pairwise(grey)) > 0.02


def test_ink_reads_on_its_ground_and_signs_have_colours_of_their_own():
    assert ink_on("#FFE000") == "black"
    assert ink_on("#00204C") == "white"
    low, high = diverging()(0.0), diverging()(1.0)
    assert low[2] > low[0]
    assert high[0] > high[2]
