"""Exporters that write a person as an engine file."""
