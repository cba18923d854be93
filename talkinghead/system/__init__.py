"""Files, processes, threads, signals and devices: nothing here knows of faces."""
