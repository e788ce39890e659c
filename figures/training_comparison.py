"""Accuracy and correlation of every training method, before and after."""

from inversion.figures import script

if __name__ == "__main__":
    script("training-comparison", __doc__)
