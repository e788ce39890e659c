"""The correlation in each layer before training and after every method."""

from inversion.figures import script

if __name__ == "__main__":
    script("training-layers", __doc__, default=("figures/data/rho",))
