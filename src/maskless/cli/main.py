"""The command line: one thin file per verb; everything heavy is imported by the verb that needs it."""
from __future__ import annotations

import errno
import os
import sys
from typing import Any

import typer

from maskless.allocator import keep_freed_memory
from maskless.cli.bench import bench
from maskless.cli.convert import convert
from maskless.cli.demo import demo
from maskless.cli.distill import distill
from maskless.cli.doctor import doctor
from maskless.cli.encode_images import encode_images
from maskless.cli.evaluate import evaluate
from maskless.cli.image_statistics import image_statistics
from maskless.cli.infill import infill
from maskless.cli.inspect import inspect
from maskless.cli.report import report
from maskless.cli.sample import sample
from maskless.cli.score import score
from maskless.cli.serve import serve
from maskless.cli.train import train
from maskless.cli.verify import verify

# typer uses the click that is installed or, in newer versions, one of its own: its exceptions are found through typer
UsageError: Any = next(cls for cls in typer.BadParameter.__mro__ if cls.__name__ == "ClickException")

app = typer.Typer(name="maskless", no_args_is_help=True, rich_markup_mode=None, add_completion=False, pretty_exceptions_enable=False,
                  help="Partition generative models and the models they are compared with: train, distil, sample, infill, serve, measure.")
for verb in (demo, train, distill, encode_images, sample, infill, score, serve, evaluate, image_statistics, report, convert, inspect,
             verify, doctor):
    app.command()(verb)
app.add_typer(bench, name="bench")


def main() -> None:
    """Run a verb. A user's mistake is one sentence and exit code 2; set MASKLESS_TRACEBACK=1 to see where it was noticed."""
    keep_freed_memory()
    try:
        sys.exit(app(standalone_mode=False) or 0)
    except UsageError as error:
        error.show()
        sys.exit(2)
    except (KeyboardInterrupt, typer.Abort):
        sys.exit(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except (ValueError, OSError) as error:
        if os.environ.get("MASKLESS_TRACEBACK"):
            raise
        print(f"maskless: {' '.join(_sentence(error).split())}", file=sys.stderr)
        sys.exit(2)


def _sentence(error: ValueError | OSError) -> str:
    """What went wrong and what helps; the system's own errors name a file and a cause only."""
    if isinstance(error, OSError) and error.errno == errno.ENOSPC and error.filename is None:
        return f"the disk is full ({error.strerror}); free some space where this command writes, or choose another place"
    if not isinstance(error, OSError) or not error.strerror or error.filename is None:
        return str(error)
    remedy = "free some space there, or choose another place" if error.errno == errno.ENOSPC else "check the path"
    return f"{error.filename} cannot be used ({error.strerror}); {remedy}"


if __name__ == "__main__":
    main()
