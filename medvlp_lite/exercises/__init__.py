"""Checkers of the exercises, one module per chapter: each takes an answer and says "Solved." or gives a hint."""
