"""Engines that render a person: each turns landmarks into frames."""
