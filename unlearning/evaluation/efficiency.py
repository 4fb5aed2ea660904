"""The costs of a model: time, memory, and work of the federation."""

from fedsim.report.wording import format_duration
from unlearning.evaluation.metric import Metric

METRICS = (
    Metric("seconds", "Time", "time of the training, or of the method alone", "low", 0, None, "seconds",
           "without evaluations", format_duration, brief=True, cost=True),
    Metric("time_share", "Of retraining", "time / the mean time of retraining", "low", 0, None, "ratio",
           "both on one machine, without evaluations", "{:.1%}".format, cost=True),
    Metric("peak_mb", "Peak MB", "peak memory above that at the start", "low", 0, None, "MB", "",
           "{:.0f}".format, cost=True),
    Metric("attack_seconds", "Attack time", "time of all attacks on one model, including relearning", "low", 0, None,
           "seconds", "", format_duration, cost=True),
    Metric("rounds", "Rounds", "rounds in which clients trained", "low", 0, None, "rounds", "", "{:.0f}".format,
           cost=True),
    Metric("clients_woken", "Clients woken", "number of times that a client trained in a round", "low", 0, None,
           "clients", "", "{:.0f}".format, cost=True),
    Metric("traffic_mb", "Traffic MB", "traffic to clients and from them", "low", 0, None, "MB", "", "{:.1f}".format,
           cost=True),
    Metric("history_mb", "History MB", "size of the stored history that was read", "low", 0, None, "MB", "",
           "{:.1f}".format, cost=True),
    Metric("models_trained", "Models trained", "number of further models of the recipe that the method needs", "low", 0,
           None, "models", "their time is not part of the method's", "{:.0f}".format, cost=True),
    Metric("break_even", "Pays after",
           "number of requests above which these models cost less than retraining for each", "low", 0, None,
           "requests", "known if the models serve other requests too, and the method is faster than retraining",
           "{:.0f}".format, cost=True),
    Metric("averaging_error", "Averaging error",
           "largest distance between the mean of clients' changes and the product of their mean factors", "low", 0,
           None, "ratio", "relative to the norm of the former", "{:.1e}".format, cost=True),
)  # fmt: skip
