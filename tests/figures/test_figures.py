import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

sys.path.insert(0, str(Path(__file__).parents[1] / "report"))
from report_samples import write_run

import inversion
from inversion import InputError
from inversion.cli import main
from inversion.corrpo.baselines import METHODS
from inversion.figures import FIGURES, Sources, make_figures, read_sources
from inversion.figures.of_lineage import accuracy_band, control_bands, layer_bands, trajectory_panels, unit_bands
from inversion.figures.of_pretrained import ARMS, accuracy_bands, arm_bands, baseline_rows, change_rows
from inversion.figures.of_pretrained import control_bands as pretrained_controls
from inversion.figures.of_runs import last_map, lineage_rows, stage_bars
from inversion.figures.of_training import before_after_bands, block_bands, lead, method_groups, method_rows, slopes
from inversion.figures.panels import band_table, spread
from inversion.plots.style import look

STEPS = {"base": (0, 10, 100), "finetune": (0, 10, 100), "grpo": (0, 5), "corrpo": (0, 5), "base_grpo": (0, 5)}
CONTROLS = ("none", "partial", "within", "between", "shuffled", "sure")


def value(seed, stage, step, salt=""):
    """A correlation that only its labels decide."""
    return round(np.random.default_rng([seed, step, *f"{stage}{salt}".encode()]).uniform(-0.8, 0.8), 3)


def lineage_table(seeds=3):
    rows = []
    for seed in range(seeds):
        for stage, steps in STEPS.items():
            for step in steps:
                for norm in ("nuclear", "frobenius", "logit_space"):
                    for unit in ("position", "token_type"):
                        for control in CONTROLS if (norm, unit) == ("nuclear", "position") else ("none",):
                            v = value(seed, stage, step, norm + unit + control)
                            labels = (seed, stage, "base/100", step, "own", norm, unit, control)
                            rows.append((*labels, v, v - 0.1, v + 0.2, 0.5, 900, 48, 0.1 * seed + step / 1000, 1, 20))
    names = ["seed", "stage", "start", "step", "texts", "norm", "unit", "control", "estimate", "low", "high"]
    names += ["p_value", "n_tokens", "n_responses", "accuracy", "entropy_bits", "tokens"]
    return pd.DataFrame(rows, columns=names)


def layers_table(seeds=3):
    rows = [
        (seed, stage, step, layer, p, value(seed, stage, step, f"{layer}{p}"), -1.0, 1.0, 0.01, 0.01 * (1 + 9 * layer))
        for seed in range(seeds)
        for stage, steps in STEPS.items()
        for step in steps
        for layer in range(2)
        for p in "qkvo"
    ]
    names = ["seed", "stage", "step", "layer", "projection", "estimate", "low", "high", "p_value", "q_value"]
    return pd.DataFrame(rows, columns=names)


def comparison_tables(seeds=3):
    found, curves = [], []
    for m, method in enumerate(("grpo", "corrpo")):
        for seed in range(seeds):
            for when in ("before", "after"):
                v = 0.1 * m + 0.01 * seed**2 + (when == "after") * 0.2
                found.append((method, seed, when, 0.5 + v, 2 * v, -v))
            curves += [(method, seed, step, step / 100, seed - 0.01 * step) for step in range(1, 41)]
    names = ["method", "seed", "when", "accuracy", "rho_position", "rho_token_type"]
    return (
        pd.DataFrame(found, columns=names),
        pd.DataFrame(curves, columns=["method", "seed", "step", "accuracy", "rho"]),
    )


def by_layer_table(seeds=3):
    """One measurement before training a seed, which both methods repeat; after it they differ by 1."""
    return pd.DataFrame(
        [
            (method, seed, when, unit, layer, 0.1 * layer + 0.01 * seed + m * (when == "after"))
            for m, method in enumerate(("grpo", "down"))
            for seed in range(seeds)
            for when in ("before", "after")
            for unit in ("position", "token_type")
            for layer in range(2)
        ],
        columns=["method", "seed", "when", "unit", "layer", "rho"],
    )


def entropy_table(seeds=2, points=10):
    """Accuracy that follows the law with a = 0.5 and b = 1.5, but for the last half, which lies 0.1 above it."""
    rows = []
    for method, salt in (("grpo", 0), ("kl_cov", 1)):
        for seed in range(seeds):
            for i in range(points):
                nats = 0.4 - 0.02 * i - 0.01 * seed + 0.005 * salt * i
                accuracy = 1.5 - 0.5 * np.exp(nats) + 0.1 * (i >= points // 2)
                rows.append((method, seed, 2 * i, accuracy, nats / np.log(2), 50 + i, 0.3 - 0.02 * i, -1e-4))
    names = ["method", "seed", "step", "accuracy", "entropy_bits", "tokens", "covariance", "predicted_entropy_change"]
    return pd.DataFrame(rows, columns=names)


def supervised_table(seeds=3):
    """The table of supervised fine-tuning, in which ``up`` is ahead by 0.1, 0.2, ... from step 10 on."""
    rows = []
    for seed in range(seeds):
        for name in ("none", "up"):
            for step in (0, 10, 20):
                ahead = 0.1 * (seed + 1) if name == "up" and step else 0
                rho = value(seed, name, step)
                rows.append((name, seed, step, 0.2 + step / 100 + ahead, rho, rho / 2))
    names = ["condition", "seed", "step", "accuracy", "rho_position", "rho_token_type"]
    return pd.DataFrame(rows, columns=names)


def study_tables(seeds=2):
    """The tables of a study of a pretrained model."""
    rows, controls = [], (*CONTROLS[:-1], "rest")
    for arm in ("full", "shuffled"):
        for seed in range(seeds if arm == "full" else 1):
            for step in (0, 10, 100):
                for texts in ("sampled", "worked"):
                    for norm in ("nuclear", "logit_space"):
                        for unit in ("position", "token_type"):
                            for control in controls if (norm, unit) == ("nuclear", "position") else ("none",):
                                v = value(seed, arm, step, texts + norm + unit + control)
                                right = 0.1 * seed + step / 1000 if texts == "sampled" else np.nan
                                rows.append((arm, seed, step, texts, norm, unit, control, v, v - 0.1, v + 0.2, right))
    names = ["arm", "seed", "step", "texts", "norm", "unit", "control", "estimate", "low", "high", "accuracy"]
    finetuning = pd.DataFrame(rows, columns=names)
    kept = finetuning.query("arm == 'full' and seed == 0 and step < 100").assign(survey="prompts", measurement="drawn")
    baseline = kept.assign(model=kept.step.map({0: "chat", 10: "plain"}))
    return finetuning, baseline


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Folders of every kind: tables, a folder of two runs."""
    root = tmp_path_factory.mktemp("sources")
    for name in ("lineage", "compare", "runs", "study"):
        (root / name).mkdir()
    lineage_table().to_csv(root / "lineage" / "lineage.csv", index=False)
    layers_table().to_csv(root / "lineage" / "layers.csv", index=False)
    for name, table in zip(("finetuning", "baseline"), study_tables(), strict=True):
        table.to_csv(root / "study" / f"{name}.csv", index=False)
    comparison, curves = comparison_tables()
    comparison.to_csv(root / "compare" / "comparison.csv", index=False)
    curves.to_csv(root / "compare" / "curves.csv", index=False)
    by_layer_table().to_csv(root / "compare" / "rho-by-layer.csv", index=False)
    entropy_table().to_csv(root / "compare" / "entropy.csv", index=False)
    supervised_table().to_csv(root / "compare" / "supervised.csv", index=False)
    for i, name in enumerate(("fast", "slow")):
        write_run(root / "runs" / name, 12, 0.1 * i)
    return root


def test_every_figure_is_made_and_repeats_to_the_byte(folders, tmp_path):
    chosen = [folders / name for name in ("lineage", "compare", "runs", "study")]
    lines = []
    sources = read_sources(chosen, resamples=100)
    first = make_figures(sources, tmp_path / "a", tell=lines.append)
    second = make_figures(sources, tmp_path / "b")
    assert lines == []
    assert sorted(path.stem for path in first[::3]) == sorted(FIGURES)
    assert [path.suffix for path in first[:3]] == [".pdf", ".png", ".md"]
    for a, b in zip(first, second, strict=True):
        assert a.read_bytes() == b.read_bytes(), a.name
        if a.suffix == ".pdf":
            assert b"/Type3" not in a.read_bytes()
        if a.suffix == ".md":
            assert "nan" not in a.read_text().lower(), a.name
    assert "−" in (tmp_path / "a" / "controls.md").read_text()


def test_runs_alone_allow_their_own_figures_and_the_command_says_what_the_others_need(folders, tmp_path, capsys):
    assert main(["figures", str(folders / "runs"), "--out", str(tmp_path / "out"), "--resamples", "100"]) == 0
    printed = capsys.readouterr().out
    made = {path.stem for path in (tmp_path / "out").glob("*.pdf")}
    own = {"entropy-strength", "layer-map", "fingerprint"}
    assert made == own | {"specification-curve-fast", "specification-curve-slow"}
    assert "not made: finetune-curve (needs lineage.csv with the stage finetune)" in printed
    estimate = inversion.correlate(inversion.load_run(folders / "runs" / "slow"), resamples=100).estimate
    assert f"slow {estimate:+.2f}".replace("-", "−") in (tmp_path / "out" / "entropy-strength.md").read_text()


def test_the_command_makes_only_what_is_asked_for(folders, tmp_path, capsys):
    arguments = ["figures", str(folders / "study"), "--out", str(tmp_path / "out"), "--only"]
    assert main([*arguments, "pretrained-curve,pretrained-controls"]) == 0
    assert {path.stem for path in (tmp_path / "out").iterdir()} == {"pretrained-curve", "pretrained-controls"}
    assert main([*arguments, "pie"]) == 2
    assert "there is no figure 'pie'" in capsys.readouterr().err


def test_a_lineage_folder_gives_the_last_model_of_each_stage_as_a_run(folders, tmp_path):
    shutil.copy(folders / "lineage" / "lineage.csv", tmp_path)
    for stage, step in (("base", 0), ("base", 100), ("finetune", 10)):
        write_run(tmp_path / "seed-0" / stage / f"step-{step:06d}" / "run", 3)
    runs = read_sources([tmp_path]).runs
    assert {name: path.parent.name for name, path in runs.items()} == {
        "base": "step-000100",
        "fine-tuned": "step-000010",
    }


def test_runs_of_the_same_name_are_told_apart(folders):
    runs = read_sources([folders / "runs", folders / "runs" / "fast"]).runs
    assert list(runs) == ["fast", "slow", "fast (2)"]


@pytest.mark.parametrize("kind", ["empty", "nowhere", "columns", "rows", "damaged", "twice", "file"])
def test_bad_input_exits_with_two_and_one_sentence(kind, folders, tmp_path, capsys):
    source, out = tmp_path / "source", tmp_path / "out"
    source.mkdir()
    chosen = [source]
    if kind == "nowhere":
        chosen = [tmp_path / "nowhere"]
    elif kind == "columns":
        lineage_table().drop(columns="unit").to_csv(source / "lineage.csv", index=False)
    elif kind == "rows":
        lineage_table().head(0).to_csv(source / "lineage.csv", index=False)
    elif kind == "damaged":
        (source / "lineage.csv").write_bytes(b"\xff\xfe\x00")
    elif kind == "twice":
        chosen = [folders / "lineage", folders / "lineage"]
    elif kind == "file":
        chosen, out = [folders / "lineage"], source / "file"
        out.write_text("")
    assert main(["figures", *map(str, chosen), "--out", str(out)]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("inversion: ")
    assert captured.err.count("\n") == 1
    assert not out.is_dir()


def test_an_unknown_or_impossible_figure_is_refused(folders, tmp_path):
    with pytest.raises(InputError, match="there is no figure"):
        make_figures([folders / "runs"], tmp_path, only=["pie"])
    with pytest.raises(InputError, match="needs comparison.csv"):
        make_figures([folders / "lineage"], tmp_path, only=["training-comparison"])


def test_seed_bands_are_mean_and_range_and_one_seed_has_its_interval():
    table = lineage_table()
    position, types = unit_bands(table, "finetune", "nuclear")
    assert (position.label, types.label) == ("positions", "token types")
    assert position.steps.tolist() == [0, 10, 100]
    members = np.array([[value(s, "finetune", t, "nuclearpositionnone") for t in (0, 10, 100)] for s in range(3)])
    np.testing.assert_allclose(position.middle, members.mean(0))
    np.testing.assert_allclose(position.low, members.min(0))
    np.testing.assert_allclose(position.high, members.max(0))
    (one, _) = unit_bands(table[table.seed == 1], "finetune", "nuclear")
    assert one.kind == "interval"
    np.testing.assert_allclose(one.low, members[1] - 0.1)
    np.testing.assert_allclose(one.high, members[1] + 0.2)
    assert "mean of 3 seeds" in spread([position])
    assert "intervals over responses" in spread([one])
    np.testing.assert_allclose(accuracy_band(table, "finetune", "nuclear").middle, [0.1, 0.11, 0.2])


def test_seeds_that_lack_steps_are_owned_up_to():
    table = lineage_table()
    position, _ = unit_bands(table[(table.seed == 0) | (table.step < 100)], "finetune", "nuclear")
    assert position.middle[-1] == value(0, "finetune", 100, "nuclearpositionnone")
    assert "lack some steps" in spread([position])


def test_the_table_of_a_caption_holds_every_number():
    table = lineage_table(1)
    band = unit_bands(table, "finetune", "nuclear")[0]
    numbers = [f"{v:+.2f}".replace("-", "−") for v in band.middle]
    rows = band_table([band]).splitlines()
    assert rows[0] == "| step | positions |"
    assert [row.split(" | ")[1].split(" ")[0] for row in rows[2:]] == numbers


def test_trajectory_panels_follow_the_stages():
    panels = trajectory_panels(lineage_table(), "nuclear")
    assert list(panels) == ["base model", "fine-tuning", "reinforcement learning"]
    labels = [band.label for band in panels["reinforcement learning"]]
    assert labels == ["GRPO, positions", "GRPO, token types", "CorR-PO, positions", "CorR-PO, token types"]
    last = panels["reinforcement learning"][3].members[:, -1]
    np.testing.assert_allclose(last, [value(s, "corrpo", 5, "nucleartoken_typenone") for s in range(3)])


def test_a_pretrained_model_has_a_curve_an_arm_beside_its_controls(folders, tmp_path):
    table, baseline = study_tables()
    full, shuffled = arm_bands(table, "sampled", "position", "nuclear")
    assert (full.label, shuffled.label) == (ARMS["full"], ARMS["shuffled"])
    members = [[value(s, "full", t, "samplednuclearpositionnone") for t in (0, 10, 100)] for s in range(2)]
    np.testing.assert_allclose(full.members, members)
    # Of two seeds the mean of their intervals, which are 0.3 wide.
    assert {full.kind, shuffled.kind} == {"interval"}
    np.testing.assert_allclose([full.low, full.high], [full.middle - 0.1, full.middle + 0.2])
    assert "mean of 2 seeds; bands: mean of the seeds' 95 % intervals" in spread([full])
    np.testing.assert_allclose(accuracy_bands(table, "nuclear")[0].middle, [0.05, 0.06, 0.15])
    found = pretrained_controls(table, "nuclear")
    expected = np.mean([value(s, "full", 10, "workedlogit_spacepositionnone") for s in range(2)])
    assert found["|e − p|"]["worked solutions"][0].middle[1] == pytest.approx(expected)
    expected = value(0, "shuffled", 100, "samplednuclearpositionrest")
    assert found["the other\ntokens"]["own responses"][1].middle[2] == pytest.approx(expected)
    marks = baseline_rows(baseline, "nuclear")
    assert next(iter(marks)) == "prompts: chat, sampled, drawn"
    v = value(0, "full", 10, "worked" + "nuclear" + "token_type" + "none")
    assert marks["prompts: plain, worked, drawn"]["token types"] == pytest.approx((v, v - 0.1, v + 0.2))
    make_figures([folders / "lineage", folders / "study"], tmp_path, only=["trajectory"])
    caption = (tmp_path / "trajectory.md").read_text()
    assert "\na pretrained model:" in caption
    assert "not the published ones" in caption


def test_controls_come_with_the_control_at_the_logits():
    found = control_bands(lineage_table(), "finetune", "nuclear")
    assert len(found) == len(CONTROLS) + 1
    logits = found["|e − p|, follows entropy by construction"]
    expected = np.mean([value(s, "finetune", 100, "logit_spacepositionnone") for s in range(3)])
    assert logits.middle[-1] == pytest.approx(expected)


def test_layer_curves_and_maps_take_their_rows():
    table = layers_table()
    bands = layer_bands(table, "finetune", "v")
    assert [band.label for band in bands] == ["layer 0", "layer 1"]
    assert bands[1].members[2, 1] == value(2, "finetune", 10, "1v")
    cells = last_map(table[table.seed > 0], "finetune")
    assert cells.projection.values.tolist() == list("qkvo")
    assert float(cells.estimate.sel(layer=1, projection="o")) == value(1, "finetune", 100, "1o")
    assert cells.q_value.values[:, 0].tolist() == [0.01, 0.1]


def shown_cells(ax):
    """The layers and projections that a map's panel has room for, and the names on its ticks."""
    left, right, bottom, top = *ax.get_xlim(), *ax.get_ylim()
    names = [[label.get_text() for label in axis.get_ticklabels()] for axis in (ax.xaxis, ax.yaxis)]
    return (round(right - left), round(bottom - top)), names


def test_maps_of_different_layers_or_projections_show_all_their_cells():
    table = layers_table(1).query("stage in ['base', 'finetune']")
    ragged = table[
        (table.stage == "base") & (table.layer == 0) | (table.stage == "finetune") & table.projection.isin([*"vo"])
    ]
    (drawn,) = FIGURES["layer-map"].draw(Sources({}, {"layers": ragged}))
    base, finetuned = (ax for ax in drawn.figure.axes if ax.get_title(loc="left"))
    assert shown_cells(base) == ((1, 4), [["0"], [*"qkvo"]])
    assert shown_cells(finetuned) == ((2, 2), [["0", "1"], [*"vo"]])
    (drawn,) = FIGURES["layer-map"].draw(Sources({}, {"layers": table}))
    base, finetuned = (ax for ax in drawn.figure.axes if ax.get_title(loc="left"))
    assert base.get_shared_x_axes().joined(base, finetuned)


def test_stage_bars_take_the_last_step_of_each_stage():
    bars = stage_bars(lineage_table(), "nuclear")
    assert [bar.group for bar in bars[::2]] == [
        "random weights",
        "base",
        "fine-tuned",
        "GRPO",
        "CorR-PO",
        "GRPO from base",
    ]
    values = [value(s, "base", 100, "nuclearpositionnone") for s in range(3)]
    assert (bars[2].estimate, bars[2].low, bars[2].high) == pytest.approx((np.mean(values), min(values), max(values)))
    one = stage_bars(lineage_table(1), "nuclear")[2]
    assert (one.low, one.high) == pytest.approx((values[0] - 0.1, values[0] + 0.2))


def test_the_lineage_specification_curve_leaves_out_nulls_and_the_logits():
    rows = lineage_rows(lineage_table(), "finetune")
    assert (np.diff(rows.estimate) >= 0).all()
    assert rows.estimate.size == 3 * (4 + 3)  # four answers and three further pairs of norm and unit, three seeds
    assert {"seed: 0", "norm: frobenius", "unit: token type", "control: low-entropy tokens"} <= set(rows.choices)
    assert not any("shuffled" in choice or "logit" in choice for choice in rows.choices)
    of_seeds = rows.chosen[[choice.startswith("seed") for choice in rows.choices]]
    assert (of_seeds.sum(0) == 1).all()


def test_method_rows_hold_a_t_interval_over_seeds():
    table = comparison_tables()[0]
    grpo, corrpo = method_rows(table, "accuracy")
    after = np.array([0.7, 0.71, 0.74])
    low, high = stats.ttest_1samp(after, 0).confidence_interval()
    assert (grpo.mean, grpo.low, grpo.high) == pytest.approx((after.mean(), low, high))
    assert corrpo.before == pytest.approx(np.mean([0.6, 0.61, 0.64]))
    assert np.isnan(method_rows(table[table.seed == 0], "accuracy")[0].low)


def test_a_method_without_one_measure_keeps_its_line_in_every_panel():
    """Panels share the axis that names the methods."""
    table = comparison_tables()[0]
    down = table[table.method == "grpo"].assign(method="down", accuracy=0.9)
    never = table[(table.method == "grpo") & (table.when == "before")].assign(method="never")
    table = pd.concat([table.assign(accuracy=table.accuracy.where(table.method != "grpo")), down, never])
    (drawn,) = FIGURES["training-comparison"].draw(Sources({}, {"comparison": table}))
    accuracy, position, _ = drawn.figure.axes
    assert [label.get_text() for label in accuracy.get_yticklabels()] == ["grpo", "corrpo", "down"]
    rho = [2 * np.mean([0.2, 0.21, 0.24]), 2 * np.mean([0.3, 0.31, 0.34])]
    expected_rows = {1: np.mean([0.8, 0.81, 0.84]), 2: 0.9}, {0: rho[0], 1: rho[1], 2: rho[0]}
    for ax, expected in zip((accuracy, position), expected_rows, strict=True):
        means = [line.get_data() for line in ax.lines if line.get_color() == look(0)["color"]]
        assert {y: x for (x,), (y,) in means if np.isfinite(x)} == pytest.approx(expected)
    assert "| grpo |  | −0.20" not in drawn.caption
    assert "| grpo |  | +0.03 → +0.43" in drawn.caption
    assert "(3 per method)" in drawn.caption


def colours(ax):
    """The colour of each named curve of a panel."""
    return {line.get_label(): line.get_color() for line in ax.lines if not line.get_label().startswith("_")}


def without(table, column, value, measure):
    """The table with NaN for a measure of some rows."""
    return table.assign(**{measure: table[measure].where(table[column] != value)})


@pytest.mark.parametrize("name", ["supervised-curve", "entropy-curves", "training-curves", "training-layers"])
def test_a_curve_looks_alike_in_every_panel_and_in_the_legend_where_one_lacks_another(name):
    layers = by_layer_table()
    layers = layers[(layers.unit != "position") | (layers.method != "grpo") | (layers.when == "before")]
    tables = {
        "supervised": without(supervised_table(), "condition", "none", "accuracy"),
        "entropy": without(entropy_table(), "method", "grpo", "entropy_bits"),
        "curves": without(comparison_tables()[1], "method", "grpo", "accuracy"),
        "rho-by-layer": layers,
    }
    (drawn,) = FIGURES[name].draw(Sources({}, tables))
    first, *others = (colours(ax) for ax in drawn.figure.axes if colours(ax))
    assert len(first) < len(others[-1])
    for other in others:
        assert first.items() <= other.items()
    legend = (drawn.figure.legends or [drawn.figure.axes[0].get_legend()])[0]
    handles = zip(legend.get_lines(), legend.get_texts(), strict=True)
    assert {text.get_text(): line.get_color() for line, text in handles} == others[-1]


MEASURED = {
    "supervised-curve": (supervised_table, ["accuracy", "rho_position", "rho_token_type"]),
    "entropy-curves": (entropy_table, ["entropy_bits", "tokens", "accuracy"]),
}


@pytest.mark.parametrize(("name", "measure"), [(name, m) for name, (_, all_) in MEASURED.items() for m in all_])
def test_what_was_never_measured_has_no_panel(name, measure):
    make, measures = MEASURED[name]
    table, key = make(), "supervised" if name == "supervised-curve" else "entropy"
    (whole,) = FIGURES[name].draw(Sources({}, {key: table}))
    (drawn,) = FIGURES[name].draw(Sources({}, {key: table.assign(**{measure: np.nan})}))
    labels = [[ax.get_ylabel() for ax in found.figure.axes] for found in (whole, drawn)]
    assert labels[1] == [label for label, m in zip(labels[0], measures, strict=True) if m != measure]
    assert not list(FIGURES[name].draw(Sources({}, {key: table.assign(**dict.fromkeys(measures, np.nan))})))


def test_a_unit_that_was_never_measured_has_no_panel():
    layers = by_layer_table()
    layers["rho"] = layers["rho"].where(layers["unit"] == "position")
    (drawn,) = FIGURES["training-layers"].draw(Sources({}, {"rho-by-layer": layers}))
    assert [ax.get_title(loc="left") for ax in drawn.figure.axes] == ["positions"]


def test_a_layer_that_one_projection_lacks_keeps_its_shade_in_the_others():
    table = layers_table(1)
    (drawn,) = FIGURES["layer-curves"].draw(
        Sources({}, {"layers": table[(table.projection != "q") | (table.layer > 0)]})
    )
    q, *others = (colours(ax) for ax in sorted(drawn.figure.axes, key=lambda ax: ax.get_title(loc="left") != "q"))
    assert list(q) == ["layer 1"]
    for other in others:
        assert tuple(q["layer 1"]) == tuple(other["layer 1"]) != tuple(other["layer 0"])
    assert len(drawn.figure.legends[0].get_lines()) == 2


def test_colour_tells_the_units_of_a_stage_that_lacks_one_of_them():
    table = lineage_table()
    table = table[(table.stage != "grpo") | (table.unit == "token_type")]
    (drawn,) = FIGURES["trajectory"].draw(Sources({}, {"lineage": table}))
    last = colours(drawn.figure.axes[-1])
    assert last["GRPO, token types"] == last["CorR-PO, token types"] == look(1)["color"]
    assert last["CorR-PO, positions"] == look(0)["color"]


def test_training_curves_are_means_over_blocks_of_steps():
    bands = block_bands(comparison_tables()[1], "accuracy", most=4)
    assert bands[0].steps.tolist() == [10, 20, 30, 40]
    np.testing.assert_allclose(bands[0].middle, [np.mean(np.arange(1, 11) + 10 * k) / 100 for k in range(4)])
    assert block_bands(comparison_tables()[1].assign(rho=np.nan), "rho") == []


def test_no_panel_of_training_curves_holds_more_than_can_be_told_apart():
    groups = method_groups(list(METHODS))
    assert groups[0] == ["grpo", "corrpo", "corrpo_flipped", "corrpo_shuffled"]
    assert all(group[0] == "grpo" and 2 <= len(group) <= 5 for group in groups)
    assert {method for group in groups for method in group} == set(METHODS)
    assert method_groups(["grpo"]) == [["grpo"]]


def test_the_captions_of_entropy_hold_what_is_known_of_the_curves():
    law, moved, along = (
        next(FIGURES[name].draw(Sources({}, {"entropy": entropy_table()}))).caption
        for name in ("entropy-law", "entropy-covariance", "entropy-curves")
    )
    # Predicted by the law the rest is 0.1 off; the mean of the last four points is off by more, as accuracy goes on.
    assert "| grpo | 2 | +0.500 [+0.500, +0.500] | 1.500 [1.500, 1.500] | 1.000 [1.000, 1.000] | 0.100 [" in law
    # Entropy falls by 0.01 nats an update at every covariance, so nothing correlates; all covariances are above 0.
    assert "| grpo | 2 | 1.000 [1.000, 1.000] |" in moved
    assert "−10.000 [−10.000, −10.000] | −0.100 [−0.100, −0.100] |" in moved
    assert "| 18 | 59.0 | 59.0 |" in along


def test_more_seeds_than_markers_are_drawn():
    (drawn,) = FIGURES["entropy-law"].draw(Sources({}, {"entropy": entropy_table(seeds=8)}))
    assert "| grpo | 8 |" in drawn.caption


def test_the_caption_says_that_bands_of_accuracy_are_of_another_kind():
    (drawn,) = FIGURES["pretrained-curve"].draw(Sources({}, {"finetuning": study_tables()[0]}))
    assert "Bands of the share right: lowest to highest seed." in drawn.caption
    (drawn,) = FIGURES["pretrained-curve"].draw(Sources({}, {"finetuning": study_tables(1)[0]}))
    assert "lowest to highest" not in drawn.caption


def test_the_caption_of_the_curve_has_the_changes_to_the_last_step():
    rows = [
        ("shuffled", 0, step, against, texts, unit, 0.1 * step + len(texts + unit + against), 0.0, 1.0)
        for step in (5, 10)
        for against in ("start", "full")
        for texts in ("sampled", "worked")
        for unit in ("position", "token_type")
    ]
    names = ["arm", "seed", "step", "against", "texts", "unit", "estimate", "low", "high"]
    changes = pd.DataFrame(rows, columns=names)
    found = change_rows(changes)
    assert [row[:3] for row in found] == [[ARMS["shuffled"], "0", "start"], [ARMS["shuffled"], "0", ARMS["full"]]]
    # Positions of own responses and worked solutions, then token types: 1 + 7 + 8 + 5 letters, and so on.
    assert [cell.split()[0] for cell in found[0][3:]] == ["+21.00", "+20.00", "+23.00", "+22.00"]
    (drawn,) = FIGURES["pretrained-curve"].draw(
        Sources({}, {"finetuning": study_tables()[0], "finetuning-changes": changes})
    )
    assert "ρ of nuclear strength at step 10 minus another, paired by problem:" in drawn.caption
    assert "| start | +21.00 [+0.00, +1.00] |" in drawn.caption


def test_a_short_comparison_has_no_law():
    short = Sources({}, {"entropy": entropy_table(points=7)})
    assert list(FIGURES["entropy-law"].draw(short)) == []
    assert len(list(FIGURES["entropy-curves"].draw(short))) == 1
    assert list(FIGURES["entropy-covariance"].draw(Sources({}, {"entropy": entropy_table(points=1)}))) == []


def test_every_figure_has_a_script_of_its_own():
    folder = Path(__file__).parents[2] / "figures"
    scripts = {path.stem.replace("_", "-"): path.read_text() for path in folder.glob("*.py")}
    assert set(scripts) == set(FIGURES)
    assert all(f'script("{name}"' in text for name, text in scripts.items())


def test_accuracy_is_not_drawn_against_a_correlation_that_no_method_moved():
    table = comparison_tables()[0]
    assert len(list(FIGURES["dose-response"].draw(Sources({}, {"comparison": table})))) == 1
    still = table.assign(rho_position=table.rho_position / 3, rho_token_type=table.rho_token_type / 3)
    assert list(FIGURES["dose-response"].draw(Sources({}, {"comparison": still}))) == []


def test_a_lead_is_averaged_over_steps_and_paired_by_seed():
    table = supervised_table()
    np.testing.assert_allclose(lead(table, "up"), [0.1, 0.2, 0.3])
    np.testing.assert_allclose(lead(table[(table.seed != 1) | (table.condition == "none")], "up"), [0.1, 0.3])
    assert lead(table, "down").size == 0
    (drawn,) = FIGURES["supervised-curve"].draw(Sources({}, {"supervised": table}))
    assert "up: +20.0 [-4.8, +44.8], 3 seeds" in drawn.caption


def test_layers_of_a_comparison_have_one_start():
    before, grpo, down = before_after_bands(by_layer_table(), "position")
    assert [band.label for band in (before, grpo, down)] == ["before", "grpo", "down"]
    assert before.members.shape == (3, 2)
    np.testing.assert_allclose(before.middle, [0.01, 0.11])
    np.testing.assert_allclose(down.middle - grpo.middle, [1, 1])
    np.testing.assert_allclose(down.high - down.low, [0.02, 0.02])


def test_the_rise_of_accuracy_with_the_correlation_is_within_seeds():
    """Accuracy rises by 0.3 a unit in each seed, and falls from seed to seed, which a fit to all would follow."""
    x = {"a": 0.1, "b": 0.4, "c": -0.5}
    rows = [(m, seed, "after", 0.3 * (v + seed) - seed, v + seed) for seed in (0, 1) for m, v in x.items()]
    table = pd.DataFrame([*rows, ("a", 0, "before", 9.0, 9.0)], columns=["method", "seed", "when", "right", "rho"])
    np.testing.assert_allclose(slopes(table, "rho", "right"), [0.3, 0.3])
    pooled = table[table["when"] == "after"]
    assert stats.linregress(pooled["rho"], pooled["right"]).slope < 0
