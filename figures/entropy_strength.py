"""Density of tokens over entropy and logit-gradient strength, a panel a model (after: inversion demo)."""

from inversion.figures import script

if __name__ == "__main__":
    script("entropy-strength", __doc__, default=("runs/demo",))
