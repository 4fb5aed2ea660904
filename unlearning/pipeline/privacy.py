"""What a run's privacy is worth once its model has been unlearned: the ledger of the new model, and refusals."""

from __future__ import annotations

from fedsim.errors import FedsimError
from fedsim.privacy import ledger
from fedsim.privacy.guarantees import in_words, promised_units
from fedsim.privacy.ledger import Ledger, unprotected
from unlearning.api.registry import Method
from unlearning.pipeline.source import Source

_REMEDY = "choose one that trains as the run did, or say --no-privacy"


def ledger_of(source: Source) -> Ledger | None:
    """Return the ledger of a run; None if it has none and promises nothing.

    Raises
    ------
    FedsimError
        If it promises something, and its ledger is gone or damaged.
    """
    privacy = source.config.privacy
    if not ledger.exists(source.folder.path) and privacy.client is None and privacy.example is None:
        return None
    return Ledger.read(source.folder.path)


def breach(method: Method, inherited: Ledger | None) -> str | None:
    """Return why a method would leave nothing of a run's guarantees, None if it keeps to them or there are none."""
    units = promised_to(inherited)
    if not units or _keeps(method):
        return None
    return f"{method.name} learns from samples without noise, and the run promises privacy of {units}"


def promised_to(inherited: Ledger | None) -> str:
    """Return whose privacy a ledger promises or has promised, in words; "" of none."""
    return "" if inherited is None else in_words(promised_units(inherited, ended=True))


def require_kept(method: Method, inherited: Ledger | None, *, no_privacy: bool) -> None:
    """Refuse a method that would end a guarantee that nobody has given up."""
    if not no_privacy and (reason := breach(method, inherited)) is not None:
        raise FedsimError(f"--method {method.name}: {reason}; {_REMEDY}")


def derived_ledger(inherited: Ledger, method: Method, spent: tuple[Ledger, ...]) -> Ledger:
    """Return the ledger of what a method made of a run's model: all that it inherits, and what was `spent` since."""
    if _keeps(method) or method.needs.local:
        return inherited.then(*spent)
    return inherited.then(unprotected(f"unlearning by {method.name}", len(inherited.took_part)))


def carried_on(told: Ledger, own: Ledger) -> Ledger:
    """Return the ledger of a model that is trained on: `told` is the model's, `own` that of the training alone."""
    replayed = (told.recipe, told.rounds) == (own.recipe, own.rounds)  # the training's own rounds are told already
    return told if replayed else told.then(own.model_copy(update={"before": ()}))


def _keeps(method: Method) -> bool:
    """Return whether a method sees the clients' data through the run's own mechanisms alone, or not at all."""
    return method.needs.synthetic_only or (method.needs.federation and not method.needs.local)
