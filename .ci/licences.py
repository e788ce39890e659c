"""Check that every package that constraints.txt pins is under a licence that lets this one be used freely.

Run in an environment that has all of them. What a package says of its licence is read from its metadata: the licence
expression, else the classifiers, else the free text.
"""

import re
import sys
from importlib import metadata
from pathlib import Path

ALLOWED = re.compile(r"\b(MIT|0?BSD|Apache|ISC|PSF|Python Software Foundation|CNRI-Python|MPL|Mozilla|Zlib|BSL|CC0)\b")
EXCEPTIONS = {
    "docutils": "in the public domain, but for files under BSD and an Emacs mode under GPL that is not installed",
    "zss": "its metadata name none; its LICENSE is BSD with three clauses",
}


def licences(name: str) -> list[str]:
    """Return the licences that a package names, all of which have to be allowed; alternatives are one of them."""
    about = metadata.metadata(name)
    classifiers = [one for one in about.get_all("Classifier", []) if one.startswith("License ::")]
    text = about.get("License-Expression") or "; ".join(classifiers) or about.get("License", "").partition("\n")[0]
    return re.split(r"; | AND ", text)


def main() -> int:
    """Print what is not allowed, and return how many packages that are."""
    pins = re.findall(r"^([A-Za-z0-9_.-]+)==", Path("constraints.txt").read_text(), flags=re.M)
    bad = 0
    for name in pins:
        found = licences(name)
        if name not in EXCEPTIONS and not all(any(map(ALLOWED.search, one.split(" OR "))) for one in found):
            print(f"{name} is under {' and '.join(found) or 'no licence that it names'}")
            bad += 1
    print(f"licences of {len(pins)} packages: {bad} not allowed, {len(EXCEPTIONS)} exceptions")
    return bad


if __name__ == "__main__":
    sys.exit(main())
