"""HTTP engine: routes requests to handlers, enforces limits, and describes the API.

It knows no domain. The handlers are in the `api` module of each domain, the URLs in `routes`, and
`asgi` puts everything together.
"""
