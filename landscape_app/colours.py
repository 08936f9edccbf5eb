"""Colours that pictures share, in the app and on paper."""

INK = "#1b1f24"
ACCENT = "#d55e00"
CURVE = "#1f86c9"
CHECKPOINTS = {  # Okabe and Ito, told apart by colour-blind people too; the accent is the first
    "Vermillion": ACCENT,
    "Blue": "#0072b2",
    "Green": "#009e73",
    "Purple": "#cc79a7",
    "Orange": "#e69f00",
    "Sky blue": "#56b4e9",
    "Yellow": "#f0e442",
}
