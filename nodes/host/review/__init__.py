"""What reviewing prompts needs of the host: a folder, text files of users, routes, and a word to all pages."""

from .folders import own_folder as own_folder
from .folders import read_text as read_text
from .folders import stamp as stamp
from .folders import stamp_of as stamp_of
from .routes import serve_review as serve_review
from .routes import tell_all as tell_all
