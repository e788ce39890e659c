"""The whole way from random weights over fine-tuning to reinforcement learning."""

from inversion.figures import script

if __name__ == "__main__":
    script("trajectory", __doc__, default=("figures/data", "figures/data/pretrained"))
