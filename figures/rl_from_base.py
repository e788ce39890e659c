"""Correlation and accuracy along reinforcement learning from the base model, with the post's values."""

from inversion.figures import script

if __name__ == "__main__":
    script("rl-from-base", __doc__)
