"""The rules of the code itself: rules.py checks one file's text, test_house_rules.py applies it to the tree."""
