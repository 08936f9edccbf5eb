"""The Loss Landscape Explorer: a dashboard, a notebook view and a command line over ``analysis``."""
