"""The shipped files: what is promised about them, measured anew."""

import json

import pytest
from safetensors import safe_open
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from inversion.demo import MODELS, PROBLEMS, load_problems
from inversion.demo.recipe import evaluate, respond, write_problems
from inversion.demo.tasks import TASKS, distinct_problems, is_held_out


@pytest.fixture(scope="module", params=list(MODELS))
def shipped(request):
    folder = MODELS[request.param]
    return (
        request.param,
        AutoModelForCausalLM.from_pretrained(folder).eval(),
        AutoTokenizer.from_pretrained(folder),
    )


@pytest.mark.parametrize("name", MODELS)
def test_weights_are_small_float32_llamas(name):
    assert AutoConfig.from_pretrained(MODELS[name]).model_type == "llama"
    with safe_open(MODELS[name] / "model.safetensors", "pt") as weights:
        tensors = [weights.get_slice(key) for key in weights.keys()]  # noqa: SIM118
    assert {tensor.get_dtype() for tensor in tensors} == {"F32"}
    assert (MODELS[name] / "model.safetensors").stat().st_size < 6e6


def test_problems_are_held_out_and_mixed():
    rows = load_problems()
    assert len(rows) == len({row["prompt"] for row in rows}) == 64
    assert all(set(row) == {"prompt", "answer", "task"} for row in rows)
    counts = [sum(row["task"] == task for row in rows) for task in TASKS]
    assert sorted(counts) == [21, 21, 22]
    assert all(is_held_out(row["prompt"]) for row in rows)


def test_problems_are_the_recipes(tmp_path):
    pytest.importorskip("reasoning_gym")
    write_problems(tmp_path / "problems.jsonl")
    assert (tmp_path / "problems.jsonl").read_text() == PROBLEMS.read_text()


def test_accuracy_is_what_training_json_says(shipped):
    pytest.importorskip("reasoning_gym")
    name, model, tokenizer = shipped
    record = json.loads((MODELS[name] / "training.json").read_text())
    problems = [problem for task in TASKS for problem in distinct_problems(task, "held_out", 50, "again")]
    for kind, temperature in (("greedy", 0.0), ("temperature_1", 1.0)):
        for task, result in evaluate(model, tokenizer, problems, temperature).items():
            claimed = record[kind][task]["accuracy"]
            # Four standard errors of a share among 50, never less than three problems.
            slack = max(0.06, 4 * (claimed * (1 - claimed) / 50) ** 0.5)
            assert result["accuracy"] == pytest.approx(claimed, abs=slack), (name, kind, task)
            if name == "slow":
                assert claimed >= 0.9
        if name == "half":
            assert 0.4 < sum(row["accuracy"] for row in record["temperature_1"].values()) / 3 < 0.7


def test_fast_answers_and_the_others_think(shipped):
    name, model, tokenizer = shipped
    prompts = [row["prompt"] for row in load_problems()[:9]]
    for text in respond(model, tokenizer, prompts, 1.0, 0):
        assert text.startswith("<answer>" if name == "fast" else "<think>\n")
        assert text.endswith("</answer>")
