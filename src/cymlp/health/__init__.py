"""Whether a network can learn, said before it trains and while it does: forecasts, records, findings, remedies."""

from importlib import import_module

# All of it is imported when it is first asked for: training needs the monitor alone.
_WHERE = {
    **dict.fromkeys(("Forecast", "forecast"), "forecasting"),
    **dict.fromkeys(("Applied", "Finding", "HealthReport"), "report"),
    "RULES": "rules",
    "Records": "monitor",
    **dict.fromkeys(("DataSummary", "Evidence"), "summaries"),
}

__all__ = [
    "RULES",
    "Applied",
    "DataSummary",
    "Evidence",
    "Finding",
    "Forecast",
    "HealthReport",
    "Records",
    "forecast",
]


def __getattr__(name):
    if name in _WHERE:
        return getattr(import_module(f"{__name__}.{_WHERE[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
