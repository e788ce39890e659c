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
    assert torch.allclose(scope["gained"], torch.tensor([0.05, 0.0]))
