"""What nodes say while they run."""

from .status import Status as Status
