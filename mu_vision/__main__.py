"""``python -m mu_vision`` is ``mu-vision``."""

from .cli import main

main()
