"""HTTP servers on uvicorn: `Server` runs one inside a program, `llmring-server serve` a process.

Nothing is imported here, since programs that embed the app need no uvicorn: import `Server` from
`llmring_server`. This is the only package, besides the command `serve`, that knows uvicorn.
"""
