"""The command ``aepsl``: what one does with a trained network, with data before a run, and with runs beside each other.

One file per command or two that belong together. What a command does lies elsewhere in the package and is imported when it is called, so
that help and completion are there at once.
"""
