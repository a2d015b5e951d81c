"""The command-line reference, made of the commands' own help; `tests/test_readme.py` compares it with the page."""

from discrete_distribution_network.cli.commands import COMMANDS
from discrete_distribution_network.cli.reference import WIDTH, description, help_text, reference


def test_every_command_is_in_it():
    page = reference()
    assert page == reference()
    for name in COMMANDS:
        assert f"\n## ddn {name}\n" in page
        assert f"| {description(name)} |" in page
        assert help_text(name) in page
        assert "--device" in help_text(name) or name in ("export", "info")
    assert max(map(len, help_text("train").splitlines())) <= WIDTH
    assert "\x1b" not in page
