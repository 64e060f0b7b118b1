"""What is told of a run's health."""

__all__ = ["HealthReport"]


class HealthReport:
    """A report on the layers of a network.

    Parameters
    ----------
    evidence : Evidence

    Attributes
    ----------
    records : Records
    """

    def __init__(self, evidence):
        self.evidence = evidence
        self.records = evidence.records
