"""The page, and the verb that writes it, for real studies."""

import re

from service.report.page import html_page
from service.report.page.html_page import Section
from service.text.tables import Table
from tests.service.report.page.conftest import HOSTILE, read


def test_the_page_asks_for_nothing_but_its_own_figures(designed):
    reader = read((designed / "report.html").read_text())
    files = [address for address in reader.addresses if not address.startswith("#")]
    assert files
    assert all((designed / address).is_file() for address in files)
    style = re.findall(r"<style>(.*?)</style>", (designed / "report.html").read_text(), re.DOTALL)
    assert "url(" not in style[0]
    assert "@import" not in style[0]


def test_a_hostile_arm_is_text(designed):
    html = (designed / "report.html").read_text()
    reader = read(html)
    assert reader.scripts == 2, "plotly's and the page's own"
    assert HOSTILE in reader.text
    assert "<script>alert" not in html


def test_backticks_become_code_and_nothing_else_markup():
    section = Section("one", "One", texts=("the key `a<b>` and one ` alone", "<b>"), points=("`x`",))
    html = html_page.render("Title", "Question?", [section])
    assert "<p>the key <code>a&lt;b&gt;</code> and one ` alone</p><p>&lt;b&gt;</p>" in html
    assert "<li><code>x</code></li>" in html


def test_numbers_stand_at_the_right_and_words_at_the_left():
    table = Table(
        "t",
        "T",
        ("arm", "loss", "note", "p"),
        (("1", "1.2 ± 0.1", "3 of it", "–"), ("2", "–", "x", "– (1)")),
    )
    html = html_page.render("Title", "Question?", [Section("one", "One", tables=(table,))])
    cells = re.findall(r"<td( class=\"text(?: short)?\")?>([^<]*)</td>", html)
    assert [(text, bool(left)) for left, text in cells[:4]] == [
        ("1", True), ("1.2 ± 0.1", False), ("3 of it", True), ("–", False),
    ]  # fmt: skip
