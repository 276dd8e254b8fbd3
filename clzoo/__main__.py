"""`python -m clzoo` is the command `clzoo`."""

from clzoo.cli import main

main()
