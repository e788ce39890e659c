from inversion.progress import bar


def test_without_a_terminal_progress_is_a_few_lines_without_control_characters(capsys):
    shown = bar(range(5000), desc="train", unit="step")
    for step in shown:
        shown.set_postfix(loss=step, refresh=False)
    told = capsys.readouterr().err
    assert "\r" not in told
    assert "\x1b" not in told
    lines = told.splitlines()
    assert len(lines) <= 3
    assert lines[0].startswith("train:   0%")
    assert "5000/5000" in lines[-1]
    assert "loss=4999" in lines[-1]


def test_a_bar_that_is_not_over_an_iterable_counts_what_it_is_told(capsys):
    with bar(total=4, desc="count") as shown:
        shown.update(4)
    assert "4/4" in capsys.readouterr().err
