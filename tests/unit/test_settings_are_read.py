"""Every setting that is documented does something."""

import re
from pathlib import Path

import gpuwrap
from gpuwrap.state.settings import SETTINGS


def test_every_setting_is_asked_for_by_somebody() -> None:
    sources = Path(gpuwrap.__file__).parent.rglob("*.py")
    text = "".join(path.read_text() for path in sources if path.name != "settings.py")
    asked = set(re.findall(r'settings\["([a-z_]+)"\]', text))
    # Clients ask for it, of the one file that is its user's.
    assert asked | {"machine"} == set(SETTINGS)
    assert 'get("machine")' in text
