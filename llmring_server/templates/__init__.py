"""Templates: versioned system prompts with model settings, optionally shared by all projects.

`Templates` is `ring.templates`; `NewTemplate` and `TemplateUpdate` are what it takes.
`render_template` fills variables into any text and runs no code.
"""

from llmring_server.templates.models import (
    NewTemplate,
    RenderedTemplate,
    Template,
    TemplatePage,
    TemplateUpdate,
    TemplateVersion,
    VersionPage,
)
from llmring_server.templates.rendering import TokenBudget, render_template
from llmring_server.templates.service import Templates

__all__ = [
    "NewTemplate",
    "RenderedTemplate",
    "Template",
    "TemplatePage",
    "TemplateUpdate",
    "TemplateVersion",
    "Templates",
    "TokenBudget",
    "VersionPage",
    "render_template",
]
