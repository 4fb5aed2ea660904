"""Privacy of a run after unlearning: the ledger of the new model, and refusals."""

from __future__ import annotations

from fedsim.errors import FedsimError
from fedsim.privacy import ledger
from fedsim.privacy.guarantees import in_words, promised_units
from fedsim.privacy.ledger import Ledger, unprotected
from unlearning.api.registry import Method
from unlearning.pipeline.source import Source

_REMEDY = "choose a method that trains like the run, or give --no-privacy"


def ledger_of(source: Source) -> Ledger | None:
    """Return the ledger of a run; None if it has none and has no privacy section.

    Raises
    ------
    FedsimError
        If the run promises privacy, and its ledger is missing or damaged.
    """
    privacy = source.config.privacy
    if not ledger.exists(source.folder.path) and privacy.client is None and privacy.example is None:
        return None
    return Ledger.read(source.folder.path)


def breach(method: Method, inherited: Ledger | None) -> str | None:
    """Return why a method would end a run's guarantees; None if it keeps them, or there are none."""
    units = promised_to(inherited)
    if not units or _keeps(method):
        return None
    return f"{method.name} learns from samples without noise, and the run promises privacy of {units}"


def promised_to(inherited: Ledger | None) -> str:
    """Return in words for which units a ledger promises, or has promised, privacy; "" if for none."""
    return "" if inherited is None else in_words(promised_units(inherited, ended=True))


def require_kept(method: Method, inherited: Ledger | None, *, no_privacy: bool) -> None:
    """Refuse a method that would end a guarantee, unless the user has given it up."""
    if not no_privacy and (reason := breach(method, inherited)) is not None:
        raise FedsimError(f"--method {method.name}: {reason}; {_REMEDY}")


def derived_ledger(inherited: Ledger, method: Method, spent: tuple[Ledger, ...]) -> Ledger:
    """Return the ledger of a method's model: all inherited releases, and those `spent` since."""
    if _keeps(method) or method.needs.local:
        return inherited.then(*spent)
    return inherited.then(unprotected(f"unlearning by {method.name}", len(inherited.took_part)))


def carried_on(told: Ledger, own: Ledger) -> Ledger:
    """Return the ledger of a model whose training continues: `told` is the model's, `own` that of the new training."""
    replayed = (told.recipe, told.rounds) == (own.recipe, own.rounds)  # the new training's rounds are recorded
    return told if replayed else told.then(own.model_copy(update={"before": ()}))


def _keeps(method: Method) -> bool:
    """Return whether a method uses the clients' data only through the run's own mechanisms, or not at all."""
    return method.needs.synthetic_only or (method.needs.federation and not method.needs.local)
