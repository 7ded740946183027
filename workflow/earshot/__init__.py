"""earshot: speech recognition that fits a microcontroller."""

SCHEMA_VERSION = 1
