"""A prediction question that the page itself answers: no kernel, no script, by keyboard, with a reason for each choice.

:::{selfcheck} What is the loss before anything has been learnt?
About $\\log B$
: Right. All similarities are equal, so each of $B$ reports gets the share $1/B$.

About 0
: Wrong. A loss of 0 means that every image already finds its report.
:::
"""

from docutils import nodes
from sphinx.util.docutils import SphinxDirective

VERDICTS = ("Right.", "Wrong.")


class selfcheck(nodes.General, nodes.Element):
    """The question as a whole; its first child is the question."""


class choice(nodes.General, nodes.Element):
    """One answer, folded; ``right`` says whether it is one."""


class choice_text(nodes.General, nodes.TextElement):
    """What stands on the fold."""


class SelfCheck(SphinxDirective):
    """``{selfcheck}``: the question as argument, the choices as a definition list of right and wrong answers."""

    required_arguments = 1
    final_argument_whitespace = True
    has_content = True

    def run(self) -> list[nodes.Node]:
        group = f"selfcheck-{self.env.new_serialno('selfcheck')}"
        question, messages = self.state.inline_text(self.arguments[0], self.lineno)
        content = nodes.Element()
        self.state.nested_parse(self.content, self.content_offset, content)
        items = list(content.findall(nodes.definition_list_item))
        reasons = [item.children[-1] for item in items]
        kinds = {reason.astext().split()[0] if reason.astext() else "" for reason in reasons}
        if kinds != set(VERDICTS) or any(not reason.astext()[6:].strip() for reason in reasons):
            raise self.error(
                "selfcheck needs a definition list whose definitions begin with 'Right.' or 'Wrong.', at least one of "
                "each, and give a reason"
            )
        block = selfcheck(ids=[group])
        block += nodes.paragraph("", "", *question, classes=["question"])
        for item, reason in zip(items, reasons):
            answer = choice(right=reason.astext().startswith("Right."), group=group)
            answer += choice_text("", "", *item.children[0].children)
            answer += reason.children
            block += answer
        return [block, *messages]


def visit_selfcheck(self, node) -> None:
    self.body.append(self.starttag(node, "div", CLASS="selfcheck", role="group"))


def depart_block(self, node) -> None:
    self.body.append("</div>\n")


def visit_choice(self, node) -> None:
    css = "choice right" if node["right"] else "choice wrong"
    self.body.append(self.starttag(node, "details", CLASS=css, name=node["group"]))


def depart_choice(self, node) -> None:
    self.body.append("</div></details>\n")


def visit_choice_text(self, node) -> None:
    self.body.append("<summary>")


def depart_choice_text(self, node) -> None:
    self.body.append('</summary><div class="reason">')


def setup(app):
    app.add_node(selfcheck, html=(visit_selfcheck, depart_block))
    app.add_node(choice, html=(visit_choice, depart_choice))
    app.add_node(choice_text, html=(visit_choice_text, depart_choice_text))
    app.add_directive("selfcheck", SelfCheck)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
