"""A pretrained model as it is: both units and the control, by prompt, text, weights, temperature and length."""

from inversion.figures import script

if __name__ == "__main__":
    script("pretrained-baseline", __doc__, default=("figures/data/pretrained",))
