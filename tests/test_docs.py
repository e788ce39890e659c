"""The documentation as files: links lead somewhere, public names are in the reference, examples run."""

import re
from pathlib import Path

import pytest

import inversion

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / f"{name}.md" for name in ("README", "CONTRIBUTING", "CHANGELOG", "LAB_NOTES")]
PAGES += [*sorted((ROOT / "docs").glob("*.md")), ROOT / "figures" / "README.md"]
LINK = re.compile(r"\]\(([^)#\s]+)(#[^)\s]*)?\)")
# Pages that are included into others: Sphinx resolves their links from the page that includes them.
INCLUDED = {"LAB_NOTES.md": "lab-notes.md", "CHANGELOG.md": "changes.md"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files(page):
    targets = [match[1] for match in LINK.finditer(page.read_text(encoding="utf-8"))]
    local = [target for target in targets if not target.startswith(("http:", "https:", "mailto:"))]
    aliases = {alias: ROOT / name for name, alias in INCLUDED.items()}
    missing = [t for t in local if not (page.parent / t).exists() and not aliases.get(t, ROOT / "none").exists()]
    assert not missing


@pytest.mark.parametrize("page", sorted((ROOT / "docs").glob("*.md")), ids=lambda page: page.name)
def test_pages_link_to_no_page_that_sphinx_does_not_build(page):
    pages = [match[1] for match in LINK.finditer(page.read_text(encoding="utf-8")) if match[1].endswith(".md")]
    assert [target for target in pages if target.startswith("../")] == []


def test_every_public_name_is_in_the_reference():
    reference = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "docs" / "reference").glob("*.rst"))
    documented = set(re.findall(r"auto\w+:: (?:[\w.]+\.)?(\w+)", reference))
    assert set(inversion.__all__) - {"__version__"} <= documented


def test_the_example_of_a_reward_form_gives_what_it_says():
    torch = pytest.importorskip("torch")
    pytest.importorskip("trl")
    from inversion.corrpo.forms import FORMS

    page = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
    code = re.search(r"```python\n(.*?)```", page, re.DOTALL)
    assert code
    lines = code[1].strip().splitlines()
    lines[-1] = "gained = " + lines[-1]
    scope: dict = {}
    try:
        exec("\n".join(lines), scope)
    finally:
        FORMS.pop("long_only", None)
    assert torch.allclose(scope["gained"], torch.tensor([0.05, 0.05]))


def test_every_name_of_the_package_that_a_page_mentions_is_there():
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for name in set(re.findall(r"(?<![\w./-])inversion\.(\w+)", text)):
            assert hasattr(inversion, name), f"{page.name} mentions inversion.{name}"


def test_files_that_pages_name_are_there():
    folders = "inversion|tests|benchmarks|figures|notebooks|docs|surveys"
    for page in PAGES:
        if page.name in ("CHANGELOG.md", "LAB_NOTES.md"):  # they tell of what was
            continue
        named = re.findall(rf"(?<![\w/.])((?:{folders})/[\w./*-]+)", page.read_text(encoding="utf-8"))
        made = ("docs/_build",)
        missing = [name for name in set(named) - set(made) if not list(ROOT.glob(name.rstrip("./")))]
        assert not missing, f"{page.relative_to(ROOT)} names {missing}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_line_holds_one_sentence(page):
    """So that changing a word changes one short line, and a difference can be read."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    abbreviations = re.compile(r"\b(?:e\.g|i\.e|etc|vs|cf|al|eq|resp|Fig|No)\.$")
    before = ""
    for line in (re.sub(r"^\s*(?:[-*]|\d+\.) +", "", line) for line in text.splitlines()):
        if line.startswith(("|", "#", "![")):
            continue
        goes_on = before.strip() and line[:1].islower() and before.rstrip()[-1] not in ".:!?"
        assert not goes_on, f"a sentence is broken after: {before}"
        before = line
        # Code and links hold dots of their own.
        plain = re.sub(r"`[^`]*`|\]\([^)]*\)", "x", line)
        for match in re.finditer(r"[.!?][)\"*_]*(?= +[A-Z*])", plain):
            assert abbreviations.search(plain[: match.end()]), f"two sentences in: {line}"
