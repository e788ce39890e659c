"""The arithmetic of the statistics: plain numpy arrays in and out, no runs, no names, no options of a user."""
