"""What unlearning costs next to retraining."""


def run_time_efficiency(method_seconds: float, oracle_seconds: float) -> float:
    """Return RTE = oracle time / method time, above 0; above 1 the method is the faster (card 18, arXiv:2410.01276).

    Both times are of the training alone, on the same machine, without evaluation.
    """
    if not (method_seconds > 0 and oracle_seconds > 0):
        raise ValueError(f"times must be above 0 seconds; got {method_seconds} and {oracle_seconds}")
    return oracle_seconds / method_seconds
