"""What our Butler answers to who asks for what cannot be done. Each knows its status, its code and one fixed sentence.

DoorFault
|- NotSignedIn 401      no session, no token, or one that ended
|- SignInFailed 401     the e-mail or the password is wrong: one answer for both
|- PasswordNeeded 403   the change asks for the password again
|- NotAllowed 403       the role may not
|- ForgedForm 403       a write without its form's token
|- NotThere 404         not found, or not yours: one answer for both
|- InTheWay 409         something else stands there
|- TooLong 413          more than is read
|- NotAcceptable 422    what was sent is not what is taken; `field` names where, never what
`- TooManyTries 429     sign-ins that failed
"""

from __future__ import annotations

import logging

from steward.errors import StewardError


class DoorFault(StewardError):
    """Whoever asks cannot have it."""

    status = 400
    code = "bad_request"
    level = logging.INFO
    message = "The request is malformed."


class NotSignedIn(DoorFault):
    """No session, no token, or one that ended."""

    status = 401
    code = "not_signed_in"
    message = "Nobody is signed in, or the session has ended."


class SignInFailed(DoorFault):
    """The same for an unknown e-mail as for a wrong password."""

    status = 401
    code = "sign_in_failed"
    message = "The e-mail address or the password is wrong."


class PasswordNeeded(DoorFault):
    """The change asks for the password again."""

    status = 403
    code = "password_needed"
    message = "This change asks for your password again."


class NotAllowed(DoorFault):
    """The role may not."""

    status = 403
    code = "not_allowed"
    message = "Your role in this organisation does not allow this."


class ForgedForm(DoorFault):
    """A write that did not come from a page of ours, or from one that is too old."""

    status = 403
    code = "forged_form"
    message = "The form is too old, or was not made by this site. Load the page again."


class NotThere(DoorFault):
    """Not found and not yours are one answer."""

    status = 404
    code = "not_found"
    message = "There is nothing by this name."


class InTheWay(DoorFault):
    """Something else stands there."""

    status = 409
    code = "conflict"
    message = "There is one like this already."


class TooLong(DoorFault):
    """More than is read."""

    status = 413
    code = "too_long"
    message = "The request's body is too long."


class NotAcceptable(DoorFault):
    """`field` says where, as a name of ours or a number, and never what stood there."""

    status = 422
    code = "not_acceptable"
    message = "A field is missing, unknown, or outside what it may hold."

    def __init__(self, field: str = "", index: int | None = None, message: str | None = None) -> None:
        super().__init__(message)
        self.field = field
        self.index = index


class TooManyTries(DoorFault):
    """Sign-ins that failed, for this account from this address, or from this address."""

    status = 429
    code = "too_many_tries"
    message = "Too many sign-ins failed. Wait some minutes."
    retry_after_s = 300
