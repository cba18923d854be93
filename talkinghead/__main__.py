"""`python -m talkinghead` is the command `talkinghead`."""

from talkinghead.cli import main

raise SystemExit(main())
