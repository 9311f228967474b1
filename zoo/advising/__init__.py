"""Which training method fits the data: what is measured of data and backbone, and the rule that reads it."""

AUTO = "auto"
"""What ``zoo.fit`` takes in the place of a method's name, to follow the advice."""
