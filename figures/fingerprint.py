"""Correlation of every stage with its uncertainty, beside the values of the first author's post."""

from inversion.figures import script

if __name__ == "__main__":
    script("fingerprint", __doc__)
