"""The pack's own wire types."""

from comfy_api.latest import io

VideoModelType = io.Custom("VIDEO_MODEL")
ConditioningType = io.Custom("VIDEO_CONDITIONING")
KeyframesType = io.Custom("KEYFRAMES")
ControlType = io.Custom("VIDEO_CONTROL")

ABSENT = "absent"  # an input without a link, where `validate_inputs` gets None for one with a link: not known yet
