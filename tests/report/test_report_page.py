import base64
import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from report_samples import HOSTILE, LAYERS, PROJECTIONS, capture_of, words_of, write_run, write_study

import inversion
from inversion import InputError
from inversion.cli import main
from inversion.findings import NamedRun, findings_of, read_runs, sample_of, sentences, verdict
from inversion.report import report_html, write_report
from inversion.report.data import packed, run_payload
from inversion.report.page import embedded_json, page, source_hash
from inversion.report.summary import Picture, Summary, accuracy, summarise

FAST = {"interval": "jackknife", "resamples": 50}


def unpack(array):
    kinds = {"u8": "<u1", "u32": "<u4", "f32": "<f4", "f16": "<f2"}
    values = np.frombuffer(base64.b64decode(array["data"]), kinds[array["kind"]])
    return values.astype(float) * array["scale"] if array["kind"] == "f16" else values


class Elements(HTMLParser):
    """Tags with their attributes, and what script and style elements hold."""

    def __init__(self, html):
        super().__init__()
        self.found, self.blocks = [], []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def handle_data(self, text):
        if self.found and self.found[-1][0] in ("script", "style") and text.strip():
            self.blocks.append((*self.found[-1], text))


@pytest.fixture(scope="module")
def html(two_runs):
    return report_html(two_runs, **FAST)


def test_the_policy_names_exactly_the_two_blocks(html):
    elements = Elements(html)
    policy = next(a["content"] for _, a in elements.found if a.get("http-equiv") == "Content-Security-Policy")
    style, data, script = elements.blocks
    assert policy.split("; ")[:4] == [
        "default-src 'none'",
        f"style-src '{source_hash(style[2])}'",
        f"script-src '{source_hash(script[2])}'",
        "img-src data:",
    ]
    assert data[1] == {"type": "application/json", "id": "data"}
    assert script[1] == {}


def test_the_source_hash_is_what_the_standard_says():
    # The example of the Content Security Policy Level 2 recommendation.
    assert source_hash("alert('Hello, world.');") == "sha256-qznLcsROx4GACP2dm0UCKCzCG+HiZ1guq6ZZDob/Tng="


def test_no_element_can_run_or_load_anything(html):
    for tag, attributes in Elements(html).found:
        assert not [name for name in attributes if name.startswith("on") or name == "style"], (tag, attributes)
        for name in ("src", "href", "action", "srcset", "data"):
            assert attributes.get(name, "#").startswith(("#", "data:")), (tag, attributes)


def test_model_output_stands_in_the_data_block_alone_and_comes_back_whole(html):
    assert "alert(" not in re.sub(r'<script type="application/json".*?</script>', "", html, flags=re.DOTALL)
    block = next(text for _, attributes, text in Elements(html).blocks if attributes.get("id") == "data")
    assert not set("<>&\u2028\u2029\u202e") & set(block)
    run = json.loads(block)["runs"][0]
    words = [run["vocabulary"][i] for i in unpack(run["text"])[: run["starts"][1]]]
    assert words == words_of(0)
    assert set(HOSTILE) <= set(words)


def test_embedded_json_refuses_what_json_has_not():
    assert embedded_json({"a": "</script>&\u2029"}) == '{"a":"\\u003c/script\\u003e\\u0026\\u2029"}'
    with pytest.raises(ValueError, match="JSON"):
        embedded_json([float("nan")])


def test_texts_cannot_pose_as_places_of_the_template_nor_as_elements():
    hostile = "{{ script }}{% raw %}</p><b onclick='x'>\"&"
    shown = Summary((hostile,), hostile, (hostile,), ((hostile, hostile),), (Picture("AA==", hostile),))
    found = page(hostile, shown, [hostile])
    escaped = "{{ script }}{% raw %}&lt;/p&gt;&lt;b onclick=&#39;x&#39;&gt;&#34;&amp;"
    # Title, heading, paragraph, table caption, column, both cells, the picture's text and its caption.
    assert found.count(escaped) == 9
    assert "<b" not in found.replace("<body>", "").replace("<button", "")
    assert found.count("{{ script }}{% raw %}") == 10


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return write_study(tmp_path_factory.mktemp("study") / "critique")


def test_a_critique_study_stands_for_its_runs_and_has_a_section(study):
    html = report_html([study], **FAST)
    assert "<title>Entropy-gradient inversion: original, injected</title>" in html
    block = next(text for _, attributes, text in Elements(html).blocks if attributes.get("id") == "data")
    assert [run["name"] for run in json.loads(block)["runs"]] == ["original", "injected"]
    section = html[html.index('<section class="study"') : html.index('<section id="reader"')]
    assert "Recovery from an injected error: critique" in section
    assert len(re.findall("<img", section)) == 1
    for cells in (
        ("injected", "all", "hidden critique", "40", "35% [25%, 45%]"),
        ("1", "0.70 [0.50, 0.80]", "90% [80%, 100%]", "0.55", "0.010"),
        ("hidden critique", "strength", "correction", "14", "0.40 [0.35, 0.45]"),
        ("entropy, bits", "14", "+0.125 [+0.100, +0.150]"),
        ("injected", "all", "9", "99", "-0.25 [-0.50, +0.00]"),
    ):
        assert "<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>" in section
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in section
    assert "<script" not in section


def test_a_run_of_a_study_brings_the_study_along_once(study, two_runs):
    runs = [study / "runs" / name for name in ("original", "injected")]
    html = report_html(runs, **FAST)
    assert html == report_html([study], **FAST)
    assert html.count('class="study"') == 1
    assert 'class="study"' not in report_html(two_runs, **FAST)


def test_an_unfinished_study_is_refused(tmp_path):
    study = write_study(tmp_path / "cut")
    (study / "rates.csv").unlink()
    with pytest.raises(InputError, match="no finished critique study"):
        report_html([study], **FAST)


def test_the_payload_holds_every_number(two_runs):
    (run,) = read_runs(two_runs[:1])
    found = run_payload(run, most_values=10**6)
    start, end = found["starts"][4:6]
    expected = capture_of(4)
    np.testing.assert_allclose(unpack(found["columns"]["entropy_bits"])[start:end], expected.entropy_bits, rtol=1e-6)
    np.testing.assert_allclose(
        unpack(found["norms"]["nuclear"]["mean"])[start:end], expected.nuclear.mean(("layer", "projection")), rtol=1e-6
    )
    cell = found["norms"]["frobenius"]["cells"][1][0]
    expected_cell = expected.frobenius.sel(layer=LAYERS[1], projection=PROJECTIONS[0])
    np.testing.assert_allclose(unpack(cell)[start:end], expected_cell, rtol=2**-11)
    # The tags belong to neither part; two tokens of answer follow the closing one.
    assert unpack(found["segment"])[start:end].tolist() == [0, *[1] * (end - start - 4), 0, 2, 2]
    assert found["responses"][4]["score"] == 1.0
    assert found["responses"][2]["score"] is None


def test_too_many_numbers_leave_the_means(two_runs):
    (run,) = read_runs(two_runs[:1])
    found = run_payload(run, most_values=10)
    assert found["norms"]["nuclear"]["cells"] is None
    full = run_payload(run, most_values=10**6)
    np.testing.assert_array_equal(unpack(found["norms"]["nuclear"]["mean"]), unpack(full["norms"]["nuclear"]["mean"]))
    for dim, name in (("projection", "layer_means"), ("layer", "projection_means")):
        expected = run.tokens.nuclear.mean(dim).values
        for i, column in enumerate(found["norms"]["nuclear"][name]):
            np.testing.assert_allclose(unpack(column), expected[:, i], rtol=2**-11)
    half = run_payload(run, most_values=run.tokens.nuclear.size)["norms"]
    assert half["nuclear"]["cells"] is not None
    assert half["frobenius"]["cells"] is None


@pytest.mark.parametrize("size", [1e-30, 1.0, 1e30])
def test_half_floats_keep_their_digits_at_any_size(size):
    values = size * np.array([1.0, 0.1, 0.012345, -0.5, 0.0, np.nan])
    np.testing.assert_allclose(unpack(packed(values, "f16")), values, rtol=2**-11)


def test_words_follow_the_numbers(two_runs):
    one, _ = read_runs(two_runs)
    found = findings_of(one, "nuclear", **FAST)
    expected = inversion.correlate(inversion.load_run(two_runs[0]), **FAST)
    assert found.positions == expected
    text = " ".join(sentences(found))
    assert f"{expected.estimate:+.3f}".replace("-", "−") in text
    assert "9 responses are few" in text
    assert accuracy(one) == "50.0% of 6, 3 not scored"


def test_the_verdict_says_no_more_than_the_interval():
    result = inversion.correlate(capture_run(), **FAST)
    assert "below zero" in verdict(replace(result, low=-0.5, high=-0.1, p_value=0.05))
    assert "above zero" in verdict(replace(result, low=0.1, high=0.5, p_value=0.05))
    assert "too few responses" in verdict(replace(result, low=-0.5, high=-0.1, p_value=0.06))
    assert "too few responses" in verdict(replace(result, low=-0.5, high=-0.1, p_value=0.05, level=0.99))
    assert "neither" in verdict(replace(result, low=-0.1, high=0.1))
    assert "undefined: constant" in verdict(replace(result, estimate=float("nan"), reason="constant"))
    assert "decides nothing" in verdict(replace(result, low=float("nan")))


def test_maps_of_runs_with_different_projections_show_all_their_cells(monkeypatch):
    figures = []
    monkeypatch.setattr("inversion.report.summary.picture_of", lambda figure, caption: figures.append(figure))
    runs = [capture_run(), capture_run().isel(projection=[1]), capture_run().isel(layer=[0], projection=[1])]
    named = [NamedRun(str(i), run, pd.DataFrame({"score": [1.0]})) for i, run in enumerate(runs)]
    summarise([findings_of(run, "nuclear", **FAST) for run in named], "nuclear", **FAST)
    panels = [ax for figure in figures for ax in figure.axes if ax.get_ylabel() == "projection"]
    shown = [[round(abs(ends[1] - ends[0])) for ends in (ax.get_xlim(), ax.get_ylim())] for ax in panels]
    assert shown == [[2, 2], [2, 1], [1, 1]]
    assert [[label.get_text() for label in ax.get_yticklabels()] for ax in panels] == [["q", "o"], ["o"], ["o"]]


def test_the_difference_of_two_runs_says_what_must_be_known_about_it():
    a, b = capture_run().assign_attrs(dtype="float32"), capture_run().assign_attrs(dtype="bfloat16")
    alone = b.isel(token=b.response.values == 1)
    for other, expected in (
        (b, "dtype differs: a float32, b bfloat16"),
        (alone, "b: 2 tokens are too few"),
    ):
        named = [NamedRun(n, run, pd.DataFrame({"score": [1.0]})) for n, run in (("one", a), ("two", other))]
        said = summarise([findings_of(run, "nuclear", **FAST) for run in named], "nuclear", **FAST).paragraphs[-1]
        assert said.startswith("two minus one: ")
        assert "Where a is one and b is two: " in said
        assert expected in said


def test_the_level_of_an_interval_is_not_rounded_up_to_certainty():
    run = NamedRun("one", capture_run(), pd.DataFrame({"score": [1.0]}))
    options = {**FAST, "level": 0.995}
    shown = summarise([findings_of(run, "nuclear", **options)], "nuclear", **options)
    assert "0.995 intervals" in shown.caption
    assert "(0.995 interval, p = " in shown.paragraphs[0]


def capture_run():
    return capture_of(3).assign_coords(response=("token", np.arange(len(words_of(3))) // 2))


def test_the_same_runs_give_the_same_page(two_runs, html):
    assert report_html(two_runs, **FAST) == html


def test_runs_of_one_name_get_numbers(two_runs, tmp_path):
    (tmp_path / "x").mkdir()
    again = write_run(tmp_path / "x" / "one", 4)
    assert [run.name for run in read_runs([two_runs[0], again])] == ["one (1)", "one (2)"]


def test_the_command_writes_the_page(capsys, two_runs, tmp_path):
    out = tmp_path / "page.html"
    assert main(["report", *map(str, two_runs), "--out", str(out), "--resamples", "50"]) == 0
    assert "one, two" in out.read_text(encoding="utf-8")
    assert str(out) in capsys.readouterr().out
    assert main(["report", str(tmp_path), "--out", str(out)]) == 2
    assert "there is no run" in capsys.readouterr().err


def test_it_is_refused_where_it_cannot_be_written(two_runs, tmp_path):
    for out in (tmp_path, tmp_path / "none" / "r.html"):
        with pytest.raises(InputError, match="cannot be written"):
            write_report(two_runs, out)
    with pytest.raises(InputError, match="no run"):
        report_html([])
    with pytest.raises(InputError, match="l1"):
        report_html(two_runs, norm="l1")


def test_a_page_about_a_large_run_holds_a_sample_and_says_so(two_runs):
    text = report_html(two_runs, **FAST, most_tokens=120)
    assert "a sample of" in text
    assert "of 9 responses, drawn with seed 0" in text
    assert len(text) < len(report_html(two_runs, **FAST))
    runs = read_runs(two_runs)
    drawn = sample_of(runs[0], 60, seed=3)
    assert drawn.tokens.sizes["token"] <= 60
    assert sorted(set(drawn.tokens.response.values.tolist())) == drawn.responses.index.tolist()
    assert sample_of(runs[0], 10**6) is runs[0]
    assert sample_of(runs[0], 1).responses.shape[0] == 1
