"""The sections `data` and `tokenizer`: what a run reads, and as which tokens. Imports no torch."""

from typing import Literal

from pydantic import Field, model_validator

from model.config.section import Section

LARGEST_SEED = 2**64 - 1
"""That torch takes."""


class HubConfig(Section):
    """A dataset on the Hugging Face hub."""

    id: str = "julien040/hacker-news-posts"
    """Repository of the dataset, or a local folder of data files."""
    subset: str | None = None
    """One of the datasets in that repository (the library's `name`), such as wikitext-2-v1."""
    revision: str | None = None
    """Commit, tag or branch; null is the newest, and the commit it came to is stored with the study."""
    split: str = "train"
    """Split of that dataset which holds the documents."""
    column: str = "title"
    """Column with the text."""
    first_rows: int | None = Field(None, ge=10)
    """Only so many rows from the beginning of the split, without fetching the rest; null is all of them."""


class DataConfig(Section):
    """Where the documents come from and how they are split."""

    source: Literal["auto", "hub", "file", "docstrings"] = "auto"
    """`auto` is the hub or, where there is no connection to it at all, `docstrings`; then the study's name says so."""
    path: str | None = None
    """File for `source: file`: .txt (one document a line), .csv, .jsonl or .parquet."""
    column: str | None = None
    """Column of that file with the text; may be left out where there is only one."""
    hub: HubConfig = HubConfig()
    num_documents: int = Field(100_000, ge=10)
    """Documents for training and validation together."""
    validation_fraction: float = Field(0.10, gt=0, lt=1)
    """Share of `num_documents` that goes to the validation split."""
    held_out_documents: int = Field(20_000, ge=1)
    """Documents after those, read by `evaluate.py` alone."""
    seed: int = Field(1337, ge=0, le=LARGEST_SEED)
    """Of the shuffle before splitting."""

    @model_validator(mode="after")
    def _file_needs_path(self) -> "DataConfig":
        if self.source == "file" and not self.path:
            raise ValueError("source file needs data.path, given null")
        return self


class TokenizerConfig(Section):
    """A byte-level tokenizer, trained on the train split alone unless `pretrained` names one."""

    model: Literal["bpe", "unigram"] = "bpe"
    """Byte-pair encoding (Sennrich et al. 2016) or the unigram language model (Kudo 2018, arXiv 1804.10959)."""
    vocab_size: int = Field(4_000, ge=257, le=65_536)
    """Entries with the 256 bytes and `<eos>`, rows of the embedding. At most 65,536: two bytes a token.

    Of a tokenizer trained elsewhere: at least its own entries, the bytes it lacks, and `<eos>`.
    """
    leading_space: bool = True
    """Encode every document behind a space, which decoding takes away again, so that its first word is the same token
    as inside a document (the library's `add_prefix_space`). A tokenizer trained elsewhere says so itself."""
    trained_on: Literal["train", "train_and_validation"] = "train"
    """`train_and_validation` has seen the titles that the loss is measured on, as published figures often have: only
    for studies that say `rebuilds_published: true`."""
    pretrained: str | None = None
    """One trained elsewhere: a repository of the hub that holds a tokenizer.json, with @ and a commit, tag or branch
    behind it where that is not the newest, or the path of a .json. The commit it came to is stored with the study."""
