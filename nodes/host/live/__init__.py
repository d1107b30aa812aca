"""What the node that runs shows of what it makes: a still, and a moving picture of a few frames."""

from .view import LiveView as LiveView
from .view import Place as Place
