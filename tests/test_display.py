from html.parser import HTMLParser

import numpy as np
import pytest
import xarray as xr

import inversion
from inversion import InputError
from inversion.display import DARK, LIGHT, TokenDisplay
from inversion.tokens import Reading, limits_of, shares, visible

TEXTS = ["<b>", " ", "\n", "a\"&'", "\u202e", "", "</span>"]


def capture(texts=TEXTS) -> xr.Dataset:
    n = len(texts)
    grid = np.arange(1.0, 1 + 4 * n).reshape(n, 2, 2)
    return xr.Dataset(
        {
            "token_text": ("token", texts),
            "position": ("token", np.arange(n)),
            "entropy_bits": ("token", np.arange(n) / 4),
            "surprisal_bits": ("token", np.arange(n) / 2),
            "nuclear": (("token", "layer", "projection"), grid),
        },
        coords={"layer": [3, 7], "projection": ["q", "o"]},
    )


class Spans(HTMLParser):
    """The attributes and the text of every token."""

    def __init__(self, html):
        super().__init__()
        self.attributes, self.texts, self.tags, self.inside = [], [], [], False
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.inside = tag == "span" and "title" in dict(attrs)
        if self.inside:
            self.attributes.append(dict(attrs))
            self.texts.append("")

    def handle_endtag(self, tag):
        self.inside = False

    def handle_data(self, text):
        if self.inside:
            self.texts[-1] += text


def test_each_token_is_a_span_with_its_text_escaped_and_its_numbers():
    found = Spans(inversion.show_tokens(capture())._repr_html_())
    assert found.texts == ["<b>", "·", "↵\n", "a\"&'", "⟨U+202E⟩", "∅", "</span>"]
    assert set(found.tags) == {"div", "style", "span"}
    title = found.attributes[3]["title"]
    assert title.splitlines() == ["a\"&'  (position 3)", "token entropy: 0.75 bits", "surprisal: 1.5 bits"]


def test_a_norm_takes_layers_and_projections():
    one = inversion.show_tokens(capture(), by="nuclear", layer=7, projection="o")
    np.testing.assert_array_equal(one.quantity.values, np.arange(4, 29, 4))
    last = inversion.show_tokens(capture(), by="nuclear", layer=-1, projection=["o"])
    np.testing.assert_array_equal(last.quantity.values, one.quantity.values)
    mean = inversion.show_tokens(capture(), by="nuclear")
    np.testing.assert_array_equal(mean.quantity.values, np.arange(2.5, 29, 4))
    html = one._repr_html_()
    assert "nuclear norm, layer 7, o (logit per weight): 4" in html
    assert "nuclear norm, layer 7, o: 8 logit per weight" in Spans(html).attributes[1]["title"]


def test_colours_follow_the_values_between_the_limits():
    found = inversion.show_tokens(capture(), limits=(0.5, 1.0))
    places = [s["data-v"] for s in Spans(found._repr_html_()).attributes]
    assert places == ["0.000", "0.000", "0.000", "0.500", "1.000", "1.000", "1.000"]
    assert f"background-color:{LIGHT['high']}" in Spans(found._repr_html_()).attributes[-1]["style"]


def test_what_was_not_measured_is_marked_and_not_zero():
    data = capture()
    data["entropy_bits"][2] = np.nan
    found = Spans(inversion.show_tokens(data)._repr_html_())
    assert found.attributes[2]["data-v"] == "nan"
    assert "token entropy: not measured" in found.attributes[2]["title"]
    assert found.attributes[0]["data-v"] == "0.000"
    assert limits_of(np.array([np.nan])) == (0.0, 1.0)
    np.testing.assert_array_equal(shares(np.array([2.0, np.nan]), (2.0, 2.0)), [0.0, np.nan])


def test_it_loads_nothing_and_names_both_kinds_of_theme():
    html = inversion.show_tokens(capture(["a"]))._repr_html_()
    for word in ("http", "url(", "@import", "<script", "src="):
        assert word not in html
    assert "prefers-color-scheme:dark" in html
    assert 'body[data-jp-theme-light="false"]' in html


def luminance(colour):
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return float(np.dot([0.2126, 0.7152, 0.0722], linear))


@pytest.mark.parametrize("theme", [LIGHT, DARK])
def test_text_stands_out_from_every_colour(theme):
    ends = [[int(theme[name][i : i + 2], 16) for i in (1, 3, 5)] for name in ("low", "high")]
    for place in np.linspace(0, 1, 21):
        mixed = "#" + "".join(f"{round(a + place * (b - a)):02x}" for a, b in zip(*ends, strict=True))
        pair = sorted([luminance(mixed), luminance(theme["ink"])])
        assert (pair[1] + 0.05) / (pair[0] + 0.05) >= 4.5


def test_plain_text_has_the_tokens_and_the_legend():
    text = repr(inversion.show_tokens(capture(["a", "\n", "b"])))
    assert text == "3 tokens by token entropy, 0 to 0.5 bits\na↵b"
    long = TokenDisplay(("x" * 3000,), ("",), Reading(np.zeros(1), "q", ""), (0.0, 1.0))
    assert repr(long).endswith("x…")


def test_visible_shows_what_leaves_no_mark():
    assert visible(" a\t") == " a⇥"
    assert visible("   ") == "···"
    assert visible("\u200fשלום") == "⟨U+200F⟩שלום"


def test_a_run_needs_to_know_which_response():
    run = capture().assign_coords(response=("token", [4, 4, 4, 5, 5, 5, 5]))
    assert inversion.show_tokens(run, response=5).texts == tuple(TEXTS[3:])
    for broken, hint in (
        (lambda: inversion.show_tokens(run), "response=4"),
        (lambda: inversion.show_tokens(run, response=6), "no response 6"),
        (lambda: inversion.show_tokens(capture(), response=1), "single response"),
        (lambda: inversion.show_tokens(capture(), by="l1"), "nuclear"),
        (lambda: inversion.show_tokens(capture(), layer=3), "no layers"),
        (lambda: inversion.show_tokens(capture(), by="nuclear", layer=4), "Layer 4"),
        (lambda: inversion.show_tokens(capture(), limits=(1, 1)), "ascend"),
        (lambda: inversion.show_tokens(capture().drop_vars("token_text")), "token_text"),
    ):
        with pytest.raises(InputError, match=hint):
            broken()
