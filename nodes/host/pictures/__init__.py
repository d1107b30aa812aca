"""Pictures of the input folder that a timeline names."""

from .named import file_state as file_state
from .named import forget_pictures as forget_pictures
from .named import input_file as input_file
from .named import input_images as input_images
from .named import input_size as input_size
