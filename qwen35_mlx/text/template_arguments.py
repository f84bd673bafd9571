"""Finds the arguments of a chat template: the variables that it reads and does not set itself.

It runs where templates do, in the sandbox's process, since parsing is as unsafe as rendering.
"""

import jinja2
import jinja2.meta
from jinja2 import nodes

# What every rendering gives a template.
OWN_VARIABLES = frozenset({"messages", "tools", "add_generation_prompt", "bos_token", "eos_token"})


def template_arguments(environment: jinja2.Environment, source: str) -> list[str]:
    """The names of a template's arguments, in alphabetical order.

    A variable that only one branch sets counts as undeclared for jinja2. It is an argument only if
    the template reads it before it sets it, as in `{% set effort = effort | default('low') %}`.

    Raises:
        jinja2.TemplateSyntaxError: the template does not compile.
    """
    tree = environment.parse(source)
    read_first: dict[str, bool] = {}
    _find_first_uses(tree, frozenset(), read_first)
    undeclared = jinja2.meta.find_undeclared_variables(tree)
    return sorted(n for n in undeclared - OWN_VARIABLES if read_first.get(n, True))


def _find_first_uses(node: nodes.Node, bound: frozenset[str], read_first: dict[str, bool]) -> None:
    """Note for each variable whether its first use reads it, in the order of evaluation.

    Args:
        bound: the parameters of the macros around the node.
    """
    if isinstance(node, nodes.Name):
        if node.name not in bound:
            read_first.setdefault(node.name, node.ctx == "load")
        return
    children = list(node.iter_child_nodes())
    match node:
        case nodes.Macro() | nodes.CallBlock():
            bound |= {argument.name for argument in node.args}
        case nodes.Assign() | nodes.AssignBlock():  # the target is evaluated last
            children = [*children[1:], children[0]]
        case nodes.For():
            children = [node.iter, *(child for child in children if child is not node.iter)]
        case _:
            pass
    for child in children:
        _find_first_uses(child, bound, read_first)
