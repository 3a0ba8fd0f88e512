"""What every demo says on its command line, and how it ends when something is wrong.

A demo is a function `main(argv=None)` and two lines at its end:

    if __name__ == "__main__":
        run_demo(main)
"""

import argparse
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from _shared.errors import DemoError


def common_flags(description: str, *, name: str, corpus: bool = True) -> argparse.ArgumentParser:
    """Return a parser with the flags that all demos share; a demo adds its own to it.

    `name` is the demo's, as in `demos/<name>.py`; its files go to `out/<name>` unless --out says otherwise.
    `description` is shown by --help line for line, so a demo can pass its docstring.
    """
    parser = argparse.ArgumentParser(
        prog=f"{name}.py", description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="small numbers: under ten seconds")
    parser.add_argument("--device", choices=["cpu", "gpu"], default="cpu", help="where the arrays live (default: cpu)")
    parser.add_argument("--seed", type=_seed, default=1, metavar="INT", help="same seed, same run (default: 1)")
    if corpus:
        parser.add_argument("--corpus", type=Path, metavar="FILE", help="UTF-8 text, one sentence a line")
    parser.add_argument(
        "--out", type=Path, default=Path("out") / name, metavar="DIR", help=f"where files go (default: out/{name})"
    )
    parser.add_argument("--show", action="store_true", help="open the picture in a window at the end")
    return parser


def _seed(text: str) -> int:
    if not 0 <= (seed := int(text)) < 2**32:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 2**32 − 1")
    return seed


_seed.__name__ = "whole number"  # argparse prints it: "invalid whole number value: 'x'"


def run_demo(main_function: Callable[[], object]) -> None:
    """Run a demo as a script: an error the user can mend is one line and status 2, Ctrl-C is status 130.

    Any other exception is a mistake of ours and keeps its traceback. What `main_function` returns is ignored.
    """
    name = Path(sys.argv[0]).stem
    try:
        main_function()
    except DemoError as error:
        print(f"{name}: {' '.join(str(error).splitlines())}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print(f"{name}: abandoned", file=sys.stderr)
        sys.exit(130)  # 128 + the number of SIGINT, as a shell has it


def output_folder(path: str | Path) -> Path:
    """Make the folder, and write a file in it now, lest a demo find out after its work that it cannot.

    Raises DemoError, naming the folder and the reason.
    """
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path) as file:
            file.write(b"can this folder be written?")
            file.flush()
    except FileExistsError as error:
        raise DemoError(f"cannot write into {path}: it is not a directory") from error
    except OSError as error:
        raise DemoError(f"cannot write into {path}: {error.strerror}") from error
    return path


def choose_device(name: str) -> None:
    """Put minigrad's arrays on "cpu" or "gpu"; DemoError says what is missing where there is no GPU."""
    import minigrad
    from minigrad.backend import DeviceError

    try:
        minigrad.set_device(name)
    except DeviceError as error:
        raise DemoError(f"--device {name}: {error}") from error
