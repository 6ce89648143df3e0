"""Rooms of the source and the arrows between them: `python -m tests.rooms [--arrows]`.

A room is a folder with its modules; a module directly in `model/` or `service/` is a room of its own. An arrow leads
from a room to another one that it imports. Imports for the type checker alone count only where they are asked for.
"""

import argparse
import ast
from collections import Counter
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

SOURCES = ("model", "service")


def imports(root: Path) -> Iterator[tuple[str, str]]:
    """Importing and imported module, once for each import statement and module."""
    paths = {
        ".".join(path.relative_to(root).with_suffix("").parts): path
        for s in SOURCES
        for path in (root / s).rglob("*.py")
    }
    modules = {name.removesuffix(".__init__"): path for name, path in paths.items()}
    for name, path in modules.items():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in _run_time(tree):
            if isinstance(node, ast.ImportFrom) and node.module:
                found = {f"{node.module}.{alias.name}" for alias in node.names}
                yield from (
                    (name, whole if whole in modules else node.module)
                    for whole in sorted(found)
                    if (whole in modules or node.module in modules)
                )
            elif isinstance(node, ast.Import):
                yield from ((name, alias.name) for alias in node.names if alias.name in modules)


def _run_time(tree: ast.AST) -> Iterator[ast.AST]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        yield node
        yield from _run_time(node)


def room(module: str, root: Path) -> str:
    """The folder of a module, or the module where it stands directly in a source folder."""
    parts = module.split(".")
    if (root / Path(*parts)).is_dir():
        return module
    return module if len(parts) == 2 else ".".join(parts[:-1])


def arrows(root: Path) -> Counter[tuple[str, str]]:
    """Imports from one room to another."""
    pairs = {(a, b) for a, b in imports(root)}
    found = Counter((room(a, root), room(b, root)) for a, b in pairs)
    return Counter({(a, b): n for (a, b), n in found.items() if a != b})


def circle(graph: dict[str, set[str]]) -> list[str] | None:
    """One circle, or None."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return None


def floors(graph: dict[str, set[str]]) -> dict[str, int]:
    """The longest way down from each room. The graph has no circle."""
    found: dict[str, int] = {}
    for name in TopologicalSorter(graph).static_order():
        found[name] = 1 + max((found[below] for below in graph.get(name, ())), default=0)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=Path, default=Path())
    parser.add_argument("--arrows", action="store_true", help="every arrow with its number of imports")
    given = parser.parse_args()
    found = arrows(given.root)
    modules = {a for pair in set(imports(given.root)) for a in pair}
    rooms = {room(name, given.root) for name in modules}
    graph: dict[str, set[str]] = {name: set() for name in rooms}
    for a, b in found:
        graph[a].add(b)
    within = {name: set() for name in modules}
    for a, b in set(imports(given.root)):
        within[a].add(b)
    print(
        f"{len(modules)} modules, {len(rooms)} rooms, {len(found)} arrows, {sum(found.values())} imports between rooms"
    )
    round_trip = circle(graph)
    if round_trip:
        print("a circle of rooms:", " -> ".join(round_trip))
    else:
        levels = floors(graph)
        for level in range(max(levels.values()), 0, -1):
            print(f"floor {level}:", ", ".join(sorted(name for name in rooms if levels[name] == level)))
    print("a circle of modules:", circle(within))
    if given.arrows:
        for (a, b), count in sorted(found.items()):
            print(f"{a} -> {b}: {count}")


if __name__ == "__main__":
    main()
