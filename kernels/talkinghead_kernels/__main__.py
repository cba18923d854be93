"""`python -m talkinghead_kernels`: what is installed, what each op can run on, and what it would run on now."""

from .backend import lines, report

found = report()
for section in ("versions", "devices", "backends"):
    for name, value in found[section].items():
        print(f"{name:18}{value}")
    print()
print("\n".join(lines(found)))
