"""The instructions of a Containerfile."""

import re
import shlex
from pathlib import Path
from typing import NamedTuple

import orjson


class Stage(NamedTuple):
    """A stage of the build, with its base and its instructions in order."""

    base: str
    instructions: list[tuple[str, str]]

    def last(self, name: str) -> str:
        """Return the arguments of the last instruction of this name."""
        return [arguments for found, arguments in self.instructions if found == name][-1]

    def all(self, name: str) -> list[str]:
        return [arguments for found, arguments in self.instructions if found == name]

    def command(self, name: str) -> list[str]:
        """Return the command of an instruction that has it as a JSON array."""
        words: list[str] = orjson.loads(re.sub(r"^.*?(?=\[)", "", self.last(name)))
        return words

    def environment(self) -> dict[str, str]:
        pairs = [pair for arguments in self.all("ENV") for pair in shlex.split(arguments)]
        return dict(pair.split("=", 1) for pair in pairs)


def stages(path: Path) -> list[Stage]:
    """Read a Containerfile."""
    lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
    found: list[Stage] = []
    for line in "\n".join(lines).replace("\\\n", " ").splitlines():
        if not line.strip():
            continue
        name, arguments = line.strip().split(None, 1)
        if name == "FROM":
            found.append(Stage(arguments.split()[0], []))
        else:
            found[-1].instructions.append((name, arguments))
    return found
