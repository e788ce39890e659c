"""What is put around a question before the model sees it: a template, worked examples, the chat template."""

import json
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from inversion.errors import InputError
from inversion.names import nearest
from inversion.responses.benchmarks import find_benchmark
from inversion.responses.problems import Message, Problem, Source

logger = logging.getLogger(__name__)

PLACE = "{prompt}"
TEMPLATES: Mapping[str, str] = {
    "qa": "Question: {prompt}\nAnswer:",
    "boxed": "{prompt}\nPlease reason step by step, and put your final answer within \\boxed{}.",
}
"""Templates known by name: for base models, and as the Qwen2.5-Math and R1 model cards advise for mathematics."""


@dataclass(frozen=True)
class Frame:
    r"""What stands around each question.

    template: Text with ``{prompt}`` where the question goes, or a name in ``TEMPLATES``: ``qa``, ``boxed``.
    examples: Worked examples, (question, solution), put before the question: as earlier turns of a chat, else as text
        with empty lines between, as lm-evaluation-harness does.
    chat: Apply the checkpoint's own chat template.
    system: System message of the chat.
    options: Variables of the chat template, such as ``{"enable_thinking": True}``.
    """

    template: str | None = None
    examples: tuple[tuple[str, str], ...] = ()
    chat: bool = False
    system: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.template is not None and PLACE not in TEMPLATES.get(self.template, self.template):
            raise InputError(
                f"the template {self.template!r} has no place for the question; write {PLACE} where it goes, or choose "
                f"{' or '.join(TEMPLATES)}."
            )
        if not self.chat and (self.system is not None or self.options):
            raise InputError("a system message and template options belong to a chat; add --chat or leave them out.")

    def record(self) -> dict[str, Any]:
        """Return what differs from the bare question, for a run's manifest."""
        template = TEMPLATES.get(self.template or "", self.template)
        kept = {"template": template, "examples": self.examples, "chat": self.chat, "system": self.system}
        return {name: value for name, value in {**kept, "options": dict(self.options)}.items() if value}

    def apply(self, problems: Sequence[Problem], tokenizer: Any, model: str = "the model") -> list[Problem]:
        """Return the problems with prompts as the model is to see them; in a chat, as token ids as well.

        Args:
            problems: With questions as their prompts.
            tokenizer: The checkpoint's, for its chat template.
            model: Its name for messages.

        Raises:
            InputError: There is no chat template, it refuses the messages, or it does not know an option.
        """
        shown = {question for question, _ in self.examples}
        if any(question_of(problem) in shown for problem in problems):
            raise InputError("a question stands among its own worked examples; take them from another file or split.")
        if not self.chat:
            return [self._as_text(problem, number) for number, problem in enumerate(problems, 1)]
        self._check_chat(tokenizer, model)
        return [self._as_chat(problem, number, tokenizer, model) for number, problem in enumerate(problems, 1)]

    def _as_text(self, problem: Problem, number: int) -> Problem:
        if problem.messages is not None:
            raise InputError(f"problem {number} is a conversation; add --chat to apply the model's chat template.")
        if self.template is None and not self.examples:
            return problem
        if problem.prompt_token_ids is not None:
            raise InputError(f"problem {number} is given as token ids; leave the template and the examples out.")
        shots = [f"{self._filled(question)} {solution}" for question, solution in self.examples]
        prompt = "\n\n".join([*shots, self._filled(problem.prompt)])
        return replace(problem, prompt=prompt, question=question_of(problem))

    def _filled(self, question: str) -> str:
        template = TEMPLATES.get(self.template or PLACE, self.template or PLACE)
        return template.replace(PLACE, question)

    def _as_chat(self, problem: Problem, number: int, tokenizer: Any, model: str) -> Problem:
        from inversion.models.templates import render_chat
        from inversion.models.tokenization import response_ids

        if problem.prompt_token_ids is not None:
            raise InputError(
                f"problem {number} is given as token ids, which --chat would replace; leave it out, or read no "
                "ids with --columns prompt_token_ids=."
            )
        messages = self._messages(problem, number)
        goes_on = messages[-1]["role"] == "assistant"
        try:
            text = render_chat(
                tokenizer, messages, add_generation_prompt=not goes_on, continue_final_message=goes_on, **self.options
            )
        except InputError as error:
            raise InputError(f"the chat template of {model} refuses problem {number}: {error}; change it.") from error
        # The template writes the special tokens: the tokenizer must not add them again.
        ids = tuple(response_ids(tokenizer, text))
        return replace(problem, prompt=text, prompt_token_ids=ids, question=question_of(problem), messages=None)

    def _messages(self, problem: Problem, number: int) -> list[Message]:
        own = problem.messages
        if own is None:
            own = ({"role": "user", "content": self._filled(problem.prompt)},)
        elif self.template is not None:
            raise InputError(f"problem {number} is a conversation, which takes no template; leave --template out.")
        system = [{"role": "system", "content": self.system}] if self.system is not None else []
        if system and own[0]["role"] == "system":
            raise InputError(f"problem {number} has a system message of its own; leave --system out.")
        shots: list[Message] = []
        for question, solution in self.examples:
            shots += [{"role": "user", "content": self._filled(question)}, {"role": "assistant", "content": solution}]
        return [*system, *(own[:1] if own[0]["role"] == "system" else ()), *shots, *own[own[0]["role"] == "system" :]]

    def _check_chat(self, tokenizer: Any, model: str) -> None:
        try:
            template = tokenizer.get_chat_template()
        except (ValueError, AttributeError) as error:
            raise InputError(
                f"{model} has no chat template, so it is no chat model; leave --chat out, or use --template qa."
            ) from error
        known = set(re.findall(r"[A-Za-z_]\w*", template))
        for name in self.options:
            if name not in known:
                raise InputError(
                    f"the chat template of {model} has no variable {name}; the most alike are "
                    f"{nearest(name, (word for word in known if len(word) > 3))}."
                )
        if "strftime_now" in template and "date_string" in known and "date_string" not in self.options:
            logger.warning(
                "the chat template of %s writes today's date into every prompt; fix it for runs of several days with "
                "--chat-options 'date_string=26 Jul 2024'",
                model,
            )


def question_of(problem: Problem) -> str:
    """Return the text by which problems are the same, whatever stands around them."""
    if problem.question is not None:
        return problem.question
    if problem.messages is None:
        return problem.prompt
    if len(problem.messages) == 1:
        return problem.messages[0]["content"]
    return json.dumps([dict(message) for message in problem.messages])


def read_examples(source: Source, count: int) -> tuple[tuple[str, str], ...]:
    """Read worked examples, as (question, solution), from the first problems of a source.

    Raises:
        InputError: There are fewer, or one has no solution, response or answer.
    """
    # One response of each: a file may hold lists of them.
    problems = replace(source, limit=count, samples=1).read()
    examples = []
    for number, problem in enumerate(problems, 1):
        solution = problem.solution or problem.response or problem.answer
        if solution is None:
            raise InputError(f"example {number} of {source.name} has no solution, response or answer to show.")
        examples.append((question_of(problem), solution))
    if len(examples) < count:
        raise InputError(f"{source.name} has {len(examples)} examples, fewer than the {count} asked for.")
    return tuple(examples)


def few_shot_source(given: str | None, known: str | None, prompts: str) -> Source:
    """Return where worked examples come from: what was given, else the training split of the benchmark.

    Args:
        given: A source, read as the benchmark ``known`` where there is one.
        known: Benchmark that the prompts are read as, or None.
        prompts: Where the prompts come from, which may itself be a benchmark's name.
    """
    name = known or prompts
    found = find_benchmark(name)
    if given is not None:
        return Source(given, benchmark=name if found else None)
    if found is None or found.examples is None:
        raise InputError("there are no worked examples to take; name a source of some with --fewshot-from.")
    return Source(found.hub, benchmark=name, subset=found.subset, split=found.examples)
