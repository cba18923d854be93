"""Checks and measurements that need a GPU: `bench/gpu/run.sh` runs them all."""
