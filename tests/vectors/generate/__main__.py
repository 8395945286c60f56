"""Write the vectors: `python -m tests.vectors.generate`."""

import shutil

from tests.vectors.generate.files import FOLDER, files


def main() -> None:
    for folder in ("good", "bad"):
        shutil.rmtree(FOLDER / folder, ignore_errors=True)
    for name, data in files().items():
        (FOLDER / name).parent.mkdir(exist_ok=True)
        (FOLDER / name).write_bytes(data)


if __name__ == "__main__":
    main()
