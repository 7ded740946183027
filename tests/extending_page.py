"""The files and commands that docs/extending.md shows."""

from __future__ import annotations

import re
from pathlib import Path

PAGE = (Path(__file__).parents[1] / "docs" / "extending.md").read_text()
FILES = dict(re.findall(r"```yaml\n# conf/(\S+)\n(.*?)```", PAGE, re.DOTALL))
COMMANDS = [re.findall(r"```bash\nsnakemake --cores all --config (.*?)\n```", part) for part in PAGE.split("\n## ")[1:]]


def add_files(conf: Path) -> None:
    """Put the files into a folder like conf/, which has none of their names."""
    for name, text in FILES.items():
        with (conf / name).open("x") as stream:
            stream.write(text)
