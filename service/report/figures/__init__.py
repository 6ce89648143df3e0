"""What is drawn, and how plotly and matplotlib draw it."""
