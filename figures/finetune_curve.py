"""Correlation and accuracy along fine-tuning on chains of thought, with the post's values."""

from inversion.figures import script

if __name__ == "__main__":
    script("finetune-curve", __doc__)
