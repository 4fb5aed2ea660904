"""NoMUS: utility and forgetting in one number (MUFAC card 3.3; card 6).

It rewards the trivial predictor: constant outputs give (largest class share + 1) / 2 where the attack is at chance.
Never rank by it; print it beside the constant predictor's, with accuracy and attack apart.
"""


def forgetting_score(mia: float) -> float:
    """Return FS = |MIA - 1/2| in [0, 1/2], lower is better; `mia` is the logistic attack's accuracy in [0, 1]."""
    return abs(mia - 0.5)


def indiscernibility(mia: float) -> float:
    """Return 1 - 2 |MIA - 1/2| in [0, 1], higher is better (card 6)."""
    return 1 - 2 * forgetting_score(mia)


def nomus(test_accuracy: float, mia: float, weight: float = 0.5) -> float:
    """Return weight * accuracy + (1 - weight) * (1 - 2 FS), in [0, 1], higher is better; all arguments in [0, 1]."""
    return weight * test_accuracy + (1 - weight) * indiscernibility(mia)
