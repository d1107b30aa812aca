"""LoRA files as they are, added to what a network's layers give: names, alphas, mathematics, and a run with them."""

from .blocks import block_factors as block_factors
from .blocks import canonical as canonical
from .blocks import parse_blocks as parse_blocks
from .blocks import rest_of as rest_of
from .delta import Delta as Delta
from .delta import LoRA as LoRA
from .delta import check_steps as check_steps
from .keys import expert_of_name as expert_of_name
from .products import rank_of as rank_of
from .reading import Contents as Contents
from .reading import read_lora as read_lora
from .reading import settings_file as settings_file
from .run import Switch as Switch
from .run import applied as applied
