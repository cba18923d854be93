"""Entry point of `python -m talkinghead`."""

from talkinghead.cli import main

raise SystemExit(main())
