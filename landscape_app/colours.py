"""Colours that pictures share, in the app and on paper."""

INK = "#1b1f24"
ACCENT = "#d55e00"
CURVE = "#1f86c9"
