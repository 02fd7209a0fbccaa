"""Names of folders that commands, YAML and shells could take for something else."""

from __future__ import annotations

FOLDERS = (
    "exp #3",
    "GAN: faces",
    "faces [raw]",
    "my runs",
    "it's",
    'a "b"',
    "-x",
    "~x",
    "{a}",
    "$HOME",
    "50%",
    "null",
    "00003",
    "1e3",
    "a=b",
    "who?",
    "& *!",
    "back\\slash",
    "été\u0301",
    " lead",
    "trail ",
    ":cat:",
)
