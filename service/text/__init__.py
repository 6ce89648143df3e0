"""How numbers, tables and texts from outside are written for people."""
