import json
from dataclasses import replace

import numpy as np
import pytest
import scipy.stats
import torch
from tiny import FAMILIES, tiny_model
from tokenizers_tiny import byte_level, sentencepiece_like
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.generation import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

import inversion
from inversion import InputError
from inversion.commands.stats import sampling_note
from inversion.measure import measure_run
from inversion.models import decode
from inversion.models.bridge import plain_model
from inversion.preparation import response_row
from inversion.responses import Generation, Problem, Written, generate, write_responses
from inversion.responses.sampling import draw, sampled_logits
from inversion.runs import summary

PROMPTS = [[5, 6, 7], [8, 9, 10, 11, 12, 13, 14], [20], [30, 31]]
STORED = {
    "do_sample": True,
    "temperature": 0.3,
    "top_k": 1,
    "top_p": 0.1,
    "min_p": 0.5,
    "typical_p": 0.5,
    "repetition_penalty": 5.0,
    "no_repeat_ngram_size": 1,
    "num_beams": 3,
    "num_return_sequences": 2,
    "suppress_tokens": list(range(2, 200)),
    "begin_suppress_tokens": [9],
    "bad_words_ids": [[7]],
    "forced_bos_token_id": 1,
    "forced_eos_token_id": 1,
    "guidance_scale": 2.0,
    "stop_strings": ["a"],
    "return_dict_in_generate": True,
    "output_scores": True,
    "renormalize_logits": True,
    "min_length": 50,
    "max_length": 3,
    "exponential_decay_length_penalty": [1, 2.0],
    "watermarking_config": {"bias": 9.0},
    "penalty_alpha": 0.6,
    "prompt_lookup_num_tokens": 2,
    "use_cache": False,
    "a_custom_entry": 3,
}


def by_hand(model, prompt, generation, seed, number, ends):
    """Write a response with plain transformers: no cache, no batch, one uniform number per token."""
    random, tokens = np.random.default_rng([seed, number]), list(prompt)
    for _ in range(generation.max_new_tokens):
        with torch.no_grad():
            logits = model(torch.tensor([tokens])).logits[0, -1].double()
        if generation.temperature == 0:
            random.random()
            token = int(logits.argmax())
        else:
            cumulative = np.cumsum(torch.softmax(logits / generation.temperature, 0).numpy())
            token = int(np.searchsorted(cumulative, random.random() * cumulative[-1], side="right"))
        tokens.append(token)
        if token in ends:
            break
    return tokens[len(prompt) :]


@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.0])
def test_nothing_stored_with_the_checkpoint_changes_what_is_written(checkpoint, temperature):
    folder = checkpoint()
    path = folder / "generation_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **STORED, "eos_token_id": [1, 40]}))
    bridge, plain = inversion.load_model(folder), AutoModelForCausalLM.from_pretrained(folder)
    generation = Generation(temperature, 12)
    written = generate(bridge, PROMPTS, generation, seed=4)
    for number, (prompt, (response, finished)) in enumerate(zip(PROMPTS, written, strict=True)):
        assert response == by_hand(plain, prompt, generation, 4, number, ends={1, 40})
        assert finished == (response[-1] in {1, 40})
    assert plain_model(bridge).generation_config.top_k == 1  # Left as it was.


@pytest.mark.parametrize("family", FAMILIES)
def test_every_architecture_writes_what_plain_transformers_writes(family, tmp_path):
    model = tiny_model(family, vocab_size=260)
    model.save_pretrained(tmp_path)
    byte_level(start=None).save_pretrained(tmp_path)
    bridge, plain = inversion.load_model(tmp_path), AutoModelForCausalLM.from_pretrained(tmp_path)
    for generation in (Generation(0.0, 10), Generation(1.0, 10)):
        for number, (ids, _) in enumerate(generate(bridge, PROMPTS, generation, seed=0)):
            assert ids == by_hand(plain, PROMPTS[number], generation, 0, number, ends={1, 256})


def test_a_response_does_not_depend_on_those_beside_it(checkpoint):
    bridge = inversion.load_model(checkpoint())
    generation = Generation(1.0, 20)
    together = write_responses(bridge, PROMPTS, generation, seed=3)
    for size in (1, 2, 3):
        assert write_responses(bridge, PROMPTS, generation, seed=3, batch_size=size) == together
    backwards = write_responses(bridge, PROMPTS[::-1], generation, seed=3, numbers=[3, 2, 1, 0])
    assert backwards[::-1] == together
    assert write_responses(bridge, PROMPTS[2:3], generation, seed=3, numbers=[2]) == together[2:3]
    assert write_responses(bridge, PROMPTS, generation, seed=4) != together


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_each_response_has_the_room_that_its_own_prompt_leaves(family, checkpoint):
    bridge = inversion.load_model(checkpoint(family))  # A context of 64, learned positions in one of them.
    bridge.tokenizer.eos_token_id = None
    bridge.original_model.config.eos_token_id = plain_model(bridge).generation_config.eos_token_id = None
    bridge.original_model.generation_config.eos_token_id = None
    prompts = [list(range(2, 63)), *PROMPTS]
    written = write_responses(bridge, prompts, Generation(1.0, 40), seed=0)
    assert [(len(w.ids), w.ended, w.finished) for w in written] == [
        (3, "context", False),
        *[(40, "length", False)] * 4,
    ]
    with pytest.raises(InputError, match="no room"):
        generate(bridge, [[5] * 64], Generation(1.0, 4), seed=0)


def test_a_tokenizer_with_neither_pad_nor_end_token_writes(tmp_path):
    tokenizer = byte_level(start=None, end=None)
    tiny_model("llama", vocab_size=len(tokenizer), eos_token_id=None, pad_token_id=None).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    bridge = inversion.load_model(tmp_path)
    assert AutoTokenizer.from_pretrained(tmp_path).pad_token_id is None
    assert bridge.tokenizer.pad_token_id is None
    written = write_responses(bridge, PROMPTS, Generation(1.0, 5), seed=0)
    assert [(len(w.ids), w.ended) for w in written] == [(5, "length")] * 4


def test_a_pad_token_outside_the_embedding_is_not_looked_up(checkpoint):
    bridge = inversion.load_model(checkpoint())
    expected = generate(bridge, PROMPTS, Generation(1.0, 5), seed=0)
    bridge.tokenizer.add_special_tokens({"pad_token": "<fresh pad>"})
    assert bridge.tokenizer.pad_token_id >= bridge.original_model.config.vocab_size
    assert generate(bridge, PROMPTS, Generation(1.0, 5), seed=0) == expected


def test_a_stop_text_ends_a_response_wherever_it_lies_in_the_tokens(checkpoint):
    bridge = inversion.load_model(checkpoint())
    [free] = write_responses(bridge, [[5, 6]], Generation(1.0, 30), seed=1)
    text = bridge.tokenizer.decode(free.ids[:20], clean_up_tokenization_spaces=False)
    stop = text[-3:]
    [stopped] = write_responses(bridge, [[5, 6]], Generation(1.0, 30, stop=(stop, "never seen in it")), seed=1)
    assert (stopped.ended, stopped.finished) == ("stop", True)
    assert stopped.ids == free.ids[: len(stopped.ids)]
    decoded = [bridge.tokenizer.decode(stopped.ids[:n], clean_up_tokenization_spaces=False) for n in (-1, None)]
    assert [stop in d for d in decoded] == [False, True]


@pytest.mark.parametrize("given", [False, True])
def test_a_stop_text_is_measured_but_not_scored(checkpoint, given):
    bridge = inversion.load_model(checkpoint())
    problem = Problem("2 + 2 =")
    prompt = bridge.tokenizer(problem.prompt)["input_ids"]
    [free] = write_responses(bridge, [prompt], Generation(1.0, 20), seed=1)
    text = decode(bridge.tokenizer, free.ids)
    stop = text[-3:]
    until = text[: text.find(stop)]
    problem = replace(problem, scorer=lambda text: float(text == until))
    generation = Generation(1.0, 20, stop=(stop,))
    [stopped] = write_responses(bridge, [prompt], generation, seed=1)
    if given:  # as a server gives it
        problem = replace(problem, response_token_ids=tuple(stopped.ids), finished=True)
    row = response_row(
        bridge, 0, problem, prompt, replace(stopped, ended="given") if given else stopped, stop=generation.stop
    )
    assert row["score"] == 1
    assert row["response_token_ids"] == stopped.ids
    assert stop in row["text"]
    # Of a response that goes on behind such a text, nothing is left out.
    longer = Written([*stopped.ids, *stopped.ids], "given")
    assert response_row(bridge, 0, problem, prompt, longer, stop=generation.stop)["score"] == 0


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_logits_that_are_not_finite_end_their_response_alone(checkpoint, value):
    bridge = inversion.load_model(checkpoint())
    expected = write_responses(bridge, PROMPTS, Generation(1.0, 12), seed=0)
    writing = plain_model(bridge)
    forward = writing.forward

    def broken(*args, **kwargs):
        output = forward(*args, **kwargs)
        if output.logits.shape[0] == len(PROMPTS) and kwargs["input_ids"].shape[1] == 1:
            output.logits[-1, -1, 5] = value  # The shortest prompt's, after its first token.
        return output

    writing.forward = broken
    written = write_responses(bridge, PROMPTS, Generation(1.0, 12), seed=0)
    assert (written[2].ended, written[2].finished) == ("not finite", False)
    assert written[2].ids == expected[2].ids[:1]
    assert [w for i, w in enumerate(written) if i != 2] == [w for i, w in enumerate(expected) if i != 2]


def test_weights_that_are_not_finite_write_nothing(checkpoint, tmp_path):
    bridge = inversion.load_model(checkpoint())
    torch.nn.init.constant_(bridge.original_model.get_input_embeddings().weight, float("nan"))
    assert [(w.ids, w.ended) for w in write_responses(bridge, PROMPTS, Generation(0.0), seed=0)] == [
        ([], "not finite")
    ] * 4
    problems = [Problem("1 + 2 =")] * 2
    errors = inversion.load_responses(measure_run(bridge, problems, tmp_path / "run"))["error"]
    assert all("logits behind its prompt are not finite" in error for error in errors)


def test_hooks_and_replaced_parameters_count(checkpoint):
    bridge = inversion.load_model(checkpoint())
    assert plain_model(bridge) is not bridge.original_model
    assert plain_model(bridge).config._attn_implementation == "sdpa"
    before = generate(bridge, PROMPTS, Generation(1.0, 12), seed=0)
    with bridge.hooks(fwd_hooks=[("blocks.0.hook_out", lambda value, hook: value * 0)]):
        assert generate(bridge, PROMPTS, Generation(1.0, 12), seed=0) != before
    assert generate(bridge, PROMPTS, Generation(1.0, 12), seed=0) == before
    head = bridge.original_model.get_output_embeddings()
    shuffled = torch.nn.Parameter(head.weight.detach().flip(0))
    next(m for m in head.modules() if "weight" in m._parameters)._parameters["weight"] = shuffled
    assert generate(bridge, PROMPTS, Generation(1.0, 12), seed=0) != before


@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p"), [(0.6, 0, 0.95), (1.0, 7, 1.0), (2.0, 30, 0.4), (1, 99, 0.01)]
)
def test_the_distribution_is_the_one_transformers_would_sample_from(temperature, top_k, top_p):
    logits = torch.randn(20, 50, generator=torch.Generator().manual_seed(0)).double() * 3
    expected = TemperatureLogitsWarper(float(temperature))(None, logits)
    if top_k:
        expected = TopKLogitsWarper(min(top_k, 50))(None, expected)
    if top_p < 1:
        expected = TopPLogitsWarper(top_p)(None, expected)
    ours = sampled_logits(logits, Generation(temperature, top_k=top_k, top_p=top_p))
    torch.testing.assert_close(ours.softmax(-1), expected.softmax(-1))


def test_draws_follow_their_probabilities_and_never_take_what_is_excluded():
    logits = torch.tensor([[-torch.inf, 0.0, 1.0, 2.0, -torch.inf]]).double().expand(20000, 5)
    uniforms = torch.rand(20000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    counts = torch.bincount(draw(logits, uniforms), minlength=5)
    assert counts[0] == counts[4] == 0
    expected = logits[0].softmax(-1) * 20000
    assert scipy.stats.chisquare(counts[1:4].numpy(), expected[1:4].numpy()).pvalue > 0.01
    edges = draw(logits[:2], torch.tensor([0.0, 1 - 2**-53], dtype=torch.float64))
    assert edges.tolist() == [1, 3]


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"temperature": float("nan")}, "temperature"),
        ({"temperature": float("inf")}, "temperature"),
        ({"temperature": -1}, "temperature"),
        ({"max_new_tokens": 0}, "max_new_tokens"),
        ({"max_new_tokens": 2.5}, "max_new_tokens"),
        ({"top_p": 0}, "top_p"),
        ({"top_p": 1.1}, "top_p"),
        ({"top_p": float("nan")}, "top_p"),
        ({"top_k": -1}, "top_k"),
        ({"stop": ("a", "")}, "stop"),
    ],
)
def test_sampling_settings_are_checked(options, match):
    with pytest.raises(InputError, match=match):
        Generation(**options)


def test_the_entropy_sampled_from_stands_beside_the_one_at_temperature_one(checkpoint, tmp_path):
    folder = checkpoint()
    bridge, plain = inversion.load_model(folder), AutoModelForCausalLM.from_pretrained(folder)
    generation = Generation(0.5, 10, top_k=20)
    problems = [Problem("1 + 2 ="), Problem("3 =", response="given text")]
    run = inversion.load_run(measure_run(bridge, problems, tmp_path / "run", generation=generation, seed=2))
    responses = inversion.load_responses(tmp_path / "run")
    prompt = responses["prompt_token_ids"][0].tolist()
    own = run.isel(token=run["response"].values == 0)
    ids = own["token_id"].values.tolist()
    with torch.no_grad():
        logits = plain(torch.tensor([prompt + ids])).logits[0, len(prompt) - 1 : -1]
    for i, row in enumerate(logits.double().numpy()):
        kept = np.sort(row)[-20:] / 0.5
        assert own["sampled_entropy_bits"].values[i] == pytest.approx(
            scipy.stats.entropy(np.exp(kept - kept.max()), base=2), rel=1e-4, abs=1e-5
        )
        assert own["entropy_bits"].values[i] == pytest.approx(
            scipy.stats.entropy(np.exp(row - row.max()), base=2), rel=1e-4, abs=1e-5
        )
    assert np.isnan(run["sampled_entropy_bits"].values[run["response"].values == 1]).all()
    note = sampling_note(run)
    assert "temperature 0.5, top_k 20" in note
    assert f"sampled_entropy_bits (mean {np.nanmean(run['sampled_entropy_bits']):.3g})" in note
    assert "sampled_entropy_bits" not in inversion.load_run(
        measure_run(bridge, problems, tmp_path / "plain", generation=Generation(1.0, 10))
    )


def test_responses_whose_text_is_other_tokens_are_counted(tmp_path):
    tokenizer = sentencepiece_like()
    tiny_model("llama", vocab_size=len(tokenizer)).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    bridge = inversion.load_model(tmp_path / "model")
    folder = measure_run(bridge, [Problem("Hello world")] * 4, tmp_path / "run", generation=Generation(1.0, 12))
    responses = inversion.load_responses(folder)
    again = [
        tokenizer(row.text, add_special_tokens=False)["input_ids"]
        == [int(i) for i in row.response_token_ids[: -1 if row.ended == "end" else None]]
        for row in responses.itertuples()
    ]
    assert responses["retokenizes"].tolist() == again
    assert f"{again.count(False)} of 4 responses are other tokens when read again" in summary(folder)
