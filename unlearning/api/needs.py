"""The inputs that an unlearning method declares to need."""

from __future__ import annotations

from dataclasses import dataclass, fields

_NO_WORD = ("synthetic_only", "one_label")


@dataclass(frozen=True)
class Needs:
    """The needs of a method. The views that it gets contain nothing else."""

    forget_labels: bool = True
    """Labels of the samples to forget."""
    retain: bool = True
    """The kept samples."""
    retain_labels: bool = True
    """Labels of the kept samples."""
    one_label: bool = True
    """One class for each sample; if False, the method also accepts samples with several labels."""
    gradients: bool = True
    """Gradients; if False, the method runs without autograd."""
    unseen: bool = False
    """Never-seen samples of the forgotten classes, with labels; in the forget view."""
    attribution: bool = False
    """The effect of the forgotten samples on logits, estimated with models of subsets; in both views."""
    oracle: bool = False
    """The logits of a retrained model; in both views."""
    synthetic_only: bool = False
    """Noise in place of all samples."""
    history: bool = False
    """The global models of the run's rounds, and their cohorts. A method with this or one of the next three needs works
    on the federation, and sees no sample."""
    updates: bool = False
    """The clients' updates of these rounds."""
    clients: bool = False
    """The staying clients, which train on request."""
    local: bool = False
    """Each client's samples to forget and to keep, for the method's own work on the client; see `LocalWork`."""

    @property
    def federation(self) -> bool:
        """Whether the method works on the federation."""
        return self.history or self.updates or self.clients or self.local

    def words(self) -> str:
        """Return the needs as a list in words."""
        if self.federation:
            words = {"history": "history", "updates": "updates", "clients": "clients", "local": "work on clients"}
            return ", ".join(word for name, word in words.items() if getattr(self, name))
        asked = [field.name for field in fields(self) if getattr(self, field.name) and field.name not in _NO_WORD]
        if not self.retain:
            asked = [need for need in asked if need != "retain_labels"]
        asked = (["synthetic data only"] if self.synthetic_only else ["forget"]) + asked
        return ", ".join(need.replace("_", " ") for need in asked)
