"""What an unlearning method asks for."""

from __future__ import annotations

from dataclasses import dataclass, fields

_NO_WORD = ("synthetic_only", "one_label")


@dataclass(frozen=True)
class Needs:
    """What a method asks for. It is given no more: what it does not need is not in the views it gets."""

    forget_labels: bool = True
    """Labels of what is to be forgotten."""
    retain: bool = True
    """The samples that are kept."""
    retain_labels: bool = True
    """Their labels."""
    one_label: bool = True
    """One class for each sample; without, it serves samples with several labels too."""
    gradients: bool = True
    """Derivatives; without, it runs where autograd records nothing."""
    unseen: bool = False
    """Never-seen samples of the forgotten classes, with labels; in the forget view."""
    attribution: bool = False
    """What the logits of samples owe to what is to be forgotten, from models of subsets; in both views."""
    oracle: bool = False
    """The logits of a retrained model; in both views."""
    synthetic_only: bool = False
    """It is given noise in place of all samples."""
    history: bool = False
    """The models of the run's rounds, and who took part in them. With this or one of the next three a method works
    on the federation, of which it sees no sample."""
    updates: bool = False
    """What clients sent in those rounds."""
    clients: bool = False
    """The clients that stay, to train when they are asked to."""
    local: bool = False
    """What each client holds, to forget and to keep, for work of the method's own on it; see `LocalWork`."""

    @property
    def federation(self) -> bool:
        """Whether it is the federation that is worked on."""
        return self.history or self.updates or self.clients or self.local

    def words(self) -> str:
        """Return what is needed as a list in words."""
        if self.federation:
            words = {"history": "history", "updates": "updates", "clients": "clients", "local": "work on clients"}
            return ", ".join(word for name, word in words.items() if getattr(self, name))
        asked = [field.name for field in fields(self) if getattr(self, field.name) and field.name not in _NO_WORD]
        if not self.retain:
            asked = [need for need in asked if need != "retain_labels"]
        asked = (["synthetic data only"] if self.synthetic_only else ["forget"]) + asked
        return ", ".join(need.replace("_", " ") for need in asked)
