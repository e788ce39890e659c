"""The correlation along fine-tuning of a pretrained model, with controls and the post's values."""

from inversion.figures import script

if __name__ == "__main__":
    script("pretrained-curve", __doc__, default=("figures/data/pretrained",))
