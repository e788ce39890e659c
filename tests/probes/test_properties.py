"""Vary architecture, length, options and chunking at random, and hold every number against the dumb way."""

import numpy as np
from dumb import norms as dumb_norms
from dumb import weight_gradients
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import FAMILIES, tiny_model, token_ids

import inversion
from inversion.probes.gradients import QUANTITIES

NORMS = ("nuclear", "frobenius", "spectral")
_BRIDGES = {}


def bridge_of(family):
    if family not in _BRIDGES:
        model = tiny_model(family)
        _BRIDGES[family] = model, inversion.load_model(model)
    return _BRIDGES[family]


@settings(max_examples=40, deadline=None, derandomize=True)
@given(data=st.data())
def test_any_choice_gives_what_the_dumb_way_gives(data):
    model, bridge = bridge_of(data.draw(st.sampled_from(sorted(FAMILIES)), "family"))
    tokens = token_ids(data.draw(st.integers(2, 24), "length"), data.draw(st.integers(0, 5), "seed"))
    cut = data.draw(st.integers(1, len(tokens) - 1), "prompt")
    prompt, response = tokens[:cut], tokens[cut:]
    quantity = data.draw(st.sampled_from(QUANTITIES), "quantity")
    layers = data.draw(st.none() | st.sets(st.integers(-3, 2), min_size=1), "layers")
    projections = data.draw(st.sets(st.sampled_from("qkvo"), min_size=1), "projections")
    indices = st.sets(st.integers(0, len(response) - 1), min_size=1)
    targets = data.draw(st.none() | indices, "targets")
    capture = inversion.probe(
        bridge,
        prompt,
        response,
        norms=NORMS,
        quantity=quantity,
        layers=None if layers is None else sorted(layers),
        projections=sorted(projections),
        targets=None if targets is None else sorted(targets),
        block=data.draw(st.none() | st.integers(1, 30), "block"),
        chunk=data.draw(st.none() | st.integers(1, 30), "chunk"),
    )
    assert set(capture.projection.values) == projections
    assert capture.position.values.tolist() == (sorted(targets) if targets else list(range(len(response))))
    places = {position: row for row, position in enumerate(capture.position.values.tolist())}
    checked = 0
    largest = dict.fromkeys(NORMS, 0.0)
    pairs = []
    for i, layer, projection, gradient in weight_gradients(model, prompt, response, quantity):
        for name, expected in dumb_norms(gradient).items():
            if name in NORMS:
                largest[name] = max(largest[name], expected)
                if i in places and layer in capture.layer and projection in projections:
                    found = float(capture[name].sel(layer=layer, projection=projection)[places[i]])
                    pairs.append((name, found, expected))
                    checked += 1
    assert checked == capture.nuclear.size * len(NORMS)
    for name, found, expected in pairs:
        # A gradient that almost vanishes, such as that of q where there is one position to attend to, is all rounding.
        np.testing.assert_allclose(found, expected, rtol=2e-5, atol=1e-6 * largest[name], err_msg=name)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    family=st.sampled_from(sorted(FAMILIES)),
    length=st.integers(3, 40),
    block=st.integers(1, 40),
    chunk=st.integers(1, 40),
)
def test_block_and_chunk_change_nothing_beyond_rounding(family, length, block, chunk):
    _, bridge = bridge_of(family)
    tokens = token_ids(length, seed=length)
    expected = inversion.probe(bridge, tokens[:2], tokens[2:], norms=NORMS)
    found = inversion.probe(bridge, tokens[:2], tokens[2:], norms=NORMS, block=block, chunk=chunk)
    for name in NORMS:
        scale = float(expected[name].max())
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-6, atol=1e-6 * scale, err_msg=name)
