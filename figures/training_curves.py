"""Accuracy and correlation of every training method along training."""

from inversion.figures import script

if __name__ == "__main__":
    script("training-curves", __doc__)
