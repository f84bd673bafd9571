"""Formulas in LaTeX as text: read (`parser`), and laid out in lines of characters (`layout`)."""
