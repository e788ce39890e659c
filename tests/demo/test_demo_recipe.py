"""The training recipe: batches, loss, schedule, determinism and generation."""

import copy
import itertools
import json
import math
from dataclasses import replace

import pytest
import torch
from torch.nn import functional
from transformers import AutoModelForCausalLM, AutoTokenizer

from inversion.demo import MODELS, recipe
from inversion.demo.tasks import is_held_out
from inversion.demo.tokenizer import EOS_ID, PAD_ID, build_tokenizer
from inversion.scoring import scorer_for

pytest.importorskip("reasoning_gym")
TOKENIZER = build_tokenizer()


def some_batches(n, start=0, **options):
    training = recipe.Training(**{"style": "chain", "steps": 1, "batch_size": 6, "seed": 1, **options})
    return list(itertools.islice(recipe.batches(TOKENIZER, training, start), n))


def same(a, b):
    """Whether two batches agree, part for part."""
    pairs = list(zip(a, b, strict=True))
    return all(torch.equal(x.input_ids, y.input_ids) and torch.equal(x.labels, y.labels) for x, y in pairs)


@pytest.mark.parametrize("style", ["direct", "chain"])
def test_a_batch_row_is_prompt_response_end_padding(style):
    for batch in (part for parts in some_batches(4, style=style) for part in parts):
        for ids, labels in zip(batch.input_ids.tolist(), batch.labels.tolist(), strict=True):
            learnt = [i for i, label in enumerate(labels) if label != recipe.IGNORED]
            first, last = learnt[0], learnt[-1]
            assert learnt == list(range(first, last + 1))
            assert ids[first : last + 1] == labels[first : last + 1]
            assert ids[last] == EOS_ID
            assert set(ids[last + 1 :]) <= {PAD_ID}
            prompt, response = TOKENIZER.decode(ids[:first]), TOKENIZER.decode(ids[first:last])
            assert not is_held_out(prompt)
            assert response.startswith("<think>" if style == "chain" else "<answer>")
            assert response.endswith("</answer>")


def test_batches_can_be_picked_up_at_any_step():
    whole = some_batches(20)
    for start in (1, 15, 16, 18):
        assert all(map(same, some_batches(20 - start, start=start), whole[start:]))
    assert not same(some_batches(1, seed=2)[0], whole[0])


def gradient(model):
    """All gradients in one vector, which are then cleared."""
    vector = torch.cat([p.grad.flatten() for p in model.parameters()])
    model.zero_grad()
    return vector


def test_parts_of_a_batch_add_up_to_the_models_own_loss():
    model = recipe.build_model(seed=0)
    for parts in some_batches(2, batch_size=7):
        assert sum(len(part.input_ids) for part in parts) == 7
        value = recipe.backward(model, parts, "float32")
        by_parts = gradient(model)
        # One padded batch through the model's own loss: the mean over all response tokens.
        width = max(part.input_ids.shape[1] for part in parts)
        pad = [(0, width - part.input_ids.shape[1]) for part in parts]
        ids = [functional.pad(part.input_ids, p, value=PAD_ID) for part, p in zip(parts, pad, strict=True)]
        labels = [functional.pad(part.labels, p, value=-100) for part, p in zip(parts, pad, strict=True)]
        own = model(input_ids=torch.cat(ids), labels=torch.cat(labels)).loss
        own.backward()
        assert value == pytest.approx(own.item(), rel=1e-5)
        torch.testing.assert_close(by_parts, gradient(model), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "shares"),
    [({}, {"State": 4, "Sort": 4, "Spell": 4}), ({"mix": recipe.SLOW.mix}, {"State": 6, "Sort": 4, "Spell": 2})],
)
def test_every_task_has_its_share_of_a_batch(options, shares):
    rows = [ids for part in some_batches(1, batch_size=12, **options)[0] for ids in part.input_ids.tolist()]
    opening = [TOKENIZER.decode(ids[:1]).split()[0] for ids in rows]
    assert {word: opening.count(word) for word in opening} == shares


def test_learning_rate_warms_up_and_falls():
    training = recipe.Training(style="direct", steps=1000, learning_rate=1.0, warmup=10)
    rates = [recipe.learning_rate_at(step, training) for step in range(1000)]
    assert rates[:10] == pytest.approx([(i + 1) / 10 for i in range(10)])
    assert rates[10] == 1.0
    assert rates[505] == pytest.approx(0.505)
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[-1] == pytest.approx(0.01, abs=1e-4)


def test_training_learns_and_repeats_itself():
    training = recipe.Training(style="direct", steps=25, batch_size=12, warmup=5)
    weights, losses = [], []
    for _ in range(2):
        model = recipe.build_model(seed=3)
        seen = []
        recipe.train(model, TOKENIZER, training, on_step=lambda step, loss, seen=seen: seen.append((step, loss)))
        weights.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
        losses.append(seen)
    assert torch.equal(*weights)
    assert losses[0] == losses[1]
    assert [step for step, _ in losses[0]] == list(range(1, 26))
    # An untrained model is not far from uniform over the vocabulary.
    assert losses[0][0][1] == pytest.approx(math.log(len(TOKENIZER)), rel=0.15)
    assert losses[0][-1][1] < losses[0][0][1] - 1


def test_a_training_cut_off_goes_on_as_if_it_had_not_been():
    training = recipe.Training(style="chain", steps=5, batch_size=6, warmup=2)
    whole, cut, resumed = (recipe.build_model(seed=1) for _ in range(3))
    recipe.train(whole, TOKENIZER, training)
    optimizer, saved = recipe.build_optimizer(cut, training), {}

    def save(step, loss):
        if step == 3:
            saved["weights"] = copy.deepcopy(cut.state_dict())
            saved["optimizer"] = copy.deepcopy(optimizer.state_dict())

    recipe.train(cut, TOKENIZER, training, on_step=save, optimizer=optimizer)
    resumed.load_state_dict(saved["weights"])
    optimizer = recipe.build_optimizer(resumed, training)
    optimizer.load_state_dict(saved["optimizer"])
    recipe.train(resumed, TOKENIZER, training, optimizer=optimizer, start=3)
    for a, b in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)


def test_greedy_responses_equal_a_plain_loop():
    model = AutoModelForCausalLM.from_pretrained(MODELS["slow"]).eval()
    prompts = ["Spell this word backward (example: sun -> nus): stone", "1 + 2"]
    for prompt, text in zip(prompts, recipe.respond(model, TOKENIZER, prompts, 0, 0, 40), strict=True):
        ids = TOKENIZER.encode(prompt)
        start = len(ids)
        with torch.inference_mode():
            while len(ids) < start + 40 and ids[-1] != EOS_ID:
                ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
        assert text == TOKENIZER.decode(ids[start:], skip_special_tokens=True)


def test_sampling_keeps_to_its_seed_and_leaves_the_global_one_alone():
    model = recipe.build_model(seed=0)
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    a, b, c = (recipe.respond(model, TOKENIZER, ["1 + 2"] * 3, 1.0, seed, 12) for seed in (0, 0, 1))
    assert a == b != c
    assert torch.equal(torch.rand(3), expected)


def test_evaluate_counts_right_answers(monkeypatch):
    problems = recipe.mixed_problems("held_out", 9, 0)
    replies = {problem.prompt: f"<answer>{problem.answer}</answer>" for problem in problems}
    spoilt = next(problem for problem in problems if problem.task == "chain_sum")
    replies[spoilt.prompt] = "<answer>1</answer>!"
    monkeypatch.setattr(recipe, "respond", lambda m, t, prompts, *rest: [replies[p] for p in prompts])
    results = recipe.evaluate(recipe.build_model(0), TOKENIZER, problems, 0, batch_size=4)
    assert {task: row["accuracy"] for task, row in results.items()} == {
        "chain_sum": pytest.approx(2 / 3, abs=1e-4),
        "number_sorting": 1.0,
        "spell_backward": 1.0,
    }


def test_one_command_writes_all_models(tmp_path, capsys):
    threads = torch.get_num_threads()
    options = [
        "--fast-steps",
        "2",
        "--slow-steps",
        "2",
        "--half-steps",
        "1",
        "--held-out",
        "1",
        "--device",
        "cpu",
        "--seed",
        "4",
    ]
    recipe.main(["--out", str(tmp_path), "--threads", str(threads), *options])
    capsys.readouterr()
    weights = {}
    for name, style in (("fast", "direct"), ("half", "chain"), ("slow", "chain")):
        record = json.loads((tmp_path / name / "training.json").read_text())
        assert (record["name"], record["style"], record["steps"], record["seed"]) == (name, style, 2, 4)
        assert set(record["greedy"]) == set(record["temperature_1"]) == set(record["tasks"])
        weights[name] = AutoModelForCausalLM.from_pretrained(tmp_path / name).lm_head.weight
        assert AutoTokenizer.from_pretrained(tmp_path / name).eos_token_id == EOS_ID
    # slow goes on from fast: two steps away, not a new start.
    assert 0 < (weights["slow"] - weights["fast"]).abs().max() < 0.01
    # half is slow on the way, and keeping it does not change where slow ends.
    assert json.loads((tmp_path / "half" / "training.json").read_text())["stopped_after"] == 1
    training = replace(
        recipe.SLOW,
        steps=2,
        seed=4,
        precision=record["precision"],
    )
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "fast")
    again.set_attn_implementation("eager")
    kept = {}
    recipe.train(again, TOKENIZER, training, lambda step, loss: kept.update({step: again.lm_head.weight.clone()}))
    assert torch.equal(kept[1], weights["half"])
    assert torch.equal(kept[2], weights["slow"])
    rows = [json.loads(line) for line in (tmp_path / "problems.jsonl").read_text().splitlines()]
    assert len(rows) == 64
    assert all(scorer_for("tags", row["answer"])(f"<answer>{row['answer']}</answer>") == 1.0 for row in rows)
