"""What a request may run into: each is one sentence for the person in front of the screen."""

from trimtab.common.errors import UserError


class Refused(UserError):
    """What was asked cannot be done now; the sentence says why and what to do instead."""


class Missing(UserError):
    """There is no such thing, or it is somebody else's, which is answered alike."""


class Invalid(UserError):
    """What was sent is not what is needed."""
