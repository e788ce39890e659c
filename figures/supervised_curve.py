"""Accuracy and correlation along supervised fine-tuning, with the correlation steered down, up and not at all."""

from inversion.figures import script

if __name__ == "__main__":
    script("supervised-curve", __doc__, default=("figures/data/supervised",))
