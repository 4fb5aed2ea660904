"""The costs of a model: time, memory, and work of the federation."""

from fedsim.report.wording import format_duration
from unlearning.evaluation.metric import Metric

METRICS = (
    Metric("seconds", "Time", "time of the training, or of the method alone", "low", 0, None, "seconds",
           "evaluations not included", format_duration, brief=True, cost=True),
    Metric("time_share", "Of retraining", "time / the mean time of retraining", "low", 0, None, "ratio",
           "both of one machine, evaluations not included", "{:.1%}".format, cost=True),
    Metric("peak_mb", "Peak MB", "most memory beyond what was held before", "low", 0, None, "MB", "",
           "{:.0f}".format, cost=True),
    Metric("attack_seconds", "Attack time", "time of all attacks on one model, relearning included", "low", 0, None,
           "seconds", "", format_duration, cost=True),
    Metric("rounds", "Rounds", "rounds in which clients trained", "low", 0, None, "rounds", "", "{:.0f}".format,
           cost=True),
    Metric("clients_woken", "Clients woken", "times that a client trained in a round", "low", 0, None, "clients", "",
           "{:.0f}".format, cost=True),
    Metric("traffic_mb", "Traffic MB", "sent to clients and by them", "low", 0, None, "MB", "", "{:.1f}".format,
           cost=True),
    Metric("history_mb", "History MB", "stored history that was read", "low", 0, None, "MB", "", "{:.1f}".format,
           cost=True),
    Metric("models_trained", "Models trained", "further models of the recipe that were trained to make it", "low", 0,
           None, "models", "their time is not in its own", "{:.0f}".format, cost=True),
    Metric("break_even", "Pays after", "requests from which on these models cost less than retraining for each", "low",
           0, None, "requests", "known where they serve other requests too, and the method is quicker than retraining",
           "{:.0f}".format, cost=True),
    Metric("averaging_error", "Averaging error", "distance of the mean of clients' changes from what their mean "
           "factors make, at its largest", "low", 0, None, "ratio", "over the norm of the former", "{:.1e}".format,
           cost=True),
)  # fmt: skip
