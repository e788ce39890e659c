import pytest
import torch
from torch import nn

from inversion.hooks import hooks, replaced


def count(module):
    return len(module._forward_hooks) + len(module._forward_pre_hooks)


def test_hooks_run_inside_and_are_gone_after_a_failure():
    module, seen = nn.Linear(2, 2), []
    with pytest.raises(RuntimeError, match="shape"), hooks() as add:  # noqa: PT012
        add(module.register_forward_hook(lambda *_: seen.append("after")))
        add(module.register_forward_pre_hook(lambda *_: seen.append("before")))
        assert module(torch.ones(2)).shape == module(torch.ones(3)).shape
    assert seen == ["before", "after", "before"]
    assert count(module) == 0


def test_hooks_of_others_stay():
    module = nn.Linear(2, 2)
    module.register_forward_hook(lambda *_: None)
    with hooks() as add:
        add(module.register_forward_hook(lambda *_: None))
        assert count(module) == 2
    assert count(module) == 1


def test_a_forward_is_the_classs_again_after_a_failure():
    module = nn.Identity()
    with pytest.raises(ZeroDivisionError), replaced({module: lambda x: 1 / x}):
        module(0)
    assert module(1) == 1
    assert "forward" not in vars(module)


def test_a_replacement_of_somebody_else_is_put_back():
    module = nn.Identity()
    module.forward = theirs = lambda x: x + 10
    with replaced({module: None}):
        assert module(1) == 1
        with replaced({module: lambda x: x + 1}):
            assert module(1) == 2
        assert module(1) == 1
    assert module.forward is theirs
