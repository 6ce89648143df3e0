"""Links from one document to another, and the headings they name. `mkdocs build --strict` checks those of the site."""

import re

import pytest

from tests.documents.pages import PAGES, ROOT, prose

DOCUMENTS = (*PAGES, *ROOT.glob("*.md"), *ROOT.glob("studies/*/README.md"))


def anchors(page):
    headings = re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", sorted(set(DOCUMENTS)), ids=lambda page: str(page.relative_to(ROOT)))
def test_what_a_document_links_to_is_there(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"https?:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.is_file(), f"{page.relative_to(ROOT)}: {target}"
        assert not anchor or anchor in anchors(file), f"{page.relative_to(ROOT)}: {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_that_a_page_names_are_there(page):
    """`studies/hn`, `model/network/loss.py`: what looks like a path in the repository is one."""
    made = ("studies/NAME", "studies/mine", "service/cluster")
    named = re.findall(r"`((?:studies|model|service|docker|tests|docs)/[\w./-]+)`", prose(page))
    missing = [name for name in named if not name.startswith(made) and not (ROOT / name).exists()]
    assert missing == []


def test_every_page_is_reached_from_the_readme_and_from_the_start_of_the_site():
    for start in (ROOT / "README.md", ROOT / "docs" / "index.md"):
        linked = {(start.parent / target).resolve() for target in re.findall(r"\]\(([^)#\s]+)", prose(start))}
        assert {*PAGES} - linked <= {ROOT / "README.md", ROOT / "docs" / "index.md"}


def test_every_study_is_named_where_studies_are_listed():
    page = (ROOT / "docs" / "studies.md").read_text()
    assert [path.name for path in sorted(ROOT.glob("studies/*")) if f"`{path.name}`" not in page] == []
