"""Lists in pages: the `Link` header of one leads to the next."""

from urllib.parse import urlencode

from llmring_server.pages import Paged


def link(page: Paged, cursor: str) -> dict[bytes, bytes]:
    """Return the header that tells where the page that follows `page` is found."""
    rest = page.model_dump(mode="json", exclude={"cursor", "offset"}, exclude_unset=True)
    return {b"link": f'<?{urlencode(rest | {"cursor": cursor})}>; rel="next"'.encode()}
