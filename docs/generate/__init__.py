"""Pages that are made from the code when the site is built; nothing here is part of the library."""
