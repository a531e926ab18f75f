"""`maskless distill`: a recipe that names a teacher, changes to it, a run folder with a model for every round."""

from __future__ import annotations

from maskless.cli.train import Arguments, Out, Quiet, Resume, asked, carry_out


def distill(arguments: Arguments = None, resume: Resume = False, out: Out = None, quiet: Quiet = False) -> None:
    """Distil a teacher into a model that needs fewer steps; the student of every round is kept in RUN/rounds. Ctrl-C saves."""
    from maskless.training.distill import distill as run_recipe

    source, changes = asked("distill", "distill/tiny_pgm", arguments or [], resume=resume, out=out)
    carry_out("distill", run_recipe, source, changes, resume=resume, out=out, quiet=quiet)
