"""What run.py says to a failed step, and where it looks for a browser. Standard library only."""

import platform

THIS_PYTHON = f"Python {platform.python_version()} on {platform.system()} {platform.machine()}"
ADVICE = {  # what a failed step printed -> what it means and what to do
    r"No space left on device|not enough space on the disk": "The disk is full: all of it needs about 10 GB.",
    r"ensurepip is not|No module named '?(venv|ensurepip)": (
        "This Python lacks its venv module: install it (on Debian and Ubuntu: apt install python3-venv)."
    ),
    r"Connection(Pool)?\(host=|Failed to establish|ame ?[Rr]esolution|Temporary failure|timed out|ProxyError": (
        "The network, or the way to the packages, does not work: check it, and where pip looks (pip config list)."
    ),
    r"No matching distribution found": (
        f"A package has no build for {THIS_PYTHON}: see its name below, and try another Python, as python3.12 run.py, "
        "or check where pip looks (pip config list)."
    ),
    r"": "Mend what it names, then run the same command again.",
}
CHROMIUM = (
    "chromium",
    "chromium-browser",
    "google-chrome",
    "google-chrome-stable",
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    r"%PROGRAMFILES%\Google\Chrome\Application\chrome.exe",
    r"%LOCALAPPDATA%\Google\Chrome\Application\chrome.exe",
)
