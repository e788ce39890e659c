"""What could explain the correlation away, along fine-tuning."""

from inversion.figures import script

if __name__ == "__main__":
    script("controls", __doc__)
