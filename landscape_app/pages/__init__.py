"""The pages of the explorer.

A page is a module with three names: ``title``; ``needs``, how many checkpoints of one problem it takes at
least; and ``build(state)``, which returns its Panel layout and is called once a session.
"""

from landscape_app.pages import checkpoints, connectivity, jobs, results, spectrum, surface, trajectory

PAGES = (surface, spectrum, trajectory, connectivity, checkpoints, results, jobs)
