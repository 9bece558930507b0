"""What goes wrong in training and is the user's to mend."""

from __future__ import annotations

from materia.base.errors import UserError


class TrainError(UserError):
    """Training or sampling that cannot go on; the message is a line that names what is wrong and what to do."""
