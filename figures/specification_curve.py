"""The correlation of the fine-tuned models under every choice at once."""

from inversion.figures import script

if __name__ == "__main__":
    script("specification-curve", __doc__)
