"""Entropy, length and held-out accuracy of every training method along training."""

from inversion.figures import script

if __name__ == "__main__":
    script("entropy-curves", __doc__)
