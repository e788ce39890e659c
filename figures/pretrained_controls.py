"""What could explain the correlation away, along fine-tuning of a pretrained model."""

from inversion.figures import script

if __name__ == "__main__":
    script("pretrained-controls", __doc__, default=("figures/data/pretrained",))
