"""`fedsim options`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from fedsim.cli.app import app
from fedsim.cli.names import complete_topics
from fedsim.cli.screen import Screen, print_rows
from fedsim.errors import FedsimError, nearest

if TYPE_CHECKING:
    from fedsim.config.options import Topic


@app.command("options")
def options_command(
    words: Annotated[
        list[str] | None, typer.Argument(help="A section, and a name in that section.", autocompletion=complete_topics)
    ] = None,
) -> None:
    """Show the options of WORDS, such as: strategy fedprox, training, data.partition dirichlet, or unlearning ssd."""
    asked = _topic(words or [])
    screen = Screen(highlight=False, markup=False, soft_wrap=True)
    screen.print(asked.title, style="bold")
    screen.print(asked.summary)
    if asked.options:
        rows = [(option.key, option.default, option.allowed, option.summary) for option in asked.options]
        screen.print()
        print_rows(screen, ("option", "default", "takes", "what it does"), rows)
    elif not asked.sections:
        screen.print("\nIt has no options.")
    if asked.starts_from:
        screen.print("\nIts runs begin with, in place of the defaults:")
        screen.print("\n".join(f"  {key}={value}" for key, value in asked.starts_from))
    if asked.sections:
        screen.print()
        print_rows(screen, ("fedsim options ...", "about"), asked.sections)


def _topic(words: list[str]) -> Topic:
    from fedsim.config.options import method_topic, topic

    if not words or words[0] not in ("unlearning", "pruning"):
        return topic(words)
    from unlearning.api.pruner import describe_pruners, load_pruner
    from unlearning.api.registry import describe_unlearning, load_unlearning

    kind, known = words[0], describe_unlearning() if words[0] == "unlearning" else describe_pruners()
    if len(words) != 2:
        raise FedsimError(f"options {kind}: give one method's name; {nearest('', known)}")
    name = words[1]
    config = load_unlearning(name).config if kind == "unlearning" else load_pruner(name).config
    return method_topic(kind, name, config, known.get(name, ""))
