"""Accuracy against the correlation that training reached, every method and seed a point."""

from inversion.figures import script

if __name__ == "__main__":
    script("dose-response", __doc__, default=("figures/data/rho",))
