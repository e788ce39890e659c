"""Correlation by layer and projection, with significance marks."""

from inversion.figures import script

if __name__ == "__main__":
    script("layer-map", __doc__)
