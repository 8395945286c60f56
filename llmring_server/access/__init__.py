"""Access: projects, their API keys, the audit log, and the authentication of requests.

`authentication` and `trusted_proxy` turn a request's credential into a Caller. They are not part of
this face, since they belong to HTTP.
"""

from llmring_server.access.audit import AuditEvent, AuditLog
from llmring_server.access.keys import ApiKey, ApiKeys, IssuedKey, KeyOptions
from llmring_server.access.projects import ErasedRows, Project, Projects

__all__ = [
    "ApiKey",
    "ApiKeys",
    "AuditEvent",
    "AuditLog",
    "ErasedRows",
    "IssuedKey",
    "KeyOptions",
    "Project",
    "Projects",
]
