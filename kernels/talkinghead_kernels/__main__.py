"""`python -m talkinghead_kernels`: print versions, devices, and the backends of every op."""

from .backend import format_report, report

status = report()
for section in ("versions", "devices", "backends"):
    for name, value in status[section].items():
        print(f"{name:18}{value}")
    print()
print("\n".join(format_report(status)))
