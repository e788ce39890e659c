"""Accuracy against entropy in training, with the law fitted to the first half of each curve."""

from inversion.figures import script

if __name__ == "__main__":
    script("entropy-law", __doc__)
