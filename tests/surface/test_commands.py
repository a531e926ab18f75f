"""docs/cli.md has every command, argument and option, as `--help` says them."""
from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import typer

from maskless.cli.main import app

PAGE = Path(__file__).parents[2] / "docs" / "cli.md"
AGAIN = "write it anew: typer maskless.cli.main utils docs --name maskless --output docs/cli.md"


def commands(command: Any, name: str) -> dict[str, Any]:
    inside = getattr(command, "commands", {})
    found = {} if inside else {name: command}
    for verb, each in inside.items():
        found |= commands(each, f"{name} {verb}")
    return found


def sections() -> dict[str, str]:
    parts = re.split(r"^#+ `(.+)`$", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2]))


def test_every_command_and_no_other_has_a_section():
    found, groups = commands(typer.main.get_command(app), "maskless"), {"maskless", "maskless bench"}
    assert set(sections()) - groups == set(found), AGAIN


def test_sections_say_what_help_says():
    page = sections()
    for name, command in commands(typer.main.get_command(app), "maskless").items():
        for parameter in command.params:
            if parameter.param_type_name == "option" and parameter.name != "help":
                option = re.compile(rf"^\* `([^`]*[ ,])?{max(parameter.opts, key=len)}[ `,/]")
                lines = [line for line in page[name].splitlines() if option.match(line)]
                assert len(lines) == 1 and " ".join(parameter.help.split())[:60] in lines[0], (name, parameter.opts, AGAIN)
