"""Sign-in of operators by an identity provider: OpenID Connect Core 1.0 and OAuth 2.0 device authorization (RFC 8628).

config      how to reach the provider
person      who has signed in, and what their groups permit. Pure
provider    the requests to the identity provider, and the checks of its ID tokens
"""
