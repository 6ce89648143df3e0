"""Studies as things: listed, shown, compared, renamed, deleted, carried in and out, and made anew in another space."""
