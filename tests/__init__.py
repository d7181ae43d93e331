"""Tests mirror gateway/. fundamentals/ can be read as documentation; house/ checks the rules of the code."""
