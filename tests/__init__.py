"""Tests mirror gateway/; fundamentals/ reads as documentation, house/ holds the rules of the code itself."""
