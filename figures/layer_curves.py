"""Every layer's correlation along fine-tuning, a panel a projection."""

from inversion.figures import script

if __name__ == "__main__":
    script("layer-curves", __doc__)
