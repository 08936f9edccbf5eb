"""Atoms: what may move under a permutation symmetry, and what a trace says must move together.

An atom is one index of one axis of a parameter, or a block of atoms. A trace (see `rules`) says three things of them:
`align` (two atoms are one), `blocks` (an atom stands for several, which move with it) and `mark` (atoms with different
colours are never exchanged). `Relations.solve` turns that into nodes, coloured so that nodes of one colour under one
parent may be exchanged freely: the relations form a forest, and colour refinement of a forest gives its automorphisms
(Aho, Hopcroft and Ullman 1974, section 3.2).
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components


@dataclass(frozen=True)
class Nodes:
    """Atoms that are one, as nodes.

    of: node of each atom [atoms]. colour: class of each node [nodes]. children, parents: of nodes.
    """

    of: np.ndarray
    colour: np.ndarray
    children: dict[int, set[int]]
    parents: dict[int, set[int]]


@dataclass
class Mark:
    atoms: np.ndarray
    colours: np.ndarray
    reason: str


@dataclass
class Relations:
    """Everything that a trace has said. Reasons name the operation that spoke."""

    count: int = 0
    _aligned: list[np.ndarray] = field(default_factory=list)
    _block_of: dict[bytes, int] = field(default_factory=dict)
    _rows: list[tuple[int, np.ndarray]] = field(default_factory=list)
    _kinds: list[int] = field(default_factory=list)  # of each row: by which call it came to be
    marks: list[Mark] = field(default_factory=list)
    _seen: set[bytes] = field(default_factory=set)

    def new(self, n: int) -> np.ndarray:
        """n fresh atoms."""
        self.count += n
        return np.arange(self.count - n, self.count)

    def align(self, a: np.ndarray, b: np.ndarray) -> None:
        """Atoms at the same place of two arrays (broadcast) are one."""
        a, b = np.broadcast_arrays(a, b)
        self._aligned.append(np.stack([a.ravel(), b.ravel()]))

    def blocks(self, rows: np.ndarray) -> np.ndarray:
        """The atoms [n] that stand for the rows of [n, m]; the same set has the same block, one atom is its own."""
        found, kind = [], len(self._rows)
        for row in rows:
            held = np.unique(row)
            if len(held) == 1:
                found.append(int(held[0]))
                continue
            key = held.tobytes()
            if key not in self._block_of:
                self._block_of[key] = int(self.new(1)[0])
                self._rows.append((self._block_of[key], held))
                self._kinds.append(kind)
            found.append(self._block_of[key])
        return np.array(found, dtype=np.int64)

    def mark(self, atoms: np.ndarray, colours: np.ndarray, reason: str = "") -> None:
        """Colour atoms [...]; `colours` broadcasts against them."""
        atoms, colours = np.broadcast_arrays(atoms, colours)
        self.marks.append(Mark(atoms.ravel().copy(), np.asarray(colours, dtype=np.int64).ravel().copy(), reason))

    def keep_together(self, atoms: np.ndarray) -> None:
        """The atoms of one tensor are exchanged among themselves only."""
        key = np.ascontiguousarray(np.sort(atoms, axis=None)).tobytes()
        if key not in self._seen:
            self._seen.add(key)
            self.mark(atoms, np.zeros(1))

    def solve(self, slots: dict[tuple[str, int], np.ndarray]) -> Nodes:
        """Nodes and their classes. slots: atoms of each (parameter, axis)."""
        of = self._joined()
        children: dict[int, set[int]] = defaultdict(set)
        for block, held in self._rows:
            children[int(of[block])] |= set(of[held].tolist()) - {int(of[block])}
        kinds: dict[int, set[int]] = defaultdict(set)
        for (block, _), kind in zip(self._rows, self._kinds, strict=True):
            kinds[int(of[block])].add(kind)
        children = {node: below for node, below in _nested(children, kinds).items() if below}
        parents: dict[int, set[int]] = defaultdict(set)
        for node, below in children.items():
            for child in below:
                parents[child].add(node)
        return Nodes(of, _refined(self._colours(of, slots), children, parents), children, dict(parents))

    def _joined(self) -> np.ndarray:
        """The node of each atom: aligned atoms, and blocks with the same content, are one."""
        edges = [*self._aligned, np.zeros((2, 0), dtype=np.int64)]
        while True:
            a, b = np.concatenate(edges, axis=1)
            graph = coo_array((np.ones(len(a), dtype=bool), (a, b)), shape=(self.count, self.count))
            of = connected_components(graph, directed=False)[1]
            held_by: dict[bytes, int] = {}
            more = []
            for block, held in self._rows:
                content = np.unique(of[held])
                first = int(held[0]) if len(content) == 1 else held_by.setdefault(content.tobytes(), block)
                if of[first] != of[block]:
                    more.append((first, block))
            if not more:
                return of
            edges.append(np.array(more).T)

    def _colours(self, of: np.ndarray, slots: dict[tuple[str, int], np.ndarray]) -> np.ndarray:
        """The first colour of each node: how often it stands where, and how it is marked."""
        said = [(atoms, np.zeros(len(atoms), dtype=np.int64)) for atoms in slots.values()]
        said += [(mark.atoms, mark.colours) for mark in self.marks]
        said += self._ranks(of, slots)
        nodes = np.concatenate([of[atoms] for atoms, _ in said])
        speakers = np.repeat(np.arange(len(said)), [len(atoms) for atoms, _ in said])
        rows = np.stack([nodes, speakers, np.concatenate([colours for _, colours in said])], 1)
        rows = rows[np.lexsort(rows.T[::-1])]  # np.unique of rows takes four times as long
        first = np.flatnonzero(np.concatenate([[True], (rows[1:] != rows[:-1]).any(1)]))
        counts = np.diff(first, append=len(rows))
        cuts = np.searchsorted(rows[first, 0], np.arange(of.max() + 2))
        table = np.concatenate([rows[first, 1:], counts[:, None]], 1)
        return _numbered([table[low:high].tobytes() for low, high in pairwise(cuts)])

    def _ranks(self, of: np.ndarray, slots: dict[tuple[str, int], np.ndarray]) -> list[tuple[np.ndarray, np.ndarray]]:
        """Of nodes with several atoms of one slot, which of their atoms are aligned: when nodes are exchanged, the
        first atom takes the place of the first, and so on."""
        several = np.zeros(of.max(initial=0) + 1, dtype=bool)
        for atoms in slots.values():
            several |= np.bincount(of[atoms], minlength=len(several)) > 1
        order = np.argsort(of, kind="stable")
        first = np.searchsorted(of[order], np.arange(len(several)))
        rank = np.empty(len(of), dtype=np.int64)
        rank[order] = np.arange(len(of)) - first[of[order]]
        pairs = [pair[:, several[of[pair[0]]]] for pair in self._aligned]
        return [(a, rank[a] * len(of) + rank[b]) for a, b in pairs if len(a)]


def _numbered(keys: list) -> np.ndarray:
    numbers: dict = {}
    return np.array([numbers.setdefault(key, len(numbers)) for key in keys])


def _nested(children: dict[int, set[int]], kinds: dict[int, set[int]]) -> dict[int, set[int]]:
    """Blocks of blocks: a block holds those blocks, instead of their atoms, that meet no other of its kind."""
    holders: dict[int, set[int]] = defaultdict(set)
    for node, held in children.items():
        for child in held:
            holders[child].add(node)
    meets = {node: set().union(*(holders[child] for child in held)) - {node} for node, held in children.items()}
    inside: dict[int, set[int]] = defaultdict(set)  # of an outer block: all that lie within it
    for inner, met in meets.items():
        for outer in met:
            alone = {other for other in met if kinds[other] & kinds[outer]} == {outer}
            several = sum(bool(kinds[other] & kinds[inner]) for other in meets[outer]) > 1
            if alone and (several or children[inner] < children[outer]):
                inside[outer].add(inner)
    result = {}
    for outer, held in children.items():
        direct = inside[outer] - set().union(*(inside[inner] for inner in list(inside[outer])))
        result[outer] = held - set().union(*(children[inner] for inner in inside[outer])) | direct
    return result


def _refined(colour: np.ndarray, children: dict[int, set[int]], parents: dict[int, set[int]]) -> np.ndarray:
    """The coarsest refinement in which nodes of one colour have parents and children of the same colours."""
    related = sorted(set(children) | set(parents))
    while True:
        keys = [(c, (), ()) for c in colour.tolist()]
        for node in related:
            above = tuple(sorted(colour[list(parents.get(node, ()))].tolist()))
            below = tuple(sorted(colour[list(children.get(node, ()))].tolist()))
            keys[node] = (keys[node][0], above, below)
        finer = _numbered(keys)
        if finer.max(initial=0) == colour.max(initial=0):
            return finer
        colour = finer
