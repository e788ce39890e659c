"""The covariance that moves entropy along training, and what entropy did."""

from inversion.figures import script

if __name__ == "__main__":
    script("entropy-covariance", __doc__)
