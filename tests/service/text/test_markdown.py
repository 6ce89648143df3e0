import html

from hypothesis import given
from hypothesis import strategies as st

from service.text.markdown import escaped, fenced
from tests.service.dashboard.test_notes import HOSTILE, MARKDOWN, as_shown


@given(st.text() | st.sampled_from(HOSTILE))
def test_escaped_text_reads_as_it_was_written(text):
    as_html = html.escape(f"x {as_shown(text)} x").replace("&#x27;", "'")
    assert MARKDOWN.render(f"x {escaped(text)} x") == f"<p>{as_html}</p>\n"


@given(st.text(alphabet="`~ab\n ") | st.sampled_from(HOSTILE))
def test_nothing_in_a_code_block_ends_it(text):
    tokens = MARKDOWN.parse(fenced(text, "yaml") + "\nafter\n")
    assert (tokens[0].type, tokens[0].info) == ("fence", "yaml")
    assert [token.content for token in tokens if token.type == "inline"] == ["after"]


def test_readable_source_leaves_alone_what_means_nothing_within_a_line():
    assert escaped("val_loss - 0.5 (a|b) <b>", readable=True) == "val_loss - 0.5 (a\\|b) \\<b\\>"
