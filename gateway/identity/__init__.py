"""The formats of API keys and admin keys. Pure.

api_keys     API keys of teams
admin_keys   admin keys of operators
"""
